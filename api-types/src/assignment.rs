//! What the scheduler decided: which node runs a connector's task, under which epoch, and why.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeEpoch, RaftId};

/// The node process that holds a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    pub node: RaftId,
    pub node_epoch: NodeEpoch,
}

/// State of the one task of a connector. `epoch` is never lowered: an idle task keeps the epoch it last had, so that
/// a hand-over can be refused to whoever carries an older one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    pub epoch: Epoch,
    pub state: AssignmentState,
    /// Why it is as it is, for a person.
    pub why: String,
    pub since_ms: u64,
    /// The last node that ran it: it gets its own back within `restart_grace`.
    pub last_node: Option<RaftId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentState {
    Idle,
    Assigned(Owner),
    /// The owner was told to stop; nobody else gets the task before it says so or its lease is over.
    Releasing(Owner),
}

impl Assignment {
    pub fn owner(&self) -> Option<Owner> {
        match self.state {
            AssignmentState::Idle => None,
            AssignmentState::Assigned(owner) | AssignmentState::Releasing(owner) => Some(owner),
        }
    }
}
