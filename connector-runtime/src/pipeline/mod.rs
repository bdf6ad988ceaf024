//! The only place that retries, sleeps and counts.
//!
//! ```text
//! task ──► one session per queue node ──► units (sealed batches) ──► strands ──► SinkSlot ──► Sink
//!            fetch, window, commit          settled record by record   order, retry, bisection
//!                                                                        ▲
//! policy (pure): strategy × fault ──► retry by plan | by back-off | end ─┘
//! ```
//!
//! Invariants:
//! - A record is settled once, after its target confirmed it or the failure strategy ended it.
//! - A commit covers settled records only, in the order of the queue, and only while the lease is held.
//! - Order class `queue`: one strand at a time per queue. `lanes`: one per lane. `none`: no waiting.
//! - What a task holds in memory was taken from the node's budget before it was fetched; after a long linger, as soon as
//!   it is there. One batch for each queue may lie beyond a budget that stays used up.

mod backoff;
mod lanes;
pub(crate) mod memory;
pub(crate) mod pace;
mod policy;
mod session;
pub(crate) mod slot;
pub(crate) mod stats;
mod strand;
pub(crate) mod task;
mod unit;

pub(crate) use backoff::Backoff;
#[cfg(feature = "redis")]
pub(crate) use lanes::lane_number;

/// Every value of the label `reason` of `sluice_connector_discarded_total`.
pub(crate) const DISCARD_REASONS: [&str; 3] =
    [policy::REASON_REFUSED, policy::REASON_TARGET_DOWN, policy::REASON_DEAD_LETTER_LOOP];

#[cfg(test)]
pub(crate) mod tests;
