//! A timer for a deadline that moves with almost every packet, nearly always away.

use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// Setting a timer costs a lock that all connections share: it is set again only when it would ring too late, and when
/// it rings too early.
#[derive(Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Completes at the deadline. Safe to cancel.
    pub async fn rings(&mut self, deadline: Instant) {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().await;
        if timer.deadline() < deadline {
            timer.as_mut().reset(deadline);
            timer.as_mut().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_last_deadline_that_was_set() {
        let mut alarm = Alarm::default();
        let began = Instant::now();
        for (first_ms, then_ms) in [(50, 90), (90, 50), (40, 40)] {
            let now = Instant::now();
            let (first, then) = (now + Duration::from_millis(first_ms), now + Duration::from_millis(then_ms));
            let cancelled = tokio::time::timeout(Duration::from_millis(1), alarm.rings(first)).await;
            assert!(cancelled.is_err(), "rang {:?} after the start", began.elapsed());
            alarm.rings(then).await;
            assert_eq!(Instant::now(), then);
        }
    }
}
