//! Row numbers in refusals, as far as they are worth something.
//!
//! A number stands in a text beside words that a publisher may have chosen, so it only says where a batch is cut: the row
//! that it names is asked for alone. When that one is taken, the number was not the server's, or not about our rows,
//! and numbers are not listened to any more: halves find every culprit, whatever anybody writes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api_types::RecordId;

/// A suspect is asked for next; those that are more were given up half-way.
const SUSPECTS_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Hints {
    were_wrong: AtomicBool,
    suspects: Mutex<BTreeSet<RecordId>>,
}

impl Hints {
    /// Whether to cut at this record.
    pub(super) fn suspect(&self, record: RecordId) -> bool {
        if self.were_wrong.load(Ordering::Relaxed) {
            return false;
        }
        let mut suspects = self.lock();
        if suspects.len() >= SUSPECTS_MAX {
            suspects.clear();
        }
        suspects.insert(record);
        true
    }

    /// A record was asked for alone.
    pub(super) fn asked_alone(&self, record: RecordId, was_taken: bool) {
        if self.lock().remove(&record) && was_taken {
            self.were_wrong.store(true, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<RecordId>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
