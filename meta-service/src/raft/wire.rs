//! The one encoding of what Raft stores and sends: bincode inside an envelope. Bincode does not describe itself, so
//! the envelope's kind and version decide the type *before* anything is decoded.
//!
//! ```text
//! magic u16 | kind u16 | version u16 | flags u16 | length u32 | crc32c u32 | body          (all little-endian)
//! └──────────────────────── crc32c covers all but itself ────────────────────────┘
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: u16 = 0x4c53;
pub(crate) const HEADER_BYTES: usize = 16;

/// Most bytes of one body. The largest are append requests: `APPEND_BYTES_MAX` and one command more.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;
/// Bincode counts what it decodes at its full width, up to 16 bytes for one on the wire: a body that may be sent must
/// also be read.
const DECODED_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;

/// What an envelope holds. Numbers are on disk and on the wire: they are never changed or used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Kind {
    Vote = 1,
    LogId = 2,
    Entry = 3,
    Membership = 4,
    Command = 5,
    AppendRequest = 6,
    AppendResponse = 7,
    VoteRequest = 8,
    VoteResponse = 9,
    TransferRequest = 10,
    TransferResponse = 11,
    SnapshotOffer = 12,
    SnapshotResponse = 13,
    SnapshotHeader = 14,
    SnapshotRow = 15,
    SnapshotEnd = 16,
    LeaderRequest = 17,
    LeaderAnswer = 18,
}

/// A type with a place in an envelope.
pub(crate) trait Wire: Serialize + DeserializeOwned {
    const KIND: Kind;
    /// Raised with every change of the layout; a reader knows all up to its own.
    const VERSION: u16 = 1;
}

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("not an envelope")]
    NoEnvelope,
    #[error("holds kind {found}, not {expected}")]
    Kind { expected: u16, found: u16 },
    #[error("version {found} of kind {kind} is not known here, the newest is {newest}")]
    Version { kind: u16, found: u16, newest: u16 },
    #[error("unknown flags {0:#06x}")]
    Flags(u16),
    #[error("body of {0} bytes is larger than {BODY_BYTES_MAX}")]
    TooLarge(usize),
    #[error("{expected} bytes announced, {found} there")]
    Length { expected: usize, found: usize },
    #[error("checksum does not match")]
    Checksum,
    #[error("{0} bytes left over")]
    Trailing(usize),
    #[error("cannot encode")]
    Encode(#[source] bincode::error::EncodeError),
    #[error("cannot decode")]
    Decode(#[source] bincode::error::DecodeError),
}

impl From<WireError> for std::io::Error {
    fn from(error: WireError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

fn layout() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

pub(crate) fn encode<T: Wire>(value: &T) -> Result<Vec<u8>, WireError> {
    let mut envelope = Vec::with_capacity(256);
    envelope.extend_from_slice(&MAGIC.to_le_bytes());
    envelope.extend_from_slice(&(T::KIND as u16).to_le_bytes());
    envelope.extend_from_slice(&T::VERSION.to_le_bytes());
    envelope.extend_from_slice(&[0; 10]);
    bincode::serde::encode_into_std_write(value, &mut envelope, layout()).map_err(WireError::Encode)?;
    let length = envelope.len() - HEADER_BYTES;
    let announced = u32::try_from(length).map_err(|_| WireError::TooLarge(length))?;
    if length > BODY_BYTES_MAX {
        return Err(WireError::TooLarge(length));
    }
    envelope[8..12].copy_from_slice(&announced.to_le_bytes());
    let sum = checksum(&envelope[..12], &envelope[HEADER_BYTES..]);
    envelope[12..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    Ok(envelope)
}

pub(crate) fn decode<T: Wire>(envelope: &[u8]) -> Result<T, WireError> {
    let (header, body) = envelope.split_at_checked(HEADER_BYTES).ok_or(WireError::NoEnvelope)?;
    let length = body_length(header)?;
    let [kind, version, flags] = [2, 4, 6].map(|at| u16::from_le_bytes([header[at], header[at + 1]]));
    if kind != T::KIND as u16 {
        return Err(WireError::Kind { expected: T::KIND as u16, found: kind });
    }
    if version == 0 || version > T::VERSION {
        return Err(WireError::Version { kind, found: version, newest: T::VERSION });
    }
    if flags != 0 {
        return Err(WireError::Flags(flags));
    }
    if length != body.len() {
        return Err(WireError::Length { expected: length, found: body.len() });
    }
    if checksum(&header[..12], body).to_le_bytes() != header[12..] {
        return Err(WireError::Checksum);
    }
    let (value, read) = bincode::serde::decode_from_slice(body, layout()).map_err(WireError::Decode)?;
    if read != body.len() {
        return Err(WireError::Trailing(body.len() - read));
    }
    Ok(value)
}

/// Length of the body that follows this header, for readers of streams.
pub(crate) fn body_length(header: &[u8]) -> Result<usize, WireError> {
    if header.len() < HEADER_BYTES || header[..2] != MAGIC.to_le_bytes() {
        return Err(WireError::NoEnvelope);
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if length > BODY_BYTES_MAX {
        return Err(WireError::TooLarge(length));
    }
    Ok(length)
}

/// The kind that a header announces, without judging it.
pub(crate) fn kind_of(header: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes([*header.get(2)?, *header.get(3)?]))
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}
