//! Tells the owners' streams which queues have something to read. Level-triggered: a stream begins with everything,
//! and repeats it, so a lost delta costs at most [`FULL_EVERY`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use api_types::{Epoch, Incarnation, Sequence};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::wire::ReadyFrame;
use super::{Queues, lock};

/// The full set is said again this often.
pub(super) const FULL_EVERY: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Hub {
    watchers: Mutex<Vec<Weak<Watcher>>>,
    closed: AtomicBool,
}

/// One stream: the queues an owner node listed, and which of them changed since the last frame.
pub(super) struct Watcher {
    wanted: BTreeMap<Incarnation, Epoch>,
    changed: Mutex<BTreeSet<Incarnation>>,
    awake: Notify,
}

impl Hub {
    pub fn wake(&self, changed: &[Incarnation]) {
        if changed.is_empty() {
            return;
        }
        lock(&self.watchers).retain(|watcher| {
            let Some(watcher) = watcher.upgrade() else { return false };
            let mut told = false;
            {
                let mut known = lock(&watcher.changed);
                for incarnation in changed.iter().filter(|incarnation| watcher.wanted.contains_key(incarnation)) {
                    told |= known.insert(*incarnation);
                }
            }
            if told {
                watcher.awake.notify_one();
            }
            true
        });
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for watcher in lock(&self.watchers).iter().filter_map(Weak::upgrade) {
            watcher.awake.notify_one();
        }
    }

    fn subscribe(&self, wanted: BTreeMap<Incarnation, Epoch>) -> Arc<Watcher> {
        let watcher = Arc::new(Watcher { wanted, changed: Mutex::default(), awake: Notify::new() });
        let mut watchers = lock(&self.watchers);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&watcher));
        watcher
    }
}

/// The frames of one stream, one after the other.
pub(super) struct Frames {
    queues: Queues,
    watcher: Arc<Watcher>,
    number: u64,
    next_full: Instant,
}

impl Frames {
    /// Of several epochs of one connector the highest counts; the others are refused when they fetch.
    pub fn new(queues: Queues, pairs: &[(Incarnation, Epoch)]) -> Self {
        let mut wanted: BTreeMap<Incarnation, Epoch> = BTreeMap::new();
        for (incarnation, epoch) in pairs {
            let known = wanted.entry(*incarnation).or_default();
            *known = (*known).max(*epoch);
        }
        // Subscribed before the full set is read: what comes in between is told twice, never missed.
        let watcher = queues.shared.hub.subscribe(wanted);
        Self { queues, watcher, number: 0, next_full: Instant::now() }
    }

    /// `None` once the queues are closed.
    pub async fn next(&mut self) -> Option<ReadyFrame> {
        let full = loop {
            if self.queues.shared.hub.closed.load(Ordering::SeqCst) {
                return None;
            }
            if Instant::now() >= self.next_full {
                break true;
            }
            if !lock(&self.watcher.changed).is_empty() {
                break false;
            }
            // Both ends of the wait are looked at above.
            let _ = tokio::time::timeout_at(self.next_full, self.watcher.awake.notified()).await;
        };
        let changed = std::mem::take(&mut *lock(&self.watcher.changed));
        let ready = if full {
            self.next_full = Instant::now() + FULL_EVERY;
            self.ready(self.watcher.wanted.keys())
        } else {
            self.ready(changed.iter())
        };
        let frame = ReadyFrame { number: self.number, full, ready };
        self.number += 1;
        Some(frame)
    }

    /// Those with something between position and head, unless a newer epoch owns them.
    fn ready<'a>(&self, incarnations: impl Iterator<Item = &'a Incarnation>) -> Vec<(Incarnation, Sequence)> {
        let shared = &self.queues.shared;
        let replica = (shared.view)();
        let state = lock(&shared.state);
        incarnations
            .filter_map(|incarnation| {
                let queue = state.queues.get(incarnation)?;
                let seen = replica.assignment(*incarnation).map(|assignment| assignment.epoch).unwrap_or_default();
                let owned = *self.watcher.wanted.get(incarnation)? >= state.floor(*incarnation, seen);
                (owned && queue.row.pending > 0).then(|| (*incarnation, queue.head()))
            })
            .collect()
    }
}
