//! What the leader does for the membership: founds the cluster, makes learners of admitted disks and voters of
//! learners, notes how far the logs are synced. Level-triggered: each round looks at what is, and does the first thing
//! that is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_types::{ClusterId, LogIndex, RaftId, RequestId};
use tokio::time::Instant;

use crate::peers::{Hello, Stage};
use crate::raft::RaftNode;
use crate::shared::Shared;
use crate::state::{ClusterState, Command, CommandBody, Disk, Node, NodeState};
use crate::status::RaftStatus;

const ROUND_EVERY: Duration = Duration::from_millis(200);
/// A learner this close behind the leader, twice in a row, has caught up.
const CAUGHT_UP_ENTRIES: u64 = 100;
const CAUGHT_UP_ROUNDS: u32 = 2;
/// How much a log may grow unnoted, beyond the registration of its process.
const NOTE_SYNCED_EVERY: Duration = Duration::from_secs(60);

/// Tells the leader's part when this node is elected and deposed.
pub(crate) async fn watch_leadership(shared: Arc<Shared>) {
    let mut node_watch = shared.seat.watch_node();
    loop {
        let node = node_watch.borrow_and_update().clone();
        let Some(node) = node else {
            shared.leader_watch.send_replace(None);
            if node_watch.changed().await.is_err() {
                return;
            }
            continue;
        };
        let mut status_watch = node.watch_status();
        let mut led: Option<u64> = None;
        loop {
            let (term, leads, leader) = {
                let status = status_watch.borrow_and_update();
                (status.term, status.is_leader(), status.leader)
            };
            if led.is_some() && (!leads || led != Some(term)) {
                tracing::info!(term, "leadership lost");
                shared.leader.deposed();
                led = None;
            }
            if leads && led.is_none() {
                let by_transfer = node.transfers().made_leader(term);
                tracing::info!(term, by_transfer, "elected leader");
                shared.leader.elected(term, by_transfer);
                led = Some(term);
            }
            shared.leader_watch.send_if_modified(|known| {
                let changed = *known != leader;
                *known = leader;
                changed
            });
            tokio::select! {
                changed = status_watch.changed() => if changed.is_err() { break },
                changed = node_watch.changed() => {
                    if changed.is_err() { return }
                    break;
                }
            }
        }
        if led.is_some() {
            shared.leader.deposed();
        }
        if node_watch.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(current, &node)) {
            // Raft has stopped; the next one comes with another node, if any.
            shared.leader_watch.send_replace(None);
            if node_watch.changed().await.is_err() {
                return;
            }
        }
    }
}

pub(crate) async fn run(shared: Arc<Shared>) {
    let mut duties = Duties { shared, caught_up: BTreeMap::new(), noted_at: None };
    let mut rounds = tokio::time::interval(ROUND_EVERY);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let Some(node) = duties.shared.seat.node() else { continue };
        let status = node.status();
        if status.is_leader() {
            duties.round(&node, &status).await;
        } else {
            duties.caught_up.clear();
        }
    }
}

struct Duties {
    shared: Arc<Shared>,
    /// In how many rounds in a row each learner was close behind.
    caught_up: BTreeMap<RaftId, u32>,
    noted_at: Option<Instant>,
}

impl Duties {
    async fn round(&mut self, node: &RaftNode, status: &RaftStatus) {
        let state = self.shared.seat.replica.state();
        if state.cluster_id == ClusterId::default() {
            self.found(node).await;
            return;
        }
        self.watch_learners(status);
        if status.voters_change {
            // This leader waits for the end of each change it makes, so an earlier one died in the middle of this.
            match node.finish_voters_change().await {
                Ok(()) => tracing::info!("finished a change of the voters that an earlier leader began"),
                Err(error) => tracing::warn!(%error, "a change of the voters is not finished yet"),
            }
        } else if let Some((raft_id, disk)) = unadmitted(&state, status) {
            if let Err(error) = node.add_learner(raft_id, &disk).await {
                tracing::warn!(%raft_id, %error, "an admitted disk is not a learner yet");
            }
        } else {
            self.promote(node, status, &state).await;
        }
        self.note_synced(node, status, &state).await;
    }

    async fn found(&self, node: &RaftNode) {
        let body = CommandBody::FoundCluster { cluster_id: node.identity().cluster_id, members: node.members() };
        self.propose(node, body, "the cluster is not founded yet").await;
    }

