//! What the node knows of its queues without asking the disk. Changed by the committer thread only; read under one
//! lock by everybody.
//!
//! ```text
//!            sealed, uncommitted            dropped        unsealed
//!  ──────┼───────────┼───────────┼─────────────────────┼───────────────┼──────► sequences
//!     position    batch to    sealed end          unsealed_from       head (synced)
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api_types::{Epoch, Incarnation, Sequence};
use tokio::sync::watch;

use super::disk::DiskSpace;
use super::reserve::Blocks;
use super::rows::{Appended, LettersRow, NodeRow, QueueNames, QueueRow, SealedRow};
use super::store::{Dead, StoreError};
use super::target::Bounds;

/// Whether the store takes writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Open,
    /// A write failed; the store is being opened again.
    Failed,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub row: SealedRow,
    /// The group it was written in; it is on disk once a group ≥ this one was synced.
    pub group: u64,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub names: Arc<QueueNames>,
    /// From the catalogue; none until the first append or reconcile after the start: nothing is dropped before.
    pub bounds: Option<Bounds>,
    pub row: QueueRow,
    /// Sealed, uncommitted batches by their `from`; each begins where the one before ends.
    pub sealed: BTreeMap<Sequence, Sealed>,
    /// One past the last synced record. Lives on over a reopening of the store.
    pub head: watch::Sender<Sequence>,
    /// Somebody was told that there is nothing up to the head and waits for more.
    pub armed: bool,
    /// When the oldest unsealed record was appended, as far as known.
    pub oldest: Option<(Sequence, Appended)>,
    /// Bytes passed since their files were last looked at.
    pub passed_bytes: u64,
}

impl Queue {
    pub fn new(names: Arc<QueueNames>, start: Sequence) -> Self {
        let row = QueueRow { position: start, unsealed_from: start, ..QueueRow::default() };
        Self {
            names,
            bounds: None,
            row,
            sealed: BTreeMap::new(),
            head: watch::Sender::new(start),
            armed: true,
            oldest: None,
            passed_bytes: 0,
        }
    }

    pub fn head(&self) -> Sequence {
        *self.head.borrow()
    }

    /// Where the next batch begins.
    pub fn sealed_end(&self) -> Sequence {
        self.sealed.values().next_back().map_or(self.row.position, |sealed| sealed.row.to)
    }

    /// The first record of the batch that begins before `at` and ends behind it.
    pub fn batch_around(&self, at: Sequence) -> Option<Sequence> {
        let (_, sealed) = self.sealed.range(..at).next_back()?;
        (sealed.row.to > at).then_some(sealed.row.first)
    }

    pub fn sealed_bytes(&self) -> u64 {
        self.sealed.values().map(|sealed| sealed.row.bytes).sum()
    }

    /// Bytes that may be dropped: neither sealed nor gone.
    pub fn unsealed_bytes(&self) -> u64 {
        self.row.bytes.saturating_sub(self.sealed_bytes())
    }

    pub fn dead(&self) -> Dead {
        let below = self.sealed.values().next().map_or(self.row.unsealed_from, |sealed| sealed.row.first);
        Dead { below, hole: (self.sealed_end(), self.row.unsealed_from) }
    }

    /// Takes records out of what is pending.
    pub fn passed(&mut self, records: u64, bytes: u64) {
        self.row.pending = self.row.pending.saturating_sub(records);
        self.row.bytes = self.row.bytes.saturating_sub(bytes);
        self.passed_bytes += bytes;
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub phase: Phase,
    /// Why it failed last: for want of room on the disk.
    pub lacks_room: bool,
    pub queues: BTreeMap<Incarnation, Queue>,
    pub blocks: Blocks,
    pub letters: LettersRow,
    /// Letters below are on disk.
    pub letters_synced: u64,
    pub node: NodeRow,
    /// Submitted and not yet in a queue's `bytes`.
    pub reserved: HashMap<Incarnation, u64>,
    pub reserved_bytes: u64,
    /// Sum of the queues' bytes.
    pub bytes: u64,
    pub disk: DiskSpace,
    pub group_written: u64,
    pub group_synced: u64,
}

impl State {
    pub fn fail(&mut self, error: &StoreError) {
        self.phase = Phase::Failed;
        self.lacks_room = error.is_no_room();
    }

    pub fn release(&mut self, reserved: &[(Incarnation, u64)]) {
        for (incarnation, bytes) in reserved {
            if let Some(left) = self.reserved.get_mut(incarnation) {
                *left = left.saturating_sub(*bytes);
                if *left == 0 {
                    self.reserved.remove(incarnation);
                }
            }
            self.reserved_bytes = self.reserved_bytes.saturating_sub(*bytes);
        }
    }

    pub fn passed(&mut self, incarnation: Incarnation, records: u64, bytes: u64) {
        if let Some(queue) = self.queues.get_mut(&incarnation) {
            queue.passed(records, bytes);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// The queues whose unsealed records may go when the node is full.
    pub fn droppable(&self) -> impl Iterator<Item = (Incarnation, u64)> {
        use api_types::connector::WhenFull;
        self.queues
            .iter()
            .filter(|(_, queue)| queue.bounds.is_some_and(|bounds| bounds.when_full == WhenFull::DropOldest))
            .map(|(incarnation, queue)| (*incarnation, queue.unsealed_bytes()))
            .filter(|(_, bytes)| *bytes > 0)
    }

    pub fn droppable_bytes(&self) -> u64 {
        self.droppable().map(|(_, bytes)| bytes).sum()
    }

    /// The highest epoch that this node has seen for a connector, here or in its replica.
    pub fn floor(&self, incarnation: Incarnation, replica: Epoch) -> Epoch {
        self.queues.get(&incarnation).map_or(replica, |queue| queue.row.epoch.max(replica))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let mut queue = Queue::new(Arc::default(), Sequence(10));
        queue.row.pending = 20;
        queue.row.bytes = 200;
        queue.head.send_replace(Sequence(30));
        queue
    }

    fn seal(queue: &mut Queue, from: u64, first: u64, to: u64) {
        let row = SealedRow { first: Sequence(first), to: Sequence(to), records: to - first, bytes: 10 * (to - first) };
        queue.sealed.insert(Sequence(from), Sealed { row, group: 0 });
        queue.row.unsealed_from = Sequence(to);
    }

    #[test]
    fn what_is_dead_is_below_the_first_batch_or_between_the_last_batch_and_the_unsealed() {
        let mut queue = queue();
        assert_eq!(queue.dead().below, Sequence(10));
        seal(&mut queue, 10, 12, 15);
        queue.row.unsealed_from = Sequence(20);
        let dead = queue.dead();
        assert_eq!(dead, Dead { below: Sequence(12), hole: (Sequence(15), Sequence(20)) });
        assert_eq!(queue.sealed_end(), Sequence(15));
        assert_eq!(queue.unsealed_bytes(), 170);
    }

    #[test]
    fn releasing_a_reservation_leaves_nothing_behind() {
        let mut state = State::default();
        state.reserved.insert(Incarnation(1), 5);
        state.reserved_bytes = 5;
        state.release(&[(Incarnation(1), 5), (Incarnation(2), 0)]);
        assert!(state.reserved.is_empty());
        assert_eq!(state.reserved_bytes, 0);
    }
}
