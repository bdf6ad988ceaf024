//! The brokers of a cluster: connections that are kept, who has which topic, and how many partitions it has.
//!
//! ```text
//!   server ──partitions──► n ──for each──► owner of topic-partition-i ──redirect──► … ──► connection to the owner
//! ```
//!
//! Addresses that brokers name are looked up and checked like the one that the user named.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::{Address, Dialer};
use super::connection::Connection;
use super::fault::{down, target_fault, unexpected};
use super::joint::Joint;
use super::proto::{AskOwner, AskPartitions, BaseCommand, CommandKind, Owner, OwnerAnswer};
use super::wire::{self, Answer};
use crate::sink::{TargetFault, TargetFaultKind};

/// From a broker that does not have a topic to one that knows more.
const HOPS_MAX: usize = 20;
/// How long the number of partitions is believed: as long as by Pulsar's own clients. It can only grow.
const PARTITIONS_FRESH_FOR: Duration = Duration::from_secs(60);
const PORT: u16 = 6_650;
const TLS_PORT: u16 = 6_651;

pub(super) struct Cluster {
    dialer: Dialer,
    /// Any of them answers; never empty.
    servers: Vec<Address>,
    topic: String,
    operation_timeout: Duration,
    /// There is one to a broker, and not one for each who asks.
    connections: Mutex<HashMap<Address, Arc<Joint<Arc<Connection>>>>>,
    partitions: Joint<Partitions>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Partitions {
    count: u32,
    since: Instant,
}

impl Cluster {
    pub(super) fn new(dialer: Dialer, servers: Vec<Address>, topic: String, operation_timeout: Duration) -> Self {
        Self { dialer, servers, topic, operation_timeout, connections: Mutex::default(), partitions: Joint::default() }
    }

    pub(super) fn operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    /// 0: the topic is not partitioned.
    pub(super) async fn partitions(&self) -> Result<u32, TargetFault> {
        let is_fresh = |partitions: &Partitions| partitions.since.elapsed() < PARTITIONS_FRESH_FOR;
        let ask = async |known| refreshed(known, self.look_up_partitions().await, Instant::now());
        self.partitions.get(is_fresh, ask).await.map(|partitions| partitions.count)
    }

    /// Something about the topic is not as it was.
    pub(super) async fn forget_partitions(&self) {
        self.partitions.forget().await;
    }

    async fn look_up_partitions(&self) -> Result<u32, TargetFault> {
        let (_, connection) = self.any().await?;
        let request_id = connection.next_id();
        let ask = AskPartitions { topic: self.topic.clone(), request_id };
        let ask = BaseCommand { partitions: Some(ask), ..wire::of(CommandKind::AskPartitions) };
        match connection.request(request_id, ask, self.operation_timeout, "number of partitions").await? {
            Answer::Partitions(found) => match found.error {
                Some(error) => Err(refused(&self.topic, error, &found.message.unwrap_or_default())),
                None => Ok(found.partitions.unwrap_or(0)),
            },
            Answer::Error(error) => Err(refused(&self.topic, error.error, &error.message)),
            Answer::Success | Answer::Producer(_) | Answer::Owner(_) => Err(unexpected()),
        }
    }

    /// The topic's name, or that of one of its partitions.
    pub(super) fn topic(&self, partition: Option<u32>) -> String {
        match partition {
            Some(partition) => format!("{}-partition-{partition}", self.topic),
            None => self.topic.clone(),
        }
    }

    /// A connection to the broker that has this topic.
    pub(super) async fn owner(&self, topic: &str) -> Result<Arc<Connection>, TargetFault> {
        let (mut asked, mut connection) = self.any().await?;
        let mut authoritative = false;
        for _ in 0..HOPS_MAX {
            let found = self.ask_owner(&connection, topic, authoritative).await?;
            let answer = found.response.and_then(|answer| OwnerAnswer::try_from(answer).ok());
            match answer {
                Some(OwnerAnswer::Connect) => return self.connection(&self.address(&found, &asked)?).await,
                Some(OwnerAnswer::Redirect) => {
                    authoritative = found.authoritative.unwrap_or(false);
                    asked = self.address(&found, &asked)?;
                    connection = self.connection(&asked).await?;
                }
                Some(OwnerAnswer::Failed) | None => {
                    return Err(refused(topic, found.error.unwrap_or(0), &found.message.unwrap_or_default()));
                }
            }
        }
        Err(down(format!("{HOPS_MAX} brokers in a row do not have the topic {topic}")))
    }

