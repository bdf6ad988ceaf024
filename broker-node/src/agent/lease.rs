//! The node's lease: counted from the moment the heartbeat was *sent*, on a clock that runs through suspend, and ended
//! by a thread of its own that no stuck runtime can delay.
//!
//! ```text
//! agent ── renewed(sent_at + L) ──► end ──► watchdog thread (within W) ──► Lease::set(false) ──► tasks abort
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use connector_runtime::lease::Lease;
use meta_service::clock::Clock;

/// Less than half of `W`, how late the lease's inequality lets the watchdog notice the end (`Timings::watchdog`), so that
/// the scheduling of the thread itself fits in.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Holds the end of the lease and ends it in time.
pub struct LeaseKeeper {
    lease: Lease,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    watchdog: Option<thread::JoinHandle<()>>,
}

struct Shared {
    /// End of the lease on the boot-time clock, in microseconds; 0 when there is none.
    end_us: AtomicU64,
    held_once: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn is_over(&self, clock: &dyn Clock) -> bool {
        micros(clock.boottime()) >= self.end_us.load(Ordering::SeqCst)
    }
}

impl LeaseKeeper {
    pub fn start(clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            end_us: AtomicU64::new(0),
            held_once: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let (looked_at, looks) = (Arc::clone(&shared), Arc::clone(&clock));
        let lease = Lease::with_clock(Arc::new(move || looked_at.is_over(looks.as_ref())));
        let watched = (lease.clone(), Arc::clone(&clock), Arc::clone(&shared));
        let watchdog = thread::Builder::new()
            .name("lease-watchdog".to_owned())
            .spawn(move || watch(&watched.0, watched.1.as_ref(), &watched.2))?;
        Ok(Self { lease, clock, shared, watchdog: Some(watchdog) })
    }

    /// The leader renewed the lease for `length` in answer to a heartbeat that was sent at `sent_at`.
    pub fn renewed(&self, sent_at: Duration, length: Duration) {
        let end = sent_at + length;
        if end <= self.clock.boottime() {
            return;
        }
        self.shared.end_us.fetch_max(micros(end), Ordering::SeqCst);
        self.shared.held_once.store(true, Ordering::SeqCst);
        self.lease.set(true);
    }

    /// The registration is over, or the node gives the lease back.
    pub fn end(&self) {
        self.shared.end_us.store(0, Ordering::SeqCst);
        self.lease.set(false);
    }

    pub fn remaining(&self) -> Duration {
        let end = Duration::from_micros(self.shared.end_us.load(Ordering::SeqCst));
        end.saturating_sub(self.clock.boottime())
    }

    pub fn held_since_boot(&self) -> bool {
        self.shared.held_once.load(Ordering::SeqCst)
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.end();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.thread().unpark();
            // The thread holds nothing that could fail; a panic in it would have been printed already.
            let _ = watchdog.join();
        }
    }
}

fn watch(lease: &Lease, clock: &dyn Clock, shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        let end = shared.end_us.load(Ordering::SeqCst);
        if end != 0 && micros(clock.boottime()) >= end {
            lease.set(false);
            // A renewal may have come in between: its end is later than the one that was found over.
            if shared.end_us.compare_exchange(end, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                tracing::warn!("lease is over: tasks stop until the leader renews it");
            } else if !shared.is_over(clock) {
                lease.set(true);
            }
        }
        thread::park_timeout(CHECK_INTERVAL);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct ManualClock(Mutex<Duration>);

    impl Clock for ManualClock {
        fn boottime(&self) -> Duration {
            *self.0.lock().expect("not poisoned")
        }

        fn wall_ms(&self) -> u64 {
            0
        }
    }

    #[test]
    fn the_watchdog_looks_twice_within_what_the_leader_allows_it() {
        assert!(2 * CHECK_INTERVAL <= meta_service::Timings::default().watchdog);
    }

    #[tokio::test]
    async fn lease_ends_at_sent_plus_length_and_comes_back() {
        let clock = Arc::new(ManualClock(Mutex::new(Duration::from_secs(100))));
        let keeper = LeaseKeeper::start(clock.clone()).expect("thread starts");
        let lease = keeper.lease().clone();
        assert!(!keeper.held_since_boot());
        keeper.renewed(Duration::from_secs(99), Duration::from_secs(2));
        assert!(lease.is_held() && keeper.held_since_boot());
        assert_eq!(keeper.remaining(), Duration::from_secs(1));
        *clock.0.lock().expect("not poisoned") = Duration::from_secs(101);
        assert!(!lease.is_held(), "the clock decides, whether the watchdog has run or not");
        lease.lost().await;
        keeper.renewed(Duration::from_secs(98), Duration::from_secs(2));
        assert!(!lease.is_held(), "a late answer renews nothing");
        keeper.renewed(Duration::from_secs(101), Duration::from_secs(2));
        assert!(lease.is_held());
        keeper.end();
        assert!(!lease.is_held());
    }
}
