//! What the pipeline asks of a sink, and what a sink may rely on.
//!
//! ```text
//! OpenSink::open ──► Sink::deliver(batch) ──► one Outcome per record ──► pipeline settles
//!                         ▲                          │
//!                         └── again, after a pause ◄─┘   only the pipeline retries, sleeps and counts
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use api_types::{Incarnation, RaftId, Record, Sequence};
use async_trait::async_trait;

/// Within this time of `abort` nothing that was not yet written to a socket or a file may leave any more.
pub const ABORT_WITHIN: Duration = Duration::from_millis(300);

/// A connection to a target: encodes records and sends them, once per call.
///
/// The contract:
/// - `deliver` answers with exactly one outcome per record of the batch, in the batch's order. `Delivered` means that
///   the target has confirmed the record (or that the user gave its confirmation up): the queue forgets it then.
/// - `deliver` never retries what the target has seen, never sleeps between attempts and never counts; a target's own
///   option (`max_retries` of the seed) is the one exception and counts as part of the same attempt.
/// - Every wait inside `deliver` is bounded by the connector's own timeouts.
/// - A record that is given again has the same id, and a batch that is given again has the same [`BatchId`] and the
///   same records, except those that have ended in between.
/// - `deliver` may be called again while an earlier call is under way: by the queues of other nodes, by the lanes of
///   a batch, and by as many batches as `max_in_flight` says. A call may be dropped half-way (lease lost, stop bound
///   reached); what it had under way may or may not have arrived.
/// - What is wrong with a record goes into *its* outcome and never into its neighbour's. A fault that the sink does
///   not know is the target's, never the record's.
#[async_trait]
pub trait Sink: Send + Sync {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome>;

    /// Makes everything unsendable that was not yet written, within [`ABORT_WITHIN`], without I/O and without waiting.
    /// Called from any thread, also while `deliver` runs: what that could not confirm is `Interrupted`.
    fn abort(&self);

    /// A quiet end: flushes nothing that `deliver` has not confirmed, closes connections.
    async fn close(&self);
}

/// Makes the sink of one task; asked again whenever the task has to reconnect, so it reads secrets anew each time.
#[async_trait]
pub trait OpenSink: Send + Sync {
    async fn open(&self) -> Result<Box<dyn Sink>, TargetFault>;
}

/// Names a batch: the same on every redelivery, by whichever node. Targets that deduplicate use it as their token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchId {
    /// The id under which the batch's records were appended.
    pub raft_id: RaftId,
    pub incarnation: Incarnation,
    pub from: Sequence,
    /// One past the last record.
    pub to: Sequence,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.raft_id, self.incarnation, self.from, self.to)
    }
}

/// Records of one queue, in its order; never empty.
pub struct Batch<'a> {
    pub id: BatchId,
    pub records: &'a [&'a Record],
}

impl Batch<'_> {
    /// The same outcome for every record.
    pub fn all(&self, outcome: &Outcome) -> Vec<Outcome> {
        vec![outcome.clone(); self.records.len()]
    }
}

/// What became of one record in one call of `deliver`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// The target, or the sink on its behalf, refuses this record.
    RecordFault(RecordFault),
    /// The target could not be asked, or cannot take anything right now.
    TargetFault(TargetFault),
    /// The record was part of a request that the target refused as a whole without naming a culprit, and nothing of
    /// it was taken. The pipeline asks again in smaller requests until the culprits stand alone. A sink that knows a
    /// culprit gives it `RecordFault` and `Unclear` to the rest.
    Unclear(RecordFault),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFault {
    /// A short stable name, for example `http_422` or `missing_value`.
    pub class: Arc<str>,
    /// The target's own words.
    pub message: Arc<str>,
    /// Found without asking the target: asking again cannot help.
    pub offline: bool,
}

impl RecordFault {
    pub fn refused(class: impl Into<Arc<str>>, message: impl Into<Arc<str>>) -> Self {
        Self { class: class.into(), message: message.into(), offline: false }
    }

    pub fn offline(class: impl Into<Arc<str>>, message: impl Into<Arc<str>>) -> Self {
        Self { class: class.into(), message: message.into(), offline: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetFault {
    pub kind: TargetFaultKind,
    pub message: Arc<str>,
    /// This sink cannot be used any more, or its secrets may have changed: open a new one before the next attempt.
    pub reopen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFaultKind {
    /// Nobody's fault: this sink was aborted or closed, or waits for an earlier one of its own connector. The attempt
    /// counts nowhere and ends no record, whatever the failure policy says. Without `reopen` the sink has only held the
    /// record back behind another of the same batch, and can be asked again as soon as that one has been.
    Interrupted,
    /// Refused, timed out, broken off, or an answer that says "later".
    Down,
    Throttled {
        retry_after: Option<Duration>,
    },
    /// The target has no room.
    Full,
    Auth,
    Missing,
    Permission,
    /// A person must change something here, not at the target; the code is shown as `health_reason`.
    Misconfigured(&'static str),
}

impl TargetFault {
    pub fn new(kind: TargetFaultKind, message: impl Into<Arc<str>>) -> Self {
        // A refused secret may have been rotated: it is read again when the sink is opened.
        let reopen = match kind {
            TargetFaultKind::Auth | TargetFaultKind::Permission | TargetFaultKind::Misconfigured(_) => true,
            // An aborted sink stays aborted.
            TargetFaultKind::Interrupted => true,
            TargetFaultKind::Down
            | TargetFaultKind::Throttled { .. }
            | TargetFaultKind::Full
            | TargetFaultKind::Missing => false,
        };
        Self { kind, message: message.into(), reopen }
    }

    /// Its record waits for one before it, whose fault is not its own: this attempt counts for nothing.
    pub fn held() -> Self {
        Self { reopen: false, ..Self::new(TargetFaultKind::Interrupted, "held back by a record before it") }
    }

    pub fn reopening(mut self) -> Self {
        self.reopen = true;
        self
    }

    /// The least time to the next attempt that the target asked for.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            TargetFaultKind::Throttled { retry_after } => retry_after,
            TargetFaultKind::Interrupted
            | TargetFaultKind::Down
            | TargetFaultKind::Full
            | TargetFaultKind::Auth
            | TargetFaultKind::Missing
            | TargetFaultKind::Permission
            | TargetFaultKind::Misconfigured(_) => None,
        }
    }
}

impl TargetFaultKind {
    /// The stable code shown as `health_reason`. `Interrupted` shows only when a sink cannot be opened.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Interrupted | Self::Down => "TARGET_UNREACHABLE",
            Self::Throttled { .. } => "TARGET_THROTTLED",
            Self::Full => "TARGET_FULL",
            Self::Auth => "TARGET_AUTH",
            Self::Missing => "TARGET_MISSING",
            Self::Permission => "TARGET_PERMISSION",
            Self::Misconfigured(reason) => reason,
        }
    }

    /// The class written into a dead letter.
    pub fn class(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::Down => "target_unreachable",
            Self::Throttled { .. } => "target_throttled",
            Self::Full => "target_full",
            Self::Auth => "target_auth",
            Self::Missing => "target_missing",
            Self::Permission => "target_permission",
            Self::Misconfigured(_) => "misconfigured",
        }
    }

    /// Nothing changes until a person does something.
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::Auth | Self::Missing | Self::Permission | Self::Misconfigured(_) => true,
            Self::Interrupted | Self::Down | Self::Throttled { .. } | Self::Full => false,
        }
    }
}
