//! Doubles of our own traits: a queue in memory that is as strict as the real one, and a scripted sink.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api_types::failure::{FailurePolicy, FailureStrategy, OnTargetDown, RetryPlan};
use api_types::status::TaskReport;
use api_types::{Epoch, Incarnation, Message, RaftId, Record, RecordId, Sequence};
use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::PipelineOptions;
use crate::lease::Lease;
use crate::metrics::RuntimeMetrics;
use crate::pipeline::memory::MemoryBudget;
use crate::pipeline::pace::Pace;
use crate::pipeline::slot::SinkSlot;
use crate::pipeline::stats::TaskStats;
use crate::pipeline::task::{TaskContext, TaskEnd};
use crate::registry::OrderClass;
use crate::sink::{Batch, BatchId, OpenSink, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::source::{
    BatchLimits, Commit, End, Fetched, QueueSource, ReadyQueue, ReadyQueues, SealedBatch, SourceError, Sources,
};

pub(crate) const INCARNATION: Incarnation = Incarnation(7);
const NODE: RaftId = RaftId(1);
/// Far beyond anything a test waits for; reached only when the pipeline hangs.
const HANG: Duration = Duration::from_secs(3_600);
/// The same for a condition that is looked at again and again, on a real clock.
const NEVER: Duration = Duration::from_secs(60);

/// A queue of one node. Sequences have gaps: record n has sequence 10 n.
pub(crate) struct MemoryQueue {
    inner: Mutex<Inner>,
    ready: watch::Sender<ReadyQueues>,
    position: watch::Sender<Sequence>,
}

#[derive(Default)]
struct Inner {
    records: Vec<Record>,
    sealed: BTreeMap<Sequence, Sequence>,
    commits: Vec<Commit>,
    splits: Vec<Sequence>,
    ends: BTreeMap<u64, End>,
    fetches: usize,
    lingering: usize,
    failures: VecDeque<(Operation, SourceError)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Fetch,
    Split,
    Commit,
}

pub(crate) fn number_of(sequence: Sequence) -> u64 {
    sequence.0 / 10
}

impl MemoryQueue {
    pub(crate) fn with(messages: impl IntoIterator<Item = Message>) -> Arc<Self> {
        let queue = Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            ready: watch::Sender::new(ReadyQueues::new()),
            position: watch::Sender::new(Sequence(0)),
        });
        queue.append(messages);
        queue
    }

    pub(crate) fn numbered(count: u64) -> Arc<Self> {
        Self::with((0..count).map(message))
    }

    pub(crate) fn append(self: &Arc<Self>, messages: impl IntoIterator<Item = Message>) {
        let head = {
            let mut inner = self.lock();
            for message in messages {
                let sequence = Sequence(inner.records.len() as u64 * 10);
                let id = RecordId { raft_id: NODE, incarnation: INCARNATION, sequence };
                inner.records.push(Record { id, message });
            }
            inner.records.last().map_or(Sequence(0), |record| record.id.sequence.next())
        };
        let source: Arc<dyn QueueSource> = Arc::clone(self) as _;
        self.ready.send_replace(BTreeMap::from([(NODE, ReadyQueue { source, head })]));
    }

    /// The next calls of these operations fail with these errors, in this order.
    pub(crate) fn fail(&self, operation: Operation, error: SourceError) {
        self.lock().failures.push_back((operation, error));
    }

    pub(crate) async fn all_committed(&self) {
        let end = self.lock().records.last().map_or(Sequence(0), |record| record.id.sequence.next());
        self.committed(end).await;
    }

    pub(crate) async fn committed(&self, to: Sequence) {
        let mut position = self.position.subscribe();
        let reached = position.wait_for(|position| *position >= to);
        tokio::time::timeout(HANG, reached).await.expect("the pipeline hangs").expect("the queue lives");
    }

    pub(crate) fn position(&self) -> u64 {
        self.position.borrow().0
    }

    pub(crate) fn commits(&self) -> Vec<Commit> {
        self.lock().commits.clone()
    }

    pub(crate) fn splits(&self) -> Vec<u64> {
        self.lock().splits.iter().copied().map(number_of).collect()
    }

    /// How records ended that were not delivered, by number.
    pub(crate) fn ends(&self) -> BTreeMap<u64, End> {
        self.lock().ends.clone()
    }

    /// How many fetches had to wait for more records.
    pub(crate) fn lingering(&self) -> usize {
        self.lock().lingering
    }

    /// A batch there is neither sealed nor full.
    fn has_less_than(&self, from: Sequence, records_max: u32) -> bool {
        let inner = self.lock();
        let fresh = inner.records.iter().filter(|record| record.id.sequence >= from).count();
        !inner.sealed.contains_key(&from) && (1..records_max as usize).contains(&fresh)
    }

    pub(crate) fn fetches(&self) -> usize {
        self.lock().fetches
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics inside")
    }
}

