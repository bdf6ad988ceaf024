//! The on-disk format: keys are big-endian so that byte order is queue order; values are a version byte and postcard.
//!
//! ```text
//! records   incarnation | sequence        → StoredRecord
//! letters   number                        → LetterRow
//! meta      'b' | first sequence          → RaftId          block of 2^20 sequences, kept for ever
//!           'c'                           → u64             milliseconds the queues have been open
//!           'l'                           → LettersRow
//!           'm' | incarnation             → QueueNames
//!           'n'                           → NodeRow
//!           'q' | incarnation             → QueueRow
//!           's' | incarnation | from      → SealedRow
//! ```

use std::collections::BTreeMap;

use api_types::dead_letter::DeadLetterRecord;
use api_types::status::Ledger;
use api_types::{Epoch, Incarnation, Message, Sequence};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// First byte of every value and of every RPC body.
pub(super) const VERSION: u8 = 1;
pub(super) const RECORD_KEY_BYTES: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("an empty value")]
    Empty,
    #[error("unknown version {0}")]
    Version(u8),
    #[error("a key of {0} bytes")]
    Key(usize),
    #[error("unreadable")]
    Postcard(#[from] postcard::Error),
}

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, FormatError> {
    encode_after(Vec::new(), value)
}

/// Appends the value to those that are there.
pub(super) fn encode_after<T: Serialize + ?Sized>(mut before: Vec<u8>, value: &T) -> Result<Vec<u8>, FormatError> {
    before.push(VERSION);
    Ok(postcard::to_extend(value, before)?)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    Ok(postcard::from_bytes(body(bytes)?)?)
}

fn body(bytes: &[u8]) -> Result<&[u8], FormatError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((&version, _)) => Err(FormatError::Version(version)),
        None => Err(FormatError::Empty),
    }
}

/// When a record was appended, by both clocks; the first fields of a stored record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Appended {
    pub wall_ms: u64,
    /// On the clock that runs only while the queues are open.
    pub open_ms: u64,
}

impl Appended {
    pub fn read(value: &[u8]) -> Result<Self, FormatError> {
        Ok(postcard::take_from_bytes(body(value)?)?.0)
    }

    /// The lesser of wall-clock age and open age: a step of the wall clock expires nothing.
    pub fn age_ms(self, wall_ms: u64, open_ms: u64) -> u64 {
        wall_ms.saturating_sub(self.wall_ms).min(open_ms.saturating_sub(self.open_ms))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct StoredRecord {
    pub appended: Appended,
    pub message: Message,
}

/// The same layout as [`StoredRecord`], without a copy of the message.
#[derive(Serialize)]
pub(super) struct StoredRecordRef<'a> {
    pub appended: Appended,
    pub message: &'a Message,
}

/// What the queue remembers of its connector, for dead letters and metrics after the connector is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueNames {
    pub name: String,
    pub kind: String,
    pub filter: String,
    pub dead_letter_topic: Option<String>,
}

/// Lifetime totals of one queue by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub queued: u64,
    pub sent: u64,
    pub dead_lettered: u64,
    pub discarded: BTreeMap<String, u64>,
    pub dropped: BTreeMap<String, u64>,
}

/// Distinct reasons kept per queue; further ones are counted under `other`.
const REASONS_MAX: usize = 32;

