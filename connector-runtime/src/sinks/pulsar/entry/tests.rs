use std::io::Read;

use super::super::proto::SingleMessageMetadata;
use super::*;
use crate::config::payload::PayloadFormat;
use crate::sinks::opened::record;

fn messages(count: u64, payload: &str) -> Vec<Message> {
    let message = |number| Message::new(&record(number, payload), PayloadFormat::Raw).expect("can be carried");
    (1..=count).map(message).collect()
}

fn author(compression: Compression) -> Author<'static> {
    Author { producer_id: 3, producer_name: "p", compression, message_bytes_max: 5 << 20 }
}

async fn made(author: &Author<'_>, messages: &[Message]) -> (MessageMetadata, Vec<u8>) {
    let entry = entry(author, messages).await.expect("can be made").expect("is one");
    let last = messages.last().expect("is one");
    assert_eq!(entry.sequence_ids, messages[0].sequence.0..=last.sequence.0);
    let size = |at: usize| u32::from_be_bytes(entry.frame[at..at + 4].try_into().expect("four bytes")) as usize;
    let metadata_at = 8 + size(4) + 6;
    let (metadata, payload) = entry.frame[metadata_at + 4..].split_at(size(metadata_at));
    (MessageMetadata::decode(metadata).expect("can be read"), payload.to_vec())
}

#[tokio::test]
async fn one_message_stands_alone_and_several_share_an_entry() {
    let (metadata, payload) = made(&author(Compression::None), &messages(1, "x")).await;
    assert_eq!(metadata.num_messages_in_batch, None);
    assert_eq!((metadata.partition_key.as_deref(), &payload[..]), (Some("device-1"), &b"x"[..]));
    let three = messages(3, "x");
    let (metadata, payload) = made(&author(Compression::None), &three).await;
    assert_eq!(metadata.num_messages_in_batch, Some(3));
    assert_eq!((metadata.sequence_id, metadata.highest_sequence_id), (1, Some(3)));
    assert_eq!(payload.len(), three.iter().map(Message::bytes).sum::<usize>());
    let size = u32::from_be_bytes(payload[..4].try_into().expect("four bytes")) as usize;
    let first = SingleMessageMetadata::decode(&payload[4..4 + size]).expect("can be read");
    assert_eq!((first, &payload[4 + size..5 + size]), (three[0].metadata.clone(), &b"x"[..]));
}

#[tokio::test]
async fn every_compression_gives_back_what_it_took() {
    let messages = messages(50, &"compressible ".repeat(20));
    let (_, plain) = made(&author(Compression::None), &messages).await;
    for compression in [Compression::Lz4, Compression::Zlib, Compression::Zstd, Compression::Snappy] {
        let (metadata, payload) = made(&author(compression), &messages).await;
        assert_eq!(metadata.compression, Some(kind(compression).into()));
        assert_eq!(metadata.uncompressed_size, u32::try_from(plain.len()).ok());
        assert!(payload.len() < plain.len() / 2, "{compression:?}: {} of {}", payload.len(), plain.len());
        let back = match compression {
            Compression::None => payload,
            Compression::Lz4 => lz4_flex::block::decompress(&payload, plain.len()).expect("LZ4"),
            Compression::Zlib => {
                let mut back = Vec::new();
                flate2::read::ZlibDecoder::new(&payload[..]).read_to_end(&mut back).expect("zlib");
                back
            }
            Compression::Zstd => {
                let mut back = vec![0; plain.len()];
                let written = zstd_safe::decompress(&mut back[..], &payload).expect("zstd");
                assert_eq!(written, plain.len());
                back
            }
            Compression::Snappy => snap::raw::Decoder::new().decompress_vec(&payload).expect("snappy"),
        };
        assert!(back == plain, "{compression:?}");
    }
}

#[tokio::test]
async fn what_the_broker_would_hang_up_on_is_not_made() {
    let author = Author { message_bytes_max: 2_000, ..author(Compression::None) };
    let large = messages(1, &"x".repeat(2_000));
    let error = entry(&author, &large).await.err().expect("is too large");
    assert!(matches!(error, EntryError::TooLarge { bytes_max: 2_000, .. }), "{error}");
    // What fits once it is compressed is sent.
    let compressing = Author { compression: Compression::Zstd, ..author };
    assert!(entry(&compressing, &large).await.is_ok());
    assert!(entry(&compressing, &[]).await.expect("is no error").is_none());
}
