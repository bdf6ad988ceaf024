//! One queue, from `open` until the task drains or the queue stands elsewhere.
//!
//! ```text
//! fetch ──► window of units ──► strands ──► settled ──► commit over the finished prefix
//!   ▲  at most max_in_flight                                │
//!   └────────────── room in the window ◄────────────────────┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use api_types::Sequence;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::lanes::{Lane, Lanes, WHOLE_QUEUE, deal};
use super::memory::{PATIENCE, Reserved, SMALL_BATCH_BYTES};
use super::strand::{Interrupted, Strand};
use super::task::TaskContext;
use super::unit::{Unit, commit_of};
use crate::registry::OrderClass;
use crate::source::{Commit, Fetched, QueueSource, ReadyQueues, SealedBatch, SourceError};

pub(super) struct Session<'a> {
    task: &'a TaskContext,
    source: Arc<dyn QueueSource>,
    ready: watch::Receiver<ReadyQueues>,
    /// Where the next batch begins.
    next: Sequence,
    /// The size of the batch there, once it was fetched and had to be let go.
    next_bytes: Option<u64>,
    window: VecDeque<Arc<Unit>>,
    lanes: Lanes,
    events: FuturesUnordered<BoxFuture<'a, Event>>,
    /// A fetch, or a wait for more records, is among the events.
    fetching: bool,
    committing: bool,
    strands: usize,
    /// Nothing more is fetched: the task drains, or the queue must be opened again.
    closing: Option<Closing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Drain,
    Moved,
}

enum Event {
    Fetched(Result<Answer, Interrupted>),
    /// The queue has grown since it was found empty.
    Grown,
    Settled(Result<(), Interrupted>),
    Committed {
        units: usize,
        result: Result<(), Interrupted>,
    },
}

enum Answer {
    Taken(Reserved, Fetched),
    /// No memory was to be had for a while; the size of the batch, if it is known.
    NoRoom(Option<u64>),
}

impl<'a> Session<'a> {
    pub(super) async fn open(
        task: &'a TaskContext,
        source: Arc<dyn QueueSource>,
        ready: watch::Receiver<ReadyQueues>,
    ) -> Result<Self, Interrupted> {
        may_act(task)?;
        let next = source.open().await.map_err(Interrupted::Source)?;
        Ok(Self {
            task,
            source,
            ready,
            next,
            next_bytes: None,
            window: VecDeque::new(),
            lanes: Lanes::default(),
            events: FuturesUnordered::new(),
            fetching: false,
            committing: false,
            strands: 0,
            closing: None,
        })
    }

    /// Ends with `Draining` when the task is to stop; everything settled is committed then. `reopen` is how long to
    /// wait before the queue is opened again; progress resets it.
    pub(super) async fn run(mut self, reopen: &mut Backoff) -> Interrupted {
        let task = self.task;
        loop {
            self.start_fetch();
            self.start_commit();
            if let Some(closing) = self.closing
                && self.strands == 0
                && !self.committing
            {
                self.commit_rest().await;
                return match closing {
                    Closing::Drain => Interrupted::Draining,
                    Closing::Moved => Interrupted::Source(SourceError::Moved),
                };
            }
            tokio::select! {
                biased;
                () = task.cut.cancelled() => return self.cut_off().await,
                () = task.drain.cancelled(), if self.closing != Some(Closing::Drain) => {
                    self.closing = Some(Closing::Drain);
                }
                Some(event) = self.events.next() => match self.take(event, reopen) {
                    Ok(()) => {}
                    Err(interrupted) => return interrupted,
                },
            }
        }
    }

    fn take(&mut self, event: Event, reopen: &mut Backoff) -> Result<(), Interrupted> {
        match event {
            Event::Fetched(result) => {
                self.fetching = false;
                match result {
                    Ok(Answer::Taken(memory, Fetched::Batch(batch))) => self.take_batch(batch, memory),
                    Ok(Answer::Taken(_, Fetched::Empty { head })) => self.wait_for_more(head),
                    Ok(Answer::NoRoom(bytes)) => self.next_bytes = bytes,
                    Err(Interrupted::Source(SourceError::Moved)) => self.move_away(),
                    Err(Interrupted::Draining) => {}
                    Err(interrupted) => return Err(interrupted),
                }
            }
            Event::Grown => self.fetching = false,
            Event::Settled(result) => {
                self.strands -= 1;
                match result {
                    Ok(()) | Err(Interrupted::Draining) => {}
                    Err(interrupted) => return Err(interrupted),
                }
            }
            Event::Committed { units, result } => {
                self.committing = false;
                result?;
                self.window.drain(..units);
                reopen.reset();
            }
        }
        Ok(())
    }

