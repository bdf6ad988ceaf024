//! What the scheduler changes: assignments. Every hand-over raises the epoch, so that whoever held the task before is
//! refused wherever it comes with the old one.

use std::sync::Arc;

use api_types::assignment::{Assignment, AssignmentState, Owner};
use api_types::connector::Desired;
use api_types::{Epoch, Incarnation, NodeEpoch, RaftId};

use super::apply::Entry;
use super::{ClusterState, PlanStep, Refusal, Reply, ReplyBody};

impl ClusterState {
    /// Steps whose precondition no longer holds are left out: the scheduler looks again after every change.
    pub(super) fn apply_plan(&mut self, entry: Entry, decided_term: u64, steps: &[PlanStep]) -> Result<Reply, Refusal> {
        if decided_term != entry.term {
            return Err(Refusal::Stale);
        }
        for step in steps {
            match step {
                PlanStep::Assign { incarnation, expect_epoch, node, node_epoch, why } => {
                    let owner = Owner { node: *node, node_epoch: *node_epoch };
                    self.assign(entry, *incarnation, *expect_epoch, owner, why);
                }
                PlanStep::Release { incarnation, expect_epoch, why } => {
                    self.release(entry, *incarnation, *expect_epoch, why);
                }
                PlanStep::Explain { incarnation, expect_epoch, why } => {
                    self.explain(*incarnation, *expect_epoch, why);
                }
            }
        }
        Ok(entry.reply(ReplyBody::Done))
    }

    /// The owner says that the released task has stopped.
    pub(super) fn released(&mut self, entry: Entry, incarnation: Incarnation, epoch: Epoch) -> Result<Reply, Refusal> {
        let task = self.task(incarnation, epoch).ok_or(Refusal::Stale)?;
        match task.state {
            AssignmentState::Idle => {}
            AssignmentState::Assigned(_) => return Err(Refusal::Stale),
            AssignmentState::Releasing(owner) => {
                let idle = Assignment {
                    state: AssignmentState::Idle,
                    since_ms: entry.time_ms,
                    last_node: Some(owner.node),
                    ..(*task).clone()
                };
                self.assignments.insert(incarnation, Arc::new(idle));
            }
        }
        Ok(entry.reply(ReplyBody::Done))
    }

    /// Takes all tasks from a node whose registration is over.
    pub(super) fn free_tasks_of(&mut self, entry: Entry, node: RaftId, why: &str) {
        for task in self.assignments.values_mut() {
            if task.owner().is_some_and(|owner| owner.node == node) {
                *task = Arc::new(Assignment {
                    epoch: Epoch(entry.index.0),
                    state: AssignmentState::Idle,
                    why: why.to_owned(),
                    since_ms: entry.time_ms,
                    last_node: Some(node),
                });
            }
        }
    }

    fn assign(&mut self, entry: Entry, incarnation: Incarnation, expect_epoch: Epoch, owner: Owner, why: &str) {
        let Some(task) = self.task(incarnation, expect_epoch) else { return };
        let free = match task.state {
            AssignmentState::Idle => self.may_run(incarnation),
            // Withdraws the release.
            AssignmentState::Releasing(holder) => holder == owner && self.may_run(incarnation),
            AssignmentState::Assigned(_) => false,
        };
        if free && self.is_registered(owner.node, owner.node_epoch) {
            let assigned = Assignment {
                epoch: Epoch(entry.index.0),
                state: AssignmentState::Assigned(owner),
                why: why.to_owned(),
                since_ms: entry.time_ms,
                last_node: task.last_node,
            };
            self.assignments.insert(incarnation, Arc::new(assigned));
        }
    }

    fn release(&mut self, entry: Entry, incarnation: Incarnation, expect_epoch: Epoch, why: &str) {
        let Some(task) = self.task(incarnation, expect_epoch) else { return };
        match task.state {
            AssignmentState::Idle | AssignmentState::Releasing(_) => {}
            AssignmentState::Assigned(owner) => {
                let releasing = Assignment {
                    state: AssignmentState::Releasing(owner),
                    why: why.to_owned(),
                    since_ms: entry.time_ms,
                    ..(*task).clone()
                };
                self.assignments.insert(incarnation, Arc::new(releasing));
            }
        }
    }

    fn explain(&mut self, incarnation: Incarnation, expect_epoch: Epoch, why: &str) {
        let Some(task) = self.task(incarnation, expect_epoch) else { return };
        if task.state == AssignmentState::Idle {
            let explained = Assignment { why: why.to_owned(), ..(*task).clone() };
            self.assignments.insert(incarnation, Arc::new(explained));
        }
    }

    fn task(&self, incarnation: Incarnation, epoch: Epoch) -> Option<Arc<Assignment>> {
        self.assignments.get(&incarnation).filter(|task| task.epoch == epoch).cloned()
    }

    /// A user may have stopped or deleted it after the scheduler looked.
    fn may_run(&self, incarnation: Incarnation) -> bool {
        self.connectors
            .get(&incarnation)
            .is_some_and(|connector| connector.spec.desired == Desired::Running && !self.is_going(connector))
    }

    fn is_registered(&self, node: RaftId, node_epoch: NodeEpoch) -> bool {
        self.node_up(node).is_some_and(|node| node.node_epoch == node_epoch)
    }
}
