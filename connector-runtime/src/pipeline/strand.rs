//! Settles records that must keep their order: a whole sealed batch, or one lane of it.
//!
//! ```text
//! work: [run, run, …] ──pop──► wait until due ──► one request ──► outcomes ──► settled
//!          ▲                                                        │ retry: the run again, due later
//!          └────────────────── in place, in order ◄─────────────────┘ unclear: its halves, due now
//! ```
//!
//! When order counts, the front run holds what follows it. When it does not, what is due later steps aside. A sink that
//! makes a request of each record gets runs of one record, so that a stop comes between two of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api_types::{Record, Sequence};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::policy::{Decision, Fault, decide};
use super::stats::SENT;
use super::task::TaskContext;
use super::unit::{Settled, Unit};
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::source::{QueueSource, SourceError};

/// Why a strand stopped before all of its records were settled.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The task is to stop, and nothing of this strand is under way.
    Draining,
    LeaseLost,
    Source(SourceError),
}

pub(super) struct Strand<'a> {
    task: &'a TaskContext,
    source: Arc<dyn QueueSource>,
    unit: Arc<Unit>,
    /// A record under retry holds what follows it.
    ordered: bool,
    work: VecDeque<Run>,
    /// Unordered strands only: runs that are due later.
    aside: Vec<Run>,
    /// Records that failed before, with the number of failures that counted.
    failed: BTreeMap<usize, u32>,
    backoff: Backoff,
}

/// Records of the unit that go into one request.
#[derive(Debug)]
struct Run {
    /// Places in the unit, ascending.
    places: Vec<usize>,
    /// Bounds of the sealed batch that holds them; with deduplicating targets exactly these records.
    from: Sequence,
    to: Sequence,
    due: Option<Instant>,
    /// These records failed before. A smaller request made to find a culprit is none.
    retry: bool,
}

/// What is to happen next with neighbouring records of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    ByPlan,
    ByBackoff,
    Repeat,
    /// It was never asked for, because of a record before it.
    Held,
    Ask,
}

impl<'a> Strand<'a> {
    pub(super) fn new(
        task: &'a TaskContext,
        source: Arc<dyn QueueSource>,
        unit: Arc<Unit>,
        places: Vec<usize>,
        ordered: bool,
    ) -> Self {
        let run = |places| Run { places, from: unit.from, to: unit.to, due: None, retry: false };
        let work = if task.options.one_by_one {
            places.into_iter().map(|place| run(vec![place])).collect()
        } else {
            VecDeque::from([run(places)])
        };
        Self {
            task,
            source,
            unit,
            ordered,
            work,
            aside: Vec::new(),
            failed: BTreeMap::new(),
            backoff: Backoff::target(),
        }
    }

    pub(super) async fn settle(mut self) -> Result<(), Interrupted> {
        while let Some(run) = self.next_run() {
            if let Some(due) = run.due {
                self.pause_until(due).await?;
            }
            let outcomes = self.request(&run).await?;
            self.take_in(run, outcomes).await?;
        }
        Ok(())
    }

    fn next_run(&mut self) -> Option<Run> {
        let now = Instant::now();
        let earliest = self.aside.iter().enumerate().min_by_key(|(_, run)| run.due).map(|(at, run)| (at, run.due));
        match earliest {
            Some((at, due)) if self.work.is_empty() || due.is_none_or(|due| due <= now) => {
                Some(self.aside.swap_remove(at))
            }
            Some(_) | None => self.work.pop_front(),
        }
    }

    async fn request(&mut self, run: &Run) -> Result<Vec<Outcome>, Interrupted> {
        let task = self.task;
        let unit = Arc::clone(&self.unit);
        let records: Vec<&Record> = run.places.iter().map(|place| &unit.records[*place]).collect();
        let bytes = records.iter().map(|record| record.message.payload.len() as u64).sum();
        let start = task.pace.book(records.len() as u64, bytes);
        if start > Instant::now() {
            self.pause_until(start).await?;
        }
        self.may_go_on()?;
        if run.retry {
            task.stats.retried(records.len() as u64);
        }
        let batch = Batch { id: unit.batch_id(run.from, run.to), records: &records };
        let opened = tokio::select! {
            opened = task.slot.get() => opened,
            () = task.drain.cancelled() => return Err(Interrupted::Draining),
        };
        let sink = match opened {
            Ok(sink) => sink,
            Err(fault) => return Ok(batch.all(&Outcome::TargetFault(fault))),
        };
        // Opening may have taken long.
        self.may_go_on()?;
        Ok(self.deliver(&sink, &batch).await)
    }