impl Inner {
    fn take_failure(&mut self, operation: Operation) -> Result<(), SourceError> {
        match self.failures.iter().position(|(of, _)| *of == operation) {
            Some(at) => Err(self.failures.remove(at).expect("is there").1),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl QueueSource for MemoryQueue {
    fn node(&self) -> RaftId {
        NODE
    }

    async fn open(&self) -> Result<Sequence, SourceError> {
        Ok(*self.position.borrow())
    }

    async fn fetch(&self, from: Sequence, limits: BatchLimits) -> Result<Fetched, SourceError> {
        if self.has_less_than(from, limits.records_max) {
            self.lock().lingering += 1;
            tokio::time::sleep(limits.linger).await;
        }
        let mut inner = self.lock();
        inner.fetches += 1;
        inner.take_failure(Operation::Fetch)?;
        let to = match inner.sealed.get(&from) {
            Some(to) => *to,
            None => {
                let fresh = inner.records.iter().filter(|record| record.id.sequence >= from);
                match fresh.take(limits.records_max as usize).last() {
                    Some(last) => last.id.sequence.next(),
                    None => {
                        let head = inner.records.last().map_or(Sequence(0), |record| record.id.sequence.next());
                        return Ok(Fetched::Empty { head });
                    }
                }
            }
        };
        inner.sealed.insert(from, to);
        let within = |record: &&Record| from <= record.id.sequence && record.id.sequence < to;
        let records = inner.records.iter().filter(within).cloned().collect();
        Ok(Fetched::Batch(SealedBatch { from, to, records }))
    }

    async fn split(&self, from: Sequence, at: Sequence) -> Result<(), SourceError> {
        let mut inner = self.lock();
        inner.take_failure(Operation::Split)?;
        let to = *inner.sealed.get(&from).expect("a sealed batch begins where it is split");
        assert!(from < at && at < to, "split {from}..{to} at {at}");
        inner.sealed.insert(from, at);
        inner.sealed.insert(at, to);
        inner.splits.push(at);
        Ok(())
    }

    async fn commit(&self, commit: Commit) -> Result<(), SourceError> {
        let mut inner = self.lock();
        inner.take_failure(Operation::Commit)?;
        let position = *self.position.borrow();
        if commit.to == position {
            return Ok(());
        }
        if commit.from != position {
            return Err(SourceError::Moved);
        }
        assert!(inner.sealed.values().any(|to| *to == commit.to), "a commit ends where a sealed batch ends");
        for (sequence, end) in &commit.ends {
            assert!(commit.from <= *sequence && *sequence < commit.to, "an end outside of its commit");
            let again = inner.ends.insert(number_of(*sequence), end.clone());
            assert_eq!(again, None, "{sequence} ended twice");
        }
        inner.sealed.retain(|from, _| *from >= commit.to);
        self.position.send_replace(commit.to);
        inner.commits.push(commit);
        Ok(())
    }
}

struct OneQueue(Arc<MemoryQueue>);

impl Sources for OneQueue {
    fn watch(&self, _incarnation: Incarnation, _epoch: Epoch) -> watch::Receiver<ReadyQueues> {
        self.0.ready.subscribe()
    }
}

/// The sources of a task with one queue.
pub(crate) fn sources(queue: &Arc<MemoryQueue>) -> Arc<dyn Sources> {
    Arc::new(OneQueue(Arc::clone(queue)))
}

/// One call of the sink.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: usize,
    /// Since the script was made.
    pub(crate) at_ms: u64,
    pub(crate) id: BatchId,
    /// Numbers of the records.
    pub(crate) records: Vec<u64>,
}

/// What the sink does with a call.
pub(crate) enum Answer {
    /// One for each record.
    Each(Vec<Outcome>),
    All(Outcome),
    After(Duration, Outcome),
    /// Until the call is dropped.
    Never,
    /// One for each record, when the sink is aborted.
    AtAbort(Vec<Outcome>),
    Panic,
}

type Script = dyn Fn(&Call, &Batch<'_>) -> Answer + Send + Sync;

/// A sink that does as it is told, and writes down what it was asked.
#[derive(Clone)]
pub(crate) struct ScriptedSink {
    script: Arc<Script>,
    log: Arc<Mutex<Log>>,
    aborted: Arc<Notify>,
    started: Instant,
}

#[derive(Default)]
struct Log {
    calls: Vec<Call>,
    delivered: Vec<u64>,
    opens: usize,
    aborts: usize,
    closes: usize,
}

impl ScriptedSink {
    pub(crate) fn new(script: impl Fn(&Call, &Batch<'_>) -> Answer + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), log: Arc::default(), aborted: Arc::default(), started: Instant::now() }
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// When the sink was called, in ms.
    pub(crate) fn times(&self) -> Vec<u64> {
        self.lock().calls.iter().map(|call| call.at_ms).collect()
    }

    /// Numbers of the records in the order in which they were delivered.
    pub(crate) fn delivered(&self) -> Vec<u64> {
        self.lock().delivered.clone()
    }

    pub(crate) fn opens(&self) -> usize {
        self.lock().opens
    }

    pub(crate) fn aborts(&self) -> usize {
        self.lock().aborts
    }

    pub(crate) fn closes(&self) -> usize {
        self.lock().closes
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no test panics inside")
    }
}

#[async_trait]
impl OpenSink for ScriptedSink {
    async fn open(&self) -> Result<Box<dyn Sink>, TargetFault> {
        self.lock().opens += 1;
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for ScriptedSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let records: Vec<u64> = batch.records.iter().map(|record| number_of(record.id.sequence)).collect();
        let call = {
            let mut log = self.lock();
            let at_ms = self.started.elapsed().as_millis() as u64;
            let call = Call { number: log.calls.len(), at_ms, id: batch.id, records };
            log.calls.push(call.clone());
            call
        };
        let outcomes = match (self.script)(&call, batch) {
            Answer::Each(outcomes) => outcomes,
            Answer::All(outcome) => batch.all(&outcome),
            Answer::After(time, outcome) => {
                tokio::time::sleep(time).await;
                batch.all(&outcome)
            }
            Answer::Never => std::future::pending().await,
            Answer::AtAbort(outcomes) => {
                self.aborted.notified().await;
                outcomes
            }
            Answer::Panic => panic!("the script says so"),
        };
        let delivered = call.records.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Delivered);
        self.lock().delivered.extend(delivered.map(|(record, _)| *record));
        outcomes
    }

    fn abort(&self) {
        self.lock().aborts += 1;
        self.aborted.notify_waiters();
    }

    async fn close(&self) {
        self.lock().closes += 1;
    }
}

pub(crate) fn message(number: u64) -> Message {
    Message {
        topic: format!("t/{}", number % 5),
        client_id: format!("c{}", number % 3),
        payload: format!("p{number}").into_bytes().into(),
        ..Message::default()
    }
}

pub(crate) fn refused() -> Outcome {
    Outcome::RecordFault(RecordFault::refused("http_422", "no such field"))
}

pub(crate) fn offline() -> Outcome {
    Outcome::RecordFault(RecordFault::offline("missing_value", "no ${payload.x}"))
}

pub(crate) fn unclear() -> Outcome {
    Outcome::Unclear(RecordFault::refused("http_400", "bad batch"))
}

pub(crate) fn down() -> Outcome {
    fault(TargetFaultKind::Down)
}

pub(crate) fn interrupted() -> Outcome {
    fault(TargetFaultKind::Interrupted)
}

pub(crate) fn fault(kind: TargetFaultKind) -> Outcome {
    Outcome::TargetFault(TargetFault::new(kind, "Connection refused"))
}

pub(crate) fn policy(strategy: FailureStrategy, on_target_down: OnTargetDown) -> FailurePolicy {
    FailurePolicy { strategy, on_target_down }
}

pub(crate) fn discard_after(retry_total_times: u32, wait_time_ms: u64) -> FailureStrategy {
    FailureStrategy::DiscardAfterRetry { retry: RetryPlan { retry_total_times, wait_time_ms } }
}

pub(crate) fn dead_letter_after(retry_total_times: u32, wait_time_ms: u64) -> FailureStrategy {
    let retry = RetryPlan { retry_total_times, wait_time_ms };
    FailureStrategy::DeadMessageQueue { topic_name: "dead_letter_queue".into(), retry }
}

/// What a test says about its task; the rest is the same for all.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) policy: FailurePolicy,
    pub(crate) order: OrderClass,
    pub(crate) records_max: u32,
    pub(crate) linger: Duration,
    pub(crate) max_in_flight: usize,
    pub(crate) deduplicates: bool,
    pub(crate) one_by_one: bool,
    pub(crate) memory: MemoryBudget,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: FailurePolicy::default(),
            order: OrderClass::Queue,
            records_max: 1000,
            linger: Duration::ZERO,
            max_in_flight: 1,
            deduplicates: false,
            one_by_one: false,
            memory: MemoryBudget::new(64 << 20),
        }
    }
}

impl Setup {
    pub(crate) fn options(&self) -> PipelineOptions {
        let limits = BatchLimits {
            records_max: self.records_max,
            bytes_max: 1 << 20,
            linger: self.linger,
            sync_bounds: self.deduplicates,
        };
        PipelineOptions {
            limits,
            max_in_flight: self.max_in_flight,
            one_by_one: self.one_by_one,
            max_records_per_second: None,
            max_bytes_per_second: None,
        }
    }

