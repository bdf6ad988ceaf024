//! Envelopes one after another on a connection.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::wire::{self, HEADER_BYTES, Wire};

/// Room for one read: a few small entries.
const READ_BYTES: usize = 16 << 10;

/// The reading end, and what it has read ahead.
#[derive(Default)]
pub(super) struct Frames {
    read: BytesMut,
}

impl Frames {
    /// The next envelope, opened; `None` at the end of the connection. What was read is kept when this is cancelled.
    pub async fn next<T: Wire>(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
        loop {
            if self.read.len() >= HEADER_BYTES {
                let bytes = HEADER_BYTES + wire::body_length(&self.read)?;
                if self.read.len() >= bytes {
                    return Ok(Some(wire::decode(&self.read.split_to(bytes))?));
                }
            }
            self.read.reserve(READ_BYTES);
            if from.read_buf(&mut self.read).await? == 0 {
                return if self.read.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Vote;
    use super::*;

    fn vote(term: u64) -> Vote {
        Vote::new(term, 1)
    }

    #[tokio::test]
    async fn envelopes_are_found_wherever_the_connection_cuts_them() {
        let sent: Vec<u8> = (1..=3).flat_map(|term| wire::encode(&vote(term)).expect("encodes")).collect();
        for piece in [1, 15, 16, 17, 40, sent.len()] {
            let pieces = sent.chunks(piece).map(io::Result::Ok);
            let mut from = tokio_util::io::StreamReader::new(futures::stream::iter(pieces));
            let mut frames = Frames::default();
            for term in 1..=3 {
                assert_eq!(frames.next::<Vote>(&mut from).await.expect("reads"), Some(vote(term)), "pieces of {piece}");
            }
            assert_eq!(frames.next::<Vote>(&mut from).await.expect("reads"), None);
        }
    }

    #[tokio::test]
    async fn an_envelope_that_breaks_off_is_an_error() {
        let sent = wire::encode(&vote(1)).expect("encodes");
        for end in [1, HEADER_BYTES, sent.len() - 1] {
            let error = Frames::default().next::<Vote>(&mut &sent[..end]).await.expect_err("breaks off");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{end} bytes");
        }
        let error = Frames::default().next::<Vote>(&mut &[7; 40][..]).await.expect_err("no envelope");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