    fn start_fetch(&mut self) {
        if self.fetching || self.closing.is_some() || self.window.len() >= self.task.options.max_in_flight {
            return;
        }
        self.fetching = true;
        let (task, source, from) = (self.task, Arc::clone(&self.source), self.next);
        let (first, sealed_bytes) = (self.window.is_empty(), self.next_bytes);
        self.events.push(Box::pin(async move {
            tokio::select! {
                biased;
                () = task.drain.cancelled() => Event::Fetched(Err(Interrupted::Draining)),
                fetched = fetch(task, &*source, from, first, sealed_bytes) => Event::Fetched(fetched),
            }
        }));
    }

    fn take_batch(&mut self, batch: SealedBatch, memory: Reserved) {
        if self.closing.is_some() {
            return;
        }
        if batch.from != self.next || batch.to <= batch.from {
            return self.move_away();
        }
        self.next = batch.to;
        self.next_bytes = None;
        let task = self.task;
        let unit = Arc::new(Unit::new(batch, self.source.node(), task.incarnation, memory, Arc::clone(&task.stats)));
        self.window.push_back(Arc::clone(&unit));
        let all = || (0..unit.records.len()).collect();
        match task.order {
            _ if unit.records.is_empty() => {}
            OrderClass::None => self.start_strand(&unit, all(), None),
            OrderClass::Queue => self.start_strand(&unit, all(), Some(WHOLE_QUEUE)),
            OrderClass::Lanes => {
                for (lane, places) in deal(&unit.records) {
                    self.start_strand(&unit, places, Some(lane));
                }
            }
        }
    }

    fn start_strand(&mut self, unit: &Arc<Unit>, places: Vec<usize>, lane: Option<Lane>) {
        let strand = Strand::new(self.task, Arc::clone(&self.source), Arc::clone(unit), places, lane.is_some());
        let mut pass = lane.map(|lane| self.lanes.pass(lane));
        self.strands += 1;
        self.events.push(Box::pin(async move {
            if let Some(pass) = &mut pass {
                pass.turn().await;
            }
            Event::Settled(strand.settle().await)
        }));
    }

