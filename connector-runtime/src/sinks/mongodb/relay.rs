//! The way of the driver's connections (`shared/relay.rs`): it asks for each by SOCKS5, with a password that only this
//! sink knows.
//!
//! The driver opens its own sockets, looks names up itself and takes the name in the certificate from the address.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::socks::{self, Reply};
use crate::sink::TargetFault;
use crate::sinks::shared::relay::{Carrier, Place, Ways};

pub(super) const USER: &str = "sluice";
/// The driver is at the other end of loopback.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Others on this machine can open connections too, and have no password.
const HANDSHAKES_MAX: usize = 256;

pub(super) struct Relay {
    pub(super) port: u16,
    pub(super) password: String,
    shared: Arc<Shared>,
    ended: CancellationToken,
    _ends: DropGuard,
}

struct Shared {
    carrier: Carrier,
    password: String,
    handshakes: Semaphore,
}

impl Relay {
    pub(super) async fn open(ways: Ways) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let shared = Arc::new(Shared {
            carrier: Carrier::new(ways),
            password: password.clone(),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
        });
        let ended = CancellationToken::new();
        // Ends with the relay: by `end`, by an abort, or when it is dropped.
        tokio::spawn(Arc::clone(&shared).listen(listener, ended.clone()));
        Ok(Self { port, password, shared, ended: ended.clone(), _ends: ended.drop_guard() })
    }

    /// Why none of these servers could be used since.
    pub(super) fn fault(&self, servers: &BTreeSet<String>, since: Instant) -> Option<TargetFault> {
        self.shared.carrier.fault_of(servers, since)
    }

    /// Connections that are still open are closed.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener, ended: CancellationToken) {
        self.carrier.listen(listener, ended, |client| Arc::clone(&self).serve(client)).await;
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream) {
        let wanted = {
            let Ok(_permit) = self.handshakes.try_acquire() else { return };
            timeout(HANDSHAKE_WITHIN, socks::wanted(&mut client, USER, &self.password)).await
        };
        // Nobody that we know.
        let Ok(Ok((host, port))) = wanted else { return };
        // Answers are small, and nobody on loopback minds small packets.
        let _ = client.set_nodelay(true);
        let place = Place { host, port, certificate_name: None };
        // The driver may give up first.
        let mut nothing = [0];
        let connected = tokio::select! {
            connected = self.carrier.connect(&place) => connected,
            _ = client.peek(&mut nothing) => return,
        };
        match connected {
            Some(server) => {
                if socks::reply(&mut client, Reply::Connected).await.is_ok() {
                    let mut answers = Answers::default();
                    self.carrier.carry(client, server, &place, |bytes| answers.end_with(bytes)).await;
                }
            }
            None => {
                // The driver is gone, or sees the connection close.
                let _ = socks::reply(&mut client, Reply::Refused).await;
            }
        }
    }
}

/// Where the messages of a server end: each begins with its length.
#[derive(Default)]
struct Answers {
    length: Vec<u8>,
    left: usize,
}

impl Answers {
    const LENGTH_BYTES: usize = 4;

    /// Whether these bytes end with the end of a message.
    fn end_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let taken;
            (taken, bytes) = bytes.split_at(bytes.len().min(match self.left {
                0 => Self::LENGTH_BYTES - self.length.len(),
                left => left,
            }));
            if self.left > 0 {
                self.left -= taken.len();
                continue;
            }
            self.length.extend_from_slice(taken);
            if let Ok(length) = <[u8; Self::LENGTH_BYTES]>::try_from(&*self.length) {
                let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
                self.left = length.saturating_sub(Self::LENGTH_BYTES);
                self.length.clear();
            }
        }
        self.left == 0 && self.length.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_when_all_of_it_is_there() {
        let mut answers = Answers::default();
        for (bytes, expect) in [
            (&b"\x06\0\0\0ab"[..], true),
            (b"\x06\0", false),
            (b"\0\0", false),
            (b"a", false),
            (b"b", true),
            (b"\x05\0\0\0a\x08\0\0\0abc", false),
            (b"d\x04\0\0\0", true),
            (b"\x10\0\0\0half", false),
        ] {
            assert_eq!(answers.end_with(bytes), expect, "{bytes:?}");
        }
    }
}