    async fn deliver(&self, sink: &Arc<dyn Sink>, batch: &Batch<'_>) -> Vec<Outcome> {
        let task = self.task;
        let request = task.stats.request(batch.records.len());
        let mut outcomes = sink.deliver(batch).await;
        request.ended(outcomes.iter().filter(|outcome| is_interrupted(outcome)).count());
        if outcomes.len() != batch.records.len() {
            let message = format!("the sink answered {} outcomes for {} records", outcomes.len(), batch.records.len());
            outcomes = batch.all(&Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, message).reopening()));
        }
        let reopen = outcomes.iter().any(|outcome| matches!(outcome, Outcome::TargetFault(fault) if fault.reopen));
        if reopen {
            task.slot.replace(sink).await;
        }
        outcomes
    }

    /// Settles what can be settled and puts the rest back to work.
    async fn take_in(&mut self, run: Run, outcomes: Vec<Outcome>) -> Result<(), Interrupted> {
        let unit = Arc::clone(&self.unit);
        let records = run.places.iter().map(|place| &unit.records[*place]);
        self.task.observe(records.zip(&outcomes));

        let offline = |outcome: &Outcome| matches!(outcome, Outcome::RecordFault(fault) if fault.offline);
        let asked = outcomes.iter().filter(|outcome| !offline(outcome)).count();
        let unclear = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Unclear(_))).count();
        let mut retry_after = None;
        let has_culprit = outcomes.iter().any(|outcome| *outcome != Outcome::Delivered && !is_interrupted(outcome));
        let mut todo: Vec<(usize, Next)> = Vec::new();
        for (place, outcome) in run.places.iter().copied().zip(&outcomes) {
            let next = match outcome {
                Outcome::Delivered => {
                    self.unit.settle(place, Settled::Delivered);
                    None
                }
                Outcome::RecordFault(fault) => self.fail(place, Fault::Record(fault)),
                Outcome::Unclear(fault) if asked == 1 => self.fail(place, Fault::Record(fault)),
                Outcome::Unclear(_) => Some(Next::Ask),
                Outcome::TargetFault(fault) if is_interrupted(outcome) && !fault.reopen && has_culprit => {
                    Some(Next::Held)
                }
                Outcome::TargetFault(fault) => {
                    retry_after = retry_after.max(fault.retry_after());
                    self.fail(place, Fault::Target(fault))
                }
            };
            todo.extend(next.map(|next| (place, next)));
        }
        if !todo.iter().any(|(_, next)| matches!(next, Next::ByBackoff | Next::Repeat)) {
            self.backoff.reset();
        }
        let halve = unclear > 1 && unclear == asked;
        let groups = self.group(todo, halve);
        self.put_back(&run, groups, retry_after).await
    }

    /// What is next for a record whose attempt failed; `None` when it has ended.
    fn fail(&mut self, place: usize, fault: Fault<'_>) -> Option<Next> {
        let record = &self.unit.records[place];
        let is_letter = !record.message.dead_letter_of.is_empty();
        let counted = self.failed.get(&place).copied();
        let decision = decide(&self.task.policy, is_letter, counted.unwrap_or(0), fault);
        if counted.is_none() && decision != Decision::Repeat {
            self.task.stats.first_failures(1);
            self.failed.insert(place, 0);
        }
        match decision {
            Decision::Repeat => Some(Next::Repeat),
            Decision::RetryByPlan => {
                self.failed.insert(place, counted.unwrap_or(0) + 1);
                Some(Next::ByPlan)
            }
            Decision::RetryByBackoff => Some(Next::ByBackoff),
            Decision::End(end) => {
                self.task.stats.ended(record, &end);
                self.unit.settle(place, Settled::Ended(end));
                None
            }
        }
    }

    /// Neighbours with the same next step go together; where order does not count, all of them do.
    fn group(&self, todo: Vec<(usize, Next)>, halve: bool) -> Vec<(Vec<usize>, Next)> {
        if halve {
            let places: Vec<usize> = todo.into_iter().map(|(place, _)| place).collect();
            let (left, right) = places.split_at(places.len() / 2);
            return vec![(left.to_vec(), Next::Ask), (right.to_vec(), Next::Ask)];
        }
        let mut groups: Vec<(Vec<usize>, Next)> = Vec::new();
        let keep_neighbours = self.ordered || self.task.deduplicates();
        for (place, next) in todo {
            let group = if keep_neighbours {
                groups.last_mut().filter(|(_, of)| *of == next)
            } else {
                groups.iter_mut().find(|(_, of)| *of == next)
            };
            match group {
                Some((places, _)) => places.push(place),
                None => groups.push((vec![place], next)),
            }
        }
        groups
    }

    async fn put_back(
        &mut self,
        run: &Run,
        groups: Vec<(Vec<usize>, Next)>,
        retry_after: Option<Duration>,
    ) -> Result<(), Interrupted> {
        let now = Instant::now();
        let by_plan = now + self.task.wait_time();
        let mut by_backoff = None;
        // Where order does not count nothing stands between a held record and the one that it waits for.
        let mut held = None;
        if !self.ordered && groups.iter().any(|(_, next)| *next == Next::Held) {
            if groups.iter().any(|(_, next)| matches!(next, Next::ByBackoff | Next::Repeat)) {
                held = Some(*by_backoff.insert(now + self.backoff.next(retry_after)));
            } else if groups.iter().any(|(_, next)| *next == Next::ByPlan) {
                held = Some(by_plan);
            }
        }
        let mut runs: Vec<Run> = Vec::with_capacity(groups.len());
        let mut from = run.from;
        for (places, next) in groups {
            let first = self.unit.records[places[0]].id.sequence;
            if let Some(before) = runs.last_mut() {
                before.to = first;
                if self.task.deduplicates() {
                    self.split(from, first).await?;
                    self.unit.sealed_at(first);
                }
                from = first;
            }
            let due = match next {
                Next::ByPlan => Some(by_plan),
                Next::ByBackoff | Next::Repeat => {
                    Some(*by_backoff.get_or_insert_with(|| now + self.backoff.next(retry_after)))
                }
                Next::Held => held,
                Next::Ask => None,
            };
            let retry = match next {
                Next::ByPlan | Next::ByBackoff => true,
                Next::Repeat | Next::Held => run.retry,
                Next::Ask => false,
            };
            runs.push(Run { places, from, to: run.to, due, retry });
        }
        if self.ordered {
            for run in runs.into_iter().rev() {
                self.work.push_front(run);
            }
        } else {
            let (later, soon): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.due.is_some());
            self.aside.extend(later);
            for run in soon.into_iter().rev() {
                self.work.push_front(run);
            }
        }
        Ok(())
    }

    /// The bounds of the halves are on disk before one of them is sent.
    async fn split(&self, from: Sequence, at: Sequence) -> Result<(), Interrupted> {
        let mut backoff = Backoff::queue();
        loop {
            self.may_go_on()?;
            match self.source.split(from, at).await {
                Ok(()) => return Ok(()),
                Err(SourceError::Unreachable(error)) => {
                    self.task.stats.error("queue could not be asked", &error.to_string());
                    self.pause_until(Instant::now() + backoff.next(None)).await?;
                }
                Err(error @ (SourceError::Fenced | SourceError::Moved | SourceError::Gone)) => {
                    return Err(Interrupted::Source(error));
                }
            }
        }
    }

    fn may_go_on(&self) -> Result<(), Interrupted> {
        if !self.task.lease.is_held() {
            return Err(Interrupted::LeaseLost);
        }
        if self.task.drain.is_cancelled() {
            return Err(Interrupted::Draining);
        }
        Ok(())
    }

    /// Nothing of this strand is under way during a pause, so a stop need not wait for it.
    async fn pause_until(&self, due: Instant) -> Result<(), Interrupted> {
        tokio::select! {
            () = tokio::time::sleep_until(due) => Ok(()),
            () = self.task.drain.cancelled() => Err(Interrupted::Draining),
        }
    }
}

