//! A producer for one queue on one topic: its name is the same wherever the queue's records are delivered from, so that a
//! broker that drops what comes twice knows them by their sequence ids.
//!
//! ```text
//!   messages ──next──► as many as fit ──entry──► broker ──► taken: go on
//!                            ▲                     └──────► too large: half as many; one alone is at fault
//!                            └─────────────────────────────┘
//! ```
//!
//! One entry is on its way at a time. So nothing behind an entry was sent when the broker refuses it, and the broker's last
//! sequence id never stands above a record that it does not have.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::config::Compression;
use super::connection::{Connection, Receipt};
use super::entry::{Author, EntryError, entry};
use super::fault::{
    EARLIER_OWNER_WITHIN, down, interrupted, is_name_taken, is_too_large, target_fault, too_large_words,
};
use super::message::Message;
use super::proto::{self, BaseCommand, CommandKind, KeyValue};
use super::wire::{self, Answer};
use crate::sink::{Outcome, RecordFault, TargetFault};
use crate::sinks::offered::chain;

/// An entry may be larger by this part than the one before, up to what the broker takes.
const GROWTH: usize = 16;

/// The same for all producers of a sink.
pub(super) struct Publishing {
    pub(super) cluster: Cluster,
    pub(super) compression: Compression,
    pub(super) send_timeout: Duration,
    /// Messages that wait for their receipt, over all producers.
    pub(super) pending: Semaphore,
    pub(super) pending_max: usize,
    /// Shown by the broker's own tools.
    pub(super) connector: String,
}

/// A topic, or one of its partitions, and whose records it gets. Whoever publishes has it locked.
pub(super) struct Seat {
    topic: String,
    name: String,
    open: Option<Producer>,
    /// An entry was handed over, and nobody waited for its receipt.
    is_unsettled: bool,
    /// Since when another producer of this name keeps ours out.
    taken_since: Option<Instant>,
    /// More than that in an entry was refused by the broker.
    bytes_max: usize,
}

struct Producer {
    id: u64,
    connection: Arc<Connection>,
    /// Up to there the broker has everything. Only one that drops what comes twice tells.
    last: Option<u64>,
}

/// What became of an entry.
enum End {
    Taken,
    TooLarge { fault: RecordFault },
    Fault(TargetFault),
}

impl Seat {
    pub(super) fn new(topic: String, name: String) -> Self {
        Self { topic, name, open: None, is_unsettled: false, taken_since: None, bytes_max: usize::MAX }
    }

