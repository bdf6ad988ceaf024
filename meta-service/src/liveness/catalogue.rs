//! How old the catalogue's latest changes are. A node whose catalogue lacks a change older than `AGE_ALLOWED` gets no
//! lease, so that a change waits at most that and one lease for it.

use std::collections::VecDeque;
use std::time::Duration;

use api_types::LogIndex;

const AGE_ALLOWED: Duration = Duration::from_secs(1);
/// Changes this close together count as one, of the earlier time: this bounds the list.
const GRAIN: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct CatalogueAges {
    /// Everything up to here is older.
    old: LogIndex,
    young: VecDeque<(Duration, LogIndex)>,
}

impl CatalogueAges {
    pub fn note(&mut self, now: Duration, index: LogIndex) {
        let latest = self.young.back().map_or(self.old, |(_, latest)| *latest);
        if index <= latest {
            return;
        }
        match self.young.back_mut() {
            Some((seen, latest)) if now < *seen + GRAIN => *latest = index,
            Some(_) | None => self.young.push_back((now, index)),
        }
        self.older_than_allowed(now);
    }

    pub fn old_at_once(&mut self, index: LogIndex) {
        self.old = self.old.max(index);
    }

    pub fn older_than_allowed(&mut self, now: Duration) -> LogIndex {
        while let Some((seen, index)) = self.young.front()
            && now >= *seen + AGE_ALLOWED
        {
            self.old = self.old.max(*index);
            self.young.pop_front();
        }
        self.old
    }
}
