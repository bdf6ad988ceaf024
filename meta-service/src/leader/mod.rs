//! What the leader does beside Raft: renews leases, fences nodes, schedules tasks, answers catalogue barriers.
//!
//! ```text
//! heartbeat ─► liveness.received ─► prove (shared by all that wait) ─► liveness.renew ─► answer
//! change or tick ─► fence ─► released ─► schedule ─► ApplyPlan ─► remove         (run)
//! barrier ─► wait until every node with a lease has the index, its lease is over, or `apply_wait` has passed
//! ```
//!
//! All of it is soft state of one term: `elected` makes it anew, `deposed` drops it.

mod metrics;
mod proofs;
mod reports;
mod rounds;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer};
use api_types::{LogIndex, NodeEpoch, NodeName, RaftId};
use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::liveness::Liveness;
use crate::scheduler::Policy;
use crate::state::{ClusterState, CommandBody, Reply};
use crate::timings::Timings;

pub use metrics::LeaderMetrics;
pub use reports::{NodeReport, Reports};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the leader")]
pub struct NotLeader;

/// This node's own Raft, never another's.
#[async_trait]
pub trait LeaderPort: Send + Sync {
    fn state(&self) -> Arc<ClusterState>;

    /// Changes with every applied entry.
    fn applied(&self) -> watch::Receiver<LogIndex>;

    /// Returns when the entry is applied here; only while this node leads.
    async fn propose(&self, body: CommandBody) -> Result<Reply, NotLeader>;

    /// Proves leadership with a round that is sent after the call, and returns its term. By then `state` has everything
    /// that was committed before the round.
    async fn prove(&self) -> Result<u64, NotLeader>;
}

pub struct LeaderService {
    port: Arc<dyn LeaderPort>,
    clock: Arc<dyn Clock>,
    timings: Timings,
    policy: Policy,
    /// `None` while this node does not lead.
    liveness: Mutex<Option<Liveness>>,
    /// The loop should look now.
    attention: Notify,
    /// Barriers should look now.
    progress: watch::Sender<()>,
    proofs: proofs::Proofs,
    metrics: Mutex<LeaderMetrics>,
}

enum BarrierLook {
    Passed,
    Waits { missing: Vec<NodeName>, look_again_in: Option<Duration> },
}

impl LeaderService {
    pub fn new(port: Arc<dyn LeaderPort>, clock: Arc<dyn Clock>, timings: Timings) -> Arc<Self> {
        Arc::new(Self {
            port,
            clock,
            policy: Policy::from(&timings),
            timings,
            liveness: Mutex::new(None),
            attention: Notify::new(),
            progress: watch::Sender::new(()),
            proofs: proofs::Proofs::default(),
            metrics: Mutex::default(),
        })
    }

    /// This node leads from now on. Called again for the same term it changes nothing.
    pub fn elected(&self, term: u64, by_transfer: bool) {
        let state = self.port.state();
        let mut liveness = self.lock();
        if liveness.as_ref().is_none_or(|liveness| liveness.term() != term) {
            let now = self.clock.boottime();
            *liveness = Some(Liveness::new(self.timings.clone(), term, now, by_transfer, &state));
        }
        drop(liveness);
        self.look();
    }

    pub fn deposed(&self) {
        *self.lock() = None;
        self.look();
    }

    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<HeartbeatAnswer, NotLeader> {
        let received_at = self.clock.boottime();
        let state = self.port.state();
        let interesting = self.with(|liveness| {
            liveness.observe(received_at, &state);
            liveness.received(received_at, &heartbeat) || !liveness.has_lease(heartbeat.node)
        })?;
        self.progress.send_replace(());
        if interesting {
            self.attention.notify_one();
        }
        let term = self.proofs.prove().await?;
        // Read only now, so that it is at least as new as the proof.
        let state = self.port.state();
        let answer = self.with(|liveness| {
            if liveness.term() != term {
                return Err(NotLeader);
            }
            let now = self.clock.boottime();
            liveness.observe(now, &state);
            // The registration may be one that the state did not have yet at the receipt.
            liveness.received(received_at, &heartbeat);
            Ok(liveness.renew(now, received_at, heartbeat.node, heartbeat.node_epoch))
        })??;
        if interesting {
            // The first lease makes a node one that may get tasks.
            self.attention.notify_one();
        }
        Ok(answer)
    }

