//! The machine's clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::Clock;

/// CLOCK_BOOTTIME (`std::time::Instant` is CLOCK_MONOTONIC on Linux, which stands still in suspend) and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boottime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or_default();
        Duration::new(seconds, nanoseconds)
    }

    fn wall_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_does_not_go_back() {
        let first = SystemClock.boottime();
        assert!(SystemClock.boottime() >= first);
        assert!(first > Duration::ZERO);
    }
}
