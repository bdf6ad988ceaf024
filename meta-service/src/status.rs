//! What Raft says of itself, in our own words.

use std::collections::BTreeMap;

use api_types::{LogIndex, RaftId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    #[default]
    Learner,
    Follower,
    Candidate,
    Leader,
    Stopped,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Stopped => "stopped",
        }
    }
}

/// An index of `None` means that there is none yet; the first entry of a log has index 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftStatus {
    pub raft_id: RaftId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<RaftId>,
    pub last_log: Option<LogIndex>,
    pub committed: Option<LogIndex>,
    pub applied: Option<LogIndex>,
    pub snapshot: Option<LogIndex>,
    pub purged: Option<LogIndex>,
    pub voters: Vec<RaftId>,
    pub learners: Vec<RaftId>,
    /// The voters are being changed: until that is done, a majority of the earlier ones is needed too.
    pub voters_change: bool,
    /// At the leader: up to where each other member's log is synced and equal to the leader's.
    pub matched: BTreeMap<RaftId, LogIndex>,
}

impl RaftStatus {
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Voters and learners.
    pub fn is_member(&self, raft_id: RaftId) -> bool {
        self.voters.contains(&raft_id) || self.learners.contains(&raft_id)
    }
}
