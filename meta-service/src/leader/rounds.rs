//! The leader's loop: one round after every change, and at the next moment at which time alone changes something.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tracing::{info, warn};

use super::{LeaderService, NotLeader};
use crate::liveness::Overdue;
use crate::scheduler::{LivenessView, MoveReason, Plan, reason_of, schedule};
use crate::state::{ClusterState, CommandBody, PlanStep, Reply, ReplyBody};

/// Looks even when nothing seems to have changed, in case a change was missed.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// What is applied in quick succession is looked at together: the first at once, the others when this has passed.
const SETTLE: Duration = Duration::from_millis(10);
/// Least pause after a round that failed, or that time alone asked for.
const PAUSE: Duration = Duration::from_millis(20);
/// Steps in one command: an entry stays small.
const STEPS_MAX: usize = 256;
/// Proposals in flight; Raft batches them into few syncs.
const PROPOSALS_MAX: usize = 64;
/// A task that was moved is left alone this long.
const COOLDOWN_MOVED: Duration = Duration::from_secs(60);
/// A task that did not stop in time is left alone this long.
const COOLDOWN_WITHDRAWN: Duration = Duration::from_secs(300);

impl LeaderService {
    /// Never returns.
    pub(super) async fn rounds(&self) {
        let mut applied = self.port.applied();
        loop {
            applied.borrow_and_update();
            let settled = tokio::time::Instant::now() + SETTLE;
            let wait = match self.round().await {
                Ok(wait) => wait.unwrap_or(SLOW_TICK).clamp(PAUSE, SLOW_TICK),
                Err(NotLeader) => {
                    // Not leading, or not for long: the next election or its loss wakes the loop.
                    tokio::select! {
                        () = self.attention.notified() => {}
                        () = tokio::time::sleep(SLOW_TICK) => {}
                    }
                    continue;
                }
            };
            tokio::select! {
                () = self.attention.notified() => {}
                changed = applied.changed() => {
                    if changed.is_err() {
                        // The node is going down.
                        return std::future::pending().await;
                    }
                    tokio::select! {
                        () = self.attention.notified() => {}
                        () = tokio::time::sleep_until(settled) => {}
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does everything that is to be done now; returns when to look again.
    async fn round(&self) -> Result<Option<Duration>, NotLeader> {
        let term = self.observe()?;
        self.fence(term).await?;
        self.free_released().await?;
        let wait = self.plan(term).await?;
        let state = self.port.state();
        let now = self.clock.boottime();
        let deadline = self.with(|liveness| liveness.next_deadline(now, &state))?;
        self.progress.send_replace(());
        Ok(wait.into_iter().chain(deadline).min())
    }

    fn observe(&self) -> Result<u64, NotLeader> {
        let state = self.port.state();
        let now = self.clock.boottime();
        self.with(|liveness| {
            liveness.observe(now, &state);
            liveness.term()
        })
    }

    async fn fence(&self, term: u64) -> Result<(), NotLeader> {
        let state = self.port.state();
        let now = self.clock.boottime();
        let (overdue, gone) = self.with(|liveness| (liveness.overdue(now, &state), liveness.gone()))?;
        let left = gone.into_iter().map(|(node, node_epoch)| CommandBody::NodeLeft { node, node_epoch });
        let fences = overdue.iter().map(|late| CommandBody::FenceNode {
            node: late.node,
            node_epoch: late.node_epoch,
            decided_term: term,
            reason: format!("not heard for {:.1} s", late.silent_for.as_secs_f64()),
        });
        let outcome = self.propose_all(left.chain(fences).collect()).await;
        for late in &overdue {
            self.after_fence(late)?;
        }
        outcome.map(drop)
    }

    /// A node whose fence did not come through may have its lease renewed again.
    fn after_fence(&self, late: &Overdue) -> Result<(), NotLeader> {
        let state = self.port.state();
        let name = state.nodes.get(&late.node).map(|node| node.name.to_string()).unwrap_or_default();
        let still_up = state.node_up(late.node).is_some_and(|node| node.node_epoch == late.node_epoch);
        if still_up {
            return self.with(|liveness| liveness.not_fenced(late.node, late.node_epoch));
        }
        let silent_ms = late.silent_for.as_millis() as u64;
        warn!(node = %name, raft_id = %late.node, node_epoch = %late.node_epoch, silent_ms, "node fenced");
        Ok(())
    }

    async fn free_released(&self) -> Result<(), NotLeader> {
        let state = self.port.state();
        let now = self.clock.boottime();
        let (released, forgotten) = self.with(|liveness| {
            liveness.observe(now, &state);
            (liveness.released(&state), liveness.forgotten_holds(now))
        })?;
        let released = released.into_iter().map(|(incarnation, epoch)| CommandBody::Released { incarnation, epoch });
        let restored = forgotten.into_iter().map(|incarnation| CommandBody::RestoreConnector { incarnation });
        self.propose_all(released.chain(restored).collect()).await.map(drop)
    }

    /// Schedules and carries the plan out.
    async fn plan(&self, term: u64) -> Result<Option<Duration>, NotLeader> {
        let state = self.port.state();
        let now = self.clock.boottime();
        let view = self.with(|liveness| {
            liveness.observe(now, &state);
            liveness.view(now)
        })?;
        let plan = schedule(&state, &view, &self.policy);
        self.with(|liveness| {
            liveness.cool(now, COOLDOWN_MOVED, plan.moving.iter().map(|moved| moved.incarnation));
            liveness.cool(now, COOLDOWN_WITHDRAWN, plan.withdrawn.iter().copied());
        })?;
        for steps in plan.steps.chunks(STEPS_MAX) {
            let body = CommandBody::ApplyPlan { decided_term: term, steps: steps.to_vec() };
            let reply = self.port.propose(body).await?;
            self.note(&state, &view, steps, &reply);
        }
        self.remove(&plan).await?;
        Ok(plan.next_wakeup)
    }

    async fn remove(&self, plan: &Plan) -> Result<(), NotLeader> {
        let removals =
            plan.removals.iter().map(|incarnation| CommandBody::RemoveConnector { incarnation: *incarnation });
        self.propose_all(removals.collect()).await.map(drop)
    }

    async fn propose_all(&self, bodies: Vec<CommandBody>) -> Result<Vec<Reply>, NotLeader> {
        let proposals = futures::stream::iter(bodies.into_iter().map(|body| self.port.propose(body)));
        let replies: Vec<_> = proposals.buffer_unordered(PROPOSALS_MAX).collect().await;
        replies.into_iter().collect()
    }

    /// Logs and counts the assignments that came through.
    fn note(&self, before: &Arc<ClusterState>, view: &LivenessView, steps: &[PlanStep], reply: &Reply) {
        if reply.body != ReplyBody::Done {
            return;
        }
        let after = self.port.state();
        for step in steps {
            let (PlanStep::Assign { incarnation, node, why, .. }, Some(reason)) = (step, reason_of(before, view, step))
            else {
                continue;
            };
            let taken = after.assignments.get(incarnation).is_some_and(|task| task.epoch.0 == reply.index.0);
            let Some(connector) = after.connectors.get(incarnation).filter(|_| taken) else { continue };
            info!(connector = %connector.spec.name, raft_id = %node, epoch = %reply.index, why, "task assigned");
            let lost = before.assignments.get(incarnation).and_then(|task| task.last_node);
            let heard = lost.and_then(|lost| self.with(|liveness| liveness.last_heard(lost)).ok().flatten());
            let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.moved(reason);
            if let (MoveReason::Failover, Some(heard)) = (reason, heard) {
                metrics.failed_over(self.clock.boottime().saturating_sub(heard));
            }
        }
    }
}
