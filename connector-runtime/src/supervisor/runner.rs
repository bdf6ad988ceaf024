//! Keeps one task running until it is told to stop: restarts it after a panic, joins it at the end.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::status::{Health, TaskReport};
use api_types::{Connector, Epoch};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::RuntimeOptions;
use crate::metrics::TaskMetrics;
use crate::pipeline::Backoff;
use crate::pipeline::memory::MemoryBudget;
use crate::pipeline::pace::Pace;
use crate::pipeline::slot::SinkSlot;
use crate::pipeline::stats::{REASON_CRASHED, REASON_FENCED, TaskStats};
use crate::pipeline::task::{TaskContext, TaskEnd};
use crate::sink::ABORT_WITHIN;
use crate::sinks::offered::SinkMaker;

/// A task that ran this long is well again: its next crash is a first one.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// One desired task on its way, through all its restarts.
pub(super) struct Runner {
    pub(super) connector: Arc<Connector>,
    pub(super) epoch: Epoch,
    pub(super) options: Arc<RuntimeOptions>,
    pub(super) sinks: Arc<dyn SinkMaker>,
    pub(super) memory: MemoryBudget,
    pub(super) metrics: TaskMetrics,
    pub(super) changed: Arc<Notify>,
    pub(super) stop: CancellationToken,
    pub(super) view: Arc<TaskView>,
}

/// The current run of a task, as the supervisor looks at it from outside.
#[derive(Default)]
pub(super) struct TaskView {
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    stats: Arc<TaskStats>,
    slot: Arc<SinkSlot>,
    cut: CancellationToken,
}

impl TaskView {
    pub(super) fn report(&self) -> Option<TaskReport> {
        self.current().map(|run| run.stats.report())
    }

    /// Reaches the sink even when the task itself is stuck.
    pub(super) fn abort_sink(&self) {
        if let Some(run) = self.current() {
            run.slot.abort();
        }
    }

    /// The bound of a stop: first nothing may follow any more, then what is under way ends.
    pub(super) fn cut_off(&self) {
        if let Some(run) = self.current() {
            run.cut.cancel();
            run.slot.abort();
        }
    }

    fn current(&self) -> Option<Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, current: Current) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current);
    }
}

struct Run {
    handle: JoinHandle<TaskEnd>,
    stats: Arc<TaskStats>,
    slot: Arc<SinkSlot>,
    drain: CancellationToken,
}

impl Runner {
    /// Returns when the task was told to stop and was joined, or detached.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::crash();
        let mut restarts: u64 = 0;
        loop {
            let mut run = self.start(restarts);
            let started = Instant::now();
            let ended = tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.stop(run).await,
                ended = &mut run.handle => ended,
            };
            run.slot.abort();
            if started.elapsed() >= WELL_AFTER {
                backoff.reset();
            }
            let delay = backoff.next(None);
            match ended {
                Ok(TaskEnd::Drained) => return,
                Ok(TaskEnd::Fenced) => {
                    run.stats.error("task was fenced", "another epoch owns this connector");
                    run.stats.set_health(Health::Retrying, Some(REASON_FENCED));
                }
                Err(panic) => {
                    restarts += 1;
                    run.stats.set_restarts(restarts);
                    run.stats.restarted();
                    let text = panic_text(panic);
                    let connector = &self.connector.spec.name;
                    error!(%connector, epoch = %self.epoch, restarts, ?delay, panic = text, "task panicked");
                    run.stats.error("task panicked", &text);
                    run.stats.set_health(Health::CrashLoop, Some(REASON_CRASHED));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn start(&self, restarts: u64) -> Run {
        let spec = &self.connector.spec;
        let sink = self.sinks.sink_for(&self.connector, self.epoch);
        let stats = Arc::new(TaskStats::new(
            spec.name.to_string(),
            self.connector.incarnation,
            self.epoch,
            self.metrics.clone(),
            Arc::clone(&self.changed),
        ));
        stats.set_restarts(restarts);
        let slot = Arc::new(SinkSlot::new(sink.opener));
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let task = TaskContext {
            incarnation: self.connector.incarnation,
            epoch: self.epoch,
            policy: spec.failure.clone(),
            order: sink.order,
            options: sink.options,
            slot: Arc::clone(&slot),
            lease: self.options.lease.clone(),
            stats: Arc::clone(&stats),
            memory: self.memory.clone(),
            sources: Arc::clone(&self.options.sources),
            drain: drain.clone(),
            cut: cut.clone(),
            pace: Pace::new(sink.options.max_records_per_second, sink.options.max_bytes_per_second),
        };
        self.view.set(Current { stats: Arc::clone(&stats), slot: Arc::clone(&slot), cut: cut.clone() });
        info!(connector = %spec.name, kind = %spec.kind, epoch = %self.epoch, "task started");
        Run { handle: tokio::spawn(task.run()), stats, slot, drain }
    }

    /// Cancel, drain within the bound, cut off, join.
    async fn stop(&self, mut run: Run) {
        let connector = &self.connector.spec.name;
        run.drain.cancel();
        if tokio::time::timeout(self.options.stop_timeout, &mut run.handle).await.is_ok() {
            info!(%connector, epoch = %self.epoch, "task stopped");
            return;
        }
        self.view.cut_off();
        if tokio::time::timeout(ABORT_WITHIN, &mut run.handle).await.is_ok() {
            warn!(%connector, epoch = %self.epoch, "task stopped with requests cut off: duplicates are possible");
            return;
        }
        run.handle.abort();
        if tokio::time::timeout(ABORT_WITHIN, &mut run.handle).await.is_err() {
            self.options.metrics.task_detached();
            warn!(%connector, epoch = %self.epoch, "task could not be joined and was detached");
        }
    }
}

fn panic_text(panic: tokio::task::JoinError) -> String {
    let Ok(payload) = panic.try_into_panic().map(AssertUnwindSafe) else {
        return "the task was cancelled".to_owned();
    };
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a text".to_owned()
    }
}
