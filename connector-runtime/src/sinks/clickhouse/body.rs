//! A batch as the body of an insert: its rows, compressed as they are written, so that no other copy of them is in memory.

use std::io::{self, Write};

use api_types::Record;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::row::{self, Column};
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;

/// Rows that are compressed at a time; in between others get their turn.
const CHUNK_BYTES: usize = 64 << 10;

pub(super) struct Body {
    /// For each row, the place of its record in the batch.
    pub(super) places: Vec<usize>,
    /// Records that have no row.
    pub(super) faults: Vec<(usize, RecordFault)>,
    pub(super) compressed: Vec<u8>,
    /// Before compression.
    pub(super) bytes: usize,
}

impl Body {
    pub(super) async fn of(records: &[&Record], columns: &[Column], format: PayloadFormat) -> io::Result<Self> {
        let (mut places, mut faults, mut bytes) = (Vec::with_capacity(records.len()), Vec::new(), 0);
        // Records of one kind repeat themselves: the fastest level leaves a small part of them.
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        for (place, record) in records.iter().enumerate() {
            match row::write(record, columns, format, &mut chunk) {
                Ok(()) => places.push(place),
                Err(fault) => faults.push((place, fault)),
            }
            if chunk.len() >= CHUNK_BYTES {
                encoder.write_all(&chunk)?;
                bytes += chunk.len();
                chunk.clear();
                tokio::task::yield_now().await;
            }
        }
        encoder.write_all(&chunk)?;
        bytes += chunk.len();
        Ok(Self { places, faults, compressed: encoder.finish()?, bytes })
    }
}
