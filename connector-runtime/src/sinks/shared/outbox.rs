//! What waits for the socket of a connection that one task owns.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Of answers that wait for the socket. Each was asked for by the target, which is not read while it takes none. Far
/// above what one may ask for at once.
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// Bytes for the socket of one connection.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: BytesMut,
    /// Bytes that were moved out of here to the socket.
    pub(crate) taken: u64,
    /// Those of them that the operating system has: of TLS the last ones may still be under way to it.
    pub(crate) handed_over: u64,
    /// Of `bytes` at most so many are answers.
    answer_bytes: usize,
}

impl Outbox {
    pub(crate) fn end(&self) -> u64 {
        self.taken + self.bytes.len() as u64
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.bytes.is_empty() || self.handed_over < self.taken
    }

    /// The socket has so many of its bytes.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.answer_bytes = self.answer_bytes.min(self.bytes.len());
    }

    /// What the target says makes nothing more to be sent than is bounded.
    pub(crate) fn takes_answers(&self) -> bool {
        self.answer_bytes < ANSWER_BYTES_MAX
    }

    /// `write` adds what the target asked for.
    pub(crate) fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.answer_bytes += self.bytes.len() - before;
    }

    /// One step of writing; given up between two steps, nothing is lost and nothing is written twice.
    pub(crate) async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        if !self.bytes.is_empty() && self.handed_over == self.taken {
            let written = writer.write_buf(&mut self.bytes).await?;
            self.moved(written);
        }
        // Of plain TCP this is nothing; TLS may still hold what it has taken.
        writer.flush().await?;
        self.handed_over = self.taken;
        Ok(())
    }
}
