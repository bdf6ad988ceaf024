//! Heartbeats: whether the server is there, and that it hears that this end is.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Pulse {
    /// `None`: both ends agreed on none.
    interval: Option<Duration>,
    sent: Instant,
    heard: Instant,
}

impl Pulse {
    pub(super) fn new(interval: Option<Duration>, now: Instant) -> Self {
        Self { interval, sent: now, heard: now }
    }

    /// Whatever was sent is as good as a heartbeat.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Whatever was heard is as good as a heartbeat.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The server sends one after half the interval without anything else, and so does this end.
    pub(super) fn beat_due(&self) -> Option<Instant> {
        self.interval.map(|interval| self.sent + interval / 2)
    }

    /// Two intervals without a word.
    pub(super) fn is_lost_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.heard + interval * 2)
    }

    pub(super) fn silence(&self) -> Duration {
        self.interval.unwrap_or_default() * 2
    }
}
