//! What the rest of the node does with the metadata service. Cheap to clone; works on any node.

use std::sync::Arc;
use std::time::Duration;

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer};
use api_types::{LogIndex, NodeEpoch, NodeName, RaftId, RequestId};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::boot::BootStatus;
use crate::fatal::FatalReason;
use crate::forward::{ForwardError, HOPS_MAX, LeaderAnswer, LeaderRequest};
use crate::identity::{Identity, WentBack};
use crate::leader::{LeaderMetrics, Reports};
use crate::reads::{ReadError, ReadView};
use crate::retry::LeaderSeeker;
use crate::shared::{ProposeObserver, Shared};
use crate::state::{ClusterState, Command, CommandBody, NodeRegistration, Refusal, Reply, ReplyBody};
use crate::status::RaftStatus;

/// A proposal is tried for so long with the same request id; a change of the leader takes about a second.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt: a majority that syncs slowly must not use up all the time.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Beside the time that the leader itself waits for the other nodes.
const BARRIER_MARGIN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was changed.
    #[error("no leader")]
    NoLeader,
    /// This node belongs to no cluster yet; nothing was changed.
    #[error("this node is not ready")]
    NotReady,
    /// It may have been changed, or may still be.
    #[error("outcome unknown")]
    OutcomeUnknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    #[error("no leader")]
    NoLeader,
    #[error("this node is not ready")]
    NotReady,
}

