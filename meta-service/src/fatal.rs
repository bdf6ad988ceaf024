//! What ends the process. The library only says so; `main` decides.

use std::io;
use std::sync::Arc;

use api_types::{LogIndex, RaftId};
use tokio::sync::watch;

/// `EX_IOERR`: a write of `meta/` failed; the next start waits until there is room.
pub const EXIT_META_WRITE: u8 = 74;
/// `EX_DATAERR`: what is on the disk must not be used.
pub const EXIT_BAD_DISK: u8 = 65;
/// `EX_SOFTWARE`.
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
    #[error("WRONG_DISK: meta/ belongs to raft id {found}, identity.json says {expected}")]
    WrongDisk { expected: RaftId, found: RaftId },
    #[error("REMOVED: this disk (raft id {0}) was removed from the cluster")]
    Removed(RaftId),
    #[error("RAFT_STOPPED: {0}")]
    RaftStopped(String),
}

impl FatalReason {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::MetaWrite { .. } => EXIT_META_WRITE,
            Self::MetaRead { .. } | Self::LogWentBack { .. } | Self::WrongDisk { .. } | Self::Removed(_) => {
                EXIT_BAD_DISK
            }
            Self::RaftStopped(_) => EXIT_RAFT_STOPPED,
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

    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<FatalReason>>> {
        self.reason.subscribe()
    }
}
