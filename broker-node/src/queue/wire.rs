//! Bodies of the queue RPC: a version byte and postcard, as on disk. The watch stream is a row of frames, each behind
//! its length as four big-endian bytes.

use api_types::status::Ledger;
use api_types::{Epoch, Incarnation, RaftId, Sequence};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use connector_runtime::source::{BatchLimits, Commit};
use serde::{Deserialize, Serialize};

use super::op::CallError;
use super::rows::{self, FormatError};

pub(super) const OPEN: &str = "/queue/open";
pub(super) const FETCH: &str = "/queue/fetch";
pub(super) const SPLIT: &str = "/queue/split";
pub(super) const COMMIT: &str = "/queue/commit";
pub(super) const WATCH: &str = "/queue/watch";
pub(super) const LEDGER: &str = "/queue/ledger";

/// A frame longer than this is not one: 100,000 connectors fit.
const FRAME_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OpenRequest {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FetchRequest {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    pub limits: BatchLimits,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SplitRequest {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    pub at: Sequence,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CommitRequest {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub commit: Commit,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WatchRequest {
    pub owner: RaftId,
    pub pairs: Vec<(Incarnation, Epoch)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LedgerRequest {
    /// Empty: all queues of the node.
    pub incarnations: Vec<Incarnation>,
}

/// The queues of an owner's list that have something to read, with their heads; all of them in a `full` frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadyFrame {
    /// Counts from 0 in each stream, without a gap.
    pub number: u64,
    pub full: bool,
    pub ready: Vec<(Incarnation, Sequence)>,
}

/// What one node holds of one connector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    pub incarnation: Incarnation,
    pub ledger: Ledger,
    pub bytes: u64,
    /// Age of the oldest record that is neither delivered nor ended.
    pub oldest_age_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply<T> {
    Done(T),
    Fenced,
    Moved,
    Gone,
    Failed(String),
    Closed,
}

impl<T> From<Result<T, CallError>> for Reply<T> {
    fn from(result: Result<T, CallError>) -> Self {
        match result {
            Ok(done) => Self::Done(done),
            Err(CallError::Fenced) => Self::Fenced,
            Err(CallError::Moved) => Self::Moved,
            Err(CallError::Gone) => Self::Gone,
            Err(CallError::Failed(why)) => Self::Failed(why),
            Err(CallError::Closed) => Self::Closed,
        }
    }
}

impl<T> Reply<T> {
    pub fn into_result(self) -> Result<T, CallError> {
        match self {
            Self::Done(done) => Ok(done),
            Self::Fenced => Err(CallError::Fenced),
            Self::Moved => Err(CallError::Moved),
            Self::Gone => Err(CallError::Gone),
            Self::Failed(why) => Err(CallError::Failed(why)),
            Self::Closed => Err(CallError::Closed),
        }
    }
}

pub(super) fn frame_to_bytes(frame: &ReadyFrame) -> Result<Bytes, FormatError> {
    let body = rows::encode(frame)?;
    let mut bytes = BytesMut::with_capacity(4 + body.len());
    bytes.put_u32(u32::try_from(body.len()).map_err(|_| FormatError::Key(body.len()))?);
    bytes.put_slice(&body);
    Ok(bytes.freeze())
}

/// Puts a stream's chunks together to frames.
#[derive(Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
}

impl FrameReader {
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    pub fn next(&mut self) -> Result<Option<ReadyFrame>, FormatError> {
        let Some(length) = self.buffer.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes) as usize) else {
            return Ok(None);
        };
        if length > FRAME_BYTES_MAX {
            return Err(FormatError::Key(length));
        }
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(4);
        rows::decode(&self.buffer.split_to(length)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_through_whatever_the_chunks() {
        let frames: Vec<ReadyFrame> = (0..3)
            .map(|number| ReadyFrame { number, full: number == 0, ready: vec![(Incarnation(7), Sequence(number))] })
            .collect();
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame_to_bytes(frame).expect("encodes")).collect();
        for size in [1, 3, bytes.len()] {
            let mut reader = FrameReader::default();
            let mut read = Vec::new();
            for chunk in bytes.chunks(size) {
                reader.push(chunk);
                while let Some(frame) = reader.next().expect("decodes") {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames, "chunks of {size}");
        }
    }

    #[test]
    fn a_length_out_of_range_is_refused() {
        let mut reader = FrameReader::default();
        reader.push(&[0xff; 8]);
        assert!(reader.next().is_err());
    }
}
