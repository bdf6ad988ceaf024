//! Decides which node runs which task. Pure: the state, what is known of the nodes, and the policy give the plan.
//! Properties, phases and non-goals: `README.md` beside this file.
//!
//! ```text
//! state ─┐
//! view  ─┼─► sort (keep, release, withdraw) ─► place the free ─► balance ─► Plan ─► checker (debug)
//! policy ┘
//! ```

mod balance;
pub mod checker;
mod place;
mod reason;
mod sort;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use api_types::{Incarnation, NodeEpoch, RaftId};

use crate::state::{ClusterState, PlanStep};
use crate::timings::Timings;

pub use reason::MoveReason;

/// What the leader knows of the nodes and tasks beyond the replicated state. Durations count from now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LivenessView {
    pub nodes: BTreeMap<RaftId, NodeView>,
    /// Voluntary moves wait this long: a new leader first hears every node.
    pub moves_in: Duration,
    /// How long each released task has been stopping.
    pub releasing: BTreeMap<Incarnation, Duration>,
    /// Tasks that are not to be moved again so soon, and for how long.
    pub cooling: BTreeMap<Incarnation, Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeView {
    pub node_epoch: NodeEpoch,
    pub presence: Presence,
    /// It is about to end.
    pub stopping: bool,
    /// It came back within `restart_grace` of its end.
    pub returned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Its lease holds.
    Alive,
    /// Registered, without a lease yet: its own tasks wait for it this long.
    Joining { awaited: Duration },
    /// Not heard in time. It keeps what it has until it is fenced.
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How far a node may be from its fair share, in percent of it, before tasks are moved.
    pub band_percent: u32,
    /// Most voluntary moves at a time; `None` is the greater of 2 and the number of nodes.
    pub max_moves: Option<u32>,
    /// A voluntary move whose task has not stopped within this is withdrawn.
    pub release_bound: Duration,
}

const BAND_PERCENT: u32 = 10;
/// Beyond `stop_timeout` a task needs the time of a heartbeat and of two commits; the rest is for a loaded machine.
const RELEASE_SLACK: Duration = Duration::from_secs(2);

impl From<&Timings> for Policy {
    fn from(timings: &Timings) -> Self {
        Self {
            band_percent: BAND_PERCENT,
            max_moves: timings.max_moves,
            release_bound: timings.stop_timeout + RELEASE_SLACK,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<PlanStep>,
    /// Deleted connectors whose task is idle.
    pub removals: Vec<Incarnation>,
    /// Tasks of `steps` that are released only for the balance, in the order in which they were chosen.
    pub moving: Vec<Movement>,
    /// Tasks of `steps` whose release is withdrawn.
    pub withdrawn: Vec<Incarnation>,
    /// When to look again even if nothing changes.
    pub next_wakeup: Option<Duration>,
}

/// A voluntary move. Where the task really goes is decided again when it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    pub incarnation: Incarnation,
    pub from: RaftId,
    pub to: RaftId,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.removals.is_empty()
    }

    fn wake_in(&mut self, wait: Duration) {
        self.next_wakeup = Some(self.next_wakeup.map_or(wait, |earlier| earlier.min(wait)));
    }
}

pub fn schedule(state: &ClusterState, view: &LivenessView, policy: &Policy) -> Plan {
    let mut board = sort::Board::new(state, view);
    let mut plan = Plan::default();
    let tasks = sort::sort(&mut board, policy, &mut plan);
    let waiting = place::place(&mut board, &tasks, &mut plan);
    if tasks.stopping == 0 && waiting == 0 {
        balance::balance(&mut board, policy, &mut plan);
    }
    debug_assert_eq!(checker::violations(state, view, policy, &plan), Vec::<String>::new());
    plan
}

/// Why this step gives a task to a node; `None` when it gives none.
pub fn reason_of(state: &ClusterState, view: &LivenessView, step: &PlanStep) -> Option<MoveReason> {
    reason::of(state, view, step)
}
