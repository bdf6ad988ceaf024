//! Commands are deltas with preconditions; refusals are replies. Enums only grow at the end.

use api_types::connector::ConnectorSpec;
use api_types::{
    ConnectorName, DiskId, Epoch, Incarnation, LogIndex, NodeEpoch, NodeName, RaftId, RequestId, Revision,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// A repeat of a request (its first answer was lost) gets the first reply.
    pub request_id: RequestId,
    /// Wall clock of the proposer, milliseconds since the Unix epoch. Only for showing.
    pub time_ms: u64,
    pub body: CommandBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandBody {
    // User.
    CreateConnector {
        spec: Box<ConnectorSpec>,
    },
    /// Marks the connector; its task is released and the leader then proposes `RemoveConnector`. A second delete of
    /// the same incarnation is answered like the first.
    DeleteConnector {
        name: ConnectorName,
        incarnation: Option<Incarnation>,
    },
    /// Takes back a hold that found records, or that was forgotten. Refused unless the connector is held: a delete that
    /// was accepted is never undone.
    RestoreConnector {
        incarnation: Incarnation,
    },

    // Scheduler and leader. `decided_term` must be the term of the entry.
    ApplyPlan {
        decided_term: u64,
        steps: Vec<PlanStep>,
    },
    FenceNode {
        node: RaftId,
        node_epoch: NodeEpoch,
        decided_term: u64,
        reason: String,
    },
    /// Refused unless the connector is being deleted and its task is idle.
    RemoveConnector {
        incarnation: Incarnation,
    },
    NoteSyncedLogs {
        synced: Vec<(RaftId, LogIndex)>,
    },

    // Node.
    AdmitDisk {
        disk: Disk,
    },
    RegisterNode {
        registration: NodeRegistration,
    },
    NodeLeft {
        node: RaftId,
        node_epoch: NodeEpoch,
    },
    Released {
        incarnation: Incarnation,
        epoch: Epoch,
    },

    /// The first entry after the bootstrap: names the cluster and its first members.
    FoundCluster {
        cluster_id: api_types::ClusterId,
        members: Vec<(RaftId, Disk)>,
    },

    /// Takes the connector's filter out and nothing else: the first step of a delete `if_empty`. The task goes on;
    /// then comes `DeleteHeld` or `RestoreConnector`. Answered with `Deleting`.
    HoldConnector {
        name: ConnectorName,
        incarnation: Option<Incarnation>,
    },

    /// Deletes what was found empty. Refused unless the hold that was answered with index `held_at` still stands: what
    /// was put back meanwhile may have taken records since, also when somebody holds it again.
    DeleteHeld {
        incarnation: Incarnation,
        held_at: LogIndex,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub disk_id: DiskId,
    pub name: NodeName,
    pub rpc_address: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistration {
    pub raft_id: RaftId,
    pub disk_id: DiskId,
    pub name: NodeName,
    pub rpc_address: String,
    pub api_address: String,
    pub mqtt_address: String,
    pub zone: String,
    pub version: String,
    pub kinds: Vec<String>,
    /// Random, new in every process.
    pub boot_nonce: u64,
    /// The process holds the exclusive lock of the data directory, so an earlier process of this disk is gone.
    pub lock_proof: bool,
    /// Last index of this disk's log, for `DISK_WENT_BACK`.
    pub last_log: LogIndex,
}

/// One step of the scheduler's plan; each says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanStep {
    /// Only from `Idle` with exactly this epoch, to a node registered under exactly this node epoch. Also used to
    /// withdraw a release: from `Releasing` back to the same owner under a new epoch.
    Assign { incarnation: Incarnation, expect_epoch: Epoch, node: RaftId, node_epoch: NodeEpoch, why: String },
    /// Only from `Assigned` with exactly this epoch.
    Release { incarnation: Incarnation, expect_epoch: Epoch, why: String },
    /// Says why an idle task is idle (`state_reason`), when that changed.
    Explain { incarnation: Incarnation, expect_epoch: Epoch, why: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Index of the entry whose outcome this is: the first one's for a repeat.
    pub index: LogIndex,
    pub body: ReplyBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyBody {
    Done,
    Created {
        incarnation: Incarnation,
        revision: Revision,
    },
    /// The delete was marked (or had been); the incarnation that goes.
    Deleting {
        incarnation: Incarnation,
    },
    Admitted {
        raft_id: RaftId,
    },
    Registered {
        node_epoch: NodeEpoch,
    },
    Refused(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("connector exists")]
    ConnectorExists,
    #[error("connector is being deleted")]
    ConnectorDeleting,
    #[error("connector does not exist")]
    ConnectorNotFound,
    #[error("stale epoch, term or incarnation")]
    Stale,
    #[error("this disk does not belong to the cluster")]
    UnknownDisk,
    #[error("the raft id is in use by another disk")]
    IdInUse,
    #[error(
        "DISK_WENT_BACK: the log of this disk ends at {found} but had been synced up to {expected}: a restored or cloned \
         volume; it must not come back under its id, but may join as a new disk"
    )]
    DiskWentBack { expected: LogIndex, found: LogIndex },
    #[error("another process of this disk still holds a lease")]
    LeaseHeld,
    #[error(
        "ADDRESS_IN_USE: {address} leads to node {holder}, which is up; give this node an address of its own \
         (rpc.advertise), or, if it replaces a lost disk of that node, wait until the lost one is fenced"
    )]
    AddressInUse { address: String, holder: NodeName },
    #[error("ADDRESS_SILENT: nobody answers at {address}, where this node says it is (rpc.advertise)")]
    AddressSilent { address: String },
}
