//! Every duration of leases, failover and elections, and the inequality that keeps one owner at a time.
//!
//! ```text
//! node:    send ──────── L ────────► lease over ─ W ─ S ► all tasks stopped
//! leader:        receipt ──────────────── D ────────────────────► fence ► other owner
//! ```

use std::time::Duration;

/// Greatest relative error of a clock's rate that is allowed for, in parts per million.
pub const CLOCK_DRIFT_PPM: u32 = 500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// A node's heartbeat to the leader.
    pub heartbeat: Duration,
    /// The same while no leader is known.
    pub heartbeat_without_leader: Duration,
    /// L: how long a node may act, from the moment it sent the renewed heartbeat.
    pub lease: Duration,
    /// W: how often the node's watchdog looks at its lease.
    pub watchdog: Duration,
    /// S: within this all tasks have stopped after the lease ran out.
    pub lease_stop: Duration,
    /// D: a node that was not heard for this long is fenced.
    pub dead_after: Duration,
    /// A node that comes back within this gets its own tasks back before others are moved to it.
    pub restart_grace: Duration,
    /// Most voluntary moves at a time; `None` is the greater of 2 and the number of nodes.
    pub max_moves: Option<u32>,
    pub target_voters: u32,
    /// A task that was told to stop cancels what is in flight after this.
    pub stop_timeout: Duration,
    /// A change is answered after this even when not every node has taken it in.
    pub apply_wait: Duration,
    /// The leader's heartbeat to the other members of the Raft group.
    pub raft_heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            heartbeat_without_leader: Duration::from_millis(100),
            lease: Duration::from_millis(2200),
            watchdog: Duration::from_millis(50),
            lease_stop: Duration::from_millis(400),
            dead_after: Duration::from_millis(2800),
            restart_grace: Duration::from_secs(30),
            max_moves: None,
            target_voters: 3,
            stop_timeout: Duration::from_secs(10),
            apply_wait: Duration::from_millis(3500),
            raft_heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

impl Timings {
    /// The time after which a lease has ended by whatever clock, counted from the leader's last receipt: `L(1+2ρ)`.
    pub fn lease_over(&self) -> Duration {
        self.lease + with_drift(self.lease)
    }

    /// How long a new leader calls nobody dead. After an election by timeout no quorum answered the earlier leader in
    /// the last `election_max`, so that much is spared; a transfer of leadership proves nothing of the kind.
    pub fn fence_free(&self, by_transfer: bool) -> Duration {
        if by_transfer { self.dead_after } else { self.dead_after.saturating_sub(self.election_max) }
    }

    /// What is wrong with these numbers together: all of it, each with the key it is about.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let least = self.lease + self.watchdog + self.lease_stop + with_drift(self.lease);
        if self.dead_after < least {
            problems.push(format!(
                "cluster.dead_after: must be at least {least:?} with a lease of {:?}, so that a node has stopped before \
                 another one takes its tasks",
                self.lease
            ));
        }
        let outage = self.heartbeat + self.election_max * 2;
        if self.lease < outage {
            problems.push(format!(
                "cluster.lease: must be at least {outage:?}, so that tasks outlive a change of the leader"
            ));
        }
        if self.heartbeat.is_zero() || self.heartbeat_without_leader.is_zero() {
            problems.push("cluster.heartbeat: must be greater than 0".to_owned());
        }
        if self.target_voters.is_multiple_of(2) || self.target_voters > 7 {
            problems.push("cluster.target_voters: must be 1, 3, 5 or 7".to_owned());
        }
        if self.max_moves == Some(0) {
            problems.push("cluster.max_moves: must be greater than 0".to_owned());
        }
        problems
    }
}

/// `2ρ` of a duration.
fn with_drift(duration: Duration) -> Duration {
    duration * (2 * CLOCK_DRIFT_PPM) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_keep_one_owner_at_a_time() {
        assert_eq!(Timings::default().problems(), Vec::<String>::new());
        assert_eq!(Timings::default().lease_over(), Duration::from_micros(2_202_200));
    }

    #[test]
    fn each_broken_relation_is_named() {
        let check = |change: fn(&mut Timings), expect: &str| {
            let mut timings = Timings::default();
            change(&mut timings);
            let problems = timings.problems();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(expect), "{problems:?}");
        };
        check(|timings| timings.dead_after = Duration::from_millis(2652), "cluster.dead_after");
        check(|timings| timings.lease = Duration::from_millis(1699), "cluster.lease");
        check(|timings| timings.heartbeat = Duration::ZERO, "cluster.heartbeat");
        check(|timings| timings.target_voters = 4, "cluster.target_voters");
        check(|timings| timings.max_moves = Some(0), "cluster.max_moves");
    }
}
