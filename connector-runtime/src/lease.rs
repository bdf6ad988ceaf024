//! The right to act, as the tasks see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Flipped by the node's watchdog thread; read before every fetch, send and commit.
#[derive(Clone)]
pub struct Lease {
    held: Arc<AtomicBool>,
    changes: Arc<watch::Sender<bool>>,
    /// Whether the lease is over by the clock: a process that was frozen may ask before its watchdog has run.
    over: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("held", &self.is_held()).finish()
    }
}

impl Lease {
    pub fn new(held: bool) -> Self {
        Self { held: Arc::new(AtomicBool::new(held)), changes: Arc::new(watch::Sender::new(held)), over: None }
    }

    /// Not held yet, and never held once `over` says so.
    pub fn with_clock(over: Arc<dyn Fn() -> bool + Send + Sync>) -> Self {
        Self { over: Some(over), ..Self::new(false) }
    }

    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) && !self.over.as_ref().is_some_and(|over| over())
    }

    /// The node's watchdog and its agent only.
    pub fn set(&self, held: bool) {
        // Flag and watch change under the watch's lock: the watchdog and the agent may call at the same time.
        self.changes.send_if_modified(|now| {
            self.held.store(held, Ordering::SeqCst);
            std::mem::replace(now, held) != held
        });
    }

    /// Completes when the lease is lost; at once when it is not held.
    pub async fn lost(&self) {
        let mut changes = self.changes.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = changes.wait_for(|held| !held).await;
    }

    /// Completes when the lease is held.
    pub async fn gained(&self) {
        let mut changes = self.changes.subscribe();
        let _ = changes.wait_for(|held| *held).await;
    }
}
