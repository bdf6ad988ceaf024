//! The bounds of batches: how they are set, split, taken away, and corrected when the store lost what they hold.
//!
//! ```text
//! read (no lock) ──► Seal: what was dropped meanwhile is cut, what cannot be read ends ──► bounds
//!                      └─ all of it was dropped, again ──► SealFront: read and bounds in one turn
//! bounds ──► read again ──► fewer found ──► Lose: the rest is counted, the bounds say what is there
//! ```

use std::ops::ControlFlow;

use api_types::{Epoch, Incarnation, Sequence};
use tracing::error;

use super::op::{Answer, Answered, CallError, Lost, Part, Piece, Seal, SealFront};
use super::rows::{self, MetaKey, SealedRow, stored_bytes};
use super::state::Sealed;
use super::store::{StoreError, format};
use super::turn::Turn;

/// Why a record was dropped that its store cannot give back.
pub(super) const UNREADABLE: &str = "unreadable";
pub(super) const MISSING: &str = "missing";

impl Turn<'_> {
    pub fn seal(&mut self, seal: &Seal) -> Result<Answered, StoreError> {
        if let Err(refused) = self.admit(seal.incarnation, seal.epoch) {
            return Ok(Err(refused));
        }
        let Some(queue) = self.state.queues.get_mut(&seal.incarnation) else { return Ok(Err(CallError::Gone)) };
        if queue.sealed.contains_key(&seal.from) || queue.row.unsealed_from < seal.first {
            return Ok(Ok(Answer::Retry));
        }
        if queue.sealed_end() != seal.from || seal.to > queue.head() {
            return Ok(Err(CallError::Moved));
        }
        // What was dropped since the scan is counted already.
        let first = queue.row.unsealed_from;
        if first >= seal.to {
            return Ok(Ok(Answer::Retry));
        }
        let cut = seal.records.partition_point(|(sequence, _)| *sequence < first);
        let (_, left) = seal.records.split_at(cut);
        let unreadable: Vec<Piece> =
            seal.unreadable.iter().filter(|(sequence, _)| *sequence >= first).copied().collect();
        queue.row.unsealed_from = seal.to;
        self.group.dirty.insert(seal.incarnation);
        self.group.sync |= seal.sync;
        self.end_unreadable(seal.incarnation, &unreadable);
        if left.is_empty() {
            return Ok(Ok(Answer::Retry));
        }
        let bytes = left.iter().map(|(_, bytes)| bytes).sum();
        let row = SealedRow { first, to: seal.to, records: left.len() as u64, bytes };
        self.set_bounds(seal.incarnation, seal.from, row)?;
        Ok(Ok(Answer::Sealed { cut }))
    }

    /// Reads under the state's lock, so only for an owner that lost its records to a full queue before; what cannot be
    /// read shows when the batch is read.
    pub fn seal_front(&mut self, front: &SealFront) -> Result<Answered, StoreError> {
        if let Err(refused) = self.admit(front.incarnation, front.epoch) {
            return Ok(Err(refused));
        }
        let Some(queue) = self.state.queues.get(&front.incarnation) else { return Ok(Err(CallError::Gone)) };
        if queue.sealed.contains_key(&front.from) {
            return Ok(Ok(Answer::Retry));
        }
        if queue.sealed_end() != front.from {
            return Ok(Err(CallError::Moved));
        }
        let first = queue.row.unsealed_from;
        let mut row = SealedRow { first, to: first, records: 0, bytes: 0 };
        let mut run_end = None;
        self.shared.store.scan(front.incarnation, first, queue.head(), |sequence, value| {
            let bytes = stored_bytes(value);
            let run_end = *run_end.get_or_insert_with(|| self.state.blocks.run(sequence).1);
            let over = row.records > 0 && (row.records >= front.records_max || row.bytes + bytes > front.bytes_max);
            if over || sequence >= run_end {
                return Ok(ControlFlow::Break(()));
            }
            row = SealedRow { to: sequence.next(), records: row.records + 1, bytes: row.bytes + bytes, ..row };
            Ok(ControlFlow::Continue(()))
        })?;
        if row.records > 0 {
            if let Some(queue) = self.state.queues.get_mut(&front.incarnation) {
                queue.row.unsealed_from = row.to;
            }
            self.group.dirty.insert(front.incarnation);
            self.group.sync |= front.sync;
            self.set_bounds(front.incarnation, front.from, row)?;
        }
        Ok(Ok(Answer::Retry))
    }

    /// What a sealed batch holds less than its bounds say was not sent: it is counted, and the bounds are corrected.
    pub fn lose_sealed(&mut self, lost: &Lost) -> Result<Answered, StoreError> {
        if let Err(refused) = self.admit(lost.incarnation, lost.epoch) {
            return Ok(Err(refused));
        }
        let Some(queue) = self.state.queues.get(&lost.incarnation) else { return Ok(Err(CallError::Gone)) };
        if queue.sealed.get(&lost.from).is_none_or(|sealed| sealed.row != lost.row) {
            return Ok(Ok(Answer::Retry));
        }
        let unreadable: u64 = lost.unreadable.iter().map(|(_, bytes)| bytes).sum();
        let records = lost.row.records.saturating_sub(lost.records + lost.unreadable.len() as u64);
        let bytes = lost.row.bytes.saturating_sub(lost.bytes + unreadable);
        self.end_unreadable(lost.incarnation, &lost.unreadable);
        self.count_missing(lost.incarnation, records, bytes);
        let row = SealedRow { records: lost.records, bytes: lost.bytes, ..lost.row };
        self.set_bounds(lost.incarnation, lost.from, row)?;
        Ok(Ok(Answer::Done))
    }

    /// Goes on behind unsealed records that the store does not have.
    pub fn skip(&mut self, incarnation: Incarnation, epoch: Epoch, first: Sequence, head: Sequence) -> Answered {
        self.admit(incarnation, epoch)?;
        let queue = self.state.queues.get_mut(&incarnation).ok_or(CallError::Gone)?;
        // What this group appended is counted as pending and lies behind the head.
        let appended = self.group.heads.contains_key(&incarnation);
        if appended || queue.row.unsealed_from != first || queue.head() != head {
            return Ok(Answer::Retry);
        }
        let sealed: u64 = queue.sealed.values().map(|sealed| sealed.row.records).sum();
        let (records, bytes) = (queue.row.pending.saturating_sub(sealed), queue.unsealed_bytes());
        queue.row.unsealed_from = head;
        self.group.dirty.insert(incarnation);
        self.count_missing(incarnation, records, bytes);
        Ok(Answer::Done)
    }

    /// Once nothing of a queue is left to be read, nothing can be pending.
    pub fn settle_missing(&mut self, incarnation: Incarnation) {
        let Some(queue) = self.state.queues.get(&incarnation) else { return };
        let read = queue.sealed.is_empty() && queue.row.unsealed_from >= queue.head();
        if read && !self.group.heads.contains_key(&incarnation) {
            self.count_missing(incarnation, queue.row.pending, queue.row.bytes);
        }
    }

    fn count_missing(&mut self, incarnation: Incarnation, records: u64, bytes: u64) {
        self.end(incarnation, MISSING, records, bytes);
    }

    /// Removed at once, so that whoever counts the records of a range later counts what can be sent.
    fn end_unreadable(&mut self, incarnation: Incarnation, records: &[Piece]) {
        for (sequence, _) in records {
            self.group.batch.delete_record(incarnation, *sequence);
        }
        let bytes = records.iter().map(|(_, bytes)| bytes).sum();
        self.end(incarnation, UNREADABLE, records.len() as u64, bytes);
    }

    fn end(&mut self, incarnation: Incarnation, reason: &'static str, records: u64, bytes: u64) {
        if records == 0 && bytes == 0 {
            return;
        }
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return };
        rows::count(&mut queue.row.totals.dropped, reason, records);
        let connector = queue.names.name.clone();
        self.state.passed(incarnation, records, bytes);
        self.group.dirty.insert(incarnation);
        self.group.sync = true;
        error!(%connector, %incarnation, reason, records, "records of a queue lost by its store, counted as dropped");
    }

    fn set_bounds(&mut self, incarnation: Incarnation, from: Sequence, row: SealedRow) -> Result<(), StoreError> {
        let group = self.group.number;
        if let Some(queue) = self.state.queues.get_mut(&incarnation) {
            queue.sealed.insert(from, Sealed { row, group });
        }
        self.put_sealed(incarnation, from, row)
    }

    /// `part`: records and bytes before `at`, counted by the caller.
    pub fn split(
        &mut self,
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        at: Sequence,
        part: (u64, u64),
    ) -> Result<Answered, StoreError> {
        if let Err(refused) = self.admit(incarnation, epoch) {
            return Ok(Err(refused));
        }
        // Halves are sent as soon as this is answered: the bounds must be on disk for a sink that deduplicates.
        self.group.sync = true;
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return Ok(Err(CallError::Gone)) };
        let Some(whole) = queue.sealed.get(&from).map(|sealed| sealed.row) else {
            return Ok(Err(CallError::Moved));
        };
        if whole.to == at {
            return Ok(Ok(Answer::Done));
        }
        if at <= whole.first || at > whole.to {
            return Ok(Err(CallError::Moved));
        }
        let (records, bytes) = part;
        let left = SealedRow { to: at, records, bytes, ..whole };
        let right = SealedRow {
            first: at,
            to: whole.to,
            records: whole.records.saturating_sub(records),
            bytes: whole.bytes.saturating_sub(bytes),
        };
        for (start, row) in [(from, left), (at, right)] {
            queue.sealed.insert(start, Sealed { row, group: self.group.number });
        }
        self.put_sealed(incarnation, from, left)?;
        self.put_sealed(incarnation, at, right)?;
        Ok(Ok(Answer::Done))
    }

    fn put_sealed(&mut self, incarnation: Incarnation, from: Sequence, row: SealedRow) -> Result<(), StoreError> {
        let value = rows::encode(&row).map_err(format("a sealed batch"))?;
        self.group.batch.put_meta(MetaKey::Sealed(incarnation, from), value);
        Ok(())
    }

    /// Takes the sealed batches below `to` away, and the front of the one that `to` lies in; tells what they held.
    /// `part`: of that front, measured outside of the lock.
    pub fn unseal(
        &mut self,
        incarnation: Incarnation,
        to: Sequence,
        part: Option<Part>,
    ) -> Result<(u64, u64), StoreError> {
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return Ok((0, 0)) };
        let (mut records, mut bytes) = (0, 0);
        let mut rest = None;
        while let Some((from, sealed)) = queue.sealed.pop_first() {
            if from >= to {
                queue.sealed.insert(from, sealed);
                break;
            }
            self.group.batch.delete_meta(MetaKey::Sealed(incarnation, from));
            if sealed.row.to <= to {
                records += sealed.row.records;
                bytes += sealed.row.bytes;
                continue;
            }
            let part = match part.filter(|part| part.first == sealed.row.first) {
                Some(part) => (part.records, part.bytes),
                // It was split since.
                None => self.shared.measure(incarnation, sealed.row.first, to)?,
            };
            records += part.0;
            bytes += part.1;
            let row = SealedRow {
                first: sealed.row.first.max(to),
                to: sealed.row.to,
                records: sealed.row.records.saturating_sub(part.0),
                bytes: sealed.row.bytes.saturating_sub(part.1),
            };
            queue.sealed.insert(to, Sealed { row, group: self.group.number });
            rest = Some(row);
            break;
        }
        if let Some(row) = rest {
            self.put_sealed(incarnation, to, row)?;
        }
        Ok((records, bytes))
    }
}
