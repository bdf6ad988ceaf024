//! Batches that met a table, or settings, that had changed.
//!
//! Such a batch is written anew at once, and nobody hears of it. Where the server answers differently each time that it is
//! asked, as two behind one address do that are not alike, that would go on for ever.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sink::BatchId;

/// A batch is asked for again next; those that are more were given up half-way.
const BATCHES_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Changes(Mutex<HashSet<BatchId>>);

impl Changes {
    /// Whether this batch meets a change for the first time since it was answered otherwise.
    pub(super) fn is_first(&self, batch: BatchId) -> bool {
        let mut batches = self.lock();
        if batches.len() >= BATCHES_MAX {
            batches.clear();
        }
        batches.insert(batch)
    }

    /// The batch was answered otherwise.
    pub(super) fn forget(&self, batch: BatchId) {
        self.lock().remove(&batch);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<BatchId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
