//! What the leader counts, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::scheduler::MoveReason;

/// Observations that nobody fetched: the oldest go.
const OBSERVATIONS_MAX: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaderMetrics {
    pub moves_total: BTreeMap<MoveReason, u64>,
    /// From the last sign of a lost node to the new assignment of each of its tasks.
    pub failover_seconds: Vec<f64>,
}

impl LeaderMetrics {
    pub(super) fn moved(&mut self, reason: MoveReason) {
        *self.moves_total.entry(reason).or_default() += 1;
    }

    pub(super) fn failed_over(&mut self, after: Duration) {
        if self.failover_seconds.len() >= OBSERVATIONS_MAX {
            self.failover_seconds.remove(0);
        }
        self.failover_seconds.push(after.as_secs_f64());
    }

    pub(super) fn take(&mut self) -> Self {
        let failover_seconds = std::mem::take(&mut self.failover_seconds);
        Self { moves_total: self.moves_total.clone(), failover_seconds }
    }
}
