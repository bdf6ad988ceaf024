//! What the committer thread is asked to do, and the inbox it takes it from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use api_types::{Epoch, Incarnation, RaftId, Sequence};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::rows::{LetterRow, SealedRow};
use super::target::QueueTarget;

/// Most bytes of records written in one group: what one fsync waits for.
const GROUP_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The write failed for want of room; nothing of the submission may be acknowledged.
    #[error("the disk of the queues is full")]
    DiskFull,
    /// The write failed; nothing of the submission may be acknowledged.
    #[error("the queue store did not take the write")]
    Failed,
    #[error("the queues are closed")]
    Closed,
}

/// Why the queue of a connector did not do what its owner asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("another epoch owns this connector")]
    Fenced,
    #[error("the queue stands elsewhere")]
    Moved,
    #[error("the queue is gone")]
    Gone,
    /// The store is being opened again.
    #[error("the queue store failed: {0}")]
    Failed(String),
    #[error("the queues are closed")]
    Closed,
}

pub(super) type Answered = Result<Answer, CallError>;

pub(super) enum Op {
    Append(Append),
    Call(Call, oneshot::Sender<Answered>),
}

/// One submission. All of it is in one write batch.
pub(super) struct Append {
    pub entries: Vec<Entry>,
    pub targets: Vec<Arc<QueueTarget>>,
    /// Bytes per queue, counted when the submission was let in.
    pub reserved: Vec<(Incarnation, u64)>,
    pub done: oneshot::Sender<Result<(), TicketError>>,
}

pub(super) struct Entry {
    pub value: Bytes,
    /// Indexes into the submission's targets.
    pub wanted_by: Arc<[u32]>,
}

pub(super) enum Answer {
    Done,
    /// Sealed without the first `cut` of the records handed in: they were dropped since they were read.
    Sealed {
        cut: usize,
    },
    /// The queue changed since the caller looked: look again.
    Retry,
}

pub(super) enum Call {
    /// Puts the epoch on disk before the first answer to its owner.
    Raise {
        incarnation: Incarnation,
        epoch: Epoch,
    },
    /// Answers once what was sealed before is written, or synced.
    Barrier {
        sync: bool,
    },
    Seal(Seal),
    SealFront(SealFront),
    Lose(Lost),
    /// Nothing was found between the first unsealed record and the head.
    Skip {
        incarnation: Incarnation,
        epoch: Epoch,
        first: Sequence,
        head: Sequence,
    },
    Split {
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        at: Sequence,
        records: u64,
        bytes: u64,
    },
    Commit(Box<CommitCall>),
    /// Takes what waits in the slot, see `reconcile.rs`.
    Reconcile,
    Delete {
        incarnation: Incarnation,
    },
    LettersPublished {
        below: u64,
    },
    DropLetter {
        number: u64,
    },
    Adopt {
        raft_id: RaftId,
    },
    /// Begins a block at this sequence, or above it.
    BeginAt {
        first: Sequence,
    },
}

pub(super) struct Seal {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    /// Where the scan began; what was dropped since is cut off.
    pub first: Sequence,
    pub to: Sequence,
    pub records: Vec<Piece>,
    /// Records among them that cannot be read: they end here.
    pub unreadable: Vec<Piece>,
    pub sync: bool,
}

/// A record and its bytes.
pub(super) type Piece = (Sequence, u64);

/// Seals whatever is the front when its turn comes: nothing can be dropped between its scan and its bounds.
pub(super) struct SealFront {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    pub records_max: u64,
    pub bytes_max: u64,
    pub sync: bool,
}

/// A sealed batch of which less was found than its bounds say.
pub(super) struct Lost {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    /// The bounds it was read by.
    pub row: SealedRow,
    /// What is left of it.
    pub records: u64,
    pub bytes: u64,
    pub unreadable: Vec<Piece>,
}

pub(super) struct CommitCall {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub from: Sequence,
    pub to: Sequence,
    pub discarded: BTreeMap<String, u64>,
    pub dead_lettered: u64,
    /// Records whose end asks for a letter and that cannot be read any more.
    pub unreadable: u64,
    /// The part that is passed of a batch that is not passed as a whole.
    pub part: Option<Part>,
    pub letters: Vec<LetterRow>,
}

/// The front of a sealed batch, measured before the turn of the commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub first: Sequence,
    pub records: u64,
    pub bytes: u64,
}

/// What waits for the committer. The submissions in it are bounded by bytes where they are let in; calls are bounded
/// by the tasks that make them.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    ops: VecDeque<Op>,
    closed: bool,
    /// The committer waits for something to arrive: only then somebody has to wake it. A wake-up is a system call,
    /// whether anybody sleeps or not.
    asleep: bool,
}

pub(super) enum Taken {
    Ops(Vec<Op>),
    Closed,
}

impl Inbox {
    /// Gives the operation back when nobody will take it any more.
    pub fn push(&self, op: Op) -> Result<(), Op> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Err(op);
        }
        waiting.ops.push_back(op);
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.arrived.notify_one();
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).ops.len()
    }

    /// What is waiting already is still done.
    pub fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.arrived.notify_one();
    }

    /// For a committer that is gone: whoever waits is told so by the drop.
    pub fn abandon(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.ops.clear();
    }

    /// Everything that waits, up to the size of a group; nothing after `patience`.
    pub fn take(&self, patience: Duration) -> Taken {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.ops.is_empty() && !waiting.closed {
            waiting.asleep = true;
            (waiting, _) = self
                .arrived
                .wait_timeout_while(waiting, patience, |waiting| waiting.ops.is_empty() && !waiting.closed)
                .unwrap_or_else(PoisonError::into_inner);
            waiting.asleep = false;
        }
        if waiting.ops.is_empty() {
            return if waiting.closed { Taken::Closed } else { Taken::Ops(Vec::new()) };
        }
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX {
            let Some(op) = waiting.ops.pop_front() else { break };
            if let Op::Append(append) = &op {
                bytes += append.reserved.iter().map(|(_, bytes)| bytes).sum::<u64>();
            }
            taken.push(op);
        }
        Taken::Ops(taken)
    }
}
