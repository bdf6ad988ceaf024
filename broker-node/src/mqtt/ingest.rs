//! What the listener needs of the queues.

use api_types::Message;
use futures::future::BoxFuture;

/// Resolves once everything of one `submit` is on disk.
pub type Ticket = BoxFuture<'static, Result<(), TicketError>>;

/// The durable queues behind the listener.
pub trait Ingest: Send + Sync + 'static {
    /// Appends each message to the queue of every connector whose filter matches it, or refuses and appends none.
    /// Called once per socket read, never waits. A message that no connector wants costs nothing.
    fn submit(&self, messages: Vec<Message>) -> Result<Ticket, SubmitRefusal>;

    /// Whether any connector's filter matches the topic.
    fn wanted(&self, topic: &str) -> bool;
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    #[error("the queue of a connector is full")]
    QueueFull,
    #[error("the disk is full")]
    DiskFull,
    #[error("the queue's disk does not work")]
    Failed,
    #[error("the queues are closed")]
    Closed,
}

/// Why what was appended is not known to be on disk. Nothing of it may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("the disk is full")]
    DiskFull,
    #[error("the queue's disk does not work")]
    Failed,
    #[error("the queues are closed")]
    Closed,
}
