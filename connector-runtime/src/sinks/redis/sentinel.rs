//! Who is the master, as the sentinels see it.
//!
//! ```text
//! every sentinel: address of the master, its configuration epoch ──► at least half have answered: the newest counts
//! ```
//!
//! A master that was replaced and comes back calls itself one for several seconds, and one that was only cut off or
//! paused still answers on the connections that it has. So the sentinels are asked before anything is written and again
//! before a confirmation counts, unless they were within [`FRESH`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::address::Address;
use super::connect::{Dialer, Login, packed};
use super::fault::{down, target_fault};
use super::server::Server;
use crate::sink::{TargetFault, TargetFaultKind};

/// For those who have not answered when enough have.
const STRAGGLERS_WITHIN: Duration = Duration::from_millis(100);
/// What the sentinels said holds for so long: no more than they themselves need to miss a master.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct Sentinels {
    sentinels: Vec<Sentinel>,
    master_name: String,
    dialer: Arc<Dialer>,
    pool_size: usize,
    known: Mutex<Known>,
}

/// With the login that it wants: many setups protect the servers only, others use one password for all.
struct Sentinel {
    candidates: Vec<Server>,
    /// Which of them it took.
    took: AtomicUsize,
}

#[derive(Default)]
struct Known {
    master: Option<Arc<Server>>,
    /// When the sentinels were asked for it.
    asked: Option<Instant>,
    /// When they were last asked in vain: whoever waited for that does not ask again by himself.
    failed: Option<(Instant, TargetFault)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vote {
    master: Address,
    epoch: u64,
}

impl Sentinels {
    pub(super) fn new(
        addresses: Vec<Address>,
        master_name: String,
        dialer: &Arc<Dialer>,
        own_login: Option<Login>,
        pool_size: usize,
    ) -> Self {
        let logins = match own_login {
            Some(login) => vec![Some(login)],
            None if dialer.login.is_some() => vec![None, dialer.login.clone()],
            None => vec![None],
        };
        let of = |login: &Option<Login>| {
            let (database, must_be_master) = (0, false);
            Arc::new(Dialer { login: login.clone(), database, must_be_master, ..Dialer::clone(dialer) })
        };
        let dialers: Vec<Arc<Dialer>> = logins.iter().map(of).collect();
        let sentinel = |address: Address| Sentinel {
            candidates: dialers.iter().map(|dialer| Server::new(address.clone(), Arc::clone(dialer), 1)).collect(),
            took: AtomicUsize::new(0),
        };
        Self {
            sentinels: addresses.into_iter().map(sentinel).collect(),
            master_name,
            dialer: Arc::clone(dialer),
            pool_size,
            known: Mutex::default(),
        }
    }

    /// The master as of at most [`FRESH`] ago.
    pub(super) async fn master(&self) -> Result<Arc<Server>, TargetFault> {
        let now = Instant::now();
        self.master_since(now.checked_sub(FRESH).unwrap_or(now)).await
    }

    /// The master, as the sentinels said when they were asked after this moment.
    pub(super) async fn master_since(&self, since: Instant) -> Result<Arc<Server>, TargetFault> {
        let called = Instant::now();
        let mut known = self.known.lock().await;
        if let Some(master) = &known.master
            && known.asked.is_some_and(|asked| asked >= since)
        {
            return Ok(Arc::clone(master));
        }
        if let Some((_, fault)) = known.failed.as_ref().filter(|(failed, _)| *failed >= called) {
            return Err(fault.clone());
        }
        let asked = Instant::now();
        let address = match self.elected().await {
            Ok(address) => address,
            Err(fault) => {
                known.failed = Some((Instant::now(), fault.clone()));
                return Err(fault);
            }
        };
        let master = match known.master.take() {
            Some(master) if master.address == address => master,
            Some(_) | None => Arc::new(Server::new(address, Arc::clone(&self.dialer), self.pool_size)),
        };
        *known = Known { master: Some(Arc::clone(&master)), asked: Some(asked), failed: None };
        Ok(master)
    }

    /// Something is wrong with the master: the sentinels are asked before it is used again.
    pub(super) async fn doubt(&self) {
        self.known.lock().await.asked = None;
    }