    fn watch_learners(&mut self, status: &RaftStatus) {
        let last = status.last_log.unwrap_or_default();
        self.caught_up.retain(|learner, _| status.learners.contains(learner));
        for learner in &status.learners {
            let behind = status.matched.get(learner).map(|matched| last.0.saturating_sub(matched.0));
            let rounds = self.caught_up.entry(*learner).or_default();
            *rounds = if behind.is_some_and(|behind| behind <= CAUGHT_UP_ENTRIES) { *rounds + 1 } else { 0 };
        }
    }

    async fn promote(&mut self, node: &RaftNode, status: &RaftStatus, state: &ClusterState) {
        let mut ready = Vec::new();
        for (learner, rounds) in &self.caught_up {
            if *rounds >= CAUGHT_UP_ROUNDS && status.voters.len() < self.shared.options.timings.target_voters as usize {
                ready.push(*learner);
            }
        }
        let chosen = new_voters(&status.voters, &ready, self.shared.options.timings.target_voters, state);
        for learner in &chosen {
            if !self.answers(*learner, state).await {
                self.caught_up.remove(learner);
                return;
            }
        }
        if chosen.is_empty() {
            return;
        }
        match node.promote(&status.voters, chosen.iter().copied()).await {
            Ok(()) => tracing::info!(voters = ?chosen, "learners became voters"),
            Err(error) => tracing::warn!(learners = ?chosen, %error, "learners are not voters yet"),
        }
    }

    /// Whether the process at the learner's address is the one that was admitted.
    async fn answers(&self, learner: RaftId, state: &ClusterState) -> bool {
        let Some(node) = state.nodes.get(&learner) else { return false };
        match self.shared.peers.hello(&node.rpc_address).await {
            Ok(Hello { disk_id, stage: Stage::Member(theirs), .. }) => {
                disk_id == node.disk_id && theirs.raft_id == learner && theirs.cluster_id == state.cluster_id
            }
            Ok(_) | Err(_) => false,
        }
    }

    async fn note_synced(&mut self, node: &RaftNode, status: &RaftStatus, state: &ClusterState) {
        let all = self.noted_at.is_none_or(|noted| noted.elapsed() >= NOTE_SYNCED_EVERY);
        if !all && !state.nodes.values().any(|node| is_unmarked(node)) {
            return;
        }
        let committed = status.committed.unwrap_or_default();
        let own = (status.raft_id, node.synced());
        let matched = status.matched.iter().map(|(id, matched)| (*id, *matched));
        let reports = self.shared.leader.reports();
        let told = reports.nodes.iter().map(|(id, report)| (*id, report.catalogue_index)).collect();
        let mut synced = news(matched.filter(|(id, _)| *id != status.raft_id).chain([own]), &told, committed, state);
        if all {
            self.noted_at = Some(Instant::now());
        } else {
            synced.retain(|(id, index)| is_first_mark(*id, *index, state));
        }
        if !synced.is_empty() {
            self.propose(node, CommandBody::NoteSyncedLogs { synced }, "synced logs are not noted").await;
        }
    }

    async fn propose(&self, node: &RaftNode, body: CommandBody, without: &'static str) {
        let time_ms = self.shared.options.clock.wall_ms();
        let command = Command { request_id: RequestId(rand::random()), time_ms, body };
        if let Err(error) = node.propose(command).await {
            tracing::debug!(%error, "{without}");
        }
    }
}

/// An admitted disk that Raft does not know yet.
fn unadmitted(state: &ClusterState, status: &RaftStatus) -> Option<(RaftId, Disk)> {
    let mut nodes = state.nodes.values().filter(|node| !node.rpc_address.is_empty());
    let node = nodes.find(|node| !status.is_member(node.raft_id))?;
    let disk = Disk { disk_id: node.disk_id, name: node.name.clone(), rpc_address: node.rpc_address.clone() };
    Some((node.raft_id, disk))
}

/// Which of the learners that are ready become voters: so many that the voters are the largest odd number within the
/// target; those of zones without a voter first.
fn new_voters(voters: &[RaftId], ready: &[RaftId], target: u32, state: &ClusterState) -> Vec<RaftId> {
    let possible = (voters.len() + ready.len()).min(target as usize);
    let wanted = if possible.is_multiple_of(2) { possible.saturating_sub(1) } else { possible };
    let zone = |id: &RaftId| state.nodes.get(id).map(|node| node.zone.clone()).unwrap_or_default();
    let mut zones: BTreeSet<String> = voters.iter().map(zone).collect();
    let mut ready = ready.to_vec();
    let mut chosen = Vec::new();
    while voters.len() + chosen.len() < wanted {
        let at = ready.iter().position(|id| !zones.contains(&zone(id))).unwrap_or_default();
        let next = ready.remove(at);
        zones.insert(zone(&next));
        chosen.push(next);
    }
    chosen
}

