//! What waits for the socket.

use std::num::NonZeroU16;

use bytes::BytesMut;

use super::wire;

/// Of PUBRELs that wait for the socket. Each was asked for by the target, which is not read while it takes none.
/// Far above what it may ask for at once: its whole window, or every packet id.
const RELEASE_BYTES_MAX: usize = 256 << 10;

/// Bytes for the socket of one connection.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) bytes: BytesMut,
    /// Bytes that were moved out of here to the socket.
    pub(super) taken: u64,
    /// Those of them that the operating system has: of TLS the last ones may still be under way to it.
    pub(super) handed_over: u64,
    /// Of `bytes` at most so many are PUBRELs.
    release_bytes: usize,
}

impl Outbox {
    pub(super) fn end(&self) -> u64 {
        self.taken + self.bytes.len() as u64
    }

    /// The socket has so many of its bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.release_bytes = self.release_bytes.min(self.bytes.len());
    }

    /// What the target says makes nothing more to be sent than is bounded.
    pub(super) fn takes_answers(&self) -> bool {
        self.release_bytes < RELEASE_BYTES_MAX
    }

    pub(super) fn release(&mut self, packet_id: NonZeroU16) {
        let before = self.bytes.len();
        wire::release(packet_id, &mut self.bytes);
        self.release_bytes += self.bytes.len() - before;
    }
}