    pub(crate) fn start(self, queue: &Arc<MemoryQueue>, sink: &ScriptedSink) -> RunningTask {
        let options = self.options();
        self.start_with(queue, Arc::new(sink.clone()), options)
    }

    pub(crate) fn start_with(
        self,
        queue: &Arc<MemoryQueue>,
        opener: Arc<dyn OpenSink>,
        options: PipelineOptions,
    ) -> RunningTask {
        let lease = Lease::new(true);
        let metrics = RuntimeMetrics::new(false).expect("names are valid").task_started("double", "file");
        let changed = Arc::new(Notify::new());
        let stats = Arc::new(TaskStats::new("double".into(), INCARNATION, Epoch(1), metrics, changed));
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        let slot = Arc::new(SinkSlot::new(opener));
        let task = TaskContext {
            incarnation: INCARNATION,
            epoch: Epoch(1),
            policy: self.policy,
            order: self.order,
            options,
            slot: Arc::clone(&slot),
            lease: lease.clone(),
            stats: Arc::clone(&stats),
            memory: self.memory,
            sources: sources(queue),
            drain: drain.clone(),
            cut: cut.clone(),
            pace: Pace::new(options.max_records_per_second, options.max_bytes_per_second),
        };
        RunningTask { handle: tokio::spawn(task.run()), stats, slot, lease, drain, cut }
    }
}

pub(crate) struct RunningTask {
    pub(crate) handle: JoinHandle<TaskEnd>,
    pub(crate) stats: Arc<TaskStats>,
    pub(crate) slot: Arc<SinkSlot>,
    pub(crate) lease: Lease,
    pub(crate) drain: CancellationToken,
    pub(crate) cut: CancellationToken,
}

impl RunningTask {
    pub(crate) fn report(&self) -> TaskReport {
        self.stats.report()
    }

    pub(crate) async fn end(self) -> TaskEnd {
        tokio::time::timeout(HANG, self.handle).await.expect("the task hangs").expect("the task does not panic")
    }
}

/// Until the condition holds; looks again whenever the clock, paused or not, has moved by a millisecond.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < NEVER, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
