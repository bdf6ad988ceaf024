//! What the server answers to a command.
//!
//! ```text
//! 00 done | ff error | columns, EOF, rows, EOF        and the next one, while there are more
//! ```

use std::fmt;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncReadExt, ReadHalf};

use super::packet::{read_packet, take_number};
use crate::sinks::shared::stream::Stream;

const OK: u8 = 0x00;
const EOF: u8 = 0xfe;
const ERROR: u8 = 0xff;
/// A row that begins with this byte is longer.
const EOF_BYTES_MAX: usize = 8;
const MORE_ANSWERS: u16 = 0x0008;
/// Of all rows of an answer: what is looked up here is a few names and ids.
const ROWS_BYTES_MAX: usize = 64 << 20;

/// An error as the server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerError {
    pub(super) code: u16,
    pub(super) state: String,
    pub(super) message: String,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {}, SQLSTATE {})", self.message, self.code, self.state)
    }
}

impl std::error::Error for ServerError {}

impl ServerError {
    /// `packet` begins with [`ERROR`]. Before the login there is no SQLSTATE.
    fn read(packet: &[u8]) -> Self {
        let code = match packet {
            [_, low, high, ..] => u16::from_le_bytes([*low, *high]),
            _ => 0,
        };
        let rest = packet.get(3..).unwrap_or_default();
        let (state, message) = match rest {
            [b'#', state @ ..] if state.len() >= 5 => state.split_at(5),
            message => (&b"HY000"[..], message),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, state: text(state), message: text(message) }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    #[error(transparent)]
    Server(ServerError),
    #[error("the connection to the server has failed")]
    Io(#[from] io::Error),
    #[error("the server does not answer as MySQL does: {0}")]
    Protocol(&'static str),
}

/// The first byte tells an error.
pub(super) fn checked(packet: Bytes) -> Result<Bytes, AnswerError> {
    match packet.first() {
        Some(&ERROR) => Err(AnswerError::Server(ServerError::read(&packet))),
        Some(_) => Ok(packet),
        None => Err(AnswerError::Protocol("an empty packet")),
    }
}

/// A statement that was prepared at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) id: u32,
    pub(super) parameters: u16,
    /// It answers with rows.
    pub(super) columns: u16,
}

/// A row as text; `None` is NULL.
pub(super) type TextRow = Vec<Option<Bytes>>;

/// Takes answers, in the order of the commands that were sent.
pub(super) struct Answers {
    stream: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
}

/// What one packet at the beginning of an answer says.
enum Head {
    Done {
        more: bool,
    },
    /// Rows follow.
    Columns(u64),
}

impl Answers {
    pub(super) fn new(stream: ReadHalf<Box<dyn Stream>>, buffer: BytesMut) -> Self {
        Self { stream, buffer }
    }

    /// Nothing has been asked for: whatever comes is the end, or the announcement of it.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.buffer.is_empty() && self.stream.read_buf(&mut self.buffer).now_or_never().is_none()
    }

    /// Of a command whose rows, if any, are not wanted.
    pub(super) async fn done(&mut self) -> Result<(), AnswerError> {
        loop {
            match self.head().await? {
                Head::Done { more: false } => return Ok(()),
                Head::Done { more: true } => {}
                Head::Columns(_) => {
                    self.skip_to_eof().await?;
                    if !self.rows_to_eof(|_| Ok(())).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Of a query whose rows are wanted.
    pub(super) async fn rows(&mut self) -> Result<Vec<TextRow>, AnswerError> {
        let Head::Columns(columns) = self.head().await? else {
            return Err(AnswerError::Protocol("no rows where rows were asked for"));
        };
        self.skip_to_eof().await?;
        let mut rows = Vec::new();
        let more = self
            .rows_to_eof(|packet| {
                rows.push(text_row(packet, columns)?);
                Ok(())
            })
            .await?;
        if more { Err(AnswerError::Protocol("more than one answer to a query")) } else { Ok(rows) }
    }

    pub(super) async fn prepared(&mut self) -> Result<Prepared, AnswerError> {
        let mut packet = self.packet().await?;
        if packet.first() != Some(&OK) || packet.len() < 12 {
            return Err(AnswerError::Protocol("an answer to PREPARE that is none"));
        }
        packet.advance(1);
        let (id, columns, parameters) = (packet.get_u32_le(), packet.get_u16_le(), packet.get_u16_le());
        for definitions in [parameters, columns] {
            if definitions > 0 {
                self.skip_to_eof().await?;
            }
        }
        Ok(Prepared { id, parameters, columns })
    }

    async fn packet(&mut self) -> Result<Bytes, AnswerError> {
        checked(read_packet(&mut self.stream, &mut self.buffer).await?.1)
    }

    async fn head(&mut self) -> Result<Head, AnswerError> {
        let mut packet = self.packet().await?;
        if packet.first() != Some(&OK) {
            // A server that wants a file of ours is none of this protocol's numbers.
            let columns = take_number(&mut packet).filter(|_| packet.is_empty());
            return columns.map(Head::Columns).ok_or(AnswerError::Protocol("an answer of no known kind"));
        }
        packet.advance(1);
        let _affected_rows = take_number(&mut packet);
        let _insert_id = take_number(&mut packet);
        if packet.len() < 2 {
            return Err(AnswerError::Protocol("an answer that is cut off"));
        }
        Ok(Head::Done { more: packet.get_u16_le() & MORE_ANSWERS != 0 })
    }

    async fn skip_to_eof(&mut self) -> Result<(), AnswerError> {
        while eof(&self.packet().await?).is_none() {}
        Ok(())
    }

    /// Whether another answer follows.
    async fn rows_to_eof(
        &mut self,
        mut take: impl FnMut(Bytes) -> Result<(), AnswerError>,
    ) -> Result<bool, AnswerError> {
        let mut bytes = 0;
        loop {
            let packet = self.packet().await?;
            if let Some(status) = eof(&packet) {
                return Ok(status & MORE_ANSWERS != 0);
            }
            bytes += packet.len();
            if bytes > ROWS_BYTES_MAX {
                return Err(AnswerError::Protocol("more rows than were asked for"));
            }
            take(packet)?;
        }
    }
}

/// The server's status, where this packet ends columns or rows.
fn eof(packet: &[u8]) -> Option<u16> {
    match packet {
        [EOF, _, _, low, high, ..] if packet.len() <= EOF_BYTES_MAX => Some(u16::from_le_bytes([*low, *high])),
        _ => None,
    }
}

const NULL: u8 = 0xfb;

fn text_row(mut packet: Bytes, columns: u64) -> Result<TextRow, AnswerError> {
    let mut row = Vec::new();
    for _ in 0..columns {
        if packet.first() == Some(&NULL) {
            packet.advance(1);
            row.push(None);
            continue;
        }
        let length = take_number(&mut packet).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= packet.len());
        row.push(Some(packet.split_to(length.ok_or(AnswerError::Protocol("a row that is cut off"))?)));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_with_and_without_its_state() {
        let error = ServerError::read(b"\xff\x26\x04#23000Duplicate entry");
        assert_eq!(error.to_string(), "Duplicate entry (error 1062, SQLSTATE 23000)");
        let early = ServerError::read(b"\xff\x10\x04Too many connections");
        assert_eq!(early.to_string(), "Too many connections (error 1040, SQLSTATE HY000)");
        assert_eq!(ServerError::read(b"\xff").code, 0);
    }

    #[test]
    fn a_row_has_texts_and_nulls() {
        let row = text_row(Bytes::from_static(b"\x02ab\xfb\x00"), 3).expect("is a row");
        assert_eq!(row, [Some(Bytes::from_static(b"ab")), None, Some(Bytes::new())]);
        text_row(Bytes::from_static(b"\x05ab"), 1).expect_err("is cut off");
    }
}
