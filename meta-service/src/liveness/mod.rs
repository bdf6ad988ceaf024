//! What one term's leader knows of nodes, their leases and their tasks. The only reader of a clock for scheduling: the
//! time of each call comes in as `now`, monotonic, the leader's own.
//!
//! ```text
//! received ─► (leadership proved) ─► renew ─► Renewed | Behind | Fenced
//! observe(state) ─► overdue ─► FenceNode     view ─► schedule     missing ─► barrier
//! ```
//!
//! A lease is counted as *held* longer than the node counts it (a barrier waits for it), and a node as *alive* shorter
//! (no task goes to it), so that no clock has to be trusted beyond its drift.

mod catalogue;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api_types::assignment::AssignmentState;
use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad, StoppedTask};
use api_types::status::TaskReport;
use api_types::{Epoch, Incarnation, LogIndex, NodeEpoch, RaftId};

use self::catalogue::CatalogueAges;
use crate::scheduler::{LivenessView, NodeView, Presence};
use crate::state::{ClusterState, NodeState};
use crate::timings::Timings;

/// A hold that nobody ended was forgotten: whoever asked for the delete is gone.
const HOLD_BOUND: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Liveness {
    timings: Timings,
    term: u64,
    /// Index of the newest state that was taken in.
    observed: Option<LogIndex>,
    elected_at: Duration,
    /// Before this no node is called dead that was registered at the election.
    fence_from: Duration,
    /// Until this a lease of an earlier leader may hold.
    old_leases_until: Duration,
    /// Leadership was proved in this term, so the state has everything that earlier leaders committed.
    proved: bool,
    nodes: BTreeMap<RaftId, Seen>,
    /// When nodes went away, for `restart_grace`; and since when they were not heard, for the failover time.
    away: BTreeMap<RaftId, Away>,
    tasks: BTreeMap<Incarnation, TaskSeen>,
    releasing: BTreeMap<Incarnation, (Epoch, Duration)>,
    held: BTreeMap<Incarnation, Duration>,
    cooling: BTreeMap<Incarnation, Duration>,
    catalogue: CatalogueAges,
    /// Highest index for which a barrier was answered.
    answered: LogIndex,
}

/// One registration of a node.
#[derive(Debug)]
struct Seen {
    node_epoch: NodeEpoch,
    first_seen: Duration,
    heard_at: Option<Duration>,
    /// Receipt of the last heartbeat that was answered with a lease.
    renewed_at: Option<Duration>,
    number: u64,
    catalogue_index: LogIndex,
    load: NodeLoad,
    stopped: Vec<StoppedTask>,
    stopping: bool,
    returned_until: Duration,
    /// A fence is proposed; no lease is renewed any more.
    fencing: bool,
    /// It said goodbye.
    gone: bool,
}

#[derive(Clone, Copy, Debug)]
struct Away {
    since: Duration,
    last_heard: Duration,
}

#[derive(Debug)]
pub struct TaskSeen {
    pub node: RaftId,
    pub report: TaskReport,
    pub at: Duration,
}

/// A node as a report shows it.
#[derive(Clone, Debug)]
pub struct NodeSeen {
    pub raft_id: RaftId,
    pub load: NodeLoad,
    pub catalogue_index: LogIndex,
    pub lease_remaining: Duration,
    pub age: Duration,
}

/// A node whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    pub node: RaftId,
    pub node_epoch: NodeEpoch,
    pub silent_for: Duration,
}

