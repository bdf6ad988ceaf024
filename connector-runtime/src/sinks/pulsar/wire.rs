//! Frames of Pulsar's binary protocol, from bytes and to bytes.
//!
//! ```text
//!   total (4) size (4) | command (size)                                                          a command
//!   total (4) size (4) | command (size) | 0e01 crc32c (4) size (4) | metadata (size) | payload   an entry
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::proto::{
    BaseCommand, CloseProducer, CommandKind, Connected, Empty, MessageMetadata, Owner, Partitions, ProducerSuccess,
    RequestError, SendError, SendReceipt,
};

const SIZE_BYTES: usize = 4;
const CHECKSUM_MAGIC: u16 = 0x0e01;
/// A broker answers with commands, never with entries: they are small.
const COMMAND_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the broker sent a frame of {bytes} bytes; commands have {COMMAND_BYTES_MAX} at most")]
    TooLarge { bytes: usize },
    #[error("the broker sent a frame that cannot be read")]
    Unreadable,
    #[error("the broker sent a command that cannot be read")]
    Command(#[source] prost::DecodeError),
    #[error("a frame of {0} bytes cannot be written")]
    Unwritable(usize),
}

/// What a broker says.
#[derive(Debug)]
pub(super) enum Heard {
    Connected(Connected),
    Receipt(SendReceipt),
    Refusal(SendError),
    CloseProducer(CloseProducer),
    Answer {
        request_id: u64,
        answer: Answer,
    },
    /// Credentials have ended: others are asked for.
    Challenge,
    Ping,
    Pong,
    /// Nobody asked for it.
    Other(i32),
}

/// To a request, which it names.
#[derive(Debug)]
pub(super) enum Answer {
    Success,
    Producer(ProducerSuccess),
    Partitions(Partitions),
    Owner(Owner),
    Error(RequestError),
}

/// The next whole frame, if there is one.
pub(super) fn decode(inbox: &mut BytesMut) -> Result<Option<Heard>, WireError> {
    let Some(total) = size_at(inbox, 0) else { return Ok(None) };
    if total > COMMAND_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: total });
    }
    let bytes = SIZE_BYTES + total;
    if inbox.len() < bytes {
        inbox.reserve(bytes - inbox.len());
        return Ok(None);
    }
    let whole = inbox.split_to(bytes);
    let size = size_at(&whole, SIZE_BYTES).ok_or(WireError::Unreadable)?;
    let from = 2 * SIZE_BYTES;
    let command = whole.get(from..from + size).ok_or(WireError::Unreadable)?;
    BaseCommand::decode(command).map(|command| Some(heard(command))).map_err(WireError::Command)
}

fn heard(command: BaseCommand) -> Heard {
    let kind = command.kind;
    let answer = |request_id, answer| Heard::Answer { request_id, answer };
    let heard = match CommandKind::try_from(kind) {
        Ok(CommandKind::Connected) => command.connected.map(Heard::Connected),
        Ok(CommandKind::SendReceipt) => command.send_receipt.map(Heard::Receipt),
        Ok(CommandKind::SendError) => command.send_error.map(Heard::Refusal),
        Ok(CommandKind::CloseProducer) => command.close_producer.map(Heard::CloseProducer),
        Ok(CommandKind::Success) => command.success.map(|success| answer(success.request_id, Answer::Success)),
        Ok(CommandKind::RequestError) => command.error.map(|error| answer(error.request_id, Answer::Error(error))),
        Ok(CommandKind::ProducerSuccess) => {
            command.producer_success.map(|success| answer(success.request_id, Answer::Producer(success)))
        }
        Ok(CommandKind::Partitions) => {
            command.partitions_response.map(|found| answer(found.request_id, Answer::Partitions(found)))
        }
        Ok(CommandKind::Owner) => command.lookup_response.map(|found| answer(found.request_id, Answer::Owner(found))),
        Ok(CommandKind::AuthChallenge) => command.auth_challenge.map(|_| Heard::Challenge),
        Ok(CommandKind::Ping) => Some(Heard::Ping),
        Ok(CommandKind::Pong) => Some(Heard::Pong),
        Ok(
            CommandKind::Connect
            | CommandKind::CreateProducer
            | CommandKind::Send
            | CommandKind::AskPartitions
            | CommandKind::AskOwner
            | CommandKind::AuthResponse,
        )
        | Err(_) => None,
    };
    heard.unwrap_or(Heard::Other(kind))
}

fn size_at(bytes: &[u8], at: usize) -> Option<usize> {
    let size = bytes.get(at..at + SIZE_BYTES)?;
    Some(size.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte)))
}

pub(super) fn command(command: &BaseCommand, out: &mut BytesMut) {
    let command = command.encode_to_vec();
    out.reserve(2 * SIZE_BYTES + command.len());
    put_size(SIZE_BYTES + command.len(), out);
    put_size(command.len(), out);
    out.put_slice(&command);
}

pub(super) fn ping() -> BaseCommand {
    BaseCommand { ping: Some(Empty {}), ..of(CommandKind::Ping) }
}

pub(super) fn pong() -> BaseCommand {
    BaseCommand { pong: Some(Empty {}), ..of(CommandKind::Pong) }
}

pub(super) fn of(kind: CommandKind) -> BaseCommand {
    BaseCommand { kind: kind.into(), ..BaseCommand::default() }
}

/// A `send` with its entry.
pub(super) fn entry(send: &BaseCommand, metadata: &MessageMetadata, payload: &[u8]) -> Result<Bytes, WireError> {
    let (send, metadata) = (send.encode_to_vec(), metadata.encode_to_vec());
    let checked_bytes = SIZE_BYTES + metadata.len() + payload.len();
    let total = SIZE_BYTES + send.len() + size_of::<u16>() + SIZE_BYTES + checked_bytes;
    if u32::try_from(total).is_err() {
        return Err(WireError::Unwritable(total));
    }
    let mut out = BytesMut::with_capacity(SIZE_BYTES + total);
    put_size(total, &mut out);
    put_size(send.len(), &mut out);
    out.put_slice(&send);
    out.put_u16(CHECKSUM_MAGIC);
    let checksum_at = out.len();
    out.put_u32(0);
    put_size(metadata.len(), &mut out);
    out.put_slice(&metadata);
    out.put_slice(payload);
    let checksum = crc32c::crc32c(&out[checksum_at + SIZE_BYTES..]);
    out[checksum_at..checksum_at + SIZE_BYTES].copy_from_slice(&checksum.to_be_bytes());
    Ok(out.freeze())
}

/// One message of a batch.
pub(super) fn put_sized(message: &impl Message, out: &mut Vec<u8>) {
    let message = message.encode_to_vec();
    put_size(message.len(), out);
    out.put_slice(&message);
}

/// Whoever calls has bounded it.
fn put_size(bytes: usize, out: &mut impl BufMut) {
    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests;
