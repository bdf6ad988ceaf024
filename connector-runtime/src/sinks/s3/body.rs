//! A batch as the bytes of an object, compressed as they are written and taken out in parts, so that no other copy of it is
//! in memory. The same records make the same bytes.

use std::io::{self, Write};

use api_types::Record;
use api_types::envelope::write_envelope;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::config::{Compression, Config, Format};
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::sinks::shared::json::payload_as_json;

/// What is compressed at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// Room for the text of records that is kept; a long record takes more for a while.
const TEXT_BYTES: usize = 2 * CHUNK_BYTES;
/// Objects are kept for long and read often: zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// How a connector's objects are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    format: Format,
    compression: Compression,
    payload: PayloadFormat,
    part_bytes: usize,
}

impl Writing {
    pub(super) fn new(config: &Config) -> Self {
        let part_bytes = usize::try_from(config.part_bytes).unwrap_or(usize::MAX);
        let Config { format, compression, payload_format, .. } = *config;
        Self { format, compression, payload: payload_format, part_bytes }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match (self.compression, self.format) {
            (Compression::None, Format::Json) => "application/json",
            (Compression::None, Format::Ndjson) => "application/x-ndjson",
            (Compression::Gzip, _) => "application/gzip",
            (Compression::Zstd, _) => "application/zstd",
        }
    }

    pub(super) fn body(&self) -> io::Result<Body> {
        let room = self.part_bytes.saturating_add(2 * CHUNK_BYTES);
        let encoder = match self.compression {
            Compression::None => Encoder::Plain(Vec::with_capacity(room)),
            Compression::Gzip => {
                let bytes = Vec::with_capacity(room);
                Encoder::Gzip(GzEncoder::new(bytes, flate2::Compression::default()))
            }
            Compression::Zstd => Encoder::Zstd(ZstdEncoder::new(Vec::with_capacity(room), ZSTD_LEVEL)?),
        };
        Ok(Body { writing: *self, encoder, text: Vec::with_capacity(TEXT_BYTES), compressed: 0, records: 0 })
    }
}

/// One object being made.
pub(super) struct Body {
    writing: Writing,
    encoder: Encoder,
    /// Of records, of which so many bytes are compressed.
    text: Vec<u8>,
    compressed: usize,
    records: usize,
}

enum Encoder {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
}

