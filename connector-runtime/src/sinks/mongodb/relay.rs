//! The way of the driver's connections (`shared/relay.rs`): it asks for each by SOCKS5, with a password that only this
//! sink knows.
//!
//! The driver opens its own sockets, looks names up itself and takes the name in the certificate from the address.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
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
    handshakes: Arc<Semaphore>,
}

impl Relay {
    pub(super) async fn open(ways: Ways) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let shared = Arc::new(Shared {
            carrier: Carrier::new(ways),
            password: password.clone(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        });
        let ended = CancellationToken::new();
        // Ends with the relay: by `end`, by an abort, or when it is dropped.
        tokio::spawn(Arc::clone(&shared).listen(listener, ended.clone()));
        Ok(Self { port, password, shared, ended: ended.clone(), _ends: ended.drop_guard() })
    }

    /// What is known about the servers that cannot be used: what a person must mend before what time may.
    pub(super) fn fault(&self) -> Option<TargetFault> {
        self.shared.carrier.fault()
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
        let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else { return };
        let wanted = timeout(HANDSHAKE_WITHIN, socks::wanted(&mut client, USER, &self.password)).await;
        drop(permit);
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
                    self.carrier.carry(client, server, &place).await;
                }
            }
            None => {
                // The driver is gone, or sees the connection close.
                let _ = socks::reply(&mut client, Reply::Refused).await;
            }
        }
    }
}
