//! An entry of a topic: one message, or a batch of them, compressed as a whole.
//!
//! ```text
//!   one:   metadata (key, properties, …)     | payload
//!   batch: metadata (count, last sequence id) | size metadata payload | size metadata payload | …
//! ```
//!
//! The broker takes or refuses an entry as a whole, and knows it by its first and last sequence id.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::write::ZlibEncoder;
use prost::Message as _;

use super::config::Compression;
use super::message::Message;
use super::proto::{BaseCommand, CommandKind, CompressionKind, MessageMetadata, Send};
use super::wire::{self, WireError};

/// Compressing more than this takes long enough to be done away from the runtime.
const COMPRESS_HERE_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error("{bytes} bytes, and the broker takes {bytes_max} at most")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("cannot be compressed")]
    Compress(#[source] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Whose entries they are.
pub(super) struct Author<'a> {
    pub(super) producer_id: u64,
    pub(super) producer_name: &'a str,
    pub(super) compression: Compression,
    pub(super) message_bytes_max: usize,
}

pub(super) struct Entry {
    /// Of its first message, and of its last.
    pub(super) sequence_ids: RangeInclusive<u64>,
    pub(super) frame: Bytes,
}

/// Of at least one message. Fails where the broker would end the connection over it.
pub(super) async fn entry(author: &Author<'_>, messages: &[Message]) -> Result<Option<Entry>, EntryError> {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return Ok(None) };
    let (payload, mut metadata) = if messages.len() == 1 { alone(first) } else { batch(messages) };
    metadata.producer_name = author.producer_name.to_owned();
    metadata.sequence_id = first.sequence.0;
    metadata.publish_time = now_ms();
    metadata.uncompressed_size = u32::try_from(payload.len()).ok();
    metadata.compression = Some(kind(author.compression).into());
    let payload = compressed(author.compression, payload).await.map_err(EntryError::Compress)?;
    let bytes = metadata.encoded_len() + payload.len();
    if bytes > author.message_bytes_max {
        return Err(EntryError::TooLarge { bytes, bytes_max: author.message_bytes_max });
    }
    let send = Send {
        producer_id: author.producer_id,
        sequence_id: first.sequence.0,
        num_messages: i32::try_from(messages.len()).ok(),
        highest_sequence_id: (messages.len() > 1).then_some(last.sequence.0),
    };
    let send = BaseCommand { send: Some(send), ..wire::of(CommandKind::Send) };
    let frame = wire::entry(&send, &metadata, &payload)?;
    Ok(Some(Entry { sequence_ids: first.sequence.0..=last.sequence.0, frame }))
}

fn alone(message: &Message) -> (Bytes, MessageMetadata) {
    let own = &message.metadata;
    let metadata = MessageMetadata {
        properties: own.properties.clone(),
        partition_key: own.partition_key.clone(),
        event_time: own.event_time,
        ..MessageMetadata::default()
    };
    (message.payload.clone(), metadata)
}

fn batch(messages: &[Message]) -> (Bytes, MessageMetadata) {
    let mut payload = Vec::with_capacity(messages.iter().map(Message::bytes).sum());
    for message in messages {
        wire::put_sized(&message.metadata, &mut payload);
        payload.extend_from_slice(&message.payload);
    }
    let metadata = MessageMetadata {
        // As other clients have it: a subscription that is shared by key looks at the first one's.
        partition_key: messages.first().and_then(|message| message.metadata.partition_key.clone()),
        num_messages_in_batch: i32::try_from(messages.len()).ok(),
        highest_sequence_id: messages.last().map(|message| message.sequence.0),
        ..MessageMetadata::default()
    };
    (payload.into(), metadata)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn kind(compression: Compression) -> CompressionKind {
    match compression {
        Compression::None => CompressionKind::None,
        Compression::Lz4 => CompressionKind::Lz4,
        Compression::Zlib => CompressionKind::Zlib,
        Compression::Zstd => CompressionKind::Zstd,
        Compression::Snappy => CompressionKind::Snappy,
    }
}

async fn compressed(compression: Compression, payload: Bytes) -> io::Result<Bytes> {
    if payload.len() <= COMPRESS_HERE_BYTES_MAX || compression == Compression::None {
        return compress(compression, payload);
    }
    tokio::task::spawn_blocking(move || compress(compression, payload)).await.map_err(io::Error::other)?
}

/// The formats that Pulsar's own clients read: blocks of LZ4 and Snappy without a frame around them.
fn compress(compression: Compression, payload: Bytes) -> io::Result<Bytes> {
    match compression {
        Compression::None => Ok(payload),
        Compression::Lz4 => Ok(lz4_flex::block::compress(&payload).into()),
        Compression::Zlib => {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&payload)?;
            encoder.finish().map(Bytes::from)
        }
        Compression::Zstd => {
            let mut out = vec![0; zstd_safe::compress_bound(payload.len())];
            let failed = |code| io::Error::other(zstd_safe::get_error_name(code));
            let written = zstd_safe::compress(&mut out[..], &payload, zstd_safe::CLEVEL_DEFAULT).map_err(failed)?;
            out.truncate(written);
            Ok(out.into())
        }
        Compression::Snappy => {
            snap::raw::Encoder::new().compress_vec(&payload).map(Bytes::from).map_err(io::Error::other)
        }
    }
}

#[cfg(test)]
mod tests;
