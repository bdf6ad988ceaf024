//! The only place that waits before another attempt to reach the leader.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::seat::Seat;
use crate::status::RaftStatus;

/// Between two attempts when nothing is heard of a new leader.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct LeaderSeeker {
    deadline: Instant,
    status: Option<watch::Receiver<RaftStatus>>,
}

impl LeaderSeeker {
    pub(crate) fn new(seat: &Seat, within: Duration) -> Self {
        let status = seat.node().map(|node| node.watch_status());
        Self { deadline: Instant::now() + within, status }
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until another leader is known, but not long. False when the time is over.
    pub(crate) async fn again(&mut self) -> bool {
        let remaining = self.remaining();
        if remaining.is_zero() {
            return false;
        }
        let pause = PAUSE.min(remaining);
        match &mut self.status {
            None => tokio::time::sleep(pause).await,
            Some(status) => {
                let before = status.borrow_and_update().leader;
                let other = status.wait_for(|status| status.leader.is_some() && status.leader != before);
                // Whether there is one or not, it is tried again.
                let _tried_again = tokio::time::timeout(pause, other).await;
            }
        }
        !self.remaining().is_zero()
    }
}
