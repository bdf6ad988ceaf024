//! Bodies of requests, compressed.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::sink::{TargetFault, TargetFaultKind};

/// Smaller bodies are compressed in less time than it takes to ask another thread for it.
const COMPRESSED_HERE_BYTES_MAX: usize = 64 << 10;

pub(crate) async fn compressed(body: Vec<u8>) -> Result<Vec<u8>, TargetFault> {
    let broken = |error: &dyn std::error::Error| TargetFault::new(TargetFaultKind::Down, error.to_string());
    if body.len() <= COMPRESSED_HERE_BYTES_MAX {
        return compress(&body).map_err(|error| broken(&error));
    }
    match tokio::task::spawn_blocking(move || compress(&body)).await {
        Ok(compressed) => compressed.map_err(|error| broken(&error)),
        Err(error) => Err(broken(&error)),
    }
}

fn compress(body: &[u8]) -> std::io::Result<Vec<u8>> {
    // Records of one batch repeat themselves: the fastest level leaves a small part of them.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}
