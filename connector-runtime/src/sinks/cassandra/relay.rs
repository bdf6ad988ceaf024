//! The way of the driver's connections (`shared/relay.rs`): a door on loopback for each node, as the driver can be told
//! addresses and nothing else.
//!
//! ```text
//! nodes of the configuration ──► doors ──► driver ──► whatever node it learns of ──translate──► its door
//! ```
//!
//! Who comes in by a door must name itself in its first words, by an id that only this sink's driver knows.

use std::collections::{BTreeMap, BTreeSet};
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
use tokio::time::{Instant, timeout};
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
/// Above the nodes of any cluster that one connector writes to: a cluster names its nodes itself, and over the years
/// each under many addresses.
const DOORS_MAX: usize = 512;

/// Ends when it is dropped.
pub(super) struct Relay {
    doors: Arc<Doors>,
    _ends: DropGuard,
}

pub(super) struct Doors {
    shared: Arc<Shared>,
    /// The names under which nodes of the configuration have their addresses: their certificates carry them.
    names: BTreeMap<IpAddr, String>,
    open: Mutex<Open>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Open {
    doors: BTreeMap<Place, Door>,
    /// Door → port of its node, also of doors that are closed: nodes are known by the door through which one has heard
    /// of them. There are no more than ports.
    ports: BTreeMap<u16, u16>,
}

struct Door {
    port: u16,
    /// The driver has it from the configuration, and asks for it only once.
    is_first: bool,
    asked: Instant,
    /// Shared by its connections.
    in_use: Arc<()>,
    _ends: DropGuard,
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
        let doors = Doors { shared, names, open: Mutex::default(), ended: ended.clone() };
        Self { doors: Arc::new(doors), _ends: ended.drop_guard() }
    }

    pub(super) fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// What the driver has to call itself.
    pub(super) fn client_id(&self) -> &str {
        &self.doors.shared.client_id
    }

    /// Why none of these can be used; of any that was tried, where none is known.
    pub(super) fn fault(&self, hosts: &BTreeSet<String>) -> Option<TargetFault> {
        self.doors.shared.carrier.fault(hosts)
    }

    /// Connections that are still open are closed.
    pub(super) fn end(&self) {
        self.doors.ended.cancel();
    }
}

impl Doors {
    /// The door to this node of the configuration; it stays open.
    pub(super) fn first(&self, place: Place) -> io::Result<SocketAddr> {
        self.to(place, true)
    }

