//! What nodes ask each other before they share a Raft: who are you, will you be part of this plan, may I join. JSON,
//! because nodes of different versions must understand each other here.

use std::time::Duration;

use api_types::{ClusterId, DiskId, LogIndex, NodeName, RaftId};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity::Membership;
use crate::raft::RaftNode;
use crate::rpc::{RpcClient, RpcError};
use crate::seat::Seat;
use crate::standing::{BOOTSTRAP_ID_MAX, Standing};
use crate::state::Disk;

pub(crate) const HELLO_PATH: &str = "/meta/hello";
pub(crate) const ADOPT_PATH: &str = "/meta/adopt";
pub(crate) const JOIN_PATH: &str = "/meta/join";
pub(crate) const STANDING_PATH: &str = "/meta/standing";

/// Versions of the Raft RPCs that this build speaks.
pub(crate) const RPC_VERSION_MIN: u16 = 1;
pub(crate) const RPC_VERSION_MAX: u16 = 1;

const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// An adoption syncs a file; a join is a proposal.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub name: NodeName,
    pub disk_id: DiskId,
    pub stage: Stage,
    pub rpc_version_min: u16,
    pub rpc_version_max: u16,
}

/// How far a disk is on its way into a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    Empty,
    /// Part of a bootstrap plan, with an empty log: a newer plan may replace it.
    Adopted(Membership),
    Member(Membership),
    /// It belongs to a cluster, but has not opened its log yet.
    Starting(Membership),
}

impl Stage {
    fn of(membership: Option<Membership>, node: Option<&RaftNode>) -> Self {
        match (membership, node) {
            (None, _) => Self::Empty,
            (Some(membership), None) => Self::Starting(membership),
            (Some(membership), Some(node)) if node.log_is_empty() && membership.raft_id.0 <= BOOTSTRAP_ID_MAX => {
                Self::Adopted(membership)
            }
            (Some(membership), Some(_)) => Self::Member(membership),
        }
    }
}

pub(crate) fn hello_of(seat: &Seat, name: &NodeName) -> Hello {
    let disk = seat.disk();
    Hello {
        name: name.clone(),
        disk_id: disk.disk_id,
        stage: Stage::of(disk.membership, seat.node().as_deref()),
        rpc_version_min: RPC_VERSION_MIN,
        rpc_version_max: RPC_VERSION_MAX,
    }
}

/// The plan of a bootstrap, also in `bootstrap.json`; the first member founds the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub cluster_id: ClusterId,
    pub members: Vec<PlannedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlannedMember {
    pub raft_id: RaftId,
    #[serde(flatten)]
    pub disk: Disk,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Adopted {
    pub disk_id: DiskId,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StandingQuestion {
    pub raft_id: RaftId,
    /// Where the log ends, when that is asked about too.
    #[serde(default)]
    pub last_log: Option<LogIndex>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("{0}")]
    Rpc(#[from] RpcError),
    #[error("answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("speaks RPC versions {min} to {max}, here {RPC_VERSION_MIN} to {RPC_VERSION_MAX} are spoken")]
    Version { min: u16, max: u16 },
}

/// Asks other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    rpc: RpcClient,
}

impl Peers {
    pub(crate) fn new(rpc: RpcClient) -> Self {
        Self { rpc }
    }

    pub(crate) async fn hello(&self, address: &str) -> Result<Hello, PeerError> {
        let hello: Hello = self.ask(address, HELLO_PATH, &(), HELLO_TIMEOUT).await?;
        if hello.rpc_version_min > RPC_VERSION_MAX || hello.rpc_version_max < RPC_VERSION_MIN {
            return Err(PeerError::Version { min: hello.rpc_version_min, max: hello.rpc_version_max });
        }
        Ok(hello)
    }

    pub(crate) async fn adopt(&self, address: &str, plan: &Plan) -> Result<Adopted, PeerError> {
        self.ask(address, ADOPT_PATH, plan, CHANGE_TIMEOUT).await
    }

    pub(crate) async fn join(&self, address: &str, disk: &Disk) -> Result<Membership, PeerError> {
        self.ask(address, JOIN_PATH, disk, CHANGE_TIMEOUT).await
    }

    pub(crate) async fn standing(&self, address: &str, question: &StandingQuestion) -> Result<Standing, PeerError> {
        self.ask(address, STANDING_PATH, question, HELLO_TIMEOUT).await
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        address: &str,
        path: &str,
        question: &impl Serialize,
        timeout: Duration,
    ) -> Result<A, PeerError> {
        let body = Bytes::from(serde_json::to_vec(question)?);
        let answer = self.rpc.post(address, path, body, timeout).await?;
        Ok(serde_json::from_slice(&answer)?)
    }
}
