//! Who has which slots of a cluster.
//!
//! ```text
//! CLUSTER SLOTS (any node) ──► Map: slot ──► server        asked again after MOVED, after READONLY and CLUSTERDOWN,
//!                                                          and before a lost connection is tried again
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::Value;
use tokio::time::Instant;

use super::address::Address;
use super::connect::{Dialer, packed};
use super::fault::{down, target_fault};
use super::server::Server;
use crate::sink::TargetFault;

pub(super) struct Cluster {
    dialer: Arc<Dialer>,
    pool_size: usize,
    /// As configured.
    seeds: Vec<Address>,
    map: Mutex<Map>,
    /// A node said, or showed, that the map is not true any more.
    doubtful: AtomicBool,
    /// When the cluster was last asked, and how often: the next question goes to another node.
    asked: tokio::sync::Mutex<Asked>,
}

#[derive(Default)]
struct Map {
    servers: BTreeMap<Address, Arc<Server>>,
    /// First and last slot, and who has them.
    ranges: Vec<SlotRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SlotRange {
    first: u16,
    last: u16,
    master: Address,
}

#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    times: usize,
    /// When it was last asked in vain: whoever waited for that does not ask again by himself.
    failed: Option<(Instant, TargetFault)>,
}

impl Cluster {
    pub(super) fn new(dialer: Arc<Dialer>, pool_size: usize, seeds: Vec<Address>) -> Self {
        Self {
            dialer,
            pool_size,
            seeds,
            map: Mutex::default(),
            doubtful: AtomicBool::new(false),
            asked: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn server_of(&self, slot: u16) -> Result<Arc<Server>, TargetFault> {
        let map = self.lock();
        let range = map.ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
        let server = range.and_then(|range| map.servers.get(&range.master)).cloned();
        server.ok_or_else(|| down(format!("no node of the cluster has slot {slot}")))
    }

    /// One that a node has named.
    pub(super) fn server_at(&self, address: &Address) -> Arc<Server> {
        let mut map = self.lock();
        let server = map.servers.entry(address.clone()).or_insert_with(|| self.server(address));
        Arc::clone(server)
    }

    /// This is a master with slots, as far as the map knows.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.lock().ranges.iter().any(|range| range.master == *address)
    }

    pub(super) fn doubt(&self) {
        self.doubtful.store(true, Ordering::Release);
    }

    pub(super) async fn refresh_if_doubtful(&self) -> Result<(), TargetFault> {
        if self.doubtful.load(Ordering::Acquire) { self.refresh(Instant::now()).await } else { Ok(()) }
    }

    /// Asks who has which slots, unless somebody did after this moment. One question serves all who wait.
    pub(super) async fn refresh(&self, after: Instant) -> Result<(), TargetFault> {
        let mut asked = self.asked.lock().await;
        if asked.at.is_some_and(|at| at >= after) {
            return Ok(());
        }
        if let Some((_, fault)) = asked.failed.as_ref().filter(|(at, _)| *at >= after) {
            return Err(fault.clone());
        }
        let began = Instant::now();
        asked.times += 1;
        let mut known: Vec<Arc<Server>> = self.lock().servers.values().cloned().collect();
        if !known.is_empty() {
            let first = asked.times % known.len();
            known.rotate_left(first);
        }
        let seeds = self.seeds.iter().filter(|seed| !known.iter().any(|server| server.address == **seed));
        let seeds: Vec<Arc<Server>> = seeds.map(|seed| self.server(seed)).collect();
        let mut first = None;
        for server in known.into_iter().chain(seeds) {
            match self.ask(&server).await {
                Ok(ranges) => {
                    self.take(ranges, server);
                    asked.at = Some(began);
                    self.doubtful.store(false, Ordering::Release);
                    return Ok(());
                }
                Err(fault) => {
                    first.get_or_insert(fault);
                }
            }
        }
        let fault = first.unwrap_or_else(|| down("the cluster has no node"));
        asked.failed = Some((Instant::now(), fault.clone()));
        Err(fault)
    }

    async fn ask(&self, server: &Server) -> Result<Vec<SlotRange>, TargetFault> {
        let question = packed(redis::cmd("CLUSTER").arg("SLOTS"));
        let mut answers = server.inquire(question, 1).await;
        match answers.replies.pop() {
            Some(Value::Array(rows)) => {
                let ranges: Option<Vec<SlotRange>> = rows.iter().map(|row| slot_range(row, &server.address)).collect();
                let ranges = ranges.ok_or_else(|| down("CLUSTER SLOTS is not readable"))?;
                if ranges.is_empty() { Err(down("no node of the cluster has slots")) } else { Ok(ranges) }
            }
            Some(Value::ServerError(error)) => Err(target_fault(&error)),
            Some(_) => Err(down("CLUSTER SLOTS is not readable")),
            None => Err(answers.lost.unwrap_or_else(|| down("CLUSTER SLOTS was not answered"))),
        }
    }

    /// Servers that are masters no more lose their connections as soon as nobody waits for them.
    fn take(&self, ranges: Vec<SlotRange>, asked: Arc<Server>) {
        let mut map = self.lock();
        let mut servers = BTreeMap::new();
        for range in &ranges {
            let known = map.servers.get(&range.master).cloned();
            let known = known.or_else(|| (asked.address == range.master).then(|| Arc::clone(&asked)));
            servers.entry(range.master.clone()).or_insert_with(|| known.unwrap_or_else(|| self.server(&range.master)));
        }
        *map = Map { servers, ranges };
    }

    fn server(&self, address: &Address) -> Arc<Server> {
        Arc::new(Server::new(address.clone(), Arc::clone(&self.dialer), self.pool_size))
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `[first, last, [host, port, …] of the master, … of its replicas]`.
fn slot_range(row: &Value, asked: &Address) -> Option<SlotRange> {
    let Value::Array(row) = row else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &row[..] else { return None };
    let [host, Value::Int(port), ..] = &master[..] else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        // The node does not know how it is reached.
        Value::Nil => "",
        _ => return None,
    };
    let host = if host == "?" { "" } else { host };
    let master = Address::new(host, u16::try_from(*port).ok()?).or_host_of(asked);
    Some(SlotRange { first: u16::try_from(*first).ok()?, last: u16::try_from(*last).ok()?, master })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_are_read_from_the_slots() {
        let node = |host: Value| Value::Array(vec![host, Value::Int(7_000), Value::BulkString(b"id".to_vec())]);
        let row = |host| Value::Array(vec![Value::Int(0), Value::Int(16_383), node(host), node(Value::Nil)]);
        let asked = Address::new("seed", 1);
        for (host, expect) in [
            (Value::BulkString(b"10.0.0.1".to_vec()), "10.0.0.1"),
            (Value::BulkString(Vec::new()), "seed"),
            (Value::BulkString(b"?".to_vec()), "seed"),
            (Value::Nil, "seed"),
        ] {
            let range = SlotRange { first: 0, last: 16_383, master: Address::new(expect, 7_000) };
            assert_eq!(slot_range(&row(host), &asked), Some(range));
        }
        assert_eq!(slot_range(&Value::Int(1), &asked), None);
    }
}
