//! The clocks of the queues, passed in so that a simulation can replace them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch; may step in either direction.
    fn wall_ms(&self) -> u64;

    /// Time since an arbitrary moment of this process; never goes back.
    fn running(&self) -> Duration;
}

#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn running(&self) -> Duration {
        self.start.elapsed()
    }
}