impl Body {
    /// Fails with a fault of that record, which is left out.
    pub(super) fn add(&mut self, record: &Record) -> Result<(), RecordFault> {
        let raw = match self.writing.payload {
            PayloadFormat::Envelope => None,
            PayloadFormat::Raw => Some(payload_as_json(&record.message.payload)?),
        };
        // Less than a chunk is left of the records before.
        self.text.drain(..self.compressed);
        self.compressed = 0;
        if self.writing.format == Format::Json {
            self.text.push(if self.records == 0 { b'[' } else { b',' });
        }
        match raw {
            Some(json) => self.text.extend_from_slice(&json),
            None => write_envelope(record, &mut self.text),
        }
        if self.writing.format == Format::Ndjson {
            self.text.push(b'\n');
        }
        self.records += 1;
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Nothing comes after it.
    pub(super) fn end(&mut self) {
        if self.writing.format == Format::Json {
            self.text.push(b']');
        }
    }

    /// There is so much that it should be compressed.
    pub(super) fn has_chunk(&self) -> bool {
        self.text.len() - self.compressed >= CHUNK_BYTES
    }

    /// No more than a chunk, so that others get their turn between two, and parts are taken out.
    pub(super) fn compress(&mut self) -> io::Result<()> {
        let writer: &mut dyn Write = match &mut self.encoder {
            Encoder::Plain(bytes) => bytes,
            Encoder::Gzip(encoder) => encoder,
            Encoder::Zstd(encoder) => encoder,
        };
        let end = self.text.len().min(self.compressed + CHUNK_BYTES);
        writer.write_all(&self.text[self.compressed..end])?;
        self.compressed = end;
        if self.compressed == self.text.len() {
            self.compressed = 0;
            self.text.clear();
            self.text.shrink_to(TEXT_BYTES);
        }
        Ok(())
    }

    /// A whole part, when there is more than one.
    pub(super) fn part(&mut self) -> Option<Vec<u8>> {
        let part_bytes = self.writing.part_bytes;
        let bytes = self.bytes();
        if bytes.len() <= part_bytes {
            return None;
        }
        let mut rest = Vec::with_capacity(part_bytes.saturating_add(2 * CHUNK_BYTES));
        rest.extend_from_slice(&bytes[part_bytes..]);
        bytes.truncate(part_bytes);
        Some(std::mem::replace(bytes, rest))
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        match &mut self.encoder {
            Encoder::Plain(bytes) => bytes,
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// What is left of it, as parts, the last of which may be small.
    pub(super) fn finish(mut self) -> io::Result<Vec<Vec<u8>>> {
        while self.compressed < self.text.len() {
            self.compress()?;
        }
        let part_bytes = self.writing.part_bytes;
        let mut bytes = match self.encoder {
            Encoder::Plain(bytes) => bytes,
            Encoder::Gzip(encoder) => encoder.finish()?,
            Encoder::Zstd(encoder) => encoder.finish()?,
        };
        let mut parts = Vec::new();
        while bytes.len() > part_bytes {
            let rest = bytes.split_off(part_bytes);
            parts.push(std::mem::replace(&mut bytes, rest));
        }
        parts.push(bytes);
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use api_types::envelope::envelope;
    use serde_json::{Value, json};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::sinks::opened::record;

    fn writing(format: Format, compression: Compression, payload: PayloadFormat, part_bytes: usize) -> Writing {
        Writing { format, compression, payload, part_bytes }
    }

    /// Its parts, compressed as soon as they can be.
    fn parts(writing: Writing, records: &[Record]) -> Vec<Vec<u8>> {
        let mut body = writing.body().expect("begins");
        let mut parts = Vec::new();
        for record in records {
            // What is refused is left out.
            let _ = body.add(record);
            while body.has_chunk() {
                body.compress().expect("compresses");
                parts.extend(std::iter::from_fn(|| body.part()));
            }
        }
        body.end();
        parts.extend(body.finish().expect("ends"));
        parts
    }

    fn plain(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match compression {
            Compression::None => plain.extend_from_slice(bytes),
            Compression::Gzip => {
                flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).expect("is gzip");
            }
            Compression::Zstd => plain = zstd::stream::decode_all(bytes).expect("is zstd"),
        }
        plain
    }

    fn noise(count: u64) -> Vec<Record> {
        // Hardly to be compressed, and the same in every run.
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ number;
        let text = |number| (0..64).map(|at| format!("{:016x}", hash(number * 64 + at))).collect::<String>();
        (0..count).map(|number| record(number, json!({"n": number, "noise": text(number)}).to_string())).collect()
    }

    #[test]
    fn every_format_and_compression_holds_all_records_in_their_order() {
        let records = noise(500);
        let expect: Vec<Value> = records.iter().map(envelope).collect();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let bytes = parts(writing(Format::Json, compression, PayloadFormat::Envelope, 1 << 30), &records).concat();
            let array: Vec<Value> = serde_json::from_slice(&plain(compression, &bytes)).expect("an array");
            assert_eq!(array, expect, "{compression:?}");
            let bytes =
                parts(writing(Format::Ndjson, compression, PayloadFormat::Envelope, 1 << 30), &records).concat();
            let text = String::from_utf8(plain(compression, &bytes)).expect("text");
            assert!(text.ends_with("}\n"));
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(lines, expect, "{compression:?}");
        }
    }

    #[test]
    fn parts_are_of_one_size_and_together_the_same_object() {
        let records = noise(1_000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let whole = writing(Format::Json, compression, PayloadFormat::Envelope, 1 << 30);
            let cut = Writing { part_bytes: 100_000, ..whole };
            let whole = parts(whole, &records);
            assert_eq!(whole.len(), 1);
            let cut = parts(cut, &records);
            assert!(cut.len() > 3, "{compression:?}: {}", cut.len());
            let (last, others) = cut.split_last().expect("parts");
            assert!(others.iter().all(|part| part.len() == 100_000) && (1..=100_000).contains(&last.len()));
            assert!(cut.concat() == whole[0], "{compression:?}");
        }
    }

    /// A batch that comes again after an upgrade must be the same object. A library that makes other bytes is noticed here:
    /// then take a version of it that does not, or say in the release notes that batches under way may be written twice
    /// with other bytes under the same key.
    #[test]
    fn the_bytes_are_those_of_the_first_release() {
        let records = noise(200);
        let hash = |format, compression| {
            let bytes = parts(writing(format, compression, PayloadFormat::Envelope, 1 << 30), &records).concat();
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let hashes = [
            hash(Format::Json, Compression::None),
            hash(Format::Ndjson, Compression::None),
            hash(Format::Json, Compression::Gzip),
            hash(Format::Json, Compression::Zstd),
        ];
        let expect = [
            "53f49256a6a4025728fc6cb673cae897155f834d9ded6e963adc624bf83c796e",
            "b4969f50ae91b599f67b6bfa3578c4c3efff97659bdf3d06a8b10cbae04d7413",
            "cf75973b3cc3880b12394a4f52ccba8cfad79f4acb7ea62bbcae3cf958c14f56",
            "9b8c20577c3f5bb262e7ca289f27a0567cb2d16477c04b9b87cdbf5c5c1acd6a",
        ];
        assert_eq!(hashes, expect);
    }

    #[test]
    fn a_long_record_is_compressed_in_pieces_and_no_more_than_a_part_is_held_back() {
        let long = record(
            1,
            format!("\"{}\"", noise(300).iter().map(|r| format!("{:?}", r.id)).collect::<String>().repeat(200)),
        );
        let text = envelope(&long).to_string().len();
        assert!(text > 1_000_000, "{text}");
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut body = writing(Format::Json, compression, PayloadFormat::Envelope, 100_000).body().expect("begins");
            body.add(&long).expect("is text");
            let mut steps = 0;
            let mut bytes = Vec::new();
            while body.has_chunk() {
                body.compress().expect("compresses");
                steps += 1;
                assert!(body.bytes().len() <= 100_000 + 2 * CHUNK_BYTES, "{compression:?}: {}", body.bytes().len());
                bytes.extend(std::iter::from_fn(|| body.part()).flatten());
            }
            assert_eq!(steps, (text + 1) / CHUNK_BYTES, "{compression:?}");
            body.end();
            bytes.extend(body.finish().expect("ends").concat());
            let array: Vec<Value> = serde_json::from_slice(&plain(compression, &bytes)).expect("an array");
            assert_eq!(array, [envelope(&long)], "{compression:?}");
        }
    }

    #[test]
    fn a_payload_alone_is_json_and_what_is_none_is_left_out() {
        let payloads = [&b"{\"t\": 21.50}"[..], b"warm", b"\xff\x00", b"", b"[1,\n2]"];
        let records: Vec<Record> = (0..).zip(payloads).map(|(number, payload)| record(number, payload)).collect();
        let array = writing(Format::Json, Compression::None, PayloadFormat::Raw, 1 << 30);
        assert_eq!(parts(array, &records).concat(), br#"[{"t": 21.50},"warm","",[1,2]]"#);
        let lines = Writing { format: Format::Ndjson, ..array };
        assert_eq!(parts(lines, &records).concat(), b"{\"t\": 21.50}\n\"warm\"\n\"\"\n[1,2]\n");
        let mut body = array.body().expect("begins");
        let fault = body.add(&records[2]).expect_err("no text");
        assert_eq!((&*fault.class, fault.offline, body.is_empty()), ("not_text", true, true));
        body.add(&records[0]).expect("is JSON");
        assert!(!body.is_empty());
    }
}
