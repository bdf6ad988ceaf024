//! What goes when a bound is reached: the oldest unsealed records, never a sealed batch.

use std::ops::ControlFlow;

use api_types::Incarnation;
use api_types::connector::WhenFull;
use tracing::{debug, warn};

use super::rows::{self, Appended, stored_bytes};
use super::store::StoreError;
use super::turn::Turn;

const FULL: &str = "full";
const EXPIRED: &str = "expired";
/// Records expired in one group over all queues: it reads them under the lock that publishers wait for.
pub(super) const EXPIRE_RECORDS_MAX: u64 = 5_000;

impl Turn<'_> {
    /// Before an append: first each queue's own bound, then the node's.
    pub fn make_room(&mut self, incoming: &[(Incarnation, u64)]) -> Result<(), StoreError> {
        for (incarnation, bytes) in incoming {
            let Some(queue) = self.state.queues.get(incarnation) else { continue };
            let Some(bounds) = queue.bounds else { continue };
            let over = (queue.row.bytes + bytes).saturating_sub(bounds.bytes_max);
            match bounds.when_full {
                WhenFull::DropOldest if over > 0 => {
                    self.drop_oldest(*incarnation, over)?;
                }
                // Refused when it was submitted, or let in because the queue was empty.
                WhenFull::DropOldest | WhenFull::Block => {}
            }
        }
        let bytes: u64 = incoming.iter().map(|(_, bytes)| bytes).sum();
        let over_total = self
            .shared
            .settings
            .total_bytes_max
            .map_or(0, |bytes_max| (self.state.bytes + bytes).saturating_sub(bytes_max));
        let over = over_total.max(self.shared.disk_deficit(self.state, bytes));
        if over > 0 { self.squeeze(over) } else { Ok(()) }
    }

    /// Frees room on the node: the largest queue that may drop goes first.
    fn squeeze(&mut self, mut over: u64) -> Result<(), StoreError> {
        while over > 0 {
            let largest = self.state.droppable().max_by_key(|(_, bytes)| *bytes);
            let Some((incarnation, _)) = largest else { break };
            let freed = self.drop_oldest(incarnation, over)?;
            if freed == 0 {
                break;
            }
            over = over.saturating_sub(freed);
            self.group.squeezed.insert(incarnation);
        }
        Ok(())
    }

    /// Drops at least `bytes` of a queue, as far as it has unsealed records on disk; tells what it freed.
    fn drop_oldest(&mut self, incarnation: Incarnation, bytes: u64) -> Result<u64, StoreError> {
        Ok(self.drop_front(incarnation, FULL, |front, _| front.bytes >= bytes)?.bytes)
    }

    /// Expires records of the queues from one on, as far as one group may; tells where to go on.
    pub fn expire_some(&mut self, from: Option<Incarnation>) -> Result<Option<Incarnation>, StoreError> {
        let ages = |bounds: super::target::Bounds| bounds.age_max_ms.is_some();
        let queues = self.state.queues.range(from.unwrap_or_default()..);
        let aging: Vec<Incarnation> =
            queues.filter(|(_, queue)| queue.bounds.is_some_and(ages)).map(|(incarnation, _)| *incarnation).collect();
        let mut left = EXPIRE_RECORDS_MAX;
        for incarnation in aging {
            left -= self.expire(incarnation, left)?.min(left);
            if left == 0 {
                return Ok(Some(incarnation));
            }
        }
        Ok(None)
    }

    /// Drops what is older than the queue's `age_max`, at most `records_max`; tells how many.
    fn expire(&mut self, incarnation: Incarnation, records_max: u64) -> Result<u64, StoreError> {
        let (wall_ms, open_ms) = (self.shared.clock.wall_ms(), self.shared.open_ms());
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return Ok(0) };
        let Some(age_max_ms) = queue.bounds.and_then(|bounds| bounds.age_max_ms) else { return Ok(0) };
        let from = queue.row.unsealed_from;
        if from >= queue.head() {
            return Ok(0);
        }
        if let Some((sequence, appended)) = queue.oldest
            && sequence == from
            && appended.age_ms(wall_ms, open_ms) <= age_max_ms
        {
            return Ok(0);
        }
        let mut kept = None;
        let front = self.drop_front(incarnation, EXPIRED, |front, appended| {
            let stop = front.records >= records_max || appended.age_ms(wall_ms, open_ms) <= age_max_ms;
            if stop {
                kept = Some(appended);
            }
            stop
        })?;
        if let (Some(appended), Some(queue)) = (kept, self.state.queues.get_mut(&incarnation)) {
            queue.oldest = Some((queue.row.unsealed_from, appended));
        }
        Ok(front.records)
    }

    /// Drops unsealed records from the oldest on until `stop` says so of the next one. Runs under the state's lock:
    /// who is over a bound pays for it.
    fn drop_front(
        &mut self,
        incarnation: Incarnation,
        reason: &'static str,
        mut stop: impl FnMut(&Front, Appended) -> bool,
    ) -> Result<Front, StoreError> {
        let Some(queue) = self.state.queues.get(&incarnation) else { return Ok(Front::default()) };
        let (from, head) = (queue.row.unsealed_from, queue.head());
        let mut front = Front::default();
        let mut stopped_at = None;
        self.shared.store.scan(incarnation, from, head, |sequence, value| {
            // A record that cannot be read is as old as can be: it must not block what is behind it.
            let appended = Appended::read(value).unwrap_or_default();
            if stop(&front, appended) {
                stopped_at = Some(sequence);
                return Ok(ControlFlow::Break(()));
            }
            front.records += 1;
            front.bytes += stored_bytes(value);
            Ok(ControlFlow::Continue(()))
        })?;
        let unsealed_from = stopped_at.unwrap_or(head);
        let Some(queue) = self.state.queues.get_mut(&incarnation) else { return Ok(front) };
        if front.records == 0 {
            return Ok(front);
        }
        queue.row.unsealed_from = unsealed_from;
        rows::count(&mut queue.row.totals.dropped, reason, front.records);
        let first_ever = queue.row.totals.dropped.get(reason) == Some(&front.records);
        let connector = queue.names.name.clone();
        self.state.passed(incarnation, front.records, front.bytes);
        self.group.dirty.insert(incarnation);
        self.group.sync = true;
        if first_ever {
            warn!(%connector, reason, records = front.records, "records dropped, from now on counted only");
        } else {
            debug!(%connector, reason, records = front.records, "records dropped");
        }
        Ok(front)
    }
}

/// What a drop has taken so far.
#[derive(Clone, Copy, Debug, Default)]
struct Front {
    records: u64,
    bytes: u64,
}
