//! A sealed batch on its way: its records, and how each of them ended so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_types::{Incarnation, RaftId, Record, Sequence};

use super::memory::Reserved;
use super::stats::TaskStats;
use crate::sink::BatchId;
use crate::source::{Commit, End, SealedBatch};

pub(super) struct Unit {
    pub(super) from: Sequence,
    pub(super) to: Sequence,
    pub(super) records: Vec<Record>,
    incarnation: Incarnation,
    /// The node of the queue: names a batch only when it has no records.
    node: RaftId,
    progress: Mutex<Progress>,
    stats: Arc<TaskStats>,
    _memory: Reserved,
}

struct Progress {
    settled: Vec<Option<Settled>>,
    left: usize,
    /// Where the sealed batch was split, ascending.
    sealed_at: Vec<Sequence>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Delivered,
    Ended(End),
}

impl Unit {
    pub(super) fn new(
        batch: SealedBatch,
        node: RaftId,
        incarnation: Incarnation,
        memory: Reserved,
        stats: Arc<TaskStats>,
    ) -> Self {
        let left = batch.records.len();
        stats.taken(left);
        Self {
            from: batch.from,
            to: batch.to,
            records: batch.records,
            incarnation,
            node,
            progress: Mutex::new(Progress { settled: vec![None; left], left, sealed_at: Vec::new() }),
            stats,
            _memory: memory,
        }
    }

    pub(super) fn batch_id(&self, from: Sequence, to: Sequence) -> BatchId {
        let raft_id = self.records.first().map_or(self.node, |record| record.id.raft_id);
        BatchId { raft_id, incarnation: self.incarnation, from, to }
    }

    pub(super) fn settle(&self, place: usize, how: Settled) {
        let mut progress = self.lock();
        if progress.settled[place].replace(how).is_none() {
            progress.left -= 1;
        }
    }

    /// The sealed batch was split here.
    pub(super) fn sealed_at(&self, at: Sequence) {
        let mut progress = self.lock();
        let place = progress.sealed_at.partition_point(|other| *other < at);
        progress.sealed_at.insert(place, at);
    }

    pub(super) fn is_settled(&self) -> bool {
        self.lock().left == 0
    }

    /// How the records before `to` ended.
    pub(super) fn ends_before(&self, to: Sequence) -> Vec<(Sequence, End)> {
        let progress = self.lock();
        let records = self.records.iter().take_while(|record| record.id.sequence < to);
        let ends = records.zip(&progress.settled).filter_map(|(record, settled)| match settled {
            Some(Settled::Ended(end)) => Some((record.id.sequence, end.clone())),
            Some(Settled::Delivered) | None => None,
        });
        ends.collect()
    }

    /// The first record that is not settled; everything before it may be committed.
    pub(super) fn settled_up_to(&self) -> Sequence {
        let progress = self.lock();
        let prefix = progress.settled.iter().take_while(|settled| settled.is_some()).count();
        match self.records.get(prefix) {
            // Sequences have gaps: the first record may lie behind the unit's bound.
            Some(_) if prefix == 0 => self.from,
            Some(record) => record.id.sequence,
            None => self.to,
        }
    }

    /// The last place at or before `at` where sealed batches meet, if it lies inside this unit.
    pub(super) fn last_seal_within(&self, at: Sequence) -> Option<Sequence> {
        self.lock().sealed_at.iter().copied().rfind(|sealed| *sealed <= at)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.stats.let_go(self.records.len());
    }
}

/// One commit over neighbouring settled units, none of which is left out.
pub(super) fn commit_of(units: &[Arc<Unit>]) -> Option<Commit> {
    let (first, last) = (units.first()?, units.last()?);
    let ends = units.iter().flat_map(|unit| unit.ends_before(unit.to)).collect();
    Some(Commit { from: first.from, to: last.to, ends })
}
