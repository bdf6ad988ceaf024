//! The agent: makes this node do what the cluster's state says, and tells the leader what it does.
//!
//! ```text
//! replica ──► catalogue in use ──► heartbeat{catalogue_index, tasks, stopped} ──► leader
//!        └──► desired tasks ──► supervisor                                         │
//! lease watchdog ◄── renewed(sent_at + L) ◄────────────────────────────────────────┘
//! ```

pub mod lease;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_types::assignment::{AssignmentState, Owner};
use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad, StoppedTask};
use api_types::{Epoch, Incarnation, NodeEpoch, RaftId};
use connector_runtime::supervisor::{DesiredTask, Supervisor};
use meta_service::clock::Clock;
use meta_service::state::{ClusterState, NodeRegistration, Refusal, ReplyBody};
use meta_service::{Handle, HeartbeatError, ProposeError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalogue::SharedCatalogue;
use crate::queue::Queues;
use lease::LeaseKeeper;

/// Early heartbeats (catalogue applied, task stopped) come at most this often.
const EARLY_HEARTBEAT_MIN: Duration = Duration::from_millis(20);
/// How soon a heartbeat is tried again while nobody leads.
const NO_LEADER_RETRY: Duration = Duration::from_millis(100);

pub struct Agent {
    pub handle: Handle,
    pub queues: Queues,
    pub supervisor: Arc<Supervisor>,
    pub catalogue: SharedCatalogue,
    pub lease: Arc<LeaseKeeper>,
    pub clock: Arc<dyn Clock>,
    pub heartbeat_interval: Duration,
    /// What the metadata service knows better – the disk, the end of its log – it fills in itself.
    pub registration: NodeRegistration,
    pub load: Box<dyn Fn() -> NodeLoad + Send + Sync>,
    /// The registration under which this process acts now.
    pub node_epoch: watch::Sender<Option<NodeEpoch>>,
    /// True once the node hands its tasks over.
    pub stopping: watch::Receiver<bool>,
}

impl Agent {
    /// Runs until cancelled. The heartbeat goes on while the node hands its tasks over; the caller cancels after that.
    pub async fn run(self, cancel: CancellationToken) {
        let agent = Arc::new(self);
        let follow = tokio::spawn(Arc::clone(&agent).follow_state(cancel.clone()));
        agent.beat(&cancel).await;
        if let Err(error) = follow.await
            && error.is_panic()
        {
            tracing::error!(%error, "the agent's state loop ended in a panic");
        }
    }

    /// Level-triggered: whatever was missed in between is in the next state.
    async fn follow_state(self: Arc<Self>, cancel: CancellationToken) {
        let mut applied = self.handle.applied();
        let mut epoch = self.node_epoch.subscribe();
        loop {
            applied.borrow_and_update();
            epoch.borrow_and_update();
            let state = self.handle.state();
            self.catalogue.follow(&state);
            self.queues.reconcile(&state, self.lease.held_since_boot());
            self.follow_assignments(&state);
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = applied.changed() => if changed.is_err() { return },
                changed = epoch.changed() => if changed.is_err() { return },
            }
        }
    }

    fn follow_assignments(&self, state: &ClusterState) {
        let me = self.registration.raft_id;
        let registered = *self.node_epoch.borrow();
        // Acting under a registration that the replica does not show as the current one would be acting under a
        // fenced or an unknown one.
        let current = state.nodes.get(&me).map(|node| node.node_epoch);
        let Some(node_epoch) = registered.filter(|epoch| Some(*epoch) == current) else {
            self.supervisor.set_desired(Vec::new());
            return;
        };
        let mine = |state: AssignmentState| match state {
            AssignmentState::Assigned(owner) => owner.node == me && owner.node_epoch == node_epoch,
            AssignmentState::Releasing(_) | AssignmentState::Idle => false,
        };
        let desired = state
            .assignments
            .iter()
            .filter(|(_, assignment)| mine(assignment.state))
            .filter_map(|(incarnation, assignment)| {
                let connector = Arc::clone(state.connectors.get(incarnation)?);
                Some(DesiredTask { connector, epoch: assignment.epoch })
            })
            .collect();
        self.supervisor.set_desired(desired);
        let waited_for = |stopped: &StoppedTask| {
            state.assignments.get(&stopped.incarnation).is_some_and(|assignment| {
                assignment.epoch == stopped.epoch && assignment.owner().is_some_and(|owner| owner.node == me)
            })
        };
        let mut heard = self.supervisor.stopped();
        heard.retain(|stopped| !waited_for(stopped));
        self.supervisor.forget_stopped(&heard);
    }

    async fn beat(&self, cancel: &CancellationToken) {
        let mut number = 0;
        let mut idle_releases = BTreeSet::new();
        let mut in_use = self.catalogue.watch();
        let mut stopping = self.stopping.clone();
        loop {
            let registered = *self.node_epoch.borrow();
            let pause = match registered {
                Some(node_epoch) => {
                    number += 1;
                    // A task may be on its way to its start while the release arrives, so one look is not enough.
                    let idle_before = std::mem::replace(&mut idle_releases, self.idle_releases(node_epoch));
                    let never_started = idle_releases.intersection(&idle_before).copied().collect();
                    self.heartbeat(node_epoch, number, never_started).await
                }
                None => self.register().await,
            };
            let earliest = tokio::time::Instant::now() + EARLY_HEARTBEAT_MIN;
            let early = async {
                tokio::select! {
                    () = in_use.changed() => {}
                    () = self.supervisor.changed() => {}
                    Ok(()) = stopping.changed() => {}
                }
                tokio::time::sleep_until(earliest).await;
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = early => {}
            }
        }
    }

    /// Releases of tasks that do not run here: released before they were started, so nobody else will report them.
    fn idle_releases(&self, node_epoch: NodeEpoch) -> BTreeSet<(Incarnation, Epoch)> {
        let me = Owner { node: self.registration.raft_id, node_epoch };
        let running: BTreeSet<Incarnation> =
            self.supervisor.reports().into_iter().map(|report| report.incarnation).collect();
        let state = self.handle.state();
        let released = state.assignments.iter().filter(|(_, assignment)| match assignment.state {
            AssignmentState::Releasing(owner) => owner == me,
            AssignmentState::Assigned(_) | AssignmentState::Idle => false,
        });
        released
            .filter(|(incarnation, _)| !running.contains(incarnation))
            .map(|(incarnation, assignment)| (*incarnation, assignment.epoch))
            .collect()
    }

    /// Returns how long to wait for the next one.
    async fn heartbeat(
        &self,
        node_epoch: NodeEpoch,
        number: u64,
        never_started: BTreeSet<(Incarnation, Epoch)>,
    ) -> Duration {
        let mut stopped = self.supervisor.stopped();
        let reported: BTreeSet<_> = stopped.iter().map(|task| (task.incarnation, task.epoch)).collect();
        let unreported = never_started.difference(&reported);
        stopped.extend(unreported.map(|(incarnation, epoch)| StoppedTask { incarnation: *incarnation, epoch: *epoch }));
        let heartbeat = Heartbeat {
            node: self.registration.raft_id,
            node_epoch,
            number,
            catalogue_index: self.catalogue.index_in_use(),
            running: self.supervisor.reports(),
            stopped,
            load: (self.load)(),
            stopping: *self.stopping.borrow(),
        };
        let sent_at = self.clock.boottime();
        match self.handle.heartbeat(heartbeat).await {
            Ok(HeartbeatAnswer::Renewed { term: _, lease_ms }) => {
                self.lease.renewed(sent_at, Duration::from_millis(lease_ms));
                self.heartbeat_interval
            }
            Ok(HeartbeatAnswer::Behind { required }) => {
                tracing::debug!(%required, "the leader waits for this node's catalogue");
                NO_LEADER_RETRY
            }
            Ok(HeartbeatAnswer::Fenced) => {
                tracing::warn!(%node_epoch, "this registration is over: tasks stop and the node registers anew");
                self.lease.end();
                self.node_epoch.send_replace(None);
                Duration::ZERO
            }
            Err(HeartbeatError::NoLeader | HeartbeatError::NotReady) => NO_LEADER_RETRY,
        }
    }

    async fn register(&self) -> Duration {
        if !self.handle.recovered_and_caught_up() {
            return NO_LEADER_RETRY;
        }
        match self.handle.register(self.registration.clone()).await {
            Ok(reply) => match reply.body {
                ReplyBody::Registered { node_epoch } => {
                    tracing::info!(%node_epoch, "registered");
                    self.node_epoch.send_replace(Some(node_epoch));
                    Duration::ZERO
                }
                ReplyBody::Refused(refusal) => {
                    log_refusal(self.registration.raft_id, &refusal);
                    self.heartbeat_interval
                }
                ReplyBody::Done
                | ReplyBody::Created { .. }
                | ReplyBody::Deleting { .. }
                | ReplyBody::Admitted { .. } => {
                    tracing::error!("the registration was answered with another command's reply");
                    self.heartbeat_interval
                }
            },
            Err(ProposeError::NoLeader | ProposeError::NotReady | ProposeError::OutcomeUnknown) => NO_LEADER_RETRY,
        }
    }
}

fn log_refusal(node: RaftId, refusal: &Refusal) {
    tracing::error!(%node, %refusal, "the cluster refuses this node's registration");
}
