//! What a node observed of a task.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Incarnation};

/// `Idle`, `Running` or `Stopped`: the seed's three words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    Idle,
    Running,
    Stopped,
}

impl Status {
    pub const ALL: [Self; 3] = [Self::Idle, Self::Running, Self::Stopped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Running => "Running",
            Self::Stopped => "Stopped",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    Ok,
    #[default]
    Starting,
    Retrying,
    /// The target needs a person: authentication, something missing, a permission.
    Blocked,
    CrashLoop,
    Stopped,
    Unassigned,
}

impl Health {
    pub const ALL: [Self; 7] =
        [Self::Ok, Self::Starting, Self::Retrying, Self::Blocked, Self::CrashLoop, Self::Stopped, Self::Unassigned];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Retrying => "retrying",
            Self::Blocked => "blocked",
            Self::CrashLoop => "crash_loop",
            Self::Stopped => "stopped",
            Self::Unassigned => "unassigned",
        }
    }
}

/// Counters of one task run; they restart at 0 with every task start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounters {
    /// Records delivered.
    pub send_success_total: u64,
    /// Records whose first attempt failed, each counted once.
    pub send_fail_total: u64,
    pub retry_total: u64,
    pub discard_total: u64,
    pub dead_letter_total: u64,
    /// Payload bytes delivered.
    pub bytes_total: u64,
    /// Seconds since the Unix epoch of the last attempt; 0 before the first.
    pub last_send_time_s: u64,
    /// `Batch sent successfully`, or the target's words; `None` before the first attempt.
    pub last_msg: Option<String>,
}

/// One task as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub health: Health,
    /// A stable code such as `TARGET_UNREACHABLE`.
    pub health_reason: Option<String>,
    pub health_since_ms: u64,
    pub counters: TaskCounters,
    pub in_flight_records: u64,
    pub restarts_total: u64,
    pub last_error: Option<String>,
    pub last_error_time_ms: u64,
    /// When this run of the task began.
    pub since_ms: u64,
}

/// Totals of one queue, kept with its position and never reset:
/// `queued = sent + discarded + dead_lettered + dropped + pending`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub queued: u64,
    pub sent: u64,
    pub discarded: u64,
    pub dead_lettered: u64,
    pub dropped: u64,
    pub pending: u64,
}

impl Ledger {
    pub fn balances(&self) -> bool {
        self.queued == self.sent + self.discarded + self.dead_lettered + self.dropped + self.pending
    }

    pub fn add(&mut self, other: &Self) {
        self.queued += other.queued;
        self.sent += other.sent;
        self.discarded += other.discarded;
        self.dead_lettered += other.dead_lettered;
        self.dropped += other.dropped;
        self.pending += other.pending;
    }
}
