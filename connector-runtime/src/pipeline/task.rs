//! One run of a connector's task: all of its queues, one sink.
//!
//! ```text
//! lease held ──► watch ready queues ──► one session per queue ──► drained | fenced
//!     ▲                                          │ lease lost: everything is dropped within 300 ms
//!     └──────────────────────────────────────────┘
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_types::failure::FailurePolicy;
use api_types::status::Health;
use api_types::{Epoch, Incarnation, RaftId};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::memory::MemoryBudget;
use super::pace::Pace;
use super::session::Session;
use super::slot::SinkSlot;
use super::stats::{REASON_NO_LEASE, TaskStats};
use super::strand::Interrupted;
use crate::config::PipelineOptions;
use crate::lease::Lease;
use crate::registry::OrderClass;
use crate::source::{QueueSource, ReadyQueues, SourceError, Sources};

/// What every part of one task's pipeline shares.
pub(crate) struct TaskContext {
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: Epoch,
    pub(crate) policy: FailurePolicy,
    pub(crate) order: OrderClass,
    pub(crate) options: PipelineOptions,
    pub(crate) slot: Arc<SinkSlot>,
    pub(crate) lease: Lease,
    pub(crate) stats: Arc<TaskStats>,
    pub(crate) memory: MemoryBudget,
    pub(crate) sources: Arc<dyn Sources>,
    /// Stop: nothing new is fetched or sent, what is under way is finished and committed.
    pub(crate) drain: CancellationToken,
    /// The bound of a stop: what is under way is dropped.
    pub(crate) cut: CancellationToken,
    pub(crate) pace: Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// It was told to stop, and has.
    Drained,
    /// A queue knows a newer epoch.
    Fenced,
}

enum WorkEnd {
    Drained,
    Fenced,
    LeaseLost,
}

impl TaskContext {
    pub(super) fn deduplicates(&self) -> bool {
        self.options.limits.sync_bounds
    }

    pub(super) fn wait_time(&self) -> Duration {
        Duration::from_millis(self.policy.strategy.retry().map_or(0, |retry| retry.wait_time_ms))
    }

    pub(crate) async fn run(self) -> TaskEnd {
        loop {
            if !self.lease.is_held() {
                self.stats.set_health(Health::Retrying, Some(REASON_NO_LEASE));
                tokio::select! {
                    () = self.lease.gained() => self.stats.set_health(Health::Starting, None),
                    () = self.drain.cancelled() => return TaskEnd::Drained,
                }
            }
            let end = tokio::select! {
                biased;
                () = self.lease.lost() => WorkEnd::LeaseLost,
                end = self.work() => end,
            };
            match end {
                WorkEnd::LeaseLost => self.slot.abort(),
                WorkEnd::Fenced => {
                    self.slot.abort();
                    return TaskEnd::Fenced;
                }
                WorkEnd::Drained => {
                    self.slot.close().await;
                    return TaskEnd::Drained;
                }
            }
        }
    }

    async fn work(&self) -> WorkEnd {
        let mut ready = self.sources.watch(self.incarnation, self.epoch);
        let mut readers = FuturesUnordered::new();
        let mut known: BTreeSet<RaftId> = BTreeSet::new();
        let mut opening = std::pin::pin!(self.open_early());
        let (mut opened, mut sources_gone) = (false, false);
        loop {
            let nodes: Vec<RaftId> = ready.borrow_and_update().keys().copied().collect();
            for node in nodes {
                if known.insert(node) {
                    readers.push(self.read(node, ready.clone()));
                }
            }
            if self.drain.is_cancelled() && readers.is_empty() {
                return WorkEnd::Drained;
            }
            tokio::select! {
                Some(end) = readers.next() => match end {
                    WorkEnd::Drained => {}
                    WorkEnd::Fenced | WorkEnd::LeaseLost => return end,
                },
                changed = ready.changed(), if !sources_gone => sources_gone = changed.is_err(),
                () = &mut opening, if !opened => opened = true,
                () = self.drain.cancelled(), if readers.is_empty() => {}
            }
        }
    }

    /// Opens the sink before there is a record, so that what is wrong with the target shows at once.
    async fn open_early(&self) {
        let mut backoff = Backoff::target();
        loop {
            match self.slot.get().await {
                Ok(_) => return self.stats.opened(),
                Err(fault) => {
                    self.stats.target_fault(&fault);
                    tokio::time::sleep(backoff.next(fault.retry_after())).await;
                }
            }
        }
    }

    /// Reads one node's queue for as long as the task runs.
    async fn read(&self, node: RaftId, mut ready: watch::Receiver<ReadyQueues>) -> WorkEnd {
        let mut reopen = Backoff::queue();
        loop {
            let Some(source) = self.next_source(node, &mut ready).await else { return WorkEnd::Drained };
            let opened = tokio::select! {
                biased;
                () = self.drain.cancelled() => return WorkEnd::Drained,
                opened = Session::open(self, source, ready.clone()) => opened,
            };
            let interrupted = match opened {
                Ok(session) => session.run(&mut reopen).await,
                Err(interrupted) => interrupted,
            };
            match interrupted {
                Interrupted::Draining => return WorkEnd::Drained,
                Interrupted::LeaseLost => return WorkEnd::LeaseLost,
                Interrupted::Source(SourceError::Fenced) => return WorkEnd::Fenced,
                Interrupted::Source(SourceError::Moved) => {}
                Interrupted::Source(error @ (SourceError::Gone | SourceError::Unreachable(_))) => {
                    self.stats.error("queue could not be read", &error.to_string());
                }
            }
            let pause = tokio::time::sleep_until(Instant::now() + reopen.next(None));
            tokio::select! {
                () = pause => {}
                () = self.drain.cancelled() => return WorkEnd::Drained,
            }
        }
    }

    /// The queue as last published; `None` when the task is to stop.
    async fn next_source(
        &self,
        node: RaftId,
        ready: &mut watch::Receiver<ReadyQueues>,
    ) -> Option<Arc<dyn QueueSource>> {
        let published = async {
            if let Ok(queues) = ready.wait_for(|queues| queues.contains_key(&node)).await {
                return queues.get(&node).map(|queue| Arc::clone(&queue.source));
            }
            // The node shuts its queues down; the supervisor will stop this task.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = self.drain.cancelled() => None,
            source = published => source,
        }
    }
}