/// No mark is as new as the registration of its process. Until there is one, an older copy of the disk would still be
/// believed.
fn is_unmarked(node: &Node) -> bool {
    node.state == NodeState::Up && node.log_synced.0 < node.node_epoch.0
}

fn is_first_mark(raft_id: RaftId, index: LogIndex, state: &ClusterState) -> bool {
    state.nodes.get(&raft_id).is_some_and(|node| is_unmarked(node) && index.0 >= node.node_epoch.0)
}

/// The marks that rose by more than the entry that noted them last.
///
/// `told` is what registered processes said they had applied, and no mark goes beyond it: a process that has not
/// registered yet is judged by what its disk held when it began, not by what the leader has sent it since.
fn news(
    synced: impl Iterator<Item = (RaftId, LogIndex)>,
    told: &BTreeMap<RaftId, LogIndex>,
    committed: LogIndex,
    state: &ClusterState,
) -> Vec<(RaftId, LogIndex)> {
    let rose = |(id, index): (RaftId, LogIndex)| {
        let index = index.min(committed).min(*told.get(&id)?);
        let noted = state.nodes.get(&id)?.log_synced;
        (index.0 > noted.0 + 1).then_some((id, index))
    };
    synced.filter_map(rose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::fixtures::TestLog;

    fn ids(ids: &[u64]) -> Vec<RaftId> {
        ids.iter().copied().map(RaftId).collect()
    }

    #[test]
    fn a_process_that_has_not_registered_raises_no_mark() {
        let disk = |id: u64| {
            let raft_id = RaftId(id);
            let disk = Disk { disk_id: api_types::DiskId(id.into()), name: "n".into(), rpc_address: String::new() };
            (raft_id, disk)
        };
        let mut state = ClusterState::default();
        let body = CommandBody::FoundCluster { cluster_id: ClusterId(1), members: vec![disk(1), disk(2)] };
        state.apply(LogIndex(1), 1, &Command { request_id: RequestId(1), time_ms: 0, body });
        let synced = [(RaftId(1), LogIndex(9)), (RaftId(2), LogIndex(9))];
        let told = BTreeMap::from([(RaftId(1), LogIndex(7))]);
        let marks = news(synced.into_iter(), &told, LogIndex(8), &state);
        assert_eq!(marks, [(RaftId(1), LogIndex(7))]);
    }

    #[test]
    fn a_registration_is_marked_once_its_disk_has_it() {
        let mut log = TestLog::with_nodes(2);
        let node_epoch = log.register(2, 201);
        let is_first = |log: &TestLog, index: u64| is_first_mark(RaftId(2), LogIndex(index), &log.state);
        assert!(is_unmarked(&log.state.nodes[&RaftId(2)]));
        assert!(!is_first(&log, node_epoch.0 - 1) && is_first(&log, node_epoch.0));
        log.commit(CommandBody::NoteSyncedLogs { synced: vec![(RaftId(2), LogIndex(node_epoch.0))] });
        assert!(!is_unmarked(&log.state.nodes[&RaftId(2)]));
        assert!(!is_first(&log, node_epoch.0 + 5), "the rest has time");
        log.fence(1);
        assert!(!is_unmarked(&log.state.nodes[&RaftId(1)]), "nobody speaks for this disk now");
    }

    #[test]
    fn voters_are_the_largest_odd_number_within_the_target() {
        let state = ClusterState::default();
        let check = |voters: &[u64], ready: &[u64], target, expect: &[u64]| {
            let chosen = new_voters(&ids(voters), &ids(ready), target, &state);
            assert_eq!(chosen, ids(expect), "{voters:?} {ready:?} {target}");
        };
        check(&[1], &[], 3, &[]);
        check(&[1], &[1005], 3, &[]);
        check(&[1], &[1005, 1006], 3, &[1005, 1006]);
        check(&[1], &[1005, 1006, 1007], 3, &[1005, 1006]);
        check(&[1, 2, 3], &[1005, 1006], 3, &[]);
        check(&[1, 2, 3], &[1005], 5, &[]);
        check(&[1, 2, 3], &[1005, 1006], 5, &[1005, 1006]);
        check(&[1, 2], &[1005], 3, &[1005]);
        check(&[1, 2, 3, 4, 5], &[1005], 3, &[]);
    }
}
