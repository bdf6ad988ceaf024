//! Leader-or-forward, in one place.
//!
//! ```text
//! request ─► here the leader? ── yes ─► lead ─► answer
//!                 │ no
//!                 └─► POST /meta/leader to the leader, one hop less ─► there the same
//! ```

use std::sync::Arc;
use std::time::Duration;

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer};
use api_types::{LogIndex, NodeEpoch, NodeName, RaftId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::leader::{LeaderService, NotLeader, Reports};
use crate::raft::wire::{self, Kind, Wire, WireError};
use crate::raft::{ProposalError, RaftNode};
use crate::rpc::{RpcClient, RpcError};
use crate::seat::Seat;
use crate::standing::Standing;
use crate::state::{Command, Reply};

pub(crate) const LEADER_PATH: &str = "/meta/leader";

/// A request may pass through so many nodes: the leader may change while it is on its way, but not for ever.
pub(crate) const HOPS_MAX: u8 = 2;

/// What only the leader can do. Variants only grow at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaderRequest {
    Propose(Command),
    /// A read index, and the soft state unless the asker's copy of this term is fresh.
    Read {
        fresh_reports_of: Option<u64>,
    },
    Barrier {
        index: LogIndex,
    },
    Heartbeat(Heartbeat),
    Goodbye {
        node: RaftId,
        node_epoch: NodeEpoch,
    },
    Standing {
        raft_id: RaftId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaderAnswer {
    Reply(Reply),
    Read {
        index: LogIndex,
        reports: Option<Reports>,
    },
    Barrier {
        not_heard: Vec<NodeName>,
    },
    Heartbeat(HeartbeatAnswer),
    Goodbye,
    Standing(Standing),
    /// Nothing was carried out.
    NotLeader,
    /// It may or may not have been carried out.
    OutcomeUnknown,
}

#[derive(Serialize, Deserialize)]
struct Forwarded {
    hops_left: u8,
    request: LeaderRequest,
}

impl Wire for Forwarded {
    const KIND: Kind = Kind::LeaderRequest;
}

impl Wire for LeaderAnswer {
    const KIND: Kind = Kind::LeaderAnswer;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// This disk belongs to no cluster yet.
    #[error("raft is not running yet")]
    NotReady,
    /// Nothing was carried out.
    #[error("no leader")]
    NoLeader,
    /// It may or may not have been carried out.
    #[error("no answer from the leader")]
    OutcomeUnknown,
    #[error("the leader's answer cannot be read")]
    Unreadable(#[from] WireError),
}

pub(crate) struct Forward {
    seat: Arc<Seat>,
    leader: Arc<LeaderService>,
    rpc: RpcClient,
}

impl Forward {
    pub(crate) fn new(seat: Arc<Seat>, leader: Arc<LeaderService>, rpc: RpcClient) -> Self {
        Self { seat, leader, rpc }
    }

    /// Carries the request out here or at the leader. One attempt: whoever wants more tries again with the same
    /// request id.
    pub(crate) async fn to_leader(
        &self,
        request: LeaderRequest,
        hops_left: u8,
        timeout: Duration,
    ) -> Result<LeaderAnswer, ForwardError> {
        let node = self.seat.node().ok_or(ForwardError::NotReady)?;
        let status = node.status();
        if status.is_leader() {
            let led = tokio::time::timeout(timeout, self.lead(&node, request)).await;
            return match led {
                Ok(LeaderAnswer::NotLeader) => Err(ForwardError::NoLeader),
                Ok(LeaderAnswer::OutcomeUnknown) | Err(_) => Err(ForwardError::OutcomeUnknown),
                Ok(answer) => Ok(answer),
            };
        }
        let leader = status.leader.filter(|leader| *leader != status.raft_id).ok_or(ForwardError::NoLeader)?;
        let address = node.address_of(leader).ok_or(ForwardError::NoLeader)?;
        let hops_left = hops_left.checked_sub(1).ok_or(ForwardError::NoLeader)?;
        let body = Bytes::from(wire::encode(&Forwarded { hops_left, request })?);
        match self.rpc.post(&address, LEADER_PATH, body, timeout).await {
            Ok(answer) => match wire::decode(&answer)? {
                LeaderAnswer::NotLeader => Err(ForwardError::NoLeader),
                LeaderAnswer::OutcomeUnknown => Err(ForwardError::OutcomeUnknown),
                answer => Ok(answer),
            },
            Err(RpcError::Connect(_) | RpcError::Status { .. }) => Err(ForwardError::NoLeader),
            Err(RpcError::Transport(_)) => Err(ForwardError::OutcomeUnknown),
        }
    }

    /// The other end of `to_leader`: takes what a node forwarded.
    pub(crate) async fn forwarded(&self, body: &[u8], timeout: Duration) -> Result<Vec<u8>, WireError> {
        let Forwarded { hops_left, request } = wire::decode(body)?;
        let answer = match self.to_leader(request, hops_left.min(HOPS_MAX), timeout).await {
            Ok(answer) => answer,
            Err(ForwardError::NotReady | ForwardError::NoLeader) => LeaderAnswer::NotLeader,
            Err(ForwardError::OutcomeUnknown | ForwardError::Unreadable(_)) => LeaderAnswer::OutcomeUnknown,
        };
        wire::encode(&answer)
    }

    async fn lead(&self, node: &RaftNode, request: LeaderRequest) -> LeaderAnswer {
        match request {
            LeaderRequest::Propose(command) => match node.propose(command).await {
                Ok(reply) => LeaderAnswer::Reply(reply),
                Err(ProposalError::NotLeader { .. } | ProposalError::TooLarge) => LeaderAnswer::NotLeader,
                Err(ProposalError::Unknown) => LeaderAnswer::OutcomeUnknown,
            },
            LeaderRequest::Read { fresh_reports_of } => match node.read_index().await {
                Ok(read) => {
                    let reports = self.leader.reports();
                    let wanted = fresh_reports_of != Some(reports.term);
                    LeaderAnswer::Read { index: read.index, reports: wanted.then(|| Reports::clone(&reports)) }
                }
                Err(_not_proved) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Barrier { index } => match self.leader.barrier(index).await {
                Ok(not_heard) => LeaderAnswer::Barrier { not_heard },
                Err(NotLeader) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Heartbeat(heartbeat) => match self.leader.heartbeat(heartbeat).await {
                Ok(answer) => LeaderAnswer::Heartbeat(answer),
                Err(NotLeader) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Goodbye { node, node_epoch } => match self.leader.node_said_goodbye(node, node_epoch) {
                Ok(()) => LeaderAnswer::Goodbye,
                Err(NotLeader) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Standing { raft_id } => self.standing(node, raft_id).await,
        }
    }

    /// A node gives up its disk only on the word of a leader that proved its leadership.
    async fn standing(&self, node: &RaftNode, raft_id: RaftId) -> LeaderAnswer {
        match node.read_index().await {
            Ok(read) if self.seat.replica.applied_at_least(read.index) => {
                LeaderAnswer::Standing(self.seat.replica.look(|state| Standing::of(raft_id, state)))
            }
            Ok(_) => LeaderAnswer::Standing(Standing::NotYetKnown),
            Err(_not_proved) => LeaderAnswer::NotLeader,
        }
    }
}