impl Liveness {
    pub fn new(timings: Timings, term: u64, now: Duration, by_transfer: bool, state: &ClusterState) -> Self {
        let mut liveness = Self {
            term,
            observed: None,
            elected_at: now,
            fence_from: now + timings.fence_free(by_transfer),
            old_leases_until: now + timings.lease_over(),
            timings,
            proved: false,
            nodes: BTreeMap::new(),
            away: BTreeMap::new(),
            tasks: BTreeMap::new(),
            releasing: BTreeMap::new(),
            held: BTreeMap::new(),
            cooling: BTreeMap::new(),
            catalogue: CatalogueAges::default(),
            answered: LogIndex(0),
        };
        liveness.observe(now, state);
        liveness
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// Takes in what is replicated: registrations, releases, the catalogue. A state that is not newer than the last one
    /// is left out: callers fetch theirs before they come here, in any order.
    pub fn observe(&mut self, now: Duration, state: &ClusterState) {
        self.expire(now);
        if self.observed.is_some_and(|observed| state.applied <= observed) {
            return;
        }
        self.observed = Some(state.applied);
        self.observe_nodes(now, state);
        if self.proved {
            self.catalogue.note(now, state.catalogue_index);
        } else {
            // An earlier leader may have answered a barrier for it: as good as old.
            self.catalogue.old_at_once(state.catalogue_index);
        }
        let releasing = state.assignments.iter().filter_map(|(incarnation, task)| match task.state {
            AssignmentState::Releasing(_) => Some((*incarnation, task.epoch)),
            AssignmentState::Idle | AssignmentState::Assigned(_) => None,
        });
        let earlier = std::mem::take(&mut self.releasing);
        self.releasing = releasing
            .map(|(incarnation, epoch)| match earlier.get(&incarnation) {
                Some(known) if known.0 == epoch => (incarnation, *known),
                Some(_) | None => (incarnation, (epoch, now)),
            })
            .collect();
        let earlier = std::mem::take(&mut self.held);
        self.held = state.held.iter().map(|held| (*held, earlier.get(held).copied().unwrap_or(now))).collect();
        self.tasks.retain(|incarnation, _| state.connectors.contains_key(incarnation));
        self.cooling.retain(|incarnation, _| state.connectors.contains_key(incarnation));
    }

    /// What time alone ends.
    fn expire(&mut self, now: Duration) {
        let grace = self.timings.restart_grace;
        self.away.retain(|_, away| away.since + grace > now);
        self.cooling.retain(|_, until| *until > now);
    }

    fn observe_nodes(&mut self, now: Duration, state: &ClusterState) {
        for node in state.nodes.values() {
            let raft_id = node.raft_id;
            let known = self.nodes.get(&raft_id);
            if node.state != NodeState::Up {
                if let Some(seen) = self.nodes.remove(&raft_id) {
                    self.away.insert(raft_id, Away { since: now, last_heard: seen.last_sign() });
                }
                continue;
            }
            if known.is_some_and(|seen| seen.node_epoch == node.node_epoch) {
                continue;
            }
            let back = known.is_some() || self.away.contains_key(&raft_id);
            let returned_until = if back { now + self.timings.restart_grace } else { Duration::ZERO };
            self.away.remove(&raft_id);
            self.nodes.insert(raft_id, Seen::new(node.node_epoch, now, returned_until));
        }
        self.nodes.retain(|raft_id, _| state.nodes.contains_key(raft_id));
    }

    /// Takes a heartbeat in, before leadership is proved: what a node says of itself is true whoever leads. Returns
    /// whether the scheduler should look.
    pub fn received(&mut self, now: Duration, heartbeat: &Heartbeat) -> bool {
        let Some(seen) = self.current(heartbeat.node, heartbeat.node_epoch) else { return false };
        let first = seen.heard_at.is_none();
        seen.heard_at = Some(now);
        if heartbeat.number < seen.number {
            return first;
        }
        seen.number = heartbeat.number;
        seen.catalogue_index = seen.catalogue_index.max(heartbeat.catalogue_index);
        seen.load = heartbeat.load.clone();
        let turned = seen.stopping != heartbeat.stopping;
        seen.stopping = heartbeat.stopping;
        let runs = |stopped: &StoppedTask| {
            let mut running = heartbeat.running.iter();
            running.any(|report| (report.incarnation, report.epoch) == (stopped.incarnation, stopped.epoch))
        };
        seen.stopped = heartbeat.stopped.iter().filter(|stopped| !runs(stopped)).copied().collect();
        let stopped = !seen.stopped.is_empty();
        for stopped in &heartbeat.stopped {
            if self.tasks.get(&stopped.incarnation).is_some_and(|task| task.report.epoch <= stopped.epoch) {
                self.tasks.remove(&stopped.incarnation);
            }
        }
        for report in &heartbeat.running {
            if self.tasks.get(&report.incarnation).is_none_or(|task| task.report.epoch <= report.epoch) {
                let task = TaskSeen { node: heartbeat.node, report: report.clone(), at: now };
                self.tasks.insert(report.incarnation, task);
            }
        }
        first || turned || stopped
    }

    /// Whether this leader ever gave this registration a lease.
    pub fn has_lease(&self, node: RaftId) -> bool {
        self.nodes.get(&node).is_some_and(|seen| seen.renewed_at.is_some())
    }

    /// The answer to a heartbeat that was received at `received_at`. Leadership was proved *after* that, and `observe`
    /// was called with a state at least as new as the proof.
    pub fn renew(
        &mut self,
        now: Duration,
        received_at: Duration,
        node: RaftId,
        node_epoch: NodeEpoch,
    ) -> HeartbeatAnswer {
        self.proved = true;
        let required = self.catalogue.older_than_allowed(now).max(self.answered).max(LogIndex(node_epoch.0));
        let (term, lease) = (self.term, self.timings.lease);
        let Some(seen) = self.current(node, node_epoch).filter(|seen| !seen.fencing && !seen.gone) else {
            return HeartbeatAnswer::Fenced;
        };
        if seen.catalogue_index < required {
            return HeartbeatAnswer::Behind { required };
        }
        seen.renewed_at = seen.renewed_at.max(Some(received_at));
        HeartbeatAnswer::Renewed { term, lease_ms: lease.as_millis() as u64 }
    }

    pub fn goodbye(&mut self, node: RaftId, node_epoch: NodeEpoch) {
        if let Some(seen) = self.current(node, node_epoch) {
            seen.gone = true;
        }
    }

    /// Nodes that said goodbye and are still registered.
    pub fn gone(&self) -> Vec<(RaftId, NodeEpoch)> {
        self.nodes.iter().filter(|(_, seen)| seen.gone).map(|(raft_id, seen)| (*raft_id, seen.node_epoch)).collect()
    }

    /// Nodes to fence now. From here on none of them gets a lease, until `not_fenced`.
    pub fn overdue(&mut self, now: Duration, state: &ClusterState) -> Vec<Overdue> {
        let owners = owners(state);
        let mut overdue = Vec::new();
        for (raft_id, seen) in &self.nodes {
            if !seen.fencing && !seen.gone && now >= self.expires_at(seen, owners.contains(raft_id)) {
                let silent_for = now.saturating_sub(seen.last_sign());
                overdue.push(Overdue { node: *raft_id, node_epoch: seen.node_epoch, silent_for });
            }
        }
        for late in &overdue {
            if let Some(seen) = self.nodes.get_mut(&late.node) {
                seen.fencing = true;
            }
        }
        overdue
    }

    /// The fence of this node was not committed.
    pub fn not_fenced(&mut self, node: RaftId, node_epoch: NodeEpoch) {
        if let Some(seen) = self.current(node, node_epoch) {
            seen.fencing = false;
        }
    }

    /// A node that holds tasks must renew its lease; one without may be behind as long as it speaks, because a fence
    /// would only make it register again.
    fn expires_at(&self, seen: &Seen, holds_tasks: bool) -> Duration {
        let registered_later = seen.first_seen > self.elected_at;
        let floor = if registered_later { seen.first_seen + self.timings.dead_after } else { self.fence_from };
        let sign = if holds_tasks { seen.renewed_at } else { seen.heard_at.max(seen.renewed_at) };
        sign.map_or(floor, |sign| floor.max(sign + self.timings.dead_after))
    }

    /// Tasks that have stopped after their release, and those whose owner is no longer registered.
    pub fn released(&self, state: &ClusterState) -> Vec<(Incarnation, Epoch)> {
        let mut released = Vec::new();
        for incarnation in self.releasing.keys() {
            let Some(task) = state.assignments.get(incarnation) else { continue };
            let AssignmentState::Releasing(owner) = task.state else { continue };
            let stopped = StoppedTask { incarnation: *incarnation, epoch: task.epoch };
            let said = self
                .nodes
                .get(&owner.node)
                .is_some_and(|seen| seen.node_epoch == owner.node_epoch && seen.stopped.contains(&stopped));
            let ownerless = state.node_up(owner.node).is_none_or(|node| node.node_epoch != owner.node_epoch);
            if said || ownerless {
                released.push((*incarnation, task.epoch));
            }
        }
        released
    }

    /// Holds that were forgotten.
    pub fn forgotten_holds(&self, now: Duration) -> Vec<Incarnation> {
        self.held.iter().filter(|(_, since)| now >= **since + HOLD_BOUND).map(|(incarnation, _)| *incarnation).collect()
    }

    /// These are not moved for the balance again before `wait` has passed.
    pub fn cool(&mut self, now: Duration, wait: Duration, tasks: impl IntoIterator<Item = Incarnation>) {
        self.cooling.extend(tasks.into_iter().map(|incarnation| (incarnation, now + wait)));
    }

    pub fn view(&self, now: Duration) -> LivenessView {
        let nodes = self.nodes.iter().map(|(raft_id, seen)| {
            let view = NodeView {
                node_epoch: seen.node_epoch,
                presence: self.presence(now, seen),
                stopping: seen.stopping || seen.gone,
                returned: now < seen.returned_until,
            };
            (*raft_id, view)
        });
        let all_heard = self.nodes.values().all(|seen| seen.renewed_at.is_some() || seen.gone);
        let moves_in = if all_heard { Duration::ZERO } else { self.fence_from.saturating_sub(now) };
        LivenessView {
            nodes: nodes.collect(),
            moves_in,
            releasing: self.releasing.iter().map(|(task, (_, since))| (*task, now.saturating_sub(*since))).collect(),
            cooling: self.cooling.iter().map(|(task, until)| (*task, until.saturating_sub(now))).collect(),
        }
    }

    fn presence(&self, now: Duration, seen: &Seen) -> Presence {
        if seen.fencing || seen.gone {
            return Presence::Silent;
        }
        match seen.renewed_at {
            Some(renewed_at) if now < renewed_at + self.timings.lease => Presence::Alive,
            Some(_) => Presence::Silent,
            None => {
                let wait = self.timings.dead_after.min(self.timings.restart_grace);
                let awaited = (seen.first_seen + wait).saturating_sub(now);
                if awaited.is_zero() { Presence::Silent } else { Presence::Joining { awaited } }
            }
        }
    }

    /// Nodes that may hold a lease and have not said that they match with the catalogue of `index`; and when the first
    /// of their leases is over.
    pub fn missing(&self, now: Duration, index: LogIndex) -> (Vec<RaftId>, Option<Duration>) {
        let mut missing = Vec::new();
        let mut first_end = None;
        for (raft_id, seen) in &self.nodes {
            // Who registered later gets no lease before it has this catalogue.
            if seen.gone || seen.catalogue_index >= index || seen.node_epoch.0 >= index.0 {
                continue;
            }
            let renewed = seen.renewed_at.map_or(Duration::ZERO, |renewed| renewed + self.timings.lease_over());
            let until = renewed.max(self.old_leases_until);
            if now < until {
                missing.push(*raft_id);
                first_end = Some(first_end.map_or(until, |end: Duration| end.min(until)));
            }
        }
        (missing, first_end)
    }

    /// A barrier for this index was answered: from now on no lease without it.
    pub fn answered(&mut self, index: LogIndex) {
        self.answered = self.answered.max(index);
    }

    /// When time alone changes something that the leader's loop has to do.
    pub fn next_deadline(&self, now: Duration, state: &ClusterState) -> Option<Duration> {
        let owners = owners(state);
        let expiries = self
            .nodes
            .iter()
            .filter(|(_, seen)| !seen.fencing && !seen.gone)
            .map(|(raft_id, seen)| self.expires_at(seen, owners.contains(raft_id)));
        let holds = self.held.values().map(|since| *since + HOLD_BOUND);
        expiries.chain(holds).min().map(|at| at.saturating_sub(now))
    }

    /// Since when a node that is away was not heard.
    pub fn last_heard(&self, node: RaftId) -> Option<Duration> {
        self.away.get(&node).map(|away| away.last_heard)
    }

    pub fn tasks(&self) -> &BTreeMap<Incarnation, TaskSeen> {
        &self.tasks
    }

    pub fn nodes(&self, now: Duration) -> impl Iterator<Item = NodeSeen> + '_ {
        self.nodes.iter().filter_map(move |(raft_id, seen)| {
            let lease_end = seen.renewed_at.map_or(Duration::ZERO, |renewed| renewed + self.timings.lease);
            Some(NodeSeen {
                raft_id: *raft_id,
                load: seen.load.clone(),
                catalogue_index: seen.catalogue_index,
                lease_remaining: lease_end.saturating_sub(now),
                age: now.saturating_sub(seen.heard_at?),
            })
        })
    }

    fn current(&mut self, node: RaftId, node_epoch: NodeEpoch) -> Option<&mut Seen> {
        self.nodes.get_mut(&node).filter(|seen| seen.node_epoch == node_epoch)
    }
}

impl Seen {
    fn new(node_epoch: NodeEpoch, first_seen: Duration, returned_until: Duration) -> Self {
        Self {
            node_epoch,
            first_seen,
            heard_at: None,
            renewed_at: None,
            number: 0,
            catalogue_index: LogIndex(0),
            load: NodeLoad::default(),
            stopped: Vec::new(),
            stopping: false,
            returned_until,
            fencing: false,
            gone: false,
        }
    }

    fn last_sign(&self) -> Duration {
        self.heard_at.unwrap_or(self.first_seen)
    }
}

/// The nodes that hold tasks.
fn owners(state: &ClusterState) -> BTreeSet<RaftId> {
    state.assignments.values().filter_map(|task| task.owner()).map(|owner| owner.node).collect()
}
