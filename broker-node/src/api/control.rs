//! What the API needs of the node. The composition root implements it over the metadata service, the queues and the
//! supervisor; tests implement it over a bare `ClusterState`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::heartbeat::NodeLoad;
use api_types::status::{Ledger, TaskReport};
use api_types::{Incarnation, LogIndex, NodeName, RaftId};
use async_trait::async_trait;
use meta_service::state::{ClusterState, CommandBody, Reply};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::health::Parts;

/// The state and the leader's reports of one linearizable read.
#[derive(Clone)]
pub struct View {
    pub state: Arc<ClusterState>,
    pub observed: Arc<Observed>,
}

/// What the nodes last told the leader.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub tasks: BTreeMap<Incarnation, ObservedTask>,
    pub nodes: BTreeMap<RaftId, ObservedNode>,
}

#[derive(Clone, Debug)]
pub struct ObservedTask {
    pub node: RaftId,
    pub report: TaskReport,
    /// Since the leader received it.
    pub age: Duration,
}

#[derive(Clone, Debug)]
pub struct ObservedNode {
    pub load: NodeLoad,
    pub catalogue_index: LogIndex,
    /// As the leader counts it; `None` without a lease.
    pub lease_remaining: Option<Duration>,
    pub age: Duration,
}

/// The part of a connector's records that one node holds.
#[derive(Clone, Debug)]
pub struct QueueShare {
    pub node: RaftId,
    pub name: NodeName,
    /// `None` when the node cannot be asked: unknown, never 0.
    pub holds: Option<QueueHolding>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueHolding {
    pub ledger: Ledger,
    pub pending_bytes: u64,
    /// Age of the oldest record that waits; `None` when none does.
    pub oldest_age_ms: Option<u64>,
}

/// This node's view of Raft, for `cluster/status`.
#[derive(Clone, Debug, Default)]
pub struct RaftView {
    pub raft_id: Option<RaftId>,
    pub role: String,
    pub term: u64,
    pub leader: Option<RaftId>,
    pub last_log: LogIndex,
    pub committed: LogIndex,
    pub applied: LogIndex,
    pub snapshot: LogIndex,
    pub voters: Vec<RaftId>,
    pub learners: Vec<RaftId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the metadata service has no leader at the moment")]
    NoLeader,
    #[error("this node has not joined the cluster or has not caught up yet")]
    NotReady,
    /// Only of a proposal.
    #[error("the change was proposed, but whether it happened is not known: read before trying again")]
    OutcomeUnknown,
}

/// The owner of a task could not be asked in time.
#[derive(Debug, thiserror::Error)]
#[error("the owner cannot be asked")]
pub struct OwnerSilent;

#[async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// A linearizable read: sees every change that was answered before the call.
    async fn read(&self) -> Result<View, Unavailable>;

    /// This node's replica, which may lag.
    fn local_state(&self) -> Arc<ClusterState>;

    /// Changes whenever the replica applied something.
    fn applied(&self) -> watch::Receiver<LogIndex>;

    /// Leader-or-forward under one request id. A refusal is an `Ok` reply.
    async fn propose(&self, body: CommandBody) -> Result<Reply, Unavailable>;

    /// Waits until every node with a lease matches with the catalogue of this index; names those not heard in time.
    async fn barrier(&self, index: LogIndex) -> Result<Vec<NodeName>, Unavailable>;

    /// The task as its owner sees it now. `Ok(None)`: the owner answers and has no such task (yet).
    async fn live_task(&self, owner: RaftId, incarnation: Incarnation) -> Result<Option<TaskReport>, OwnerSilent>;

    /// What every registered node holds for the connector, each asked within [`super::ASK_TIMEOUT`].
    async fn shares(&self, incarnation: Incarnation) -> Vec<QueueShare>;

    fn raft(&self) -> RaftView;

    fn health(&self) -> Parts;
}
