//! The way of the driver's connections (`shared/relay.rs`): a door on loopback for each node, as the driver can be told
//! addresses and nothing else.
//!
//! ```text
//! nodes of the configuration ──► doors ──► driver ──► whatever node it learns of ──translate──► its door
//! ```
//!
//! Who comes in by a door must name itself in its first words, by an id that only this sink's driver knows.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use scylla::errors::TranslationError;
use scylla::policies::address_translator::{AddressTranslator, UntranslatedPeer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

use super::cql::{self, Frame, Unadmitted};
use crate::sink::TargetFault;
use crate::sinks::shared::relay::{Carrier, Place, Ways};
use crate::sinks::shared::stream::broken;

/// The driver is at the other end of loopback, and speaks first.
const FIRST_WORDS_WITHIN: Duration = Duration::from_secs(5);
/// Others on this machine can open connections too, and have no id.
const STRANGERS_MAX: usize = 256;
/// Far above the nodes of any cluster that one connector writes to: a cluster names its nodes itself.
const DOORS_MAX: usize = 4_096;

/// Ends when it is dropped.
pub(super) struct Relay {
    doors: Arc<Doors>,
    _ends: DropGuard,
}

pub(super) struct Doors {
    shared: Arc<Shared>,
    /// The names under which nodes of the configuration have their addresses: their certificates carry them.
    names: BTreeMap<IpAddr, String>,
    ports: Mutex<BTreeMap<Place, u16>>,
    ended: CancellationToken,
}

struct Shared {
    carrier: Carrier,
    client_id: String,
    strangers: Semaphore,
}

impl Relay {
    pub(super) fn new(ways: Ways, names: BTreeMap<IpAddr, String>) -> Self {
        let shared = Arc::new(Shared {
            carrier: Carrier::new(ways),
            client_id: format!("{:032x}", rand::rng().random::<u128>()),
            strangers: Semaphore::new(STRANGERS_MAX),
        });
        let ended = CancellationToken::new();
        let doors = Doors { shared, names, ports: Mutex::default(), ended: ended.clone() };
        Self { doors: Arc::new(doors), _ends: ended.drop_guard() }
    }

    pub(super) fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// What the driver has to call itself.
    pub(super) fn client_id(&self) -> &str {
        &self.doors.shared.client_id
    }

    /// What is known about the nodes that cannot be used: what a person must mend before what time may.
    pub(super) fn fault(&self) -> Option<TargetFault> {
        self.doors.shared.carrier.fault()
    }

    /// Connections that are still open are closed.
    pub(super) fn end(&self) {
        self.doors.ended.cancel();
    }
}

impl Doors {
    /// The door to this node; opened when it is asked for first.
    pub(super) fn to(&self, place: Place) -> io::Result<SocketAddr> {
        let mut ports = self.ports();
        let port = match ports.get(&place) {
            Some(port) => *port,
            None if ports.len() >= DOORS_MAX => return Err(io::Error::other("the cluster has too many nodes")),
            None => {
                let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                let port = listener.local_addr()?.port();
                ports.insert(place.clone(), port);
                // Ends with the relay: by `end`, by an abort, or when it is dropped.
                tokio::spawn(Arc::clone(&self.shared).listen(listener, place, self.ended.clone()));
                port
            }
        };
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Nodes tell addresses without ports; the driver takes the port of the connection by which it has heard of them,
    /// and that is one of the doors.
    fn place_of(&self, address: SocketAddr) -> Place {
        let behind = self.ports().iter().find(|(_, port)| **port == address.port()).map(|(place, _)| place.port);
        Place {
            host: address.ip().to_string(),
            port: behind.unwrap_or(address.port()),
            certificate_name: self.names.get(&address.ip()).cloned(),
        }
    }

    fn ports(&self) -> MutexGuard<'_, BTreeMap<Place, u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl AddressTranslator for Doors {
    async fn translate_address(&self, peer: &UntranslatedPeer) -> Result<SocketAddr, TranslationError> {
        let place = self.place_of(peer.untranslated_address());
        self.to(place).map_err(|error| TranslationError::IoError(Arc::new(error)))
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener, place: Place, ended: CancellationToken) {
        self.carrier.listen(listener, ended, |client| Arc::clone(&self).serve(client, place.clone())).await;
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream, place: Place) {
        let first = {
            let Ok(_permit) = self.strangers.try_acquire() else { return };
            timeout(FIRST_WORDS_WITHIN, Frame::read(&mut client)).await
        };
        let Ok(Ok(first)) = first else { return };
        // Answers are small, and nobody on loopback minds small packets.
        let _ = client.set_nodelay(true);
        // The driver sees the connection close.
        let Some(mut server) = self.carrier.connect(&place).await else { return };
        let within = self.carrier.connect_within();
        match timeout(within, cql::admit(first, &mut client, &mut server, &self.client_id)).await {
            Ok(Ok(())) => self.carrier.carry(client, server, &place, |_| true).await,
            Ok(Err(Unadmitted::Server(error))) => self.carrier.note(&place, broken(&error)),
            Ok(Err(Unadmitted::Client(error))) => debug!(%error, "a connection to a relay came to nothing"),
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", within.as_secs()));
                self.carrier.note(&place, broken(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(names: &[(&str, &str)]) -> Relay {
        let ways = Ways {
            deny_networks: Arc::from([]),
            tls: None,
            connect_within: Duration::from_secs(1),
            answer_within: Duration::from_secs(1),
            is_patient: false,
            aborted: CancellationToken::new(),
        };
        let names = names.iter().map(|(address, name)| (address.parse().expect("valid"), (*name).to_owned()));
        Relay::new(ways, names.collect())
    }

    fn place(host: &str, port: u16, certificate_name: Option<&str>) -> Place {
        Place { host: host.to_owned(), port, certificate_name: certificate_name.map(str::to_owned) }
    }

    #[tokio::test]
    async fn a_node_that_another_one_names_has_the_port_of_that_one() {
        let doors = relay(&[("10.0.0.1", "db-1.example.org")]).doors();
        let door = doors.to(place("db-1.example.org", 9_142, None)).expect("opens");
        assert_eq!(doors.to(place("db-1.example.org", 9_142, None)).expect("is open"), door);
        let told = |ip: &str| SocketAddr::new(ip.parse().expect("valid"), door.port());
        assert_eq!(doors.place_of(told("10.0.0.1")), place("10.0.0.1", 9_142, Some("db-1.example.org")));
        assert_eq!(doors.place_of(told("fd00::2")), place("fd00::2", 9_142, None));
        let elsewhere = SocketAddr::from(([10, 0, 0, 3], 1));
        assert_eq!(doors.place_of(elsewhere), place("10.0.0.3", 1, None));
    }

    #[tokio::test]
    async fn an_ended_relay_has_no_open_doors() {
        let relay = relay(&[]);
        let door = relay.doors().to(place("127.0.0.1", 1, None)).expect("opens");
        TcpStream::connect(door).await.expect("is open");
        drop(relay);
        while TcpStream::connect(door).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}