    fn wait_for_more(&mut self, head: Sequence) {
        self.fetching = true;
        let (task, node, mut ready) = (self.task, self.source.node(), self.ready.clone());
        self.events.push(Box::pin(async move {
            let grown = async {
                let more = |queues: &ReadyQueues| queues.get(&node).is_some_and(|queue| queue.head > head);
                if ready.wait_for(more).await.is_err() {
                    // The node shuts its queues down; the supervisor will stop this task.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = grown => Event::Grown,
                () = task.drain.cancelled() => Event::Grown,
            }
        }));
    }

    fn start_commit(&mut self) {
        if self.committing {
            return;
        }
        let finished: Vec<Arc<Unit>> = self.window.iter().take_while(|unit| unit.is_settled()).cloned().collect();
        let Some(commit) = commit_of(&finished) else { return };
        self.committing = true;
        let (task, source, units) = (self.task, Arc::clone(&self.source), finished.len());
        drop(finished);
        self.events.push(Box::pin(async move {
            Event::Committed { units, result: commit_until_stored(task, &*source, commit).await }
        }));
    }

    /// What is not yet settled is sealed and settled alike by whoever opens the queue next.
    fn move_away(&mut self) {
        self.closing.get_or_insert(Closing::Moved);
    }

    /// The bound of a stop is reached: what is under way is dropped, what is settled is still committed.
    async fn cut_off(mut self) -> Interrupted {
        self.task.slot.abort();
        self.events = FuturesUnordered::new();
        self.commit_rest().await;
        Interrupted::Draining
    }

    /// Commits the settled records in front, also where they end inside a unit.
    async fn commit_rest(&mut self) {
        let finished = self.window.iter().take_while(|unit| unit.is_settled()).count();
        let mut commit = commit_of(self.window.make_contiguous().get(..finished).unwrap_or_default());
        if let Some(partial) = self.window.get(finished).cloned()
            && let Some(to) = cut_at(self.task, &*self.source, &partial).await
        {
            let from = commit.as_ref().map_or(partial.from, |commit| commit.from);
            let mut ends = commit.map(|commit| commit.ends).unwrap_or_default();
            ends.extend(partial.ends_before(to));
            commit = Some(Commit { from, to, ends });
        }
        let Some(commit) = commit else { return };
        if may_act(self.task).is_err() {
            return;
        }
        // Nobody is left to try again: what is not stored is delivered once more by the next owner.
        if let Err(error) = self.source.commit(commit).await {
            self.task.stats.error("last commit failed", &error.to_string());
        }
    }
}

/// Where a commit inside this unit may end. A sealed batch that a target deduplicates by stays whole; any other is
/// split where its settled records end.
async fn cut_at(task: &TaskContext, source: &dyn QueueSource, unit: &Unit) -> Option<Sequence> {
    let to = unit.settled_up_to();
    if task.deduplicates() {
        return unit.last_seal_within(to);
    }
    if to <= unit.from || may_act(task).is_err() {
        return None;
    }
    source.split(unit.from, to).await.ok().map(|()| to)
}

/// `first`: this queue holds no batch yet. `sealed_bytes`: the size of the batch, where it is known.
///
/// Memory is there before a batch is fetched. A fetch that lingers gives it to others meanwhile; when it is not to be
/// had again, the batch is let go – it is sealed, and comes back as it was – unless the queue holds none.
async fn fetch(
    task: &TaskContext,
    source: &dyn QueueSource,
    from: Sequence,
    first: bool,
    sealed_bytes: Option<u64>,
) -> Result<Answer, Interrupted> {
    let mut backoff = Backoff::queue();
    loop {
        let mut limits = task.options.limits;
        let mut memory = match task.memory.reserve_soon(sealed_bytes.unwrap_or(limits.bytes_max)).await {
            Some(memory) => memory,
            None if first => {
                limits.bytes_max = limits.bytes_max.min(SMALL_BATCH_BYTES);
                Reserved::nothing()
            }
            // By now the window may be empty, and this the first.
            None => return Ok(Answer::NoRoom(sealed_bytes)),
        };
        if limits.linger > PATIENCE && sealed_bytes.is_none() {
            memory.shrink_to(SMALL_BATCH_BYTES);
        }
        may_act(task)?;
        match source.fetch(from, limits).await {
            Ok(Fetched::Batch(batch)) => {
                let bytes = batch.records.iter().map(|record| record.message.size_bytes() as u64).sum();
                memory.shrink_to(bytes);
                if memory.is_nothing() || task.memory.grow_soon(&mut memory, bytes).await || first {
                    return Ok(Answer::Taken(memory, Fetched::Batch(batch)));
                }
                return Ok(Answer::NoRoom(Some(bytes)));
            }
            Ok(Fetched::Empty { head }) => return Ok(Answer::Taken(memory, Fetched::Empty { head })),
            Err(SourceError::Unreachable(error)) => {
                drop(memory);
                task.stats.error("queue could not be asked", &error.to_string());
                tokio::time::sleep(backoff.next(None)).await;
            }
            Err(error @ (SourceError::Fenced | SourceError::Moved | SourceError::Gone)) => {
                return Err(Interrupted::Source(error));
            }
        }
    }
}

/// A commit whose answer was lost is repeated: a repeat of what was stored adds nothing.
async fn commit_until_stored(task: &TaskContext, source: &dyn QueueSource, commit: Commit) -> Result<(), Interrupted> {
    let mut backoff = Backoff::queue();
    loop {
        may_act(task)?;
        match source.commit(commit.clone()).await {
            Ok(()) => return Ok(()),
            Err(SourceError::Unreachable(error)) => {
                task.stats.error("queue could not be asked", &error.to_string());
                tokio::time::sleep_until(Instant::now() + backoff.next(None)).await;
            }
            Err(error @ (SourceError::Fenced | SourceError::Moved | SourceError::Gone)) => {
                return Err(Interrupted::Source(error));
            }
        }
    }
}

fn may_act(task: &TaskContext) -> Result<(), Interrupted> {
    if task.lease.is_held() { Ok(()) } else { Err(Interrupted::LeaseLost) }
}