    async fn ask_owner(&self, connection: &Connection, topic: &str, authoritative: bool) -> Result<Owner, TargetFault> {
        let request_id = connection.next_id();
        let ask = AskOwner { topic: topic.to_owned(), request_id, authoritative: Some(authoritative) };
        let ask = BaseCommand { lookup: Some(ask), ..wire::of(CommandKind::AskOwner) };
        match connection.request(request_id, ask, self.operation_timeout, "owner of the topic").await? {
            Answer::Owner(found) => Ok(found),
            Answer::Error(error) => Err(refused(topic, error.error, &error.message)),
            Answer::Success | Answer::Producer(_) | Answer::Partitions(_) => Err(unexpected()),
        }
    }

    /// Of the broker that is named: with TLS where the user's address has it. One that answers as a proxy, or is alone, wants
    /// to be come to itself.
    fn address(&self, owner: &Owner, asked: &Address) -> Result<Address, TargetFault> {
        let has_tls = self.dialer.trust.is_some();
        let (named, way, reason) = if has_tls {
            (&owner.broker_url_tls, "with", "TARGET_WITHOUT_TLS")
        } else {
            (&owner.broker_url, "without", "TARGET_WANTS_TLS")
        };
        let Some(named) = named.as_deref().filter(|url| !url.is_empty()) else {
            let message = format!("the broker that has the topic names no address {way} TLS");
            return Err(TargetFault::new(TargetFaultKind::Misconfigured(reason), message));
        };
        let unusable = || down(format!("the broker that has the topic names an address that is none: {named}"));
        let address = servers(named, has_tls).and_then(|servers| servers.into_iter().next()).ok_or_else(unusable)?;
        let is_there = (&address.host, address.port) == (&asked.host, asked.port);
        if is_there || !owner.proxy_through_service_url.unwrap_or(false) {
            return Ok(address);
        }
        Ok(Address { behind: Some(address.to_string()), ..asked.clone() })
    }

    /// To one of the servers that the user named: one that is connected to already, else the first that can be.
    async fn any(&self) -> Result<(Address, Arc<Connection>), TargetFault> {
        let live = |server: &Address| Some((server.clone(), self.live(server)?));
        if let Some(live) = self.servers.iter().find_map(live) {
            return Ok(live);
        }
        let mut last = None;
        for server in &self.servers {
            match self.connection(server).await {
                Ok(connection) => return Ok((server.clone(), connection)),
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| down("no server is named")))
    }

    fn live(&self, address: &Address) -> Option<Arc<Connection>> {
        let known = self.connections().get(address).and_then(|kept| kept.peek());
        known.filter(|connection| !connection.is_lost())
    }

    async fn connection(&self, address: &Address) -> Result<Arc<Connection>, TargetFault> {
        let kept = {
            let mut connections = self.connections();
            // Brokers come and go: what is lost, and nobody asks for, is forgotten.
            connections
                .retain(|_, kept| Arc::strong_count(kept) > 1 || kept.peek().is_some_and(|kept| !kept.is_lost()));
            Arc::clone(connections.entry(address.clone()).or_default())
        };
        let dial = async |_| Connection::open(&self.dialer, address).await.map(Arc::new);
        kept.get(|connection| !connection.is_lost(), dial).await
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<Address, Arc<Joint<Arc<Connection>>>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brokers do not say which topic they mean, and some have no words at all.
fn refused(topic: &str, error: i32, words: &str) -> TargetFault {
    let fault = target_fault(error, words);
    TargetFault { message: format!("{topic}: {}", fault.message).into(), ..fault }
}

/// A number that cannot be asked for holds on: it says where records go, and not whether they can get there.
fn refreshed(
    known: Option<Partitions>,
    asked: Result<u32, TargetFault>,
    now: Instant,
) -> Result<Partitions, TargetFault> {
    match (asked, known) {
        (Ok(count), _) => Ok(Partitions { count, since: now }),
        (Err(TargetFault { kind: TargetFaultKind::Down | TargetFaultKind::Throttled { .. }, .. }), Some(known)) => {
            Ok(Partitions { since: now, ..known })
        }
        (Err(fault), _) => Err(fault),
    }
}

/// Of `pulsar://host1:port1,host2:port2`; a port may be left out. `None` where one of them is none.
pub(super) fn servers(url: &str, has_tls: bool) -> Option<Vec<Address>> {
    let hosts = url.split_once("://").map_or(url, |(_, hosts)| hosts);
    let hosts = hosts.split(['/', '?', '#']).next().unwrap_or_default();
    let port = if has_tls { TLS_PORT } else { PORT };
    let address = |server: &str| {
        let server = server.trim();
        let (host, port) = match server.rsplit_once(':') {
            // The last group of an IPv6 address in brackets is no port.
            Some((host, text)) if !text.ends_with(']') => (host, text.parse().ok()?),
            Some(_) | None => (server, port),
        };
        (!host.is_empty()).then(|| Address { host: host.to_owned(), port, behind: None })
    };
    hosts.split(',').map(address).collect()
}

#[cfg(test)]
mod tests;
