//! The agent: makes this node do what the cluster's state says, and tells the leader what it does.
//!
//! ```text
//! replica ──► catalogue in use ──► heartbeat{catalogue_index, tasks, stopped} ──► leader
//!        └──► desired tasks ──► supervisor                                         │
//! lease watchdog ◄── renewed(sent_at + L) ◄────────────────────────────────────────┘
//! ```

pub mod lease;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::assignment::{AssignmentState, Owner};
use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad, StoppedTask};
use api_types::status::TaskReport;
use api_types::{Epoch, Incarnation, NodeEpoch};
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
/// What is applied in quick succession is followed together: the first at once, the others when this has passed.
const FOLLOW_SETTLE: Duration = Duration::from_millis(5);
/// How soon a heartbeat is tried again while nobody leads.
const NO_LEADER_RETRY: Duration = Duration::from_millis(100);
/// Of a task's texts in a heartbeat: with 10,000 failing tasks they are a few megabytes.
const REPORT_TEXT_CHARS_MAX: usize = 128;

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
    /// Tasks of this registration that are to be released, in the state that was last acted on.
    pub releases: Mutex<BTreeSet<(Incarnation, Epoch)>>,
}

/// Why the agent, and with it the node, cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Trying again would be refused again, and a disk that forgot must not go on voting.
    #[error("the cluster refuses this node: {0}")]
    Refused(Refusal),
    #[error("the loop that follows the cluster's state ended in a panic")]
    Panicked,
}

impl Agent {
    /// Runs until cancelled. The heartbeat goes on while the node hands its tasks over; the caller cancels after that.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), AgentError> {
        let agent = Arc::new(self);
        let stop_following = cancel.child_token();
        let mut follow = tokio::spawn(Arc::clone(&agent).follow_state(stop_following.clone()));
        let ended = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            error = agent.beat() => Err(error),
            _ = &mut follow => if cancel.is_cancelled() { return Ok(()) } else { return Err(AgentError::Panicked) },
        };
        stop_following.cancel();
        match follow.await {
            Ok(()) => ended,
            Err(_) => Err(AgentError::Panicked),
        }
    }

    /// Level-triggered: whatever was missed in between is in the next state.
    async fn follow_state(self: Arc<Self>, cancel: CancellationToken) {
        let mut applied = self.handle.applied();
        let mut epoch = self.node_epoch.subscribe();
        loop {
            let settled = tokio::time::Instant::now() + FOLLOW_SETTLE;
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
            tokio::time::sleep_until(settled).await;
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
        // From the state that was just acted on: a newer one may release what this one would still start.
        let released = state.assignments.iter().filter(|(_, assignment)| match assignment.state {
            AssignmentState::Releasing(owner) => owner == Owner { node: me, node_epoch },
            AssignmentState::Assigned(_) | AssignmentState::Idle => false,
        });
        let released = released.map(|(incarnation, assignment)| (*incarnation, assignment.epoch)).collect();
        *self.releases.lock().unwrap_or_else(PoisonError::into_inner) = released;
        let waited_for = |stopped: &StoppedTask| {
            state.assignments.get(&stopped.incarnation).is_some_and(|assignment| {
                assignment.epoch == stopped.epoch && assignment.owner().is_some_and(|owner| owner.node == me)
            })
        };
        let mut heard = self.supervisor.stopped();
        heard.retain(|stopped| !waited_for(stopped));
        self.supervisor.forget_stopped(&heard);
    }

    async fn beat(&self) -> AgentError {
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
                    let idle_before = std::mem::replace(&mut idle_releases, self.idle_releases());
                    let never_started = idle_releases.intersection(&idle_before).copied().collect();
                    self.heartbeat(node_epoch, number, never_started).await
                }
                None => match self.register().await {
                    Ok(pause) => pause,
                    Err(error) => return error,
                },
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
                () = tokio::time::sleep(pause) => {}
                () = early => {}
            }
        }
    }

    /// Releases of tasks that do not run here: released before they were started, so nobody else will report them.
    fn idle_releases(&self) -> BTreeSet<(Incarnation, Epoch)> {
        let releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        releases.iter().filter(|(incarnation, _)| !self.supervisor.has(*incarnation)).copied().collect()
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
            running: self.supervisor.reports().into_iter().map(short).collect(),
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

    async fn register(&self) -> Result<Duration, AgentError> {
        if !self.handle.recovered_and_caught_up() {
            return Ok(NO_LEADER_RETRY);
        }
        let reply = match self.handle.register(self.registration.clone()).await {
            Ok(reply) => reply,
            Err(ProposeError::NoLeader | ProposeError::NotReady | ProposeError::OutcomeUnknown) => {
                return Ok(NO_LEADER_RETRY);
            }
        };
        match reply.body {
            ReplyBody::Registered { node_epoch } => {
                // Before anything can be appended: the listener waits for a lease, and that for this registration.
                if let Err(error) = self.queues.begin_registration(node_epoch).await {
                    tracing::warn!(%error, "registered, but the queues cannot begin yet");
                    return Ok(NO_LEADER_RETRY);
                }
                tracing::info!(%node_epoch, "registered");
                self.node_epoch.send_replace(Some(node_epoch));
                Ok(Duration::ZERO)
            }
            ReplyBody::Refused(
                refusal @ (Refusal::LeaseHeld | Refusal::AddressInUse { .. } | Refusal::AddressSilent { .. }),
            ) => {
                tracing::warn!(%refusal, "not registered yet");
                Ok(self.heartbeat_interval)
            }
            ReplyBody::Refused(refusal) => Err(AgentError::Refused(refusal)),
            ReplyBody::Done | ReplyBody::Created { .. } | ReplyBody::Deleting { .. } | ReplyBody::Admitted { .. } => {
                tracing::error!("the registration was answered with another command's reply");
                Ok(self.heartbeat_interval)
            }
        }
    }
}

/// The detail is the owner's to tell; what goes to the leader twice a second stays small.
fn short(report: TaskReport) -> TaskReport {
    let clip = |text: Option<String>| {
        text.map(|mut text| {
            if let Some((end, _)) = text.char_indices().nth(REPORT_TEXT_CHARS_MAX) {
                text.truncate(end);
            }
            text
        })
    };
    let mut report = TaskReport { last_error: clip(report.last_error), ..report };
    report.counters.last_msg = clip(report.counters.last_msg);
    report
}
