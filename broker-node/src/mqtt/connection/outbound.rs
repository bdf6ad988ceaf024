//! The subscriber's side: from the mailbox to the wire, within the window of the peer.

use std::collections::HashSet;
use std::num::NonZeroU16;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Connection, OUTPUT_BYTES_GOAL, Phase};
use crate::mqtt::metrics::Dropped;
use crate::mqtt::session::Letter;
use crate::mqtt::wire::{Delivery, Outbound};

/// QoS 1 messages sent to one subscriber and not yet acknowledged, even if it would take more.
const WINDOW_MAX: u16 = 256;

pub struct Outlet {
    window: usize,
    unacknowledged: HashSet<NonZeroU16>,
    last_id: u16,
}

impl Outlet {
    pub fn new(receive_max: u16) -> Self {
        Self { window: usize::from(receive_max.min(WINDOW_MAX)), unacknowledged: HashSet::new(), last_id: 0 }
    }

    pub fn acknowledged(&mut self, packet_id: NonZeroU16) {
        self.unacknowledged.remove(&packet_id);
    }

    fn has_room(&self) -> bool {
        self.unacknowledged.len() < self.window
    }

    /// An id that is not in use. The window is much smaller than the number of ids, so the search is short.
    fn next_id(&mut self) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.last_id)
                && self.unacknowledged.insert(id)
            {
                return id;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Moves letters from the mailbox to the output.
    pub(super) fn pump(&mut self) {
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        while self.output.len() < OUTPUT_BYTES_GOAL {
            let has_room = self.outlet.has_room();
            let Some(letter) = self.session.take(|letter| letter.qos == 0 || has_room) else { break };
            self.deliver(&letter);
        }
    }

    fn deliver(&mut self, letter: &Letter) {
        let metrics = &self.hub.metrics;
        let Ok(expiry_secs) = letter.publication.remaining_expiry(Instant::now()) else {
            return metrics.dropped(Dropped::Expired, 1);
        };
        let packet_id = (letter.qos > 0).then(|| self.outlet.next_id());
        let delivery = Delivery {
            topic: &letter.publication.topic,
            payload: &letter.publication.payload,
            properties: &letter.publication.properties,
            expiry_secs,
            retain: letter.retain,
            packet_id,
            subscription_ids: &letter.subscription_ids,
        };
        match self.wire.encode(Outbound::Publish(delivery), &mut self.output) {
            Ok(()) => metrics.delivered.inc(),
            Err(_) => {
                metrics.dropped(Dropped::TooLarge, 1);
                if let Some(packet_id) = packet_id {
                    self.outlet.acknowledged(packet_id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_use_are_not_given_again() {
        let mut outlet = Outlet::new(3);
        let first = outlet.next_id();
        assert_eq!(first.get(), 1);
        outlet.last_id = u16::MAX - 1;
        assert_eq!(outlet.next_id().get(), u16::MAX);
        assert_eq!(outlet.next_id().get(), 2, "0 is no id and 1 is in use");
        assert!(!outlet.has_room());
        outlet.acknowledged(first);
        assert!(outlet.has_room());
    }
}
