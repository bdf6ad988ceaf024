//! The replicated state and the only way to change it. Pure: no clock, no randomness, no async, no hash order; time is
//! in the entry.
//!
//! ```text
//! entry ─► apply ─► a repeat? first reply : connectors | nodes | tasks ─► Reply
//! to_rows ─► snapshot ─► from_rows
//! ```

mod apply;
mod command;
mod connectors;
#[cfg(test)]
pub(crate) mod fixtures;
mod memory;
mod nodes;
mod rows;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::assignment::{Assignment, AssignmentState};
use api_types::connector::Desired;
use api_types::status::Status;
use api_types::{ClusterId, Connector, ConnectorName, DiskId, Incarnation, LogIndex, NodeEpoch, NodeName, RaftId};
use serde::{Deserialize, Serialize};

pub use command::{Command, CommandBody, Disk, NodeRegistration, PlanStep, Refusal, Reply, ReplyBody};
pub use nodes::ADMITTED_ID_BASE;
pub use rows::{RowError, StateBuilder, StateRow};

/// A cheap clone: ordered maps of `Arc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    pub cluster_id: ClusterId,
    /// Index of the last applied entry.
    pub applied: LogIndex,
    /// Index of the last entry that changed what a node must match publishes with (create, delete).
    pub catalogue_index: LogIndex,
    pub names: BTreeMap<ConnectorName, Incarnation>,
    pub connectors: BTreeMap<Incarnation, Arc<Connector>>,
    pub assignments: BTreeMap<Incarnation, Arc<Assignment>>,
    /// Members and registered nodes, by disk.
    pub nodes: BTreeMap<RaftId, Arc<Node>>,
    /// Connectors whose filter was taken out by `HoldConnector`: `deleting`, but not to be removed.
    pub held: BTreeSet<Incarnation>,
    memory: memory::ReplyMemory,
}

/// One disk that belongs to the cluster and the process that last registered with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub raft_id: RaftId,
    pub disk_id: DiskId,
    pub name: NodeName,
    /// Node RPC address, `host:port`; empty once another disk has it.
    pub rpc_address: String,
    /// HTTP API address, `host:port`.
    pub api_address: String,
    pub mqtt_address: String,
    pub zone: String,
    pub version: String,
    /// Kinds of connectors this node offers.
    pub kinds: Vec<String>,
    pub state: NodeState,
    /// Log index of the last registration; 0 before the first.
    pub node_epoch: NodeEpoch,
    pub boot_nonce: u64,
    pub since_ms: u64,
    /// Highest index up to which this disk's log is known to be synced; it never goes back.
    pub log_synced: LogIndex,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Admitted, never registered.
    Admitted,
    Up,
    /// Its lease is over; its tasks go elsewhere.
    Fenced {
        reason: String,
    },
    /// It said goodbye.
    Left,
}

impl ClusterState {
    pub fn connector(&self, name: &str) -> Option<&Arc<Connector>> {
        let incarnation = self.names.get(&ConnectorName::from(name))?;
        self.connectors.get(incarnation)
    }

    pub fn assignment(&self, incarnation: Incarnation) -> Option<&Arc<Assignment>> {
        self.assignments.get(&incarnation)
    }

    /// A delete was accepted and is to be carried out; a held connector may still come back.
    pub fn is_going(&self, connector: &Connector) -> bool {
        connector.deleting && !self.held.contains(&connector.incarnation)
    }

    /// The node process that is registered and not fenced.
    pub fn node_up(&self, node: RaftId) -> Option<&Arc<Node>> {
        self.nodes.get(&node).filter(|node| node.state == NodeState::Up)
    }

    /// The seed's status: a replicated fact. A task that is being released still runs.
    pub fn status(&self, connector: &Connector) -> Status {
        if connector.spec.desired == Desired::Stopped {
            return Status::Stopped;
        }
        match self.assignments.get(&connector.incarnation).map(|assignment| assignment.state) {
            Some(AssignmentState::Assigned(_) | AssignmentState::Releasing(_)) => Status::Running,
            Some(AssignmentState::Idle) | None => Status::Idle,
        }
    }
}
