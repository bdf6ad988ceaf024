//! SUBSCRIBE and UNSUBSCRIBE of one connection.

use std::collections::{HashSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use api_types::topic::TopicFilter;
use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::Connection;
use crate::mqtt::hub::Hub;
use crate::mqtt::subscriptions::{SESSION_FILTER_BYTES_MAX, SESSION_FILTERS_MAX, Version, parse_filter};
use crate::mqtt::wire::{Outbound, Reason, Subscribe};

/// How long a SUBACK waits for the other nodes to know the filters, so that a message published anywhere after it
/// is received. A node that does not answer is not waited for longer.
const ANNOUNCE_WAIT: Duration = Duration::from_millis(250);
/// SUBACKs that may wait at once; the oldest is sent when there are more.
const ANSWERS_MAX: usize = 16;

#[derive(Default)]
pub struct Subscribed {
    filters: HashSet<TopicFilter>,
    filter_bytes: usize,
    answers: VecDeque<Answer>,
}

struct Answer {
    packet_id: NonZeroU16,
    results: Vec<Result<u8, Reason>>,
    version: Version,
    until: Instant,
}

impl Subscribed {
    pub fn filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.filters.iter()
    }

    pub fn answer_until(&self) -> Option<Instant> {
        self.answers.front().map(|answer| answer.until)
    }
}

/// Completes when the other nodes know what the oldest waiting SUBACK is about; never while there is none.
pub async fn known_everywhere(hub: &Hub, subscribed: &Subscribed) {
    match (subscribed.answers.front(), &hub.cluster) {
        (Some(answer), Some(cluster)) => cluster.known_everywhere(answer.version).await,
        (Some(_), None) => {}
        (None, _) => std::future::pending().await,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn subscribe(&mut self, packet: Subscribe) -> Result<(), Reason> {
        let mut results = Vec::with_capacity(packet.filters.len());
        for (text, options) in packet.filters {
            let granted = self.add_filter(&text).and_then(|filter| {
                let granted = self.hub.subscriptions.subscribe(&self.session, &filter, options, packet.identifier);
                if granted.is_ok() && self.subscribed.filters.insert(filter) {
                    self.subscribed.filter_bytes += text.len();
                }
                granted
            });
            results.push(granted);
        }
        let version = self.hub.subscriptions.version();
        let until = Instant::now() + ANNOUNCE_WAIT;
        self.subscribed.answers.push_back(Answer { packet_id: packet.packet_id, results, version, until });
        if self.hub.cluster.is_none() || self.subscribed.answers.len() > ANSWERS_MAX {
            self.answer_subscribe();
        }
        Ok(())
    }

    /// Parses a filter and finds room for it.
    fn add_filter(&self, text: &str) -> Result<TopicFilter, Reason> {
        let filter = parse_filter(text)?;
        let subscribed = &self.subscribed;
        let full = subscribed.filters.len() >= SESSION_FILTERS_MAX
            || subscribed.filter_bytes + text.len() > SESSION_FILTER_BYTES_MAX;
        if full && !subscribed.filters.contains(&filter) { Err(Reason::QuotaExceeded) } else { Ok(filter) }
    }

    /// Sends the oldest SUBACK that waits.
    pub(super) fn answer_subscribe(&mut self) {
        let Some(answer) = self.subscribed.answers.pop_front() else { return };
        let suback = Outbound::Suback { packet_id: answer.packet_id, results: &answer.results };
        if self.wire.encode(suback, &mut self.output).is_err() {
            self.end(Some(Reason::PacketTooLarge));
        }
    }

    pub(super) fn unsubscribe(&mut self, packet_id: NonZeroU16, filters: &[ByteString]) -> Result<(), Reason> {
        let mut existed = Vec::with_capacity(filters.len());
        for text in filters {
            let known = TopicFilter::parse(text).ok().and_then(|filter| self.subscribed.filters.take(&filter));
            if let Some(filter) = &known {
                self.subscribed.filter_bytes -= text.len();
                self.hub.subscriptions.unsubscribe(self.session.id, filter);
            }
            existed.push(known.is_some());
        }
        let unsuback = Outbound::Unsuback { packet_id, existed: &existed };
        self.wire.encode(unsuback, &mut self.output).map_err(|_| Reason::PacketTooLarge)
    }
}
