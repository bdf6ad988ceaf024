//! Says what is wrong with a plan. It shares no code with the maker of plans, looks only at the result, and is free to
//! be slow: tests and debug builds call it.

use std::collections::{BTreeMap, BTreeSet};

use api_types::assignment::{Assignment, AssignmentState};
use api_types::connector::Desired;
use api_types::{Connector, Incarnation, NodeEpoch, RaftId};

use super::{LivenessView, Plan, Policy, Presence};
use crate::state::{ClusterState, Node, NodeState, PlanStep};

pub fn violations(state: &ClusterState, view: &LivenessView, policy: &Policy, plan: &Plan) -> Vec<String> {
    let mut check = Check { state, view, found: Vec::new(), touched: BTreeSet::new() };
    for step in &plan.steps {
        check.step(step, plan);
    }
    check.removals(plan);
    check.nothing_forgotten(plan);
    check.moves(policy, plan);
    check.found
}

struct Check<'a> {
    state: &'a ClusterState,
    view: &'a LivenessView,
    found: Vec<String>,
    touched: BTreeSet<Incarnation>,
}

impl Check<'_> {
    fn wrong(&mut self, incarnation: Incarnation, what: &str) {
        self.found.push(format!("connector {incarnation}: {what}"));
    }

    fn step(&mut self, step: &PlanStep, plan: &Plan) {
        let (incarnation, epoch, why) = match step {
            PlanStep::Assign { incarnation, expect_epoch, why, .. }
            | PlanStep::Release { incarnation, expect_epoch, why }
            | PlanStep::Explain { incarnation, expect_epoch, why } => (*incarnation, *expect_epoch, why),
        };
        if !self.touched.insert(incarnation) {
            self.wrong(incarnation, "has two steps");
        }
        if why.is_empty() {
            self.wrong(incarnation, "a step without a reason");
        }
        let (Some(connector), Some(task)) =
            (self.state.connectors.get(&incarnation), self.state.assignments.get(&incarnation))
        else {
            return self.wrong(incarnation, "does not exist");
        };
        if task.epoch != epoch {
            self.wrong(incarnation, "the step is for another epoch");
        }
        match step {
            PlanStep::Assign { node, node_epoch, .. } => {
                let withdrawn = plan.withdrawn.contains(&incarnation);
                self.assign(connector, task, *node, *node_epoch, withdrawn);
            }
            PlanStep::Release { .. } => self.release(connector, task, plan),
            PlanStep::Explain { .. } if task.state != AssignmentState::Idle => {
                self.wrong(incarnation, "explains a task that is not idle");
            }
            PlanStep::Explain { why, .. } if *why == task.why => self.wrong(incarnation, "explains what was said"),
            PlanStep::Explain { .. } => {}
        }
    }

    fn assign(&mut self, connector: &Connector, task: &Assignment, node: RaftId, epoch: NodeEpoch, withdrawn: bool) {
        let incarnation = connector.incarnation;
        match task.state {
            AssignmentState::Idle if withdrawn => self.wrong(incarnation, "withdraws what is not being released"),
            AssignmentState::Idle => {}
            AssignmentState::Releasing(owner) if owner.node == node && withdrawn => {}
            AssignmentState::Releasing(_) => self.wrong(incarnation, "given away while its owner still has it"),
            AssignmentState::Assigned(_) => self.wrong(incarnation, "assigned although it is"),
        }
        if !self.is_to_run(connector) {
            self.wrong(incarnation, "assigned although it is not to run");
        }
        if !self.ready(connector, node) {
            self.wrong(incarnation, "assigned to a node that is not fit for it");
        }
        if self.state.nodes.get(&node).map(|node| node.node_epoch) != Some(epoch) {
            self.wrong(incarnation, "assigned to an earlier process of the node");
        }
    }

    fn release(&mut self, connector: &Connector, task: &Assignment, plan: &Plan) {
        let incarnation = connector.incarnation;
        let AssignmentState::Assigned(owner) = task.state else {
            return self.wrong(incarnation, "released although nobody runs it");
        };
        let voluntary = self.is_to_run(connector) && self.ready(connector, owner.node);
        if voluntary != plan.moving.iter().any(|movement| movement.incarnation == incarnation) {
            self.wrong(incarnation, "released for the balance and not named, or the reverse");
        }
        let silent = self.view.nodes.get(&owner.node).is_none_or(|node| node.presence != Presence::Alive);
        let stopping = self.view.nodes.get(&owner.node).is_some_and(|node| node.stopping);
        if silent && !stopping && self.is_to_run(connector) {
            self.wrong(incarnation, "released from a node that cannot answer");
        }
    }

    fn removals(&mut self, plan: &Plan) {
        for incarnation in &plan.removals {
            let gone = self
                .state
                .connectors
                .get(incarnation)
                .is_some_and(|connector| connector.deleting && !self.state.held.contains(incarnation));
            let idle = self.state.assignments.get(incarnation).is_some_and(|task| task.state == AssignmentState::Idle);
            if !gone || !idle {
                self.wrong(*incarnation, "removed although it is not deleted and idle");
            }
        }
    }

    /// Whoever is to run and may run somewhere runs or is about to; whoever is not to run is stopped.
    fn nothing_forgotten(&mut self, plan: &Plan) {
        for (incarnation, connector) in &self.state.connectors {
            let touched = self.touched.contains(incarnation);
            let Some(state) = self.state.assignments.get(incarnation).map(|task| task.state) else { continue };
            let to_run = self.is_to_run(connector);
            if state == AssignmentState::Idle && to_run && !touched {
                let fit = self.state.nodes.keys().any(|node| self.ready(connector, *node));
                if fit && !self.waits(connector) {
                    self.wrong(*incarnation, "idle although a node could run it");
                }
            }
            if let AssignmentState::Assigned(owner) = state
                && !touched
                && (!to_run || self.must_go(connector, owner.node))
            {
                self.wrong(*incarnation, "left where it is not to run");
            }
            let deleted = connector.deleting && !self.state.held.contains(incarnation);
            if state == AssignmentState::Idle && deleted && !plan.removals.contains(incarnation) {
                self.wrong(*incarnation, "deleted and idle, but not removed");
            }
        }
    }

    /// Voluntary moves are few, useful, and wait for everything else.
    fn moves(&mut self, policy: &Policy, plan: &Plan) {
        let named = plan.moving.iter().map(|movement| &movement.incarnation).chain(&plan.withdrawn);
        let stepless: Vec<Incarnation> = named.filter(|named| !self.touched.contains(named)).copied().collect();
        for incarnation in stepless {
            self.wrong(incarnation, "named in the plan, but has no step");
        }
        if plan.moving.is_empty() {
            return;
        }
        let ready: Vec<RaftId> = self
            .view
            .nodes
            .iter()
            .filter(|(_, node)| node.presence == Presence::Alive && !node.stopping)
            .map(|(raft_id, _)| *raft_id)
            .collect();
        let allowed = policy.max_moves.map_or(ready.len().max(2), |moves| moves as usize);
        if plan.moving.len() > allowed {
            self.found.push(format!("{} moves at a time, {allowed} are allowed", plan.moving.len()));
        }
        if self.view.moves_in > std::time::Duration::ZERO {
            self.found.push("moves before every node was heard".to_owned());
        }
        let mut counts = self.counts(&ready, plan);
        for movement in &plan.moving {
            let incarnation = movement.incarnation;
            let (from, to) = (counts[&movement.from], counts.get(&movement.to).copied().unwrap_or(usize::MAX));
            if to.saturating_add(2) > from || !self.ready(&self.state.connectors[&incarnation], movement.to) {
                self.wrong(incarnation, "moved to a node that has not two tasks fewer or is not fit for it");
            }
            if self.state.assignments[&incarnation].owner().map(|owner| owner.node) != Some(movement.from) {
                self.wrong(incarnation, "moved from where it is not");
            }
            if self.view.cooling.contains_key(&incarnation) {
                self.wrong(incarnation, "moved again too soon");
            }
            counts.insert(movement.from, from.saturating_sub(1));
            counts.insert(movement.to, to.saturating_add(1));
        }
    }

    /// How many tasks each ready node has and gets, the moves not yet made.
    fn counts(&mut self, ready: &[RaftId], plan: &Plan) -> BTreeMap<RaftId, usize> {
        let mut counts: BTreeMap<RaftId, usize> = ready.iter().map(|raft_id| (*raft_id, 0)).collect();
        for (incarnation, task) in &self.state.assignments {
            let to_run = self.is_to_run(&self.state.connectors[incarnation]);
            match task.state {
                AssignmentState::Assigned(owner) if to_run && self.fits_owner(*incarnation, owner.node) => {
                    *counts.entry(owner.node).or_default() += 1;
                }
                AssignmentState::Releasing(_) if to_run && !plan.withdrawn.contains(incarnation) => {
                    self.wrong(*incarnation, "others move while it is on its way");
                }
                AssignmentState::Idle | AssignmentState::Assigned(_) | AssignmentState::Releasing(_) => {}
            }
        }
        for step in &plan.steps {
            if let PlanStep::Assign { node, .. } = step {
                *counts.entry(*node).or_default() += 1;
            }
        }
        counts
    }

    fn fits_owner(&self, incarnation: Incarnation, node: RaftId) -> bool {
        self.ready(&self.state.connectors[&incarnation], node)
    }

    fn must_go(&self, connector: &Connector, owner: RaftId) -> bool {
        let (Some(node), Some(seen)) = (self.state.nodes.get(&owner), self.view.nodes.get(&owner)) else {
            return false;
        };
        seen.stopping || (seen.presence == Presence::Alive && !allows(connector, node))
    }

    fn is_to_run(&self, connector: &Connector) -> bool {
        let deleted = connector.deleting && !self.state.held.contains(&connector.incarnation);
        !deleted && connector.spec.desired == Desired::Running
    }

    fn ready(&self, connector: &Connector, raft_id: RaftId) -> bool {
        let (Some(node), Some(seen)) = (self.state.nodes.get(&raft_id), self.view.nodes.get(&raft_id)) else {
            return false;
        };
        let there = node.state == NodeState::Up && seen.presence == Presence::Alive && !seen.stopping;
        there && seen.node_epoch == node.node_epoch && allows(connector, node)
    }

    /// The one exception: its last node has just registered again and could run it.
    fn waits(&self, connector: &Connector) -> bool {
        let Some(last) = self.state.assignments[&connector.incarnation].last_node else { return false };
        let (Some(node), Some(seen)) = (self.state.nodes.get(&last), self.view.nodes.get(&last)) else { return false };
        let joins = matches!(seen.presence, Presence::Joining { .. }) && !seen.stopping;
        joins && node.state == NodeState::Up && allows(connector, node)
    }
}

fn allows(connector: &Connector, node: &Node) -> bool {
    let wanted = &connector.spec.placement;
    let named = wanted.nodes.is_empty() || wanted.nodes.contains(&node.name.0);
    let zoned = wanted.zones.is_empty() || wanted.zones.contains(&node.zone);
    named && zoned && node.kinds.iter().any(|kind| kind == &connector.spec.kind)
}
