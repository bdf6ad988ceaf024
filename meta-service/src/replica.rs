//! This node's copy of the cluster's state, as far as it has applied the log.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api_types::LogIndex;
use tokio::sync::watch;

use crate::state::ClusterState;

#[derive(Debug)]
pub(crate) struct Replica {
    state: RwLock<Arc<ClusterState>>,
    /// Sent after `state` has changed: who sees an index here finds its effect there.
    applied: watch::Sender<LogIndex>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { state: RwLock::default(), applied: watch::Sender::new(LogIndex(0)) }
    }
}

impl Replica {
    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the state without taking a share of it; for what is short and frequent.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&ClusterState) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    /// Only for the state machine. Copies the maps (not what they hold) when a reader still has the state.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut ClusterState) -> T) -> T {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(Arc::make_mut(&mut state));
        let applied = state.applied;
        drop(state);
        self.applied.send_replace(applied);
        outcome
    }

    pub(crate) fn applied_at_least(&self, index: LogIndex) -> bool {
        *self.applied.borrow() >= index
    }

    /// Whether `index` was applied within the time.
    pub(crate) async fn wait_applied(&self, index: LogIndex, within: Duration) -> bool {
        let mut applied = self.applied();
        let reached = applied.wait_for(|applied| *applied >= index);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }
}
