//! Why tasks change hands: for the text on the assignment and for `sluice_scheduler_moves_total{reason}`.

use api_types::RaftId;

use super::LivenessView;
use crate::state::{ClusterState, NodeState, PlanStep};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveReason {
    /// It never ran before.
    New,
    /// The node that ran it was lost.
    Failover,
    /// The node that ran it is stopping or was stopped.
    Handover,
    /// Back to the node that ran it before.
    Returned,
    Balance,
    /// A release was taken back.
    Withdrawn,
}

impl MoveReason {
    pub const ALL: [Self; 6] =
        [Self::New, Self::Failover, Self::Handover, Self::Returned, Self::Balance, Self::Withdrawn];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Failover => "failover",
            Self::Handover => "handover",
            Self::Returned => "returned",
            Self::Balance => "balance",
            Self::Withdrawn => "withdrawn",
        }
    }
}

pub(super) fn of(state: &ClusterState, view: &LivenessView, step: &PlanStep) -> Option<MoveReason> {
    let PlanStep::Assign { incarnation, node, .. } = step else { return None };
    let task = state.assignments.get(incarnation)?;
    if task.owner().is_some() {
        return Some(MoveReason::Withdrawn);
    }
    match task.last_node {
        None => Some(MoveReason::New),
        Some(last) if last == *node => Some(MoveReason::Returned),
        Some(last) => Some(left_by(state, view, last)),
    }
}

/// Begins the text of an assignment: what made the task free.
pub(super) fn cause(state: &ClusterState, view: &LivenessView, last: Option<RaftId>) -> String {
    let Some(last) = last else { return String::new() };
    let name = state.nodes.get(&last).map_or_else(|| last.to_string(), |node| node.name.to_string());
    match left_by(state, view, last) {
        MoveReason::Failover => format!("after the loss of {name}: "),
        MoveReason::Handover => format!("handed over by {name}, which stops: "),
        MoveReason::Balance => format!("moved from {name}: "),
        MoveReason::New | MoveReason::Returned | MoveReason::Withdrawn => String::new(),
    }
}

fn left_by(state: &ClusterState, view: &LivenessView, last: RaftId) -> MoveReason {
    match state.nodes.get(&last).map(|node| &node.state) {
        Some(NodeState::Left) => MoveReason::Handover,
        Some(NodeState::Fenced { .. } | NodeState::Admitted) | None => MoveReason::Failover,
        Some(NodeState::Up) => match view.nodes.get(&last) {
            Some(seen) if seen.stopping => MoveReason::Handover,
            Some(seen) if seen.presence == super::Presence::Alive => MoveReason::Balance,
            Some(_) | None => MoveReason::Failover,
        },
    }
}