pub(super) fn count(reasons: &mut BTreeMap<String, u64>, reason: &str, records: u64) {
    let known = reasons.contains_key(reason) || reasons.len() < REASONS_MAX;
    *reasons.entry(if known { reason } else { "other" }.to_owned()).or_default() += records;
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueRow {
    pub position: Sequence,
    /// First sequence that is neither sealed nor dropped.
    pub unsealed_from: Sequence,
    pub epoch: Epoch,
    /// Records between the position and the head. Counted on its own, so that the ledger can be checked.
    pub pending: u64,
    pub bytes: u64,
    pub totals: Totals,
}

impl QueueRow {
    pub fn ledger(&self) -> Ledger {
        Ledger {
            queued: self.totals.queued,
            sent: self.totals.sent,
            discarded: self.totals.discarded.values().sum(),
            dead_lettered: self.totals.dead_lettered,
            dropped: self.totals.dropped.values().sum(),
            pending: self.pending,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedRow {
    /// First record; above the batch's `from` when records in between were dropped.
    pub first: Sequence,
    pub to: Sequence,
    pub records: u64,
    pub bytes: u64,
}

/// Totals of the node that outlive queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodeRow {
    pub queues_deleted: u64,
    /// Pending records of deleted queues, by reason.
    pub dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterRow {
    pub incarnation: Incarnation,
    pub topic: String,
    /// The connectors it must not be queued for again: where it came from, oldest first.
    pub origins: Vec<Incarnation>,
    /// False for what ended as `dead_letter_loop`: it is kept to be read, not to be sent.
    pub publish: bool,
    pub stored_ms: u64,
    pub open_ms: u64,
    pub record: DeadLetterRecord,
}

/// The dead-letter store as a whole. Letters are numbered from 0; `first..next` are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LettersRow {
    pub first: u64,
    pub next: u64,
    /// The next letter to publish.
    pub cursor: u64,
    pub bytes: u64,
    pub published: u64,
    pub dropped: BTreeMap<String, u64>,
    /// Letters that left by a bound before they were published.
    pub unpublished_dropped: u64,
}

pub(super) fn record_key(incarnation: Incarnation, sequence: Sequence) -> [u8; RECORD_KEY_BYTES] {
    let mut key = [0; RECORD_KEY_BYTES];
    key[..8].copy_from_slice(&incarnation.0.to_be_bytes());
    key[8..].copy_from_slice(&sequence.0.to_be_bytes());
    key
}

pub(super) fn parse_record_key(key: &[u8]) -> Result<(Incarnation, Sequence), FormatError> {
    let (incarnation, sequence) = key.split_at_checked(8).ok_or(FormatError::Key(key.len()))?;
    Ok((Incarnation(number(incarnation)?), Sequence(number(sequence)?)))
}

/// Bytes that a record counts for in every bound: its key and its value.
pub(super) fn stored_bytes(value: &[u8]) -> u64 {
    (RECORD_KEY_BYTES + value.len()) as u64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaKey {
    Block(Sequence),
    Clock,
    Letters,
    Names(Incarnation),
    Node,
    Queue(Incarnation),
    Sealed(Incarnation, Sequence),
}

impl MetaKey {
    pub fn to_bytes(self) -> Vec<u8> {
        let (tag, numbers): (u8, &[u64]) = match self {
            Self::Block(start) => (b'b', &[start.0]),
            Self::Clock => (b'c', &[]),
            Self::Letters => (b'l', &[]),
            Self::Names(incarnation) => (b'm', &[incarnation.0]),
            Self::Node => (b'n', &[]),
            Self::Queue(incarnation) => (b'q', &[incarnation.0]),
            Self::Sealed(incarnation, from) => (b's', &[incarnation.0, from.0]),
        };
        let mut key = vec![tag];
        numbers.iter().for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
        key
    }

    pub fn parse(key: &[u8]) -> Result<Self, FormatError> {
        let (tag, rest) = key.split_first().ok_or(FormatError::Empty)?;
        match tag {
            b'b' => Ok(Self::Block(Sequence(number(rest)?))),
            b'c' => Ok(Self::Clock),
            b'l' => Ok(Self::Letters),
            b'm' => Ok(Self::Names(Incarnation(number(rest)?))),
            b'n' => Ok(Self::Node),
            b'q' => Ok(Self::Queue(Incarnation(number(rest)?))),
            b's' => parse_record_key(rest).map(|(incarnation, from)| Self::Sealed(incarnation, from)),
            _ => Err(FormatError::Key(key.len())),
        }
    }
}

pub(super) fn number(bytes: &[u8]) -> Result<u64, FormatError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| FormatError::Key(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_its_bytes_stay() {
        let message = Message { topic: "t".into(), payload: "p".into(), timestamp_ms: 7, ..Message::default() };
        let appended = Appended { wall_ms: 300, open_ms: 2 };
        let bytes = encode(&StoredRecordRef { appended, message: &message }).expect("encodes");
        // Changing this line means changing VERSION and reading both.
        assert_eq!(bytes, [1, 172, 2, 2, 1, b't', 0, 0, 0, 1, b'p', 7, 0, 0, 0, 0, 0]);
        assert_eq!(decode::<StoredRecord>(&bytes).expect("decodes"), StoredRecord { appended, message });
        assert_eq!(Appended::read(&bytes).expect("decodes"), appended);
    }

    #[test]
    fn other_versions_and_empty_values_are_refused() {
        assert!(matches!(decode::<u64>(&[2, 0]), Err(FormatError::Version(2))));
        assert!(matches!(decode::<u64>(&[]), Err(FormatError::Empty)));
    }

    #[test]
    fn keys_read_back_and_sort_like_their_numbers() {
        for key in [
            MetaKey::Block(Sequence(1 << 20)),
            MetaKey::Clock,
            MetaKey::Letters,
            MetaKey::Names(Incarnation(3)),
            MetaKey::Node,
            MetaKey::Queue(Incarnation(3)),
            MetaKey::Sealed(Incarnation(3), Sequence(9)),
        ] {
            assert_eq!(MetaKey::parse(&key.to_bytes()).expect("parses"), key);
        }
        let low = record_key(Incarnation(1), Sequence(u64::MAX));
        let high = record_key(Incarnation(2), Sequence(0));
        assert!(low < high);
        assert_eq!(parse_record_key(&high).expect("parses"), (Incarnation(2), Sequence(0)));
    }

    #[test]
    fn age_is_the_lesser_of_both_clocks() {
        let appended = Appended { wall_ms: 1_000, open_ms: 500 };
        for (wall_ms, open_ms, expect) in [(61_000, 700, 200), (1_100, 60_000, 100), (10, 900, 0)] {
            assert_eq!(appended.age_ms(wall_ms, open_ms), expect);
        }
    }

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = BTreeMap::new();
        for reason in 0..100 {
            count(&mut reasons, &reason.to_string(), 1);
        }
        assert_eq!(reasons.len(), REASONS_MAX + 1);
        assert_eq!(reasons["other"], 68);
    }
}
