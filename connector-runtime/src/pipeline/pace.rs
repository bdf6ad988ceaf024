//! `max_records_per_second` and `max_bytes_per_second`: they make the task wait and never drop anything.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Each request moves the time before which the next one may not start, by what it weighs.
#[derive(Debug)]
pub(crate) struct Pace {
    records_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(records_per_second: Option<u64>, bytes_per_second: Option<u64>) -> Self {
        Self { records_per_second, bytes_per_second, free_at: Mutex::new(None) }
    }

    /// When a request of this weight may start.
    pub(crate) fn book(&self, records: u64, bytes: u64) -> Instant {
        let now = Instant::now();
        let cost = cost(records, self.records_per_second).max(cost(bytes, self.bytes_per_second));
        if cost.is_zero() {
            return now;
        }
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(start + cost);
        start
    }
}

fn cost(amount: u64, per_second: Option<u64>) -> Duration {
    match per_second {
        Some(rate) if rate > 0 => Duration::from_secs_f64(amount as f64 / rate as f64),
        Some(_) | None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_by_the_tighter_limit() {
        let pace = Pace::new(Some(100), Some(1000));
        let start = Instant::now();
        assert_eq!(pace.book(50, 10), start);
        assert_eq!(pace.book(1, 2000), start + Duration::from_millis(500));
        assert_eq!(pace.book(1, 1), start + Duration::from_millis(2500));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.book(1, 1), Instant::now(), "an idle time is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_never_waits() {
        let pace = Pace::new(None, None);
        for _ in 0..3 {
            assert_eq!(pace.book(1_000_000, u64::MAX), Instant::now());
        }
    }
}
