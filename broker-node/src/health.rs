//! Whether the process turns, and whether it should get traffic.
//!
//! ```text
//! live:  ticker task ─► last tick ─► younger than the bound?
//! ready: once {replica caught up, first lease held} ─► then {listeners, queue disk, lease or accept, not stopping}
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_millis(500);
/// The process is called stuck when its ticker did not run for this long.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Ticks on the runtime that does the work; read by whoever answers `/health/live`.
#[derive(Clone, Debug)]
pub struct Watchdog {
    start: Instant,
    last_tick_ms: Arc<AtomicU64>,
}

impl Watchdog {
    pub fn new() -> Self {
        Self { start: Instant::now(), last_tick_ms: Arc::default() }
    }

    /// Runs until the process ends.
    pub async fn run(self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => self.tick(self.start.elapsed()),
            }
        }
    }

    fn tick(&self, now: Duration) {
        self.last_tick_ms.store(now.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn is_live(&self) -> bool {
        self.was_live(self.start.elapsed())
    }

    fn was_live(&self, now: Duration) -> bool {
        let last = Duration::from_millis(self.last_tick_ms.load(Ordering::Relaxed));
        now.saturating_sub(last) < STUCK_AFTER
    }
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of one part: well, or what it waits for or suffers from.
pub type Part = Result<(), String>;

/// What `/health/ready` is made of; read anew for every answer.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The replica is recovered and has caught up with a leader; else what the start waits for.
    pub replica: Part,
    pub listeners: Part,
    pub queue_disk: Part,
    pub lease: Part,
    pub leader: Part,
    /// Err once the node was told to stop.
    pub stopping: Part,
    /// `mqtt.ingest_without_lease = accept`.
    pub ingest_without_lease: bool,
}

/// Remembers that the start is over: from then on a lost leader does not cut the devices.
#[derive(Debug, Default)]
pub struct Readiness {
    started: AtomicBool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The parts that keep the node from being ready.
    pub not_well: Vec<String>,
    /// Every part with `ok` or its text.
    pub parts: Value,
}

impl Readiness {
    pub fn judge(&self, parts: &Parts, for_tasks: bool) -> Verdict {
        if parts.replica.is_ok() && parts.lease.is_ok() {
            self.started.store(true, Ordering::SeqCst);
        }
        let started = self.started.load(Ordering::SeqCst);
        let lease_counts = for_tasks || !started || !parts.ingest_without_lease;
        let all = [
            ("replica", &parts.replica, !started),
            ("listeners", &parts.listeners, true),
            ("queue_disk", &parts.queue_disk, true),
            ("lease", &parts.lease, lease_counts),
            ("leader", &parts.leader, for_tasks),
            ("stopping", &parts.stopping, true),
        ];
        let mut shown = Map::new();
        let mut not_well = Vec::new();
        for (name, part, counts) in all {
            match part {
                Ok(()) => shown.insert(name.into(), json!("ok")),
                Err(text) => shown.insert(name.into(), json!(text)),
            };
            if let (Err(text), true) = (part, counts) {
                not_well.push(format!("{name}: {text}"));
            }
        }
        Verdict { not_well, parts: Value::Object(shown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Parts {
        Parts {
            replica: Ok(()),
            listeners: Ok(()),
            queue_disk: Ok(()),
            lease: Ok(()),
            leader: Ok(()),
            stopping: Ok(()),
            ingest_without_lease: true,
        }
    }

    fn not_well(readiness: &Readiness, parts: &Parts, for_tasks: bool) -> Vec<String> {
        readiness.judge(parts, for_tasks).not_well
    }

    #[test]
    fn a_stuck_runtime_is_not_live() {
        let watchdog = Watchdog::new();
        assert!(watchdog.is_live());
        assert!(!watchdog.was_live(STUCK_AFTER));
        watchdog.tick(Duration::from_secs(9));
        assert!(watchdog.was_live(STUCK_AFTER));
    }

    #[test]
    fn the_first_lease_is_waited_for_and_its_loss_is_not() {
        let readiness = Readiness::default();
        let cut_off = Parts { lease: Err("not held".into()), leader: Err("none".into()), ..well() };
        assert_eq!(not_well(&readiness, &cut_off, false), ["lease: not held"]);
        assert!(not_well(&readiness, &well(), false).is_empty());
        assert!(not_well(&readiness, &cut_off, false).is_empty(), "a leader loss must not cut the devices");
        assert_eq!(not_well(&readiness, &cut_off, true), ["lease: not held", "leader: none"]);
        let refuse = Parts { ingest_without_lease: false, ..cut_off };
        assert_eq!(not_well(&readiness, &refuse, false), ["lease: not held"]);
    }

    #[test]
    fn disk_listeners_and_stopping_always_count() {
        let readiness = Readiness::default();
        assert!(not_well(&readiness, &well(), false).is_empty());
        let broken = Parts {
            listeners: Err("mqtt is closed".into()),
            queue_disk: Err("full".into()),
            stopping: Err("asked to stop".into()),
            ..well()
        };
        assert_eq!(
            not_well(&readiness, &broken, false),
            ["listeners: mqtt is closed", "queue_disk: full", "stopping: asked to stop"]
        );
    }
}
