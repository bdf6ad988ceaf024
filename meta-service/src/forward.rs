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
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::leader::{LeaderService, NotLeader, Reports};
use crate::peers::Peers;
use crate::raft::wire::{self, Kind, Wire, WireError};
use crate::raft::{ProposalError, RaftNode, ReadIndex, Witness};
use crate::rpc::{RpcClient, RpcError};
use crate::seat::Seat;
use crate::standing::Standing;
use crate::state::{ClusterState, Command, CommandBody, Node, Refusal, Reply, ReplyBody};

pub(crate) const LEADER_PATH: &str = "/meta/leader";

/// A request may pass through so many nodes: the leader may change while it is on its way, but not for ever.
pub(crate) const HOPS_MAX: u8 = 2;

/// Requests on their way to the leader at once, beside the vital ones. They share one connection, and its server takes
/// 200 streams of one; what is more waits here, in order.
const REQUESTS_MAX: usize = 128;
/// Of these, barriers: each waits for seconds when a node lags, and must leave room for what is answered at once.
const BARRIERS_MAX: usize = 96;

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
    /// The same, of a disk that has not started Raft yet: may it go on where its log ends?
    LogStanding {
        raft_id: RaftId,
        last_log: LogIndex,
    },
    /// As `Read`, from one who witnesses who leads.
    ReadWith {
        witness: Witness,
        fresh_reports_of: Option<u64>,
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

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Leases depend on it: on a connection of its own, at once.
    Vital,
    Short,
    /// Waits at the other end.
    Long,
}

impl LeaderRequest {
    fn lane(&self) -> Lane {
        match self {
            Self::Heartbeat(_) | Self::Goodbye { .. } => Lane::Vital,
            Self::Propose(_)
            | Self::Read { .. }
            | Self::ReadWith { .. }
            | Self::Standing { .. }
            | Self::LogStanding { .. } => Lane::Short,
            Self::Barrier { .. } => Lane::Long,
        }
    }
}

struct Lanes {
    requests: Semaphore,
    barriers: Semaphore,
}

/// Given back when it is dropped.
struct Place<'a> {
    _request: Option<SemaphorePermit<'a>>,
    _barrier: Option<SemaphorePermit<'a>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { requests: Semaphore::new(REQUESTS_MAX), barriers: Semaphore::new(BARRIERS_MAX) }
    }
}

