//! Gives space back, on a thread of its own: whole files below the synced position at once, the rest by compaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use api_types::{Incarnation, Sequence};
use tracing::{debug, warn};

use super::Shared;
use super::store::StoreError;

/// Requests handed over and not begun: one compaction takes seconds, so more would only be waiting longer here than in
/// the committer, where those of one queue are one.
pub(super) const WAITING_MAX: usize = 64;

pub(super) enum Reclaim {
    /// Files that hold nothing but passed records of this queue.
    Files(Incarnation, Sequence),
    /// The space of what is dead of this queue is wanted now.
    Queue(Incarnation),
    /// This queue was deleted, and all of it is dead.
    Gone(Incarnation),
    /// More is dead than alive.
    Everything,
}

/// Ends when the committer does.
pub(super) fn run(shared: &Arc<Shared>, wanted: &Receiver<Reclaim>) {
    while let Ok(reclaim) = wanted.recv() {
        let result = match reclaim {
            Reclaim::Files(incarnation, below) => shared.store.delete_files(incarnation, below),
            Reclaim::Queue(incarnation) => squeeze(shared, || shared.store.compact_queue(incarnation)),
            Reclaim::Gone(incarnation) => squeeze(shared, || shared.store.compact_deleted(incarnation)),
            Reclaim::Everything => shared.store.compact(),
        };
        match result {
            // The store is being opened again: the next tick asks anew.
            Ok(()) | Err(StoreError::Closed) => {}
            Err(error @ (StoreError::Engine { .. } | StoreError::Format { .. } | StoreError::Disk(_))) => {
                warn!(error = &error as &dyn std::error::Error, "space not given back");
            }
        }
    }
    debug!("reclaim thread ended");
}

fn squeeze(shared: &Shared, compact: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let result = compact();
    shared.squeezing.fetch_sub(1, Ordering::SeqCst);
    result
}
