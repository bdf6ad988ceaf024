//! One running Raft, as the rest of the crate sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::{LogIndex, RaftId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal as RaftFatal, LinearizableReadError, RaftError};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Config, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::network::Network;
use super::store::{Extent, LogStore, Machine, OpenedLog, SnapshotStore};
use super::transfers::Transfers;
use super::types::{Peer, Proposal, Types};
use super::wire;
use super::witness::{self, Moment, Witness};
use crate::fatal::{Fatal, FatalReason};
use crate::identity::Identity;
use crate::replica::Replica;
use crate::rpc::RpcClient;
use crate::state::{Command, Disk, Reply};
use crate::status::{RaftStatus, Role};
use crate::timings::Timings;

/// Entries kept behind a snapshot, so that a member that was away for a moment needs no snapshot.
const KEPT_ENTRIES_MAX: u64 = 5_000;
const PURGE_BATCH: u64 = 256;
/// A member further behind than this gets a snapshot; more than `snapshot_every`, else a snapshot could not help.
const LAG_MAX: u64 = 20_000;
const APPEND_ENTRIES_MAX: u64 = 256;
/// Far above any command that passed validation; one of them must fit into a request beside others.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// A whole transfer of a large snapshot over a slow link; a dead connection is found by its keep-alive.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a closing waits for the database below.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Raft's metrics change many times for each entry: the first change is shown at once, the others when this has passed.
const STATUS_SETTLE: Duration = Duration::from_millis(5);
/// How long a handed-over leadership, or a first entry, takes to show at most.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct NodeSettings {
    pub data_dir: PathBuf,
    pub identity: Identity,
    pub timings: Timings,
    pub snapshot_every: u64,
    pub replica: Arc<Replica>,
    pub rpc: RpcClient,
    pub snapshot_rpc: RpcClient,
    pub fatal: Fatal,
}

pub(crate) struct RaftNode {
    raft: Raft<Types, Machine>,
    identity: Identity,
    replica: Arc<Replica>,
    snapshots: Arc<SnapshotStore>,
    transfers: Transfers,
    status: watch::Receiver<RaftStatus>,
    log: Extent,
    opened_at: LogIndex,
    registered: AtomicBool,
    recovered: Arc<AtomicBool>,
    /// Ends the streams of appends.
    stopping: CancellationToken,
    closed: Mutex<Option<oneshot::Receiver<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProposalError {
    /// Nothing was appended.
    #[error("not the leader")]
    NotLeader { leader: Option<RaftId> },
    /// Nothing was appended, and never will be.
    #[error("command is too large")]
    TooLarge,
    /// The entry may or may not be committed.
    #[error("outcome unknown")]
    Unknown,
}

/// A proof of leadership: no other leader had been elected when the round behind it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadIndex {
    pub term: u64,
    /// Everything that was answered before the round is at or before this index.
    pub index: LogIndex,
}

#[derive(Debug, thiserror::Error)]
#[error("membership was not changed: {0}")]
pub(crate) struct MembershipError(String);

pub(crate) fn meta_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("meta")
}

/// A log that is open, and nobody votes with it yet.
pub(crate) struct OpenedNode {
    settings: NodeSettings,
    log: OpenedLog,
}

impl OpenedNode {
    pub(crate) async fn open(settings: NodeSettings) -> Result<Self, FatalReason> {
        let open = {
            let (directory, fatal) = (meta_dir(&settings.data_dir), settings.fatal.clone());
            let raft_id = settings.identity.raft_id;
            move || LogStore::open(&directory, raft_id, fatal)
        };
        // RocksDB's recovery reads files.
        let log = tokio::task::spawn_blocking(open).await;
        let log = log.map_err(|error| FatalReason::RaftStopped(error.to_string()))??;
        Ok(Self { settings, log })
    }

    pub(crate) fn last_log(&self) -> LogIndex {
        self.log.last_index
    }