    /// The door to this node; opened when it is asked for first.
    fn to(&self, place: Place, is_first: bool) -> io::Result<SocketAddr> {
        let mut open = self.open();
        if let Some(door) = open.doors.get_mut(&place) {
            (door.asked, door.is_first) = (Instant::now(), door.is_first || is_first);
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, door.port)));
        }
        if open.doors.len() >= DOORS_MAX {
            open.close_one()?;
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let port = listener.local_addr()?.port();
        open.ports.insert(port, place.port);
        let (ended, in_use) = (self.ended.child_token(), Arc::new(()));
        // Ends with its door, and with the relay: by `end`, by an abort, or when it is dropped.
        let serve = Arc::clone(&self.shared).listen(listener, place.clone(), Arc::clone(&in_use), ended.clone());
        tokio::spawn(serve);
        open.doors.insert(place, Door { port, is_first, asked: Instant::now(), in_use, _ends: ended.drop_guard() });
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Nodes tell addresses without ports; the driver takes the port of the connection by which it has heard of them,
    /// and that is one of the doors.
    fn place_of(&self, address: SocketAddr) -> Place {
        Place {
            host: address.ip().to_string(),
            port: self.open().ports.get(&address.port()).copied().unwrap_or(address.port()),
            certificate_name: self.names.get(&address.ip()).cloned(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Of those that lead nowhere now, the one that was asked for the longest time ago: when the driver wants to go
    /// there again, it asks again.
    fn close_one(&mut self) -> io::Result<()> {
        // The door and its listener have one each.
        let is_idle = |door: &Door| !door.is_first && Arc::strong_count(&door.in_use) <= 2;
        let idle = self.doors.iter().filter(|(_, door)| is_idle(door)).min_by_key(|(_, door)| door.asked);
        let Some(place) = idle.map(|(place, _)| place.clone()) else {
            return Err(io::Error::other("the cluster has too many nodes"));
        };
        self.doors.remove(&place);
        Ok(())
    }
}

#[async_trait]
impl AddressTranslator for Doors {
    async fn translate_address(&self, peer: &UntranslatedPeer) -> Result<SocketAddr, TranslationError> {
        let place = self.place_of(peer.untranslated_address());
        self.to(place, false).map_err(|error| TranslationError::IoError(Arc::new(error)))
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, listener: TcpListener, place: Place, in_use: Arc<()>, ended: CancellationToken) {
        let serve = |client| Arc::clone(&self).serve(client, place.clone(), Arc::clone(&in_use));
        self.carrier.listen(listener, ended, serve).await;
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream, place: Place, _in_use: Arc<()>) {
        // Until it has named itself it is a stranger.
        let Ok(stranger) = self.strangers.try_acquire() else { return };
        let Ok(Ok(first)) = timeout(FIRST_WORDS_WITHIN, Frame::read(&mut client)).await else { return };
        // Answers are small, and nobody on loopback minds small packets.
        let _ = client.set_nodelay(true);
        // The driver sees the connection close.
        let Some(mut server) = self.carrier.connect(&place).await else { return };
        let within = self.carrier.connect_within();
        match timeout(within, cql::admit(first, &mut client, &mut server, &self.client_id)).await {
            Ok(Ok(())) => {
                drop(stranger);
                self.carrier.carry(client, server, &place, |_| true).await;
            }
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
    use ::tests::wait;
    use anyhow::ensure;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn relay(names: &[(&str, &str)]) -> Relay {
        let ways = Ways {
            deny_networks: Arc::from([]),
            tls: None,
            connect_within: Duration::from_secs(60),
            answer_within: Duration::from_secs(60),
            is_patient: false,
            aborted: CancellationToken::new(),
        };
        let names = names.iter().map(|(address, name)| (address.parse().expect("valid"), (*name).to_owned()));
        Relay::new(ways, names.collect())
    }

    fn place(host: &str, port: u16, certificate_name: Option<&str>) -> Place {
        Place { host: host.to_owned(), port, certificate_name: certificate_name.map(str::to_owned) }
    }

    async fn closes(door: SocketAddr) {
        let closed = wait::until(Duration::from_secs(60), "the door is closed", async || {
            ensure!(TcpStream::connect(door).await.is_err(), "somebody accepts");
            Ok(())
        });
        closed.await.expect("closes");
    }

    #[tokio::test]
    async fn a_node_that_another_one_names_has_the_port_of_that_one() {
        let doors = relay(&[("10.0.0.1", "db-1.example.org")]).doors();
        let door = doors.first(place("db-1.example.org", 9_142, None)).expect("opens");
        assert_eq!(doors.to(place("db-1.example.org", 9_142, None), false).expect("is open"), door);
        let told = |ip: &str| SocketAddr::new(ip.parse().expect("valid"), door.port());
        assert_eq!(doors.place_of(told("10.0.0.1")), place("10.0.0.1", 9_142, Some("db-1.example.org")));
        assert_eq!(doors.place_of(told("fd00::2")), place("fd00::2", 9_142, None));
        let elsewhere = SocketAddr::from(([10, 0, 0, 3], 1));
        assert_eq!(doors.place_of(elsewhere), place("10.0.0.3", 1, None));
    }

    #[tokio::test]
    async fn an_ended_relay_has_no_open_doors() {
        let relay = relay(&[]);
        let door = relay.doors().first(place("127.0.0.1", 1, None)).expect("opens");
        TcpStream::connect(door).await.expect("is open");
        drop(relay);
        closes(door).await;
    }

    /// Nodes come and go over the years, each under many addresses.
    #[tokio::test]
    async fn the_door_that_leads_nowhere_for_the_longest_time_makes_room() {
        let doors = relay(&[]).doors();
        let first = doors.first(place("db-1.example.org", 9_142, None)).expect("opens");
        let of = |number: usize| place(&format!("node-{number}"), 9_042, None);
        let opened: Vec<SocketAddr> =
            (1..DOORS_MAX).map(|number| doors.to(of(number), false).expect("opens")).collect();
        // It is in use.
        let used = Arc::clone(&doors.open().doors[&of(1)].in_use);
        doors.to(of(DOORS_MAX), false).expect("another one makes room");
        let is_open = |number| doors.open().doors.contains_key(&of(number));
        assert_eq!((is_open(1), is_open(2), is_open(3), is_open(DOORS_MAX)), (true, false, true, true));
        assert_eq!(doors.to(place("db-1.example.org", 9_142, None), false).expect("is open"), first);
        closes(opened[1]).await;
        // What one has heard through it has its port all the same.
        let told = SocketAddr::from(([10, 0, 0, 3], opened[1].port()));
        assert_eq!(doors.place_of(told), place("10.0.0.3", 9_042, None));
        drop(used);
    }

    #[tokio::test]
    async fn strangers_are_strangers_until_they_have_named_themselves() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("listens");
        let relay = relay(&[]);
        let port = silent.local_addr().expect("is bound").port();
        let door = relay.doors().first(place("127.0.0.1", port, None)).expect("opens");
        let options = [4, 0, 0, 0, 5, 0, 0, 0, 0];
        let mut strangers = Vec::new();
        for _ in 0..STRANGERS_MAX {
            let mut stranger = TcpStream::connect(door).await.expect("is open");
            stranger.write_all(&options).await.expect("writes");
            // Whoever is there answers nothing.
            let (server, _) = silent.accept().await.expect("accepts");
            strangers.push((stranger, server));
        }
        let mut one_more = TcpStream::connect(door).await.expect("is open");
        let read = one_more.read(&mut [0]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