fn is_interrupted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::TargetFault(fault) if fault.kind == TargetFaultKind::Interrupted)
}

impl TaskContext {
    /// Counts one request and shows how the target is. An interruption says nothing of it.
    fn observe<'r>(&self, outcomes: impl Iterator<Item = (&'r Record, &'r Outcome)>) {
        let mut delivered = Vec::new();
        let mut target_fault = None;
        let mut refusal = None;
        let mut outcomes = outcomes.filter(|(_, outcome)| !is_interrupted(outcome)).peekable();
        if outcomes.peek().is_none() {
            return;
        }
        for (record, outcome) in outcomes {
            match outcome {
                Outcome::Delivered => delivered.push(record),
                Outcome::TargetFault(fault) => target_fault = target_fault.or(Some(fault)),
                Outcome::RecordFault(fault) | Outcome::Unclear(fault) => refusal = refusal.or(Some(fault)),
            }
        }
        if !delivered.is_empty() {
            self.stats.delivered(delivered.into_iter());
        }
        if let Some(fault) = refusal {
            self.stats.error("target refused records", &fault.message);
        }
        match (target_fault, refusal) {
            (Some(fault), _) => {
                self.stats.attempted(&fault.message);
                self.stats.target_fault(fault);
            }
            (None, Some(fault)) => {
                self.stats.attempted(&fault.message);
                // An answer about a record is an answer of the target; a fault found offline says nothing of it.
                if !fault.offline {
                    self.stats.healthy();
                }
            }
            (None, None) => {
                self.stats.attempted(SENT);
                self.stats.healthy();
            }
        }
    }
}
