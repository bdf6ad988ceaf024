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
    segments: BTreeMap<u64, Arc<BTreeMap<RequestId, Reply>>>,
}

impl ReplyMemory {
    pub fn change(&self, incarnation: Incarnation) -> Option<&Arc<Change>> {
        self.changes.get(&incarnation)
    }

    /// The reply to a request that was no connector's last change.
    pub fn find(&self, request_id: RequestId) -> Option<&Reply> {
        self.segments.values().rev().find_map(|segment| segment.get(&request_id))
    }

    pub fn remember(&mut self, index: LogIndex, request_id: RequestId, reply: Reply) {
        let segment = self.segments.entry(index.0 / SEGMENT_INDEXES).or_default();
        Arc::make_mut(segment).insert(request_id, reply);
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
        self.segments.iter().map(|(number, segment)| (*number, segment))
    }

    pub fn insert_change(&mut self, incarnation: Incarnation, change: Arc<Change>) -> bool {
        self.changes.insert(incarnation, change).is_none()
    }

    pub fn insert_segment(&mut self, number: u64, replies: Arc<BTreeMap<RequestId, Reply>>) -> bool {
        self.segments.insert(number, replies).is_none()
    }
}