#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Who this disk is, once it belongs to a cluster.
    pub fn identity(&self) -> Option<Identity> {
        self.shared.seat.disk().identity()
    }

    /// Who this disk is, once Raft runs on it: before that there may be no room on it for anything.
    pub async fn wait_started(&self) -> Identity {
        let mut node = self.shared.seat.watch_node();
        loop {
            if let Some(node) = node.borrow_and_update().as_ref() {
                return node.identity();
            }
            if node.changed().await.is_err() {
                // The service has ended; there will be none.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What the start waits for.
    pub fn boot_status(&self) -> BootStatus {
        self.shared.boot_status.borrow().clone()
    }

    pub fn watch_boot_status(&self) -> watch::Receiver<BootStatus> {
        self.shared.boot_status.subscribe()
    }

    /// This node's replica as it is now: possibly a moment behind.
    pub fn state(&self) -> Arc<ClusterState> {
        self.shared.seat.replica.state()
    }

    /// Index of the last entry that `state` contains.
    pub fn applied(&self) -> watch::Receiver<LogIndex> {
        self.shared.seat.replica.applied()
    }

    /// True once, after the start, the replica was as new as before it and as new as the leader's.
    pub fn recovered_and_caught_up(&self) -> bool {
        *self.shared.boot_status.borrow() == BootStatus::Running
    }

    /// Changes the cluster's state; a refusal is a reply. Retries for up to 5 s, always with the same request id, so
    /// that whoever won is told so even when the leader died before it could answer.
    pub async fn propose(&self, body: CommandBody) -> Result<Reply, ProposeError> {
        let started = Instant::now();
        let request_id = RequestId(rand::random());
        let command = Command { request_id, time_ms: self.shared.options.clock.wall_ms(), body };
        let outcome = self.propose_until(LeaderSeeker::new(&self.shared.seat, PROPOSE_TIMEOUT), command).await;
        if let Some(observe) = self.shared.propose_observer.get() {
            observe(started.elapsed());
        }
        outcome
    }

    async fn propose_until(&self, mut seeker: LeaderSeeker, command: Command) -> Result<Reply, ProposeError> {
        let mut perhaps_done = false;
        loop {
            let request = LeaderRequest::Propose(command.clone());
            let timeout = ATTEMPT_TIMEOUT.min(seeker.remaining());
            match self.shared.forward.to_leader(request, HOPS_MAX, timeout).await {
                Ok(LeaderAnswer::Reply(reply)) => return Ok(reply),
                Err(ForwardError::NotReady) if !perhaps_done => return Err(ProposeError::NotReady),
                Err(ForwardError::NotReady | ForwardError::NoLeader) => {}
                Ok(_) | Err(ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => perhaps_done = true,
            }
            if !seeker.again().await {
                return Err(if perhaps_done { ProposeError::OutcomeUnknown } else { ProposeError::NoLeader });
            }
        }
    }

    /// The state as it is at some moment after this call began. Works on any node.
    pub async fn read(&self) -> Result<ReadView, ReadError> {
        self.shared.reads.read().await
    }

    /// Waits until every node with a valid lease matches new reads with the catalogue of `index`, at most
    /// `apply_wait`; returns the nodes that were not heard by then.
    pub async fn barrier(&self, index: LogIndex) -> Result<Vec<NodeName>, ReadError> {
        let apply_wait = self.shared.options.timings.apply_wait;
        let mut seeker = LeaderSeeker::new(&self.shared.seat, apply_wait + BARRIER_MARGIN);
        loop {
            let request = LeaderRequest::Barrier { index };
            match self.shared.forward.to_leader(request, HOPS_MAX, seeker.remaining()).await {
                Ok(LeaderAnswer::Barrier { not_heard }) => return Ok(not_heard),
                Err(ForwardError::NotReady) => return Err(ReadError::NotReady),
                Ok(_) | Err(ForwardError::NoLeader | ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => {}
            }
            if !seeker.again().await {
                return Err(ReadError::NoLeader);
            }
        }
    }

    /// Registers this process. Its identity and the last index of its log are filled in here: the index that the log
    /// had when it was opened, for the leader has filled up a disk that went back by now. That one is refused, and keeps
    /// the verdict.
    pub async fn register(&self, registration: NodeRegistration) -> Result<Reply, ProposeError> {
        let node = self.shared.seat.node().ok_or(ProposeError::NotReady)?;
        let Identity { raft_id, disk_id, .. } = node.identity();
        let last_log = node.last_log_to_register();
        let registration = NodeRegistration { raft_id, disk_id, last_log, ..registration };
        let reply = self.propose(CommandBody::RegisterNode { registration }).await?;
        match reply.body {
            ReplyBody::Registered { .. } => node.registered(),
            ReplyBody::Refused(Refusal::DiskWentBack { expected, found }) => {
                if let Err(reason) = self.shared.note_went_back(WentBack { expected, found }) {
                    self.shared.fatal.raise(reason);
                }
            }
            ReplyBody::Refused(_)
            | ReplyBody::Done
            | ReplyBody::Created { .. }
            | ReplyBody::Deleting { .. }
            | ReplyBody::Admitted { .. } => {}
        }
        Ok(reply)
    }

    /// One attempt, no longer than until the next heartbeat is due: whoever calls tries again.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<HeartbeatAnswer, HeartbeatError> {
        let timings = &self.shared.options.timings;
        let timeout = timings.heartbeat.max(timings.election_max);
        match self.shared.forward.to_leader(LeaderRequest::Heartbeat(heartbeat), HOPS_MAX, timeout).await {
            Ok(LeaderAnswer::Heartbeat(answer)) => Ok(answer),
            Err(ForwardError::NotReady) => Err(HeartbeatError::NotReady),
            Ok(_) | Err(ForwardError::NoLeader | ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => {
                Err(HeartbeatError::NoLeader)
            }
        }
    }

    /// The node's lease is over because the node says so; best effort. Tried for as long as an election takes: the node
    /// may just have handed its leadership over.
    pub async fn goodbye(&self, node: RaftId, node_epoch: NodeEpoch) -> Result<(), HeartbeatError> {
        let timings = &self.shared.options.timings;
        let mut seeker = LeaderSeeker::new(&self.shared.seat, timings.election_max);
        loop {
            let request = LeaderRequest::Goodbye { node, node_epoch };
            let timeout = timings.heartbeat.min(seeker.remaining());
            match self.shared.forward.to_leader(request, HOPS_MAX, timeout).await {
                Ok(LeaderAnswer::Goodbye) => return Ok(()),
                Err(ForwardError::NotReady) => return Err(HeartbeatError::NotReady),
                Ok(_) | Err(ForwardError::NoLeader | ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => {}
            }
            if !seeker.again().await {
                return Err(HeartbeatError::NoLeader);
            }
        }
    }

    /// What the nodes last told this one; worth something only while it leads.
    pub fn reports(&self) -> Arc<Reports> {
        self.shared.leader.reports()
    }

    /// What the leader's part counted and timed since the last call; nothing on other nodes.
    pub fn take_leader_metrics(&self) -> LeaderMetrics {
        self.shared.leader.take_metrics()
    }

    pub fn leader(&self) -> Option<RaftId> {
        self.shared.seat.node()?.status().leader
    }

    /// Follows the leader, also through a restart of Raft.
    pub fn leader_watch(&self) -> watch::Receiver<Option<RaftId>> {
        self.shared.leader_watch.subscribe()
    }

    /// `None` before this disk belongs to a cluster.
    pub fn raft_status(&self) -> Option<RaftStatus> {
        Some(self.shared.seat.node()?.status())
    }

    /// Rounds of reads of other nodes that this one answered as the leader without a round of heartbeats, since its start.
    pub fn witnessed_reads(&self) -> u64 {
        self.shared.seat.node().map_or(0, |node| node.witnessed())
    }

    /// Hands the leadership to another voter; true when this node does not lead any more.
    pub async fn transfer_leadership(&self) -> bool {
        match self.shared.seat.node() {
            Some(node) => node.transfer_leadership().await,
            None => true,
        }
    }

    /// Is told how long each proposal took; the first observer stays.
    pub fn observe_proposals(&self, observer: ProposeObserver) {
        // A second observer is a mistake of the caller's that harms nobody.
        drop(self.shared.propose_observer.set(observer));
    }

    /// Resolves when something happened that must end the process.
    pub async fn wait_fatal(&self) -> Arc<FatalReason> {
        let mut fatal = self.shared.fatal.watch();
        loop {
            if let Some(reason) = fatal.borrow_and_update().clone() {
                return reason;
            }
            if fatal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What ends the process, once there is something.
    pub fn watch_fatal(&self) -> watch::Receiver<Option<Arc<FatalReason>>> {
        self.shared.fatal.watch()
    }
}
