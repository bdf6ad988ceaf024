//! The replies that a repeat of their request gets: what a client saw of its change must not depend on which leader
//! answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::{Incarnation, LogIndex, RequestId};
use serde::{Deserialize, Serialize};

use super::Reply;

/// How many log indexes a reply is remembered after its connector is gone. Requests are retried for seconds only; at
/// ten thousand entries per second this is more than that.
pub const REMEMBERED_INDEXES: u64 = 65_536;

/// Replies are kept, copied and forgotten in segments of so many indexes.
const SEGMENT_INDEXES: u64 = 1024;

/// The last change of a connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub request_id: RequestId,
    pub reply: Reply,
}

/// A cheap clone: a segment is copied only when it is written while a clone holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReplyMemory {
    changes: BTreeMap<Incarnation, Arc<Change>>,
    segments: BTreeMap<u64, Segment>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Segment {
    replies: Arc<BTreeMap<RequestId, Reply>>,
    sketch: Arc<Sketch>,
}

impl Segment {
    fn find(&self, request_id: RequestId) -> Option<&Reply> {
        if self.sketch.may_contain(request_id) { self.replies.get(&request_id) } else { None }
    }

    fn insert(&mut self, request_id: RequestId, reply: Reply) {
        Arc::make_mut(&mut self.sketch).insert(request_id);
        Arc::make_mut(&mut self.replies).insert(request_id, reply);
    }
}

/// One bit for each of many classes of request ids: set when the segment has one of that class. Almost every request is
/// new, and is so found to be in none of the segments without a look into each. Request ids are random numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sketch([u64; SKETCH_WORDS]);

/// 32 bits for each reply: of the segments that do not have a request, one in 32 seems to.
const SKETCH_WORDS: usize = SEGMENT_INDEXES as usize * 32 / 64;

impl Default for Sketch {
    fn default() -> Self {
        Self([0; SKETCH_WORDS])
    }
}

impl Sketch {
    fn may_contain(&self, request_id: RequestId) -> bool {
        let (word, bit) = Self::place(request_id);
        self.0[word] & bit != 0
    }

    fn insert(&mut self, request_id: RequestId) {
        let (word, bit) = Self::place(request_id);
        self.0[word] |= bit;
    }

    fn place(request_id: RequestId) -> (usize, u64) {
        let class = request_id.0 as usize % (SKETCH_WORDS * 64);
        (class / 64, 1 << (class % 64))
    }
}

impl ReplyMemory {
    pub fn change(&self, incarnation: Incarnation) -> Option<&Arc<Change>> {
        self.changes.get(&incarnation)
    }

    /// The reply to a request that was no connector's last change.
    pub fn find(&self, request_id: RequestId) -> Option<&Reply> {
        self.segments.values().rev().find_map(|segment| segment.find(request_id))
    }

    pub fn remember(&mut self, index: LogIndex, request_id: RequestId, reply: Reply) {
        self.segments.entry(index.0 / SEGMENT_INDEXES).or_default().insert(request_id, reply);
    }

    /// The earlier change of this connector stays in memory for a while.
    pub fn changed(&mut self, incarnation: Incarnation, index: LogIndex, change: Change) {
        if let Some(earlier) = self.changes.insert(incarnation, Arc::new(change)) {
            self.remember(index, earlier.request_id, earlier.reply.clone());
        }
    }

    pub fn removed(&mut self, incarnation: Incarnation, index: LogIndex) {
        if let Some(last) = self.changes.remove(&incarnation) {
            self.remember(index, last.request_id, last.reply.clone());
        }
    }

    /// Forgets by index alone, so that all replicas forget at the same entry.
    pub fn forget_before(&mut self, index: LogIndex) {
        let first_kept = index.0.saturating_sub(REMEMBERED_INDEXES) / SEGMENT_INDEXES;
        while let Some(oldest) = self.segments.first_entry()
            && *oldest.key() < first_kept
        {
            oldest.remove();
        }
    }

    pub fn changes(&self) -> impl Iterator<Item = (Incarnation, &Arc<Change>)> {
        self.changes.iter().map(|(incarnation, change)| (*incarnation, change))
    }

    pub fn segments(&self) -> impl Iterator<Item = (u64, &Arc<BTreeMap<RequestId, Reply>>)> {
        self.segments.iter().map(|(number, segment)| (*number, &segment.replies))
    }

    pub fn insert_change(&mut self, incarnation: Incarnation, change: Arc<Change>) -> bool {
        self.changes.insert(incarnation, change).is_none()
    }

    pub fn insert_segment(&mut self, number: u64, replies: Arc<BTreeMap<RequestId, Reply>>) -> bool {
        let mut sketch = Sketch::default();
        replies.keys().for_each(|request_id| sketch.insert(*request_id));
        self.segments.insert(number, Segment { replies, sketch: Arc::new(sketch) }).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ReplyBody;
    use super::*;

    fn reply(index: u64) -> Reply {
        Reply { index: LogIndex(index), body: ReplyBody::Done }
    }

    #[test]
    fn replies_are_found_in_every_segment_also_after_a_snapshot() {
        let mut memory = ReplyMemory::default();
        // Ids of one class each, and of many; none of them stands for another.
        let ids = (0..3 * SEGMENT_INDEXES).map(|index| (index, RequestId(u128::from(index) << (index % 90))));
        let ids: BTreeMap<u128, u64> = ids.map(|(index, id)| (id.0, index)).collect();
        for (id, index) in &ids {
            memory.remember(LogIndex(*index), RequestId(*id), reply(*index));
        }
        let mut restored = ReplyMemory::default();
        for (number, replies) in memory.segments() {
            assert!(restored.insert_segment(number, Arc::clone(replies)));
        }
        assert_eq!(restored, memory);
        for (id, index) in &ids {
            assert_eq!(restored.find(RequestId(*id)), Some(&reply(*index)), "{id:#x}");
            let other = id.wrapping_add(u128::from(SEGMENT_INDEXES) * 32);
            assert_eq!(restored.find(RequestId(other)).is_some(), ids.contains_key(&other), "{other:#x}");
        }
    }
}