    /// Returns when the database is closed.
    pub(crate) async fn close(self) {
        let OpenedLog { store, closed, .. } = self.log;
        drop(store);
        await_closed(closed).await;
    }

    pub(crate) async fn start(self) -> Result<Arc<RaftNode>, FatalReason> {
        let NodeSettings { data_dir, identity, timings, snapshot_every, replica, rpc, snapshot_rpc, fatal } =
            self.settings;
        let OpenedLog { store, last_index, closed } = self.log;
        let directory = meta_dir(&data_dir);
        let snapshots =
            SnapshotStore::open(&directory).map_err(|error| FatalReason::MetaRead { what: "snapshot", error })?;
        let snapshots = Arc::new(snapshots);
        let machine = Machine::new(Arc::clone(&replica), Arc::clone(&snapshots), fatal.clone());
        let network = Network {
            identity,
            replica: Arc::clone(&replica),
            rpc,
            snapshot_rpc,
            heartbeat_timeout: timings.election_min,
        };
        let config = config(&timings, snapshot_every).map_err(FatalReason::RaftStopped)?;
        let log = store.extent();
        let raft = Raft::new(identity.raft_id.0, Arc::new(config), network, store, machine).await;
        let raft = raft.map_err(|error| FatalReason::RaftStopped(error.to_string()))?;
        let status = watch_status(&raft, fatal);
        let recovered = watch_recovery(&raft);
        Ok(Arc::new(RaftNode {
            raft,
            identity,
            replica,
            snapshots,
            transfers: Transfers::new(identity.raft_id, timings.election_max),
            status,
            log,
            opened_at: last_index,
            registered: AtomicBool::new(false),
            recovered,
            stopping: CancellationToken::new(),
            closed: Mutex::new(Some(closed)),
        }))
    }
}

impl RaftNode {
    pub(super) fn raft(&self) -> &Raft<Types, Machine> {
        &self.raft
    }

    pub(super) fn snapshots(&self) -> &Arc<SnapshotStore> {
        &self.snapshots
    }

    pub(super) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Where a member's RPC port is; where it was admitted, when the state knows of none.
    pub(crate) fn address_of(&self, raft_id: RaftId) -> Option<String> {
        let registered = self.replica.look(|state| state.nodes.get(&raft_id).map(|node| node.rpc_address.clone()));
        registered
            .filter(|address| !address.is_empty())
            .or_else(|| self.members().into_iter().find(|(id, _)| *id == raft_id).map(|(_, disk)| disk.rpc_address))
    }

    /// All members as the membership entries know them.
    pub(crate) fn members(&self) -> Vec<(RaftId, Disk)> {
        let membership = self.raft.metrics().borrow_watched().membership_config.clone();
        let disk = |peer: &Peer| Disk {
            disk_id: peer.disk_id,
            name: peer.name.clone(),
            rpc_address: peer.rpc_address.clone(),
        };
        membership.nodes().map(|(id, peer)| (RaftId(*id), disk(peer))).collect()
    }

    pub(crate) fn status(&self) -> RaftStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch_status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Whether this disk has never held an entry: then it may still take another plan of the bootstrap.
    pub(crate) fn log_is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// What a registration says of this log: its last index when it was opened, until the cluster has accepted that
    /// once. Afterwards what this process has applied: nobody has noted more of it, for that is what its heartbeats
    /// tell, and it never goes back.
    pub(crate) fn last_log_to_register(&self) -> LogIndex {
        let applied = || self.replica.look(|state| state.applied);
        if self.registered.load(Ordering::Relaxed) { applied().max(self.opened_at) } else { self.opened_at }
    }

    pub(crate) fn registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Whether the replica is at least as new as before the restart.
    pub(crate) fn is_recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    /// Up to where this node's own log is synced, as far as its present leader has heard: it begins anew with each one.
    pub(crate) fn synced(&self) -> LogIndex {
        let flushed = self.raft.watch_log_progress().get().and_then(|point| point.last_log_id);
        LogIndex(flushed.map_or(0, |last| last.index))
    }

