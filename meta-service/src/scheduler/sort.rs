//! The first phase: what stays, what must go, what is free.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::assignment::{Assignment, AssignmentState, Owner};
use api_types::connector::Desired;
use api_types::{Connector, Epoch, Incarnation, RaftId};

use super::{LivenessView, Plan, Policy, Presence};
use crate::state::{ClusterState, Node, PlanStep};

/// A node that may get tasks, with those it has.
pub(super) struct Seat<'a> {
    pub node: &'a Node,
    pub returned: bool,
    pub tasks: BTreeMap<Incarnation, Epoch>,
    /// Tasks it has and gets by this plan.
    pub load: usize,
}

pub(super) struct Board<'a> {
    pub state: &'a ClusterState,
    pub view: &'a LivenessView,
    pub seats: BTreeMap<RaftId, Seat<'a>>,
}

/// What the first phase leaves to the others.
#[derive(Default)]
pub(super) struct Sorted<'a> {
    pub free: Vec<(&'a Connector, &'a Assignment)>,
    /// Tasks that are stopping and run elsewhere afterwards.
    pub stopping: usize,
}

impl<'a> Board<'a> {
    pub fn new(state: &'a ClusterState, view: &'a LivenessView) -> Self {
        let seats = view
            .nodes
            .iter()
            .filter(|(_, node)| node.presence == Presence::Alive && !node.stopping)
            .filter_map(|(raft_id, seen)| {
                let node = state.node_up(*raft_id).filter(|node| node.node_epoch == seen.node_epoch)?;
                Some((*raft_id, Seat { node, returned: seen.returned, tasks: BTreeMap::new(), load: 0 }))
            })
            .collect();
        Self { state, view, seats }
    }

    pub fn name(&self, node: RaftId) -> String {
        self.state.nodes.get(&node).map_or_else(|| format!("node {node}"), |node| node.name.to_string())
    }

    fn seat_of(&mut self, owner: Owner) -> Option<&mut Seat<'a>> {
        self.seats.get_mut(&owner.node).filter(|seat| seat.node.node_epoch == owner.node_epoch)
    }
}

/// Whether this node is one that could run this connector, if it is there.
pub(super) fn fits(connector: &Connector, node: &Node) -> bool {
    let placement = &connector.spec.placement;
    node.kinds.contains(&connector.spec.kind)
        && (placement.nodes.is_empty() || placement.nodes.iter().any(|name| name == node.name.as_str()))
        && (placement.zones.is_empty() || placement.zones.contains(&node.zone))
}

/// Why nobody is to run it; `None` when it is to run.
fn unwanted(state: &ClusterState, connector: &Connector) -> Option<&'static str> {
    if state.is_going(connector) {
        return Some("it is being deleted");
    }
    match connector.spec.desired {
        Desired::Running => None,
        Desired::Stopped => Some("stopped by its user"),
    }
}

pub(super) fn sort<'a>(board: &mut Board<'a>, policy: &Policy, plan: &mut Plan) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    let state = board.state;
    for (incarnation, connector) in &state.connectors {
        let Some(task) = state.assignments.get(incarnation) else { continue };
        match task.state {
            AssignmentState::Idle => match unwanted(state, connector) {
                None => sorted.free.push((connector, task)),
                Some(_) if state.is_going(connector) => plan.removals.push(*incarnation),
                Some(why) => explain(plan, *incarnation, task, why),
            },
            AssignmentState::Assigned(owner) => sort_assigned(board, connector, task, owner, plan),
            AssignmentState::Releasing(owner) => {
                if unwanted(state, connector).is_none() && !withdraw(board, connector, task, owner, policy, plan) {
                    sorted.stopping += 1;
                }
            }
        }
    }
    sorted
}

pub(super) fn explain(plan: &mut Plan, incarnation: Incarnation, task: &Assignment, why: &str) {
    if task.why != why {
        let why = why.to_owned();
        plan.steps.push(PlanStep::Explain { incarnation, expect_epoch: task.epoch, why });
    }
}

fn sort_assigned(board: &mut Board, connector: &Arc<Connector>, task: &Assignment, owner: Owner, plan: &mut Plan) {
    let incarnation = connector.incarnation;
    let name = board.name(owner.node);
    let leaving = board.view.nodes.get(&owner.node).is_some_and(|node| node.stopping);
    let why = match unwanted(board.state, connector) {
        Some(why) => Some(why.to_owned()),
        None if leaving => Some(format!("{name} is stopping")),
        None => match board.seat_of(owner) {
            Some(seat) if fits(connector, seat.node) => {
                seat.tasks.insert(incarnation, task.epoch);
                seat.load += 1;
                None
            }
            Some(_) => Some(format!("{name} may no longer run it")),
            // Not heard: the task stays until the node is fenced.
            None => None,
        },
    };
    if let Some(why) = why {
        plan.steps.push(PlanStep::Release { incarnation, expect_epoch: task.epoch, why });
    }
}

/// Gives a task back to its owner when it was to move, did not stop in time, and its owner is well.
fn withdraw(
    board: &mut Board,
    connector: &Connector,
    task: &Assignment,
    owner: Owner,
    policy: &Policy,
    plan: &mut Plan,
) -> bool {
    let incarnation = connector.incarnation;
    let age = board.view.releasing.get(&incarnation).copied().unwrap_or_default();
    let Some(seat) = board.seat_of(owner).filter(|seat| fits(connector, seat.node)) else { return false };
    if age < policy.release_bound {
        plan.wake_in(policy.release_bound - age);
        return false;
    }
    seat.load += 1;
    let why = format!("kept on {}: it did not stop within {:?}", seat.node.name, policy.release_bound);
    let (node, node_epoch) = (owner.node, owner.node_epoch);
    plan.steps.push(PlanStep::Assign { incarnation, expect_epoch: task.epoch, node, node_epoch, why });
    plan.withdrawn.push(incarnation);
    true
}
