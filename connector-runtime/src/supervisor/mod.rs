//! Makes what runs equal to what should run, and says what it sees.
//!
//! ```text
//! set_desired (level-triggered) ──► plan (pure) ──► start | stop ──► Runner per task ──► ended
//!                                      ▲                                                   │
//!                                      └───────────────────────────────────────────────────┘
//! reports() ◄── TaskView of each task          stopped() ◄── joined tasks, until they are forgotten
//! ```
//!
//! A lost lease stops deliveries at once and keeps the tasks: they go on when the lease is back under the same epoch.

mod plan;
mod runner;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_types::heartbeat::StoppedTask;
use api_types::status::TaskReport;
use api_types::{ClusterId, Connector, Epoch, Incarnation, NodeName, RaftId};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::lease::Lease;
use crate::metrics::RuntimeMetrics;
use crate::pipeline::memory::MemoryBudget;
use crate::secrets::SecretFences;
use crate::sinks::offered::{CompiledSinks, SinkMaker};
use crate::sinks::shared::network::Network;
use crate::source::Sources;
use plan::{Action, Phase, Version, plan};
use runner::{Runner, TaskView};

/// How often series of tasks that left are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

pub struct RuntimeOptions {
    pub sources: Arc<dyn Sources>,
    pub lease: Lease,
    pub fences: SecretFences,
    /// The only folders under which a file connector may write.
    pub file_roots: Vec<PathBuf>,
    /// The node's own data: nothing is written there, except under a file root inside it.
    pub data_dir: PathBuf,
    pub deny_networks: Vec<Network>,
    /// Bytes of records that all tasks together hold.
    pub memory_bytes_max: u64,
    pub stop_timeout: Duration,
    pub metrics: RuntimeMetrics,
    pub cluster: ClusterId,
    pub node: NodeName,
    pub raft_id: RaftId,
}

#[derive(Clone, Debug)]
pub struct DesiredTask {
    pub connector: Arc<Connector>,
    pub epoch: Epoch,
}

/// Handle of the runtime; dropping it stops all tasks in the background.
pub struct Supervisor {
    shared: Arc<Shared>,
    closing: CancellationToken,
    looping: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    desired: watch::Sender<Vec<DesiredTask>>,
    views: Mutex<BTreeMap<Incarnation, Arc<TaskView>>>,
    stopped: Mutex<Vec<StoppedTask>>,
    changed: Arc<Notify>,
}

impl Supervisor {
    /// Must be called inside a tokio runtime.
    pub fn new(options: RuntimeOptions) -> Self {
        let sinks = Arc::new(CompiledSinks::new(&options));
        Self::with_sinks(options, sinks)
    }

    pub(crate) fn with_sinks(options: RuntimeOptions, sinks: Arc<dyn SinkMaker>) -> Self {
        let shared = Arc::new(Shared {
            desired: watch::Sender::new(Vec::new()),
            views: Mutex::new(BTreeMap::new()),
            stopped: Mutex::new(Vec::new()),
            changed: Arc::new(Notify::new()),
        });
        let closing = CancellationToken::new();
        let service = Service {
            memory: MemoryBudget::new(options.memory_bytes_max),
            options: Arc::new(options),
            sinks,
            shared: Arc::clone(&shared),
            tasks: BTreeMap::new(),
            runners: FuturesUnordered::new(),
        };
        let looping = tokio::spawn(service.run(closing.clone()));
        Self { shared, closing, looping: Mutex::new(Some(looping)) }
    }

    /// The full list, every time.
    pub fn set_desired(&self, tasks: Vec<DesiredTask>) {
        self.shared.desired.send_replace(tasks);
    }

    /// One per task that was started and has not ended.
    pub fn reports(&self) -> Vec<TaskReport> {
        lock(&self.shared.views).values().filter_map(|view| view.report()).collect()
    }

    /// Whether a task of this connector was started here and has not ended; also when it has nothing to report yet.
    pub fn has(&self, incarnation: Incarnation) -> bool {
        lock(&self.shared.views).contains_key(&incarnation)
    }

    /// Tasks that have stopped and were joined, until `forget_stopped`.
    pub fn stopped(&self) -> Vec<StoppedTask> {
        lock(&self.shared.stopped).clone()
    }

    /// The leader has heard of these.
    pub fn forget_stopped(&self, heard: &[StoppedTask]) {
        lock(&self.shared.stopped).retain(|task| !heard.contains(task));
    }