    /// Writes the first entry of a new cluster. It is no error when it is there already.
    pub(crate) async fn initialize(&self, members: &[(RaftId, Disk)]) -> Result<(), MembershipError> {
        let members: BTreeMap<u64, Peer> = members.iter().map(|(id, disk)| (id.0, peer(disk))).collect();
        match self.raft.initialize(members).await {
            Ok(()) => {}
            Err(_) if !self.log_is_empty() => {}
            Err(error) => return Err(MembershipError(error.to_string())),
        }
        let mut status = self.status.clone();
        let shown = status.wait_for(|status| status.last_log.is_some());
        // Whoever looks too early only initializes once more.
        let _shown = tokio::time::timeout(CHANGE_TIMEOUT, shown).await;
        Ok(())
    }

    /// Proposes here, without forwarding; answers when applied.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, ProposalError> {
        let proposal = Proposal(command);
        // Raft would stop at an entry that cannot be stored.
        match wire::encode(&proposal) {
            Ok(envelope) if envelope.len() <= COMMAND_BYTES_MAX => {}
            Ok(_) | Err(_) => return Err(ProposalError::TooLarge),
        }
        match self.raft.client_write(proposal).await {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposalError::NotLeader { leader: forward.leader_id.map(RaftId) })
            }
            Err(
                RaftError::APIError(
                    ClientWriteError::LogEntryDiscarded(_)
                    | ClientWriteError::ChangeMembershipError(_)
                    | ClientWriteError::PreconditionFailed(_),
                )
                | RaftError::Fatal(_),
            ) => Err(ProposalError::Unknown),
        }
    }

    /// Proves this node's leadership by a round of heartbeats that is sent after the call.
    pub(crate) async fn read_index(&self) -> Result<ReadIndex, ProposalError> {
        let linearizer = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
        match linearizer {
            Ok(linearizer) => {
                let read = linearizer.read_log_id();
                Ok(ReadIndex { term: read.committed_leader_id().term, index: LogIndex(read.index()) })
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposalError::NotLeader { leader: forward.leader_id.map(RaftId) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) | RaftError::Fatal(_)) => {
                Err(ProposalError::NotLeader { leader: None })
            }
        }
    }

    /// This node as a witness of who leads, from Raft itself and after the call; `None` once Raft has stopped.
    pub(crate) async fn witness(&self) -> Option<Witness> {
        let term = self.raft.with_raft_state(|state| state.vote_ref().leader_id.term).await.ok()?;
        Some(Witness { raft_id: self.identity.raft_id, term })
    }

    /// Proves this node's leadership with the witness's vote, and where that is not enough by a round of heartbeats.
    pub(crate) async fn read_index_with(&self, witness: Witness) -> Result<ReadIndex, ProposalError> {
        let here = self.identity.raft_id;
        let moment = self.raft.with_raft_state(move |state| Moment::of(state, here)).await;
        match moment.ok().and_then(|moment| witness::read_index(&moment, here, witness)) {
            Some(read) => Ok(read),
            None => self.read_index().await,
        }
    }

    pub(crate) async fn add_learner(&self, raft_id: RaftId, disk: &Disk) -> Result<(), MembershipError> {
        let members = ChangeMembers::AddNodes(BTreeMap::from([(raft_id.0, peer(disk))]));
        self.change_membership(members, |_| true).await
    }

    /// Makes voters of learners, in one step, unless the voters are no longer the ones that were looked at.
    pub(crate) async fn promote(
        &self,
        voters: &[RaftId],
        learners: impl IntoIterator<Item = RaftId>,
    ) -> Result<(), MembershipError> {
        let expected: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
        let members = ChangeMembers::AddVoterIds(learners.into_iter().map(|id| id.0).collect());
        self.change_membership(members, |voters| voters == expected).await
    }

    /// From a joint configuration to the one it leads to: adding nobody to the last one is exactly that step.
    pub(crate) async fn finish_voters_change(&self) -> Result<(), MembershipError> {
        self.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), |_| true).await
    }

    /// Compare-and-set: a change that lands in between is not overwritten.
    async fn change_membership(
        &self,
        change: ChangeMembers<u64, Peer>,
        as_expected: impl FnOnce(BTreeSet<u64>) -> bool,
    ) -> Result<(), MembershipError> {
        let observed = self.raft.metrics().borrow_watched().membership_config.clone();
        if !as_expected(observed.voter_ids().collect()) {
            return Err(MembershipError("the voters have changed meanwhile".to_owned()));
        }
        let unchanged = Precondition::LastMembershipLogId { last_membership_log_id: *observed.log_id() };
        let changed = self.raft.change_membership_if(change, true, [unchanged]).await;
        changed.map(drop).map_err(|error| MembershipError(error.to_string()))
    }

    /// Hands the leadership to the voter whose log is the most complete; true when somebody else leads.
    pub(crate) async fn transfer_leadership(&self) -> bool {
        let status = self.status();
        if !status.is_leader() {
            return true;
        }
        let others = status.voters.iter().filter(|voter| **voter != status.raft_id);
        let Some(heir) = others.max_by_key(|voter| status.matched.get(voter)) else { return false };
        if self.raft.trigger().transfer_leader(heir.0).await.is_err() {
            return false;
        }
        let mut status = self.status.clone();
        let handed_over = status.wait_for(|status| !status.is_leader() && status.leader.is_some());
        matches!(tokio::time::timeout(CHANGE_TIMEOUT, handed_over).await, Ok(Ok(_)))
    }

    /// Ends Raft and returns when the database is closed.
    pub(crate) async fn shutdown(&self) {
        self.stopping.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not end well");
        }
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(closed) = closed {
            await_closed(closed).await;
        }
    }
}