    /// Waits until every node that may hold a lease matches new reads with the catalogue of `index`, at most
    /// `apply_wait`; returns the nodes that were not heard by then. Refused when `index` was not applied here by then:
    /// nobody knows then which nodes there are.
    pub async fn barrier(&self, index: LogIndex) -> Result<Vec<NodeName>, NotLeader> {
        let deadline = tokio::time::Instant::now() + self.timings.apply_wait;
        let mut progress = self.progress.subscribe();
        let mut applied = self.port.applied();
        loop {
            progress.borrow_and_update();
            applied.borrow_and_update();
            let (missing, again) = match self.look_at_barrier(index)? {
                BarrierLook::Passed => return Ok(Vec::new()),
                BarrierLook::Waits { missing, look_again_in } => (missing, look_again_in),
            };
            let now = tokio::time::Instant::now();
            if now >= deadline {
                if missing.is_empty() {
                    // The state itself is not there yet: an answer would pass for one that all have confirmed.
                    return Err(NotLeader);
                }
                self.with(|liveness| liveness.answered(index))?;
                return Ok(missing);
            }
            let until = again.map_or(deadline, |wait| deadline.min(now + wait));
            tokio::select! {
                _ = progress.changed() => {}
                changed = applied.changed() => changed.map_err(|_| NotLeader)?,
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// What the nodes said last.
    pub fn reports(&self) -> Arc<Reports> {
        let now = self.clock.boottime();
        Arc::new(self.lock().as_ref().map(|liveness| Reports::of(liveness, now)).unwrap_or_default())
    }

    /// The same, unless the asker has a fresh copy of this term's; nothing while this node does not lead.
    pub fn reports_unless(&self, fresh_of: Option<u64>) -> Option<Reports> {
        let now = self.clock.boottime();
        let liveness = self.lock();
        let unknown = liveness.as_ref().filter(|liveness| fresh_of != Some(liveness.term()))?;
        Some(Reports::of(unknown, now))
    }

    /// The node's tasks have stopped and it gives its lease back. Heard only by a leader that proved itself: one that
    /// was just elected may not know the registration before.
    pub async fn node_said_goodbye(&self, node: RaftId, node_epoch: NodeEpoch) -> Result<(), NotLeader> {
        let term = self.proofs.prove().await?;
        let state = self.port.state();
        let now = self.clock.boottime();
        self.with(|liveness| {
            if liveness.term() != term {
                return Err(NotLeader);
            }
            liveness.observe(now, &state);
            liveness.goodbye(node, node_epoch);
            Ok(())
        })??;
        self.look();
        Ok(())
    }

    /// Totals since the start, and the observations since the last call.
    pub fn take_metrics(&self) -> LeaderMetrics {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Works until cancelled, in the terms in which this node leads.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.proofs.serve(&*self.port) => {}
            () = self.rounds() => {}
        }
    }

    fn look_at_barrier(&self, index: LogIndex) -> Result<BarrierLook, NotLeader> {
        let state = self.port.state();
        let now = self.clock.boottime();
        self.with(|liveness| {
            liveness.observe(now, &state);
            let (missing, first_end) = liveness.missing(now, index);
            // Before that the state may lack a node that holds a lease.
            if missing.is_empty() && state.applied >= index {
                liveness.answered(index);
                return BarrierLook::Passed;
            }
            let name = |node: &RaftId| state.nodes.get(node).map(|node| node.name.clone());
            BarrierLook::Waits {
                missing: missing.iter().filter_map(name).collect(),
                look_again_in: first_end.map(|end| end.saturating_sub(now)),
            }
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Liveness) -> T) -> Result<T, NotLeader> {
        self.lock().as_mut().map(act).ok_or(NotLeader)
    }

    /// A panic elsewhere does not make what is known of the nodes wrong.
    fn lock(&self) -> MutexGuard<'_, Option<Liveness>> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        self.attention.notify_one();
        self.progress.send_replace(());
    }
}