    /// One that is cut off holds nobody up once enough have answered.
    async fn elected(&self) -> Result<Address, TargetFault> {
        let all = self.sentinels.len();
        let asked = self.sentinels.iter().map(|sentinel| sentinel.vote(&self.master_name));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut votes = Vec::with_capacity(all);
        loop {
            let vote = if is_enough(&votes, all) {
                tokio::time::timeout(STRAGGLERS_WITHIN, asked.next()).await.unwrap_or_default()
            } else {
                asked.next().await
            };
            match vote {
                Some(vote) => votes.push(vote),
                None => return elect(votes, all),
            }
        }
    }
}

impl Sentinel {
    async fn vote(&self, master_name: &str) -> Result<Vote, TargetFault> {
        let mut last = down("there is no sentinel");
        let first = self.took.load(Ordering::Relaxed);
        let candidates = self.candidates.iter().enumerate();
        for (at, server) in candidates.clone().skip(first).chain(candidates.take(first)) {
            match ask(server, master_name).await {
                Err(fault) if fault.kind == TargetFaultKind::Auth => last = fault,
                vote => {
                    self.took.store(at, Ordering::Relaxed);
                    return vote;
                }
            }
        }
        Err(last)
    }
}

/// While a fail-over goes on the address is the new master's already; only the other reply has the epoch.
async fn ask(sentinel: &Server, master_name: &str) -> Result<Vote, TargetFault> {
    let mut questions = packed(redis::cmd("SENTINEL").arg("get-master-addr-by-name").arg(master_name));
    questions.extend(packed(redis::cmd("SENTINEL").arg("master").arg(master_name)));
    let answers = sentinel.inquire(questions, 2).await;
    let lost = || answers.lost.clone().unwrap_or_else(|| down("the sentinel did not answer"));
    let [address, master] = &answers.replies[..] else {
        return Err(answers.replies.first().and_then(|reply| refused(reply, master_name)).unwrap_or_else(lost));
    };
    if let Some(fault) = refused(address, master_name).or_else(|| refused(master, master_name)) {
        return Err(fault);
    }
    let unreadable = || down("what the sentinel says is not readable");
    let address = address_in(address).ok_or_else(unreadable)?.or_host_of(&sentinel.address);
    let epoch = epoch_in(master).ok_or_else(unreadable)?;
    Ok(Vote { master: address, epoch })
}

fn refused(reply: &Value, master_name: &str) -> Option<TargetFault> {
    match reply {
        Value::ServerError(error) => {
            let said = error.details().unwrap_or_default();
            let kind = if said.contains("No such master") {
                TargetFaultKind::Missing
            } else if said.contains("unknown command") {
                TargetFaultKind::Misconfigured("TARGET_NOT_SENTINEL")
            } else {
                return Some(target_fault(error));
            };
            Some(TargetFault::new(kind, super::fault::server_words(error)))
        }
        Value::Nil => {
            let message = format!("the sentinel knows no master with the name {master_name}");
            Some(TargetFault::new(TargetFaultKind::Missing, message))
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn address_in(reply: &Value) -> Option<Address> {
    let Value::Array(parts) = reply else { return None };
    let [host, port] = &parts[..] else { return None };
    Some(Address::new(text(host)?, text(port)?.parse().ok()?))
}

/// Names and values follow each other.
fn epoch_in(reply: &Value) -> Option<u64> {
    let Value::Array(fields) = reply else { return None };
    let epoch = fields.chunks_exact(2).find(|field| text(&field[0]) == Some("config-epoch"))?;
    text(&epoch[1])?.parse().ok()
}

/// At least half of them must have answered: the others may know better.
fn is_enough(votes: &[Result<Vote, TargetFault>], all: usize) -> bool {
    votes.iter().flatten().count() * 2 >= all
}

/// Of those who have answered the newest decision counts.
fn elect(votes: Vec<Result<Vote, TargetFault>>, all: usize) -> Result<Address, TargetFault> {
    let enough = is_enough(&votes, all);
    let (answered, failed): (Vec<_>, Vec<_>) = votes.into_iter().partition(Result::is_ok);
    let heard = answered.len();
    let newest = answered.into_iter().flatten().max_by_key(|vote| vote.epoch);
    match newest {
        Some(vote) if enough => Ok(vote.master),
        Some(_) | None => {
            let fault = failed.into_iter().find_map(Result::err).unwrap_or_else(|| down("there is no sentinel"));
            let message = format!("{heard} of {all} sentinels have answered: {}", fault.message);
            Err(TargetFault { message: message.into(), ..fault })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_decision_counts_once_half_have_answered() {
        let vote = |port, epoch| Ok(Vote { master: Address::new("a", port), epoch });
        let silent = || Err(down("gone"));
        assert_eq!(elect(vec![vote(1, 3), vote(2, 4), vote(1, 3)], 3), Ok(Address::new("a", 2)));
        assert_eq!(elect(vec![vote(1, 3), silent()], 2), Ok(Address::new("a", 1)));
        assert_eq!(elect(vec![vote(1, 3), vote(1, 3)], 3), Ok(Address::new("a", 1)));
        let minority = elect(vec![vote(1, 3), silent(), silent()], 3).expect_err("too few");
        assert_eq!(
            (minority.kind, &*minority.message),
            (TargetFaultKind::Down, "1 of 3 sentinels have answered: gone")
        );
        assert!(elect(vec![silent()], 1).is_err());
    }
}
