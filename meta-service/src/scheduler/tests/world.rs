//! A cluster with its liveness, on which plans are carried out.

use std::time::Duration;

use api_types::assignment::AssignmentState;
use api_types::{Incarnation, RaftId};

use crate::scheduler::{LivenessView, NodeView, Plan, Policy, Presence, checker, schedule};
use crate::state::fixtures::TestLog;
use crate::state::{CommandBody, NodeState};

pub struct World {
    pub log: TestLog,
    pub view: LivenessView,
    pub policy: Policy,
}

impl World {
    pub fn new(nodes: u64) -> Self {
        let policy = Policy { band_percent: 10, max_moves: None, release_bound: Duration::from_secs(12) };
        let mut world = Self { log: TestLog::with_nodes(nodes), view: LivenessView::default(), policy };
        world.see_all();
        world
    }

    /// Every registered node is alive under its present registration.
    pub fn see_all(&mut self) {
        for node in self.log.state.nodes.values().filter(|node| node.state == NodeState::Up) {
            let (node_epoch, presence) = (node.node_epoch, Presence::Alive);
            let returned = self.view.nodes.get(&node.raft_id).is_some_and(|seen| seen.returned);
            let seen = NodeView { node_epoch, presence, stopping: false, returned };
            self.view.nodes.insert(node.raft_id, seen);
        }
    }

    pub fn node(&mut self, id: u64) -> &mut NodeView {
        self.view.nodes.get_mut(&RaftId(id)).expect("a node")
    }

    pub fn plan(&self) -> Plan {
        let plan = schedule(&self.log.state, &self.view, &self.policy);
        let violations = checker::violations(&self.log.state, &self.view, &self.policy, &plan);
        assert_eq!(violations, Vec::<String>::new(), "{plan:#?}");
        plan
    }

    pub fn apply(&mut self, plan: &Plan) {
        self.log.plan(plan.steps.clone());
        for incarnation in &plan.removals {
            self.log.commit(CommandBody::RemoveConnector { incarnation: *incarnation });
        }
    }

    /// Every task that was told to stop has stopped.
    pub fn all_stop(&mut self) {
        let releasing: Vec<Incarnation> = self
            .log
            .state
            .assignments
            .iter()
            .filter(|(_, task)| matches!(task.state, AssignmentState::Releasing(_)))
            .map(|(incarnation, _)| *incarnation)
            .collect();
        for incarnation in releasing {
            self.log.released(incarnation);
        }
    }

    /// Plans until there is nothing to do; returns the voluntary moves that were made.
    pub fn settle(&mut self) -> usize {
        let mut moves = 0;
        for _ in 0..1000 {
            let plan = self.plan();
            if plan.is_empty() {
                return moves;
            }
            moves += plan.moving.len();
            self.apply(&plan);
            self.all_stop();
        }
        panic!("does not come to rest: {:#?}", self.plan());
    }

    pub fn counts(&self) -> Vec<usize> {
        let count = |raft_id: &RaftId| {
            let owners = self.log.state.assignments.values().filter_map(|task| task.owner());
            owners.filter(|owner| owner.node == *raft_id).count()
        };
        self.view.nodes.keys().map(count).collect()
    }

    pub fn owner(&self, incarnation: Incarnation) -> Option<u64> {
        self.log.state.assignments[&incarnation].owner().map(|owner| owner.node.0)
    }

    pub fn why(&self, incarnation: Incarnation) -> &str {
        &self.log.state.assignments[&incarnation].why
    }
}