    /// In order; one outcome for each message.
    pub(super) async fn deliver(&mut self, publishing: &Publishing, messages: &[Message]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(messages.len());
        while let Some(rest) = messages.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            let all = |outcome: Outcome| std::iter::repeat_n(outcome, rest.len());
            if let Err(fault) = self.opened(publishing).await {
                outcomes.extend(all(Outcome::TargetFault(fault)));
                break;
            }
            let count = self.next(publishing, rest);
            let (front, behind) = rest.split_at(count);
            match self.publish(publishing, front).await {
                End::Taken => {
                    // A limit that was in the way may be gone. Looking for it costs little.
                    self.bytes_max = self.bytes_max.saturating_add(self.bytes_max / GROWTH);
                    outcomes.extend(std::iter::repeat_n(Outcome::Delivered, count));
                }
                End::TooLarge { .. } if count > 1 => self.bytes_max = bytes(front) / 2,
                End::TooLarge { fault } => {
                    let may_go_on = fault.offline;
                    outcomes.push(Outcome::RecordFault(fault));
                    if !may_go_on {
                        // It may be asked for again: what stands behind it must not be sent before.
                        let held = Outcome::TargetFault(TargetFault::held());
                        outcomes.extend(std::iter::repeat_n(held, behind.len()));
                    }
                }
                End::Fault(fault) => {
                    self.leave(publishing).await;
                    outcomes.extend(all(Outcome::TargetFault(fault)));
                }
            }
        }
        outcomes
    }

    /// How many of them make the next entry; at least one. Those that the broker has, and those that it does not have, never
    /// share one: it would take the whole for what its first message is.
    fn next(&self, publishing: &Publishing, messages: &[Message]) -> usize {
        let known = self.open.as_ref().and_then(|producer| producer.last);
        let is_known = |message: &Message| known.is_some_and(|last| message.sequence.0 <= last);
        let broker_bytes_max = self.open.as_ref().map_or(usize::MAX, |open| open.connection.message_bytes_max);
        let bytes_max = self.bytes_max.min(broker_bytes_max);
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += message.bytes();
            bytes <= bytes_max && is_known(message) == is_known(&messages[0])
        };
        messages.iter().take(publishing.pending_max).take_while(fits).count().max(1)
    }

    async fn publish(&mut self, publishing: &Publishing, messages: &[Message]) -> End {
        let Some(producer) = &mut self.open else { return End::Fault(down("there is no producer")) };
        let author = Author {
            producer_id: producer.id,
            producer_name: &self.name,
            compression: publishing.compression,
            message_bytes_max: producer.connection.message_bytes_max,
        };
        let entry = match entry(&author, messages).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return End::Taken,
            Err(error @ EntryError::TooLarge { .. }) => {
                return End::TooLarge { fault: RecordFault::offline("message_too_large", error.to_string()) };
            }
            Err(error @ (EntryError::Compress(_) | EntryError::Wire(_))) => {
                return End::TooLarge { fault: RecordFault::offline("cannot_be_encoded", chain(&error)) };
            }
        };
        let permits = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let Ok(_pending) = publishing.pending.acquire_many(permits).await else {
            return End::Fault(interrupted("the sink was closed"));
        };
        self.is_unsettled = true;
        let sent = producer.connection.publish(producer.id, entry, publishing.send_timeout);
        let receipt = sent.await;
        self.is_unsettled = false;
        match receipt {
            Ok(Receipt::Taken) => {
                let last = messages.last().map(|message| message.sequence.0);
                producer.last = producer.last.max(last.filter(|_| producer.last.is_some()));
                End::Taken
            }
            Ok(Receipt::Refused(refusal)) if is_too_large(refusal.error, &refusal.message) => {
                let words = too_large_words(refusal.error, &refusal.message);
                End::TooLarge { fault: RecordFault::refused("message_too_large", words) }
            }
            Ok(Receipt::Refused(refusal)) => End::Fault(target_fault(refusal.error, &refusal.message)),
            Ok(Receipt::Closed) => {
                End::Fault(down("the broker closed the producer: its topic is unloaded, deleted, or taken over"))
            }
            Err(fault) => End::Fault(fault),
        }
    }

    async fn opened(&mut self, publishing: &Publishing) -> Result<(), TargetFault> {
        let is_good = |open: &Producer| !open.connection.is_lost();
        if !self.is_unsettled && self.open.as_ref().is_some_and(is_good) {
            return Ok(());
        }
        self.leave(publishing).await;
        self.is_unsettled = false;
        self.bytes_max = usize::MAX;
        let connection = publishing.cluster.owner(&self.topic).await?;
        let producer = self.create(publishing, connection).await?;
        self.taken_since = None;
        self.open = Some(producer);
        Ok(())
    }

    async fn create(&mut self, publishing: &Publishing, connection: Arc<Connection>) -> Result<Producer, TargetFault> {
        let (id, request_id) = (connection.next_id(), connection.next_id());
        let create = proto::CreateProducer {
            topic: self.topic.clone(),
            producer_id: id,
            request_id,
            producer_name: Some(self.name.clone()),
            metadata: vec![KeyValue { key: "connector".to_owned(), value: publishing.connector.clone() }],
            user_provided_producer_name: Some(true),
        };
        let create = BaseCommand { producer: Some(create), ..wire::of(CommandKind::CreateProducer) };
        let within = publishing.cluster.operation_timeout();
        match connection.request(request_id, create, within, "producer").await? {
            Answer::Producer(success) => {
                let last = success.last_sequence_id.and_then(|last| u64::try_from(last).ok());
                Ok(Producer { id, connection, last })
            }
            Answer::Error(error) if is_name_taken(error.error, &error.message) => {
                Err(self.name_taken(target_fault(error.error, &error.message)))
            }
            Answer::Error(error) => Err(target_fault(error.error, &error.message)),
            Answer::Success | Answer::Partitions(_) | Answer::Owner(_) => {
                Err(down("the broker answered a request with something else"))
            }
        }
    }

    /// By the owner before this one, as a rule: for a while that is nobody's fault.
    fn name_taken(&mut self, fault: TargetFault) -> TargetFault {
        let since = *self.taken_since.get_or_insert_with(Instant::now);
        if since.elapsed() < EARLIER_OWNER_WITHIN {
            return TargetFault { reopen: false, ..interrupted_by(fault) };
        }
        fault
    }

    /// The broker has none of this name any more, where it answers.
    pub(super) async fn leave(&mut self, publishing: &Publishing) {
        let Some(Producer { id, connection, .. }) = self.open.take() else { return };
        if connection.is_lost() {
            return;
        }
        let request_id = connection.next_id();
        let close = proto::CloseProducer { producer_id: id, request_id };
        let close = BaseCommand { close_producer: Some(close), ..wire::of(CommandKind::CloseProducer) };
        let within = publishing.cluster.operation_timeout();
        // One that does not answer has lost its connection by now, and one that refuses has no such producer.
        let _ = connection.request(request_id, close, within, "answer to a goodbye").await;
    }
}

fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(Message::bytes).sum()
}

fn interrupted_by(fault: TargetFault) -> TargetFault {
    TargetFault { kind: crate::sink::TargetFaultKind::Interrupted, ..fault }
}