impl Lanes {
    async fn enter(&self, lane: Lane) -> Place<'_> {
        // Nobody closes the semaphores, so every permit is one.
        let _barrier = if lane == Lane::Long { self.barriers.acquire().await.ok() } else { None };
        let _request = if lane == Lane::Vital { None } else { self.requests.acquire().await.ok() };
        Place { _request, _barrier }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Forwarded {
    pub hops_left: u8,
    pub request: LeaderRequest,
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
    vital_rpc: RpcClient,
    peers: Peers,
    lanes: Lanes,
}

impl Forward {
    /// `vital_rpc` carries what leases depend on, `rpc` the rest.
    pub(crate) fn new(seat: Arc<Seat>, leader: Arc<LeaderService>, rpc: RpcClient, vital_rpc: RpcClient) -> Self {
        Self { seat, leader, peers: Peers::new(rpc.clone()), rpc, vital_rpc, lanes: Lanes::default() }
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
        let deadline = Instant::now() + timeout;
        let lane = request.lane();
        let body = Bytes::from(wire::encode(&Forwarded { hops_left, request })?);
        let Ok(_place) = tokio::time::timeout_at(deadline, self.lanes.enter(lane)).await else {
            return Err(ForwardError::NoLeader);
        };
        let rpc = if lane == Lane::Vital { &self.vital_rpc } else { &self.rpc };
        let timeout = deadline.saturating_duration_since(Instant::now());
        match rpc.post(&address, LEADER_PATH, body, timeout).await {
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
        encode(answer)
    }

    async fn lead(&self, node: &RaftNode, request: LeaderRequest) -> LeaderAnswer {
        match request {
            LeaderRequest::Propose(command) => self.propose(node, command).await,
            LeaderRequest::Read { fresh_reports_of } => self.read(node.read_index().await, fresh_reports_of),
            LeaderRequest::ReadWith { witness, fresh_reports_of } => {
                self.read(node.read_index_with(witness).await, fresh_reports_of)
            }
            LeaderRequest::Barrier { index } => match self.leader.barrier(index).await {
                Ok(not_heard) => LeaderAnswer::Barrier { not_heard },
                Err(NotLeader) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Heartbeat(heartbeat) => match self.leader.heartbeat(heartbeat).await {
                Ok(answer) => LeaderAnswer::Heartbeat(answer),
                Err(NotLeader) => LeaderAnswer::NotLeader,
            },
            LeaderRequest::Goodbye { node, node_epoch } => {
                match self.leader.node_said_goodbye(node, node_epoch).await {
                    Ok(()) => LeaderAnswer::Goodbye,
                    Err(NotLeader) => LeaderAnswer::NotLeader,
                }
            }
            LeaderRequest::Standing { raft_id } => self.standing(node, |state| Standing::of(raft_id, state)).await,
            LeaderRequest::LogStanding { raft_id, last_log } => {
                self.standing(node, |state| Standing::of_log(raft_id, last_log, state)).await
            }
        }
    }

    fn read(&self, proved: Result<ReadIndex, ProposalError>, fresh_reports_of: Option<u64>) -> LeaderAnswer {
        match proved {
            Ok(read) => LeaderAnswer::Read { index: read.index, reports: self.leader.reports_unless(fresh_reports_of) },
            Err(_not_proved) => LeaderAnswer::NotLeader,
        }
    }

    async fn propose(&self, node: &RaftNode, command: Command) -> LeaderAnswer {
        if let Err(refusal) = self.check_address(node, &command.body).await {
            let index = self.seat.replica.look(|state| state.applied);
            return LeaderAnswer::Reply(Reply { index, body: ReplyBody::Refused(refusal) });
        }
        match node.propose(command).await {
            Ok(reply) => LeaderAnswer::Reply(reply),
            Err(ProposalError::NotLeader { .. } | ProposalError::TooLarge) => LeaderAnswer::NotLeader,
            Err(ProposalError::Unknown) => LeaderAnswer::OutcomeUnknown,
        }
    }

    /// An address is new to the state only once its disk was found there: by a wrong one, such as another node's, a node
    /// would be asked for what the other has, and would take the address from it.
    async fn check_address(&self, node: &RaftNode, body: &CommandBody) -> Result<(), Refusal> {
        let (disk_id, address, own) = match body {
            CommandBody::AdmitDisk { disk } => (disk.disk_id, &disk.rpc_address, false),
            CommandBody::RegisterNode { registration } => {
                let own = registration.raft_id == node.identity().raft_id;
                (registration.disk_id, &registration.rpc_address, own)
            }
            CommandBody::CreateConnector { .. }
            | CommandBody::DeleteConnector { .. }
            | CommandBody::RestoreConnector { .. }
            | CommandBody::ApplyPlan { .. }
            | CommandBody::FenceNode { .. }
            | CommandBody::RemoveConnector { .. }
            | CommandBody::NoteSyncedLogs { .. }
            | CommandBody::NodeLeft { .. }
            | CommandBody::Released { .. }
            | CommandBody::FoundCluster { .. }
            | CommandBody::HoldConnector { .. }
            | CommandBody::DeleteHeld { .. } => return Ok(()),
        };
        let is_known = |known: &Arc<Node>| known.disk_id == disk_id && known.rpc_address == *address;
        if self.seat.replica.look(|state| state.nodes.values().any(is_known)) {
            return Ok(());
        }
        match self.peers.hello(address).await {
            Ok(hello) if hello.disk_id == disk_id => Ok(()),
            Ok(hello) => Err(Refusal::AddressInUse { address: address.clone(), holder: hello.name }),
            // Not every network leads a node back to itself.
            Err(_) if own => Ok(()),
            Err(error) => {
                tracing::debug!(address, %error, "a node is not where it says it is");
                Err(Refusal::AddressSilent { address: address.clone() })
            }
        }
    }

    /// A node gives up its disk only on the word of a leader that proved its leadership.
    async fn standing(&self, node: &RaftNode, tell: impl FnOnce(&ClusterState) -> Standing) -> LeaderAnswer {
        match node.read_index().await {
            Ok(read) if self.seat.replica.applied_at_least(read.index) => {
                LeaderAnswer::Standing(self.seat.replica.look(tell))
            }
            Ok(_) => LeaderAnswer::Standing(Standing::NotYetKnown),
            Err(_not_proved) => LeaderAnswer::NotLeader,
        }
    }
}

/// The soft state never fails a read: what does not fit is left out.
fn encode(answer: LeaderAnswer) -> Result<Vec<u8>, WireError> {
    match (wire::encode(&answer), answer) {
        (Err(WireError::TooLarge(bytes)), LeaderAnswer::Read { index, reports: Some(_) }) => {
            tracing::debug!(bytes, "the nodes' reports are too large to be sent");
            wire::encode(&LeaderAnswer::Read { index, reports: None })
        }
        (encoded, _) => encoded,
    }
}

#[cfg(test)]
mod tests {
    use api_types::Incarnation;
    use api_types::status::TaskReport;
    use futures::FutureExt;

    use super::*;

    #[test]
    fn barriers_leave_room_for_what_is_answered_at_once() {
        let lanes = Lanes::default();
        let enter = |lane| lanes.enter(lane).now_or_never();
        let mut places: Vec<_> = (0..BARRIERS_MAX).map(|_| enter(Lane::Long).expect("room")).collect();
        assert!(enter(Lane::Long).is_none());
        places.extend((BARRIERS_MAX..REQUESTS_MAX).map(|_| enter(Lane::Short).expect("room")));
        assert!(enter(Lane::Short).is_none());
        assert!(enter(Lane::Vital).is_some(), "a heartbeat waits for nobody");
        places.clear();
        assert!(enter(Lane::Long).is_some() && enter(Lane::Short).is_some());
    }

    #[test]
    fn reports_that_do_not_fit_fail_no_read() {
        let check = |count: u64, error_bytes: usize, expect: bool| {
            let report = TaskReport { last_error: Some("x".repeat(error_bytes)), ..TaskReport::default() };
            let tasks = (0..count).map(|task| (Incarnation(task), (RaftId(1), report.clone(), 1))).collect();
            let reports = Some(Reports { term: 1, tasks, ..Reports::default() });
            let answer = LeaderAnswer::Read { index: LogIndex(7), reports };
            let encoded = encode(answer.clone()).expect("encodes");
            let read: LeaderAnswer = wire::decode(&encoded).expect("decodes");
            let without = LeaderAnswer::Read { index: LogIndex(7), reports: None };
            assert!(read == if expect { answer } else { without }, "{count} tasks with errors of {error_bytes} bytes");
        };
        check(10, 10, true);
        check(300_000, 0, true);
        check(20_000, 1000, false);
    }
}
