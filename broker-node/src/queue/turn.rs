//! One operation after the other, applied to the state and to the write batch of a group. Nothing here is visible to
//! a publisher or an owner before the batch is written: the committer answers afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_types::{Epoch, Incarnation, Sequence};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Shared;
use super::op::{Answer, Answered, Append, Call, CallError, CommitCall, Op, TicketError};
use super::rows::{self, MetaKey, QueueNames, stored_bytes};
use super::seal::UNREADABLE;
use super::state::{Queue, State};
use super::store::{Batch, StoreError, format};
use super::target::QueueTarget;

/// Everything one write batch and one fsync stand for.
#[derive(Default)]
pub(super) struct Group {
    pub number: u64,
    pub batch: Batch,
    pub sync: bool,
    /// Queues whose row is written with the group.
    pub dirty: BTreeSet<Incarnation>,
    /// New heads, to be shown once they are on disk.
    pub heads: BTreeMap<Incarnation, Sequence>,
    /// Queues that had nothing pending before this group: their watchers must hear of them.
    pub was_empty: BTreeSet<Incarnation>,
    pub deleted: Vec<Incarnation>,
    /// Queues that dropped records because the node was full: their space is wanted at once.
    pub squeezed: BTreeSet<Incarnation>,
    pub letters_dirty: bool,
    pub node_dirty: bool,
    pub tickets: Vec<oneshot::Sender<Result<(), TicketError>>>,
    pub answers: Vec<(oneshot::Sender<Answered>, Answered)>,
}

/// What one submission brings one queue.
#[derive(Clone, Copy, Default)]
struct Added {
    records: u64,
    bytes: u64,
    head: Sequence,
}

pub(super) struct Turn<'a> {
    pub shared: &'a Shared,
    pub state: &'a mut State,
    pub group: &'a mut Group,
}