async fn await_closed(closed: oneshot::Receiver<()>) {
    if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        tracing::warn!("the raft log is still open");
    }
}

fn peer(disk: &Disk) -> Peer {
    Peer { name: disk.name.clone(), disk_id: disk.disk_id, rpc_address: disk.rpc_address.clone() }
}

fn config(timings: &Timings, snapshot_every: u64) -> Result<Config, String> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "sluice".to_owned(),
        heartbeat_interval: ms(timings.raft_heartbeat),
        election_timeout_min: ms(timings.election_min),
        election_timeout_max: ms(timings.election_max),
        enable_pre_vote: Some(true),
        // A leader that lost the unsynced tail of its log must not lead again in the same term.
        enable_leader_restore: Some(false),
        // A leader without a quorum falls silent, else its heartbeats keep a partial partition from electing.
        quorum_loss_probe_interval: Some(ms(timings.election_max) * 2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_every),
        max_in_snapshot_log_to_keep: KEPT_ENTRIES_MAX.min(snapshot_every / 4),
        purge_batch_size: PURGE_BATCH.min(snapshot_every.max(1)),
        replication_lag_threshold: LAG_MAX.max(snapshot_every.saturating_mul(2)),
        max_payload_entries: APPEND_ENTRIES_MAX,
        install_snapshot_timeout: ms(SNAPSHOT_TIMEOUT),
        // A disk that went back is found out before it starts Raft, if a leader can be asked then, else when it
        // registers; it keeps that verdict, for by then the leader has filled its log up again. Until then that log must
        // not stop the leader, which a debug build takes for a bug of openraft's. It is about the leader's book-keeping
        // only: what the disk forgot is forgotten either way, and what was committed stays so.
        allow_log_reversion: Some(true),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

