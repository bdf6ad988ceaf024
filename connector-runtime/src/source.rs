//! Where a task's records come from: the queues of its connector, one on every node that holds records.
//!
//! ```text
//! Sources::watch ──► {node → ReadyQueue{head}}      level-triggered, one stream per pair of nodes underneath
//! QueueSource::open ──► position
//!             ::fetch(from) ──► sealed batch [from, to)   same bounds for the same `from`, to whomever
//!             ::split(from, at)                            bounds are on disk before halves are sent
//!             ::commit(from, to, ends)                     compare-and-set on the stored position
//! ```
//!
//! Every `QueueSource` carries the incarnation and the epoch of the task it was made for; a queue refuses a stale
//! epoch with `SourceError::Fenced`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Epoch, Incarnation, RaftId, Record, Sequence};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Limits of one sealed batch; a batch is sealed when the first of them is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLimits {
    pub records_max: u32,
    pub bytes_max: u64,
    /// How long the queue may wait for more records before it seals what is there.
    pub linger: Duration,
    /// The bounds must be on disk before the batch is handed out: for sinks that deduplicate per batch.
    pub sync_bounds: bool,
}

/// Consecutive records of one queue with fixed bounds. `from` is the `to` of the batch before, or the position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedBatch {
    pub from: Sequence,
    /// One past the last record.
    pub to: Sequence,
    pub records: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetched {
    Batch(SealedBatch),
    /// Nothing synced lies at or after `from`. Fetch again when the watch shows a head above `head`.
    Empty {
        head: Sequence,
    },
}

/// How a record that was not delivered ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Counted under this reason and gone.
    Discarded { reason: String, error_class: String, error_message: String, retry_times: u32 },
    /// The queue builds the letter from its own copy of the record.
    DeadLettered { error_class: String, error_message: String, retry_times: u32 },
}

/// Moves the position from `from` to `to`. Every record in between that is not in `ends` was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    pub from: Sequence,
    pub to: Sequence,
    pub ends: Vec<(Sequence, End)>,
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A newer epoch owns the connector, or the lease is over: the task must stop.
    #[error("another epoch owns this connector")]
    Fenced,
    /// `from` is not where the queue stands (restart, commit by somebody else): open again.
    #[error("the queue stands elsewhere")]
    Moved,
    /// The queue does not exist any more.
    #[error("the queue is gone")]
    Gone,
    /// The node of the queue cannot be asked right now; try again with back-off.
    #[error("the queue's node cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One queue of one connector at one node, bound to the epoch of one task.
#[async_trait]
pub trait QueueSource: Send + Sync {
    /// The node whose disk holds this queue.
    fn node(&self) -> RaftId;

    /// The stored position: the `from` of the first batch.
    async fn open(&self) -> Result<Sequence, SourceError>;

    async fn fetch(&self, from: Sequence, limits: BatchLimits) -> Result<Fetched, SourceError>;

    /// Replaces the sealed batch that begins at `from` by two; `at` is the first sequence of the second half.
    async fn split(&self, from: Sequence, at: Sequence) -> Result<(), SourceError>;

    /// Answers after the position, the dead letters and the totals are on disk together. A repeat of a commit that
    /// was stored is a success and adds nothing.
    async fn commit(&self, commit: Commit) -> Result<(), SourceError>;
}

/// A queue that had records at or after its position when this was published.
#[derive(Clone)]
pub struct ReadyQueue {
    pub source: Arc<dyn QueueSource>,
    /// One past the last synced record.
    pub head: Sequence,
}

/// The queues of a connector that have something to read, by node.
pub type ReadyQueues = BTreeMap<RaftId, ReadyQueue>;

/// Made by the node; hands each task the queues it may read.
pub trait Sources: Send + Sync {
    /// Lasts until the receiver is dropped.
    fn watch(&self, incarnation: Incarnation, epoch: Epoch) -> watch::Receiver<ReadyQueues>;
}
