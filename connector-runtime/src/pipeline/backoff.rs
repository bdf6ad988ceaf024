//! How long to wait before the target (or a queue's node) is asked again.

use std::time::Duration;

/// The span doubles with every failure in a row, up to a bound; the delay is drawn evenly from it ("full jitter"),
/// so that many tasks that lost one target do not come back to it together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

/// A target that is back is found again within this time.
const TARGET_CAP: Duration = Duration::from_secs(10);
/// Another node's queue is back within a restart or a catalogue step: ask more often.
const QUEUE_CAP: Duration = Duration::from_secs(2);
/// A crashing task costs its node a start each time.
const CRASH_CAP: Duration = Duration::from_secs(60);
/// Full jitter may draw 0; nothing is asked faster than this.
const DELAY_MIN: Duration = Duration::from_millis(20);
/// A `Retry-After` beyond this is taken for a mistake.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Backoff {
    pub(crate) fn target() -> Self {
        Self { base: Duration::from_millis(200), cap: TARGET_CAP, failures: 0 }
    }

    pub(crate) fn queue() -> Self {
        Self { base: Duration::from_millis(50), cap: QUEUE_CAP, failures: 0 }
    }

    pub(crate) fn crash() -> Self {
        Self { base: Duration::from_secs(1), cap: CRASH_CAP, failures: 0 }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The delay after one more failure; `retry_after` is the least that the target asked for.
    pub(crate) fn next(&mut self, retry_after: Option<Duration>) -> Duration {
        let delay = self.delay(rand::random::<f64>());
        self.failures = self.failures.saturating_add(1);
        delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
    }

    /// `draw` is even in [0, 1).
    fn delay(&self, draw: f64) -> Duration {
        // 2^10 times the base is beyond every cap.
        let span = self.base.saturating_mul(1 << self.failures.min(10)).min(self.cap);
        span.mul_f64(draw).max(DELAY_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_doubles_up_to_the_cap() {
        let mut backoff = Backoff::target();
        let mut spans = Vec::new();
        for _ in 0..8 {
            spans.push(backoff.delay(0.999_999_999).as_millis().div_ceil(100) * 100);
            backoff.next(None);
        }
        assert_eq!(spans, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.failures = u32::MAX;
        backoff.next(None);
        assert_eq!(backoff.delay(0.5), TARGET_CAP / 2);
        backoff.reset();
        assert_eq!(backoff.delay(0.5), Duration::from_millis(100));
    }

    #[test]
    fn delay_is_never_below_its_floor_or_what_the_target_asked() {
        assert_eq!(Backoff::target().delay(0.0), DELAY_MIN);
        assert!(Backoff::target().next(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert_eq!(Backoff::target().next(Some(Duration::from_secs(1 << 40))), RETRY_AFTER_MAX);
    }
}