/// Translates openraft's metrics for as long as Raft runs.
fn watch_status(raft: &Raft<Types, Machine>, fatal: Fatal) -> watch::Receiver<RaftStatus> {
    let mut metrics = raft.metrics();
    let first = status_of(&metrics.borrow_watched());
    let (sender, status) = watch::channel(first);
    let guarding = fatal.clone();
    tokio::spawn(guarding.guard("raft status", async move {
        loop {
            let shown = Instant::now();
            let (status, running) = {
                let metrics = metrics.borrow_and_update();
                (status_of(&metrics), metrics.running_state.clone())
            };
            sender.send_replace(status);
            match running {
                Ok(()) => {}
                Err(RaftFatal::Stopped) => break,
                Err(stopped @ (RaftFatal::StorageError(_) | RaftFatal::Panicked)) => {
                    // A failed write has raised its own reason before.
                    fatal.raise(FatalReason::RaftStopped(stopped.to_string()));
                    break;
                }
            }
            if metrics.changed().await.is_err() {
                break;
            }
            tokio::time::sleep_until(shown + STATUS_SETTLE).await;
        }
        sender.send_modify(|status| {
            status.role = Role::Stopped;
            status.leader = None;
        });
    }));
    status
}

/// A commit that covers the log as it was found, applied: older states are not seen again after this.
fn watch_recovery(raft: &Raft<Types, Machine>) -> Arc<AtomicBool> {
    let recovered = Arc::new(AtomicBool::new(false));
    let (raft, flag) = (raft.clone(), Arc::clone(&recovered));
    tokio::spawn(async move {
        if raft.wait_for_recovery(None).await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });
    recovered
}

fn status_of(metrics: &RaftMetrics<Types>) -> RaftStatus {
    let membership = metrics.membership_config.membership();
    let index = |log_id: &Option<super::types::LogId>| log_id.map(|log_id| LogIndex(log_id.index));
    let matched = metrics.replication.iter().flatten();
    RaftStatus {
        raft_id: RaftId(metrics.id),
        role: match metrics.state {
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        },
        term: metrics.current_term,
        leader: metrics.current_leader.map(RaftId),
        last_log: metrics.last_log_index.map(LogIndex),
        committed: index(&metrics.local_committed),
        applied: index(&metrics.last_applied),
        snapshot: index(&metrics.snapshot),
        purged: index(&metrics.purged),
        voters: membership.voter_ids().map(RaftId).collect(),
        learners: membership.learner_ids().map(RaftId).collect(),
        voters_change: membership.get_joint_config().len() > 1,
        matched: matched.filter_map(|(id, log_id)| Some((RaftId(*id), index(log_id)?))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use api_types::{ClusterId, DiskId};
    use tempfile::TempDir;

    use super::*;
    use crate::rpc::Secrets;

    fn settings(directory: &TempDir) -> NodeSettings {
        let rpc = RpcClient::new(Secrets::new(None, None)).expect("makes a client");
        NodeSettings {
            data_dir: directory.path().to_owned(),
            identity: Identity { cluster_id: ClusterId(5), raft_id: RaftId(1), disk_id: DiskId(7) },
            timings: Timings::default(),
            snapshot_every: 1_000,
            replica: Arc::new(Replica::default()),
            rpc: rpc.clone(),
            snapshot_rpc: rpc,
            fatal: Fatal::default(),
        }
    }

    async fn start(directory: &TempDir) -> Arc<RaftNode> {
        OpenedNode::open(settings(directory)).await.expect("opens").start().await.expect("starts")
    }

    /// A log that is called empty is founded anew, and what it held is removed.
    #[tokio::test]
    async fn a_log_with_entries_is_not_called_empty_before_raft_has_looked() {
        let directory = TempDir::new().expect("temporary folder");
        let node = start(&directory).await;
        assert!(node.log_is_empty());
        let disk = Disk { disk_id: DiskId(7), name: "one".into(), rpc_address: "127.0.0.1:1".to_owned() };
        node.initialize(&[(RaftId(1), disk)]).await.expect("founds");
        assert!(!node.log_is_empty());
        node.shutdown().await;
        drop(node);

        let node = start(&directory).await;
        // There is one thread, and Raft's own task has had no turn on it.
        assert!(!node.log_is_empty());
        node.shutdown().await;
    }
}
