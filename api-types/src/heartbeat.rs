//! What a node tells the leader twice a second, and what the leader answers.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Incarnation, LogIndex, NodeEpoch, RaftId};
use crate::status::TaskReport;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub node: RaftId,
    pub node_epoch: NodeEpoch,
    pub number: u64,
    /// The catalogue of this index (and of every earlier one) is what the node matches new reads with.
    pub catalogue_index: LogIndex,
    pub running: Vec<TaskReport>,
    /// Tasks that have stopped and were joined.
    pub stopped: Vec<StoppedTask>,
    pub load: NodeLoad,
    /// The node is about to end: its tasks go elsewhere at once, and it gets no new ones.
    pub stopping: bool,
}

/// A task that stopped after its release. It is never started again under this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedTask {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    pub queue_records: u64,
    pub queue_bytes: u64,
    pub mqtt_connections: u64,
    /// Connectors whose queue on this node is full and holds its publishers back.
    pub full_queues: Vec<Incarnation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeartbeatAnswer {
    /// The lease runs `lease_ms` from the moment the heartbeat was *sent*.
    Renewed { term: u64, lease_ms: u64 },
    /// The heartbeat was taken in, but the node's catalogue is behind: no lease until it has caught up.
    Behind { required: LogIndex },
    /// This registration is over; the node must register anew.
    Fenced,
}