    /// Completes when a task has stopped or a health has changed since the last call: time for an early heartbeat.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    /// Stops all tasks; `false` when some had not stopped at the bound: they are cut off then.
    pub async fn shutdown(&self, bound: Duration) -> bool {
        self.closing.cancel();
        let Some(mut looping) = lock(&self.looping).take() else { return true };
        match tokio::time::timeout(bound, &mut looping).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                error!(%error, "supervisor ended badly");
                false
            }
            Err(_) => {
                looping.abort();
                for view in lock(&self.shared.views).values() {
                    view.cut_off();
                }
                false
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// The loop; owns what runs.
struct Service {
    options: Arc<RuntimeOptions>,
    sinks: Arc<dyn SinkMaker>,
    memory: MemoryBudget,
    shared: Arc<Shared>,
    tasks: BTreeMap<Incarnation, RunningTask>,
    runners: FuturesUnordered<BoxFuture<'static, (Incarnation, Result<(), JoinError>)>>,
}

struct RunningTask {
    version: Version,
    phase: Phase,
    connector: Arc<Connector>,
    stop: CancellationToken,
    view: Arc<TaskView>,
}

impl Service {
    async fn run(mut self, closing: CancellationToken) {
        let lease = self.options.lease.clone();
        let mut lease_held = lease.is_held();
        let mut desired = self.shared.desired.subscribe();
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            let wanted = if closing.is_cancelled() { Vec::new() } else { desired.borrow_and_update().clone() };
            self.execute(wanted);
            if closing.is_cancelled() && self.tasks.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = lease.lost(), if lease_held => {
                    lease_held = false;
                    self.abort_sinks();
                }
                () = lease.gained(), if !lease_held => lease_held = true,
                () = closing.cancelled(), if !closing.is_cancelled() => {}
                // The sender lives in `shared`, so this never fails.
                _ = desired.changed(), if !closing.is_cancelled() => {}
                Some((incarnation, joined)) = self.runners.next() => self.ended(incarnation, joined),
                _ = sweep.tick() => self.options.metrics.sweep(),
            }
        }
    }

    fn execute(&mut self, wanted: Vec<DesiredTask>) {
        let wanted: BTreeMap<Incarnation, DesiredTask> =
            wanted.into_iter().map(|task| (task.connector.incarnation, task)).collect();
        let desired = wanted.iter().map(|(incarnation, task)| (*incarnation, Version::of(task))).collect();
        let running = self.tasks.iter().map(|(incarnation, task)| (*incarnation, (task.version, task.phase))).collect();
        for action in plan(&desired, &running) {
            match action {
                Action::Stop(incarnation) => {
                    if let Some(task) = self.tasks.get_mut(&incarnation) {
                        task.phase = Phase::Stopping;
                        task.stop.cancel();
                    }
                }
                Action::Start(incarnation) => {
                    if let Some(task) = wanted.get(&incarnation) {
                        self.start(task);
                    }
                }
            }
        }
    }

    fn start(&mut self, task: &DesiredTask) {
        let incarnation = task.connector.incarnation;
        let spec = &task.connector.spec;
        let (stop, view) = (CancellationToken::new(), Arc::new(TaskView::default()));
        let runner = Runner {
            connector: Arc::clone(&task.connector),
            epoch: task.epoch,
            options: Arc::clone(&self.options),
            sinks: Arc::clone(&self.sinks),
            memory: self.memory.clone(),
            metrics: self.options.metrics.task_started(spec.name.as_str(), &spec.kind),
            changed: Arc::clone(&self.shared.changed),
            stop: stop.clone(),
            view: Arc::clone(&view),
        };
        let handle = tokio::spawn(runner.run());
        self.runners.push(Box::pin(async move { (incarnation, handle.await) }));
        lock(&self.shared.stopped).retain(|stopped| (stopped.incarnation, stopped.epoch) != (incarnation, task.epoch));
        lock(&self.shared.views).insert(incarnation, Arc::clone(&view));
        let connector = Arc::clone(&task.connector);
        self.tasks.insert(
            incarnation,
            RunningTask { version: Version::of(task), phase: Phase::Running, connector, stop, view },
        );
    }

    fn ended(&mut self, incarnation: Incarnation, joined: Result<(), JoinError>) {
        let Some(task) = self.tasks.remove(&incarnation) else { return };
        let spec = &task.connector.spec;
        if let Err(error) = joined {
            error!(connector = %spec.name, %error, "task runner ended badly");
        }
        lock(&self.shared.views).remove(&incarnation);
        self.options.metrics.task_left(spec.name.as_str(), &spec.kind);
        lock(&self.shared.stopped).push(StoppedTask { incarnation, epoch: task.version.epoch });
        self.shared.changed.notify_one();
    }

    /// A second way to the sinks, which does not need their tasks' help.
    fn abort_sinks(&self) {
        if !self.tasks.is_empty() {
            warn!(tasks = self.tasks.len(), "lease lost: deliveries stop");
        }
        for task in self.tasks.values() {
            task.view.abort_sink();
        }
    }
}

impl Version {
    fn of(task: &DesiredTask) -> Self {
        Self { epoch: task.epoch, revision: task.connector.revision }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