impl Turn<'_> {
    pub fn apply(&mut self, op: Op) -> Result<(), StoreError> {
        match op {
            Op::Append(append) => self.append(append),
            Op::Call(call, answer) => {
                let result = self.call(call)?;
                self.group.answers.push((answer, result));
                Ok(())
            }
        }
    }

    /// The rows of everything the group changed.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        for incarnation in &self.group.dirty {
            if let Some(queue) = self.state.queues.get(incarnation) {
                let row = rows::encode(&queue.row).map_err(format("a queue"))?;
                self.group.batch.put_meta(MetaKey::Queue(*incarnation), row);
            }
        }
        if self.group.letters_dirty {
            let row = rows::encode(&self.state.letters).map_err(format("the dead letters"))?;
            self.group.batch.put_meta(MetaKey::Letters, row);
        }
        if self.group.node_dirty {
            let row = rows::encode(&self.state.node).map_err(format("the node's totals"))?;
            self.group.batch.put_meta(MetaKey::Node, row);
        }
        if self.group.sync && !self.group.dirty.is_empty() {
            let open_ms = rows::encode(&self.shared.open_ms()).map_err(format("the clock"))?;
            self.group.batch.put_meta(MetaKey::Clock, open_ms);
        }
        Ok(())
    }

    fn append(&mut self, append: Append) -> Result<(), StoreError> {
        self.group.tickets.push(append.done);
        self.state.release(&append.reserved);
        for target in &append.targets {
            self.meet(target)?;
        }
        self.make_room(&append.reserved)?;
        let mut added = vec![Added::default(); append.targets.len()];
        for entry in append.entries {
            if self.state.blocks.left() == 0 {
                // Reserved for the whole group before it began; a bug here must not become a repeated sequence.
                return Err(StoreError::Disk(std::io::Error::other("no sequence reserved")));
            }
            let sequence = self.state.blocks.allocate();
            let bytes = stored_bytes(&entry.value);
            for index in &*entry.wanted_by {
                let place = *index as usize;
                let (Some(target), Some(added)) = (append.targets.get(place), added.get_mut(place)) else { continue };
                added.records += 1;
                added.bytes += bytes;
                added.head = sequence.next();
                self.group.batch.put_record(target.incarnation, sequence, entry.value.clone());
            }
        }
        for (target, added) in append.targets.iter().zip(added).filter(|(_, added)| added.records > 0) {
            self.grow(target.incarnation, added);
        }
        self.group.sync = true;
        Ok(())
    }

    fn grow(&mut self, incarnation: Incarnation, added: Added) {
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return };
        if queue.row.pending == 0 {
            self.group.was_empty.insert(incarnation);
        }
        queue.row.pending += added.records;
        queue.row.bytes += added.bytes;
        queue.row.totals.queued += added.records;
        self.state.bytes += added.bytes;
        self.group.heads.insert(incarnation, added.head);
        self.group.dirty.insert(incarnation);
    }

    /// Makes the queue when it is new, and takes over what the catalogue says of it.
    pub fn meet(&mut self, target: &QueueTarget) -> Result<(), StoreError> {
        let start = self.state.blocks.next();
        let queue = self.state.queues.entry(target.incarnation).or_insert_with(|| Queue::new(Arc::default(), start));
        queue.bounds = Some(target.bounds);
        let same = queue.names.name == target.name.as_str()
            && queue.names.dead_letter_topic == target.dead_letter_topic
            && queue.names.filter == target.filter.as_str()
            && queue.names.kind == target.kind;
        if !same {
            let names = QueueNames {
                name: target.name.to_string(),
                kind: target.kind.clone(),
                filter: target.filter.to_string(),
                dead_letter_topic: target.dead_letter_topic.clone(),
            };
            let row = rows::encode(&names).map_err(format("a queue's names"))?;
            self.group.batch.put_meta(MetaKey::Names(target.incarnation), row);
            queue.names = Arc::new(names);
            self.group.dirty.insert(target.incarnation);
        }
        Ok(())
    }

    /// The outer error is a broken store; the inner one is the caller's answer.
    fn call(&mut self, call: Call) -> Result<Answered, StoreError> {
        match call {
            Call::Raise { incarnation, epoch } => {
                self.group.sync = true;
                Ok(self.admit(incarnation, epoch).map(|()| Answer::Done))
            }
            Call::Barrier { sync } => {
                self.group.sync |= sync;
                Ok(Ok(Answer::Done))
            }
            Call::Seal(seal) => self.seal(&seal),
            Call::SealFront(front) => self.seal_front(&front),
            Call::Lose(lost) => self.lose_sealed(&lost),
            Call::Skip { incarnation, epoch, first, head } => Ok(self.skip(incarnation, epoch, first, head)),
            Call::Split { incarnation, epoch, from, at, records, bytes } => {
                self.split(incarnation, epoch, from, at, (records, bytes))
            }
            Call::Commit(commit) => self.commit(*commit),
            Call::Reconcile => {
                self.reconcile()?;
                Ok(Ok(Answer::Done))
            }
            Call::Delete { incarnation } => {
                self.delete(incarnation);
                Ok(Ok(Answer::Done))
            }
            Call::LettersPublished { below } => {
                let letters = &mut self.state.letters;
                if below > letters.cursor {
                    letters.published += below - letters.cursor;
                    letters.cursor = below;
                    self.group.letters_dirty = true;
                }
                Ok(Ok(Answer::Done))
            }
            Call::DropLetter { number } => {
                self.drop_letter(number)?;
                Ok(Ok(Answer::Done))
            }
            // Their blocks were reserved before the group began.
            Call::Adopt { raft_id: _ } | Call::BeginAt { first: _ } => Ok(Ok(Answer::Done)),
        }
    }

    /// Refuses the stale; remembers the highest.
    pub fn admit(&mut self, incarnation: Incarnation, epoch: Epoch) -> Result<(), CallError> {
        let floor = self.state.floor(incarnation, self.shared.replica_epoch(incarnation));
        let queue = self.state.queues.get_mut(&incarnation).ok_or(CallError::Gone)?;
        if epoch < floor {
            return Err(CallError::Fenced);
        }
        if epoch > queue.row.epoch {
            queue.row.epoch = epoch;
            self.group.dirty.insert(incarnation);
        }
        Ok(())
    }

    fn commit(&mut self, commit: CommitCall) -> Result<Answered, StoreError> {
        if let Err(refused) = self.admit(commit.incarnation, commit.epoch) {
            return Ok(Err(refused));
        }
        // Also a repeat is answered only when the first is surely on disk.
        self.group.sync = true;
        let Some(queue) = self.state.queues.get(&commit.incarnation) else { return Ok(Err(CallError::Gone)) };
        if queue.row.position == commit.to {
            return Ok(Ok(Answer::Done));
        }
        if queue.row.position != commit.from || commit.to > queue.sealed_end() || commit.to < commit.from {
            return Ok(Err(CallError::Moved));
        }
        let (records, bytes) = self.unseal(commit.incarnation, commit.to, commit.part)?;
        let Some(queue) = self.state.queues.get_mut(&commit.incarnation) else { return Ok(Err(CallError::Gone)) };
        queue.row.position = commit.to;
        let totals = &mut queue.row.totals;
        let mut ended = commit.dead_lettered;
        totals.dead_lettered += commit.dead_lettered;
        for (reason, number) in commit.discarded {
            ended += number;
            rows::count(&mut totals.discarded, &reason, number);
        }
        if commit.unreadable > 0 {
            ended += commit.unreadable;
            rows::count(&mut totals.dropped, UNREADABLE, commit.unreadable);
        }
        totals.sent += records.saturating_sub(ended);
        self.state.passed(commit.incarnation, records, bytes);
        self.group.dirty.insert(commit.incarnation);
        self.settle_missing(commit.incarnation);
        self.store_letters(commit.letters)?;
        Ok(Ok(Answer::Done))
    }

    pub fn delete(&mut self, incarnation: Incarnation) {
        let Some(queue) = self.state.queues.remove(&incarnation) else { return };
        self.state.bytes = self.state.bytes.saturating_sub(queue.row.bytes);
        self.state.node.queues_deleted += 1;
        rows::count(&mut self.state.node.dropped, "connector_deleted", queue.row.pending);
        self.group.node_dirty = true;
        self.group.batch.delete_meta(MetaKey::Queue(incarnation));
        self.group.batch.delete_meta(MetaKey::Names(incarnation));
        for from in queue.sealed.keys() {
            self.group.batch.delete_meta(MetaKey::Sealed(incarnation, *from));
        }
        self.group.batch.drop_records(incarnation);
        self.group.dirty.remove(&incarnation);
        self.group.heads.remove(&incarnation);
        self.group.deleted.push(incarnation);
        self.group.sync = true;
        let dropped = queue.row.pending;
        if dropped > 0 {
            warn!(connector = %queue.names.name, %incarnation, dropped, "queue deleted with its connector, records dropped");
        } else {
            info!(connector = %queue.names.name, %incarnation, "queue deleted with its connector");
        }
    }
}
