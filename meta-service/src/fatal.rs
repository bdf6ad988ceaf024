//! What ends the process. The library only says so; `main` decides.

use std::any::Any;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use api_types::{LogIndex, RaftId};
use futures::FutureExt;
use tokio::sync::watch;

/// `EX_IOERR`: a write of `meta/` failed; the next start waits until there is room.
pub const EXIT_META_WRITE: u8 = 74;
/// `EX_DATAERR`: what is on the disk must not be used.
pub const EXIT_BAD_DISK: u8 = 65;
/// `EX_SOFTWARE`: Raft, or a task that the node cannot do without, has ended.
pub const EXIT_RAFT_STOPPED: u8 = 70;

#[derive(Debug, thiserror::Error)]
pub enum FatalReason {
    #[error("META_WRITE_FAILED: {what}")]
    MetaWrite {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("META_UNREADABLE: {what}")]
    MetaRead {
        what: &'static str,
        #[source]
        error: io::Error,
    },
    #[error(
        "LOG_WENT_BACK: the log of this disk ends at {found} (term {found_term}) but had been synced up to {expected} \
         (term {expected_term}); a node that forgot must not vote: replace the disk and join as a new one"
    )]
    LogWentBack { expected: LogIndex, expected_term: u64, found: LogIndex, found_term: u64 },
    #[error(
        "DISK_WENT_BACK: the log of this disk ended at {found} but had been synced up to {expected}: a restored or cloned \
         volume; it must not come back under its id, but may join as a new disk"
    )]
    DiskWentBack { expected: LogIndex, found: LogIndex },
    #[error("WRONG_DISK: meta/ belongs to raft id {found}, identity.json says {expected}")]
    WrongDisk { expected: RaftId, found: RaftId },
    #[error("REMOVED: this disk (raft id {0}) was removed from the cluster")]
    Removed(RaftId),
    #[error("RAFT_STOPPED: {0}")]
    RaftStopped(String),
    #[error("PANICKED: task {task}: {message}")]
    Panicked { task: &'static str, message: String },
}

impl FatalReason {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::MetaWrite { .. } => EXIT_META_WRITE,
            Self::MetaRead { .. }
            | Self::LogWentBack { .. }
            | Self::DiskWentBack { .. }
            | Self::WrongDisk { .. }
            | Self::Removed(_) => EXIT_BAD_DISK,
            Self::RaftStopped(_) | Self::Panicked { .. } => EXIT_RAFT_STOPPED,
        }
    }
}

/// Where a fatal error is raised and waited for; the first one stays.
#[derive(Clone, Debug)]
pub(crate) struct Fatal {
    reason: Arc<watch::Sender<Option<Arc<FatalReason>>>>,
}

impl Default for Fatal {
    fn default() -> Self {
        Self { reason: Arc::new(watch::Sender::new(None)) }
    }
}

impl Fatal {
    pub(crate) fn raise(&self, reason: FatalReason) {
        self.reason.send_if_modified(|first| {
            let unset = first.is_none();
            if unset {
                *first = Some(Arc::new(reason));
            }
            unset
        });
    }

    /// Does work that lasts as long as the node. Its panic is fatal: without it the node would go on voting and leading
    /// as if it were well.
    pub(crate) async fn guard(self, task: &'static str, work: impl Future<Output = ()>) {
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            self.raise(FatalReason::Panicked { task, message: message_of(&*panic) });
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<FatalReason>>> {
        self.reason.subscribe()
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process() {
        let fatal = Fatal::default();
        fatal.clone().guard("well", async {}).await;
        assert!(fatal.watch().borrow().is_none());
        let number = 3;
        tokio::spawn(fatal.clone().guard("duties", async move { panic!("no node {number}") })).await.expect("caught");
        let reason = fatal.watch().borrow().clone().expect("raised");
        assert_eq!(reason.to_string(), "PANICKED: task duties: no node 3");
        assert_eq!(reason.exit_code(), EXIT_RAFT_STOPPED);
    }
}
