//! The records of one queue on one topic: their producer's name is the same wherever they are delivered from, so that a
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

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::config::Compression;
use super::connection::Receipt;
use super::entry::{Author, EntryError, entry};
use super::fault::{down, interrupted, is_too_large, target_fault, too_large_words};
use super::message::Message;
use super::producer::{Producer, Refused};
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;

/// An entry may be larger by this part than the one before, up to what the broker takes.
const GROWTH: usize = 16;

/// The same for all seats of a sink.
pub(super) struct Publishing {
    pub(super) cluster: Cluster,
    pub(super) compression: Compression,
    pub(super) send_timeout: Duration,
    /// Messages that wait for their receipt, over all producers.
    pub(super) pending: Semaphore,
    pub(super) pending_max: usize,
    /// Shown by the broker's own tools.
    pub(super) connector: String,
    /// How long another producer of the same name is taken for an earlier owner's.
    pub(super) earlier_owner_within: Duration,
}

/// A topic, or one of its partitions, and whose records it gets. Whoever publishes has it locked.
pub(super) struct Seat {
    topic: String,
    name: String,
    /// All that the broker may have of this name.
    producer: Option<Producer>,
    /// Since when another producer of this name keeps ours out.
    taken_since: Option<Instant>,
    /// More than that in an entry was refused by the broker.
    bytes_max: usize,
}

/// What became of an entry.
enum End {
    Taken,
    TooLarge(RecordFault),
    /// Its producer was gone before it was sent.
    Unsent,
    Fault(TargetFault),
}

impl Seat {
    pub(super) fn new(topic: String, name: String) -> Self {
        Self { topic, name, producer: None, taken_since: None, bytes_max: usize::MAX }
    }

    /// In order; one outcome for each message.
    pub(super) async fn deliver(&mut self, publishing: &Publishing, messages: &[Message]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(messages.len());
        let mut was_unsent = false;
        while let Some(rest) = messages.get(outcomes.len()..).filter(|rest| !rest.is_empty()) {
            let all = |fault: TargetFault| std::iter::repeat_n(Outcome::TargetFault(fault), rest.len());
            if let Err(fault) = self.opened(publishing).await {
                outcomes.extend(all(fault));
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
                End::TooLarge(_) if count > 1 => self.bytes_max = bytes(front) / 2,
                End::TooLarge(fault) => {
                    let may_go_on = fault.offline;
                    outcomes.push(Outcome::RecordFault(fault));
                    if !may_go_on {
                        // It may be asked for again: what stands behind it must not be sent before.
                        let held = Outcome::TargetFault(TargetFault::held());
                        outcomes.extend(std::iter::repeat_n(held, behind.len()));
                    }
                }
                // A topic that moved while nothing came for it: the broker has seen nothing of this entry.
                End::Unsent if !was_unsent => was_unsent = true,
                End::Unsent => outcomes.extend(all(closed())),
                End::Fault(fault) => {
                    self.leave_unsettled(publishing).await;
                    outcomes.extend(all(fault));
                }
            }
        }
        outcomes
    }

    fn next(&self, publishing: &Publishing, messages: &[Message]) -> usize {
        let bytes_max = self.producer.as_ref().map_or(usize::MAX, Producer::message_bytes_max).min(self.bytes_max);
        let last = self.producer.as_ref().and_then(Producer::last);
        next_entry(last, bytes_max, publishing.pending_max, messages)
    }

    async fn publish(&mut self, publishing: &Publishing, messages: &[Message]) -> End {
        let Some(producer) = &mut self.producer else { return End::Unsent };
        let author = Author {
            producer_id: producer.id(),
            producer_name: &self.name,
            compression: publishing.compression,
            message_bytes_max: producer.message_bytes_max(),
        };
        let entry = match entry(&author, messages).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return End::Taken,
            Err(error) => return unmade(&error),
        };
        let permits = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let acquired = tokio::time::timeout(publishing.send_timeout, publishing.pending.acquire_many(permits)).await;
        let pending = match acquired {
            Ok(Ok(pending)) => pending,
            Ok(Err(_)) => return End::Fault(interrupted("the sink was closed")),
            Err(_) => {
                let seconds = publishing.send_timeout.as_secs();
                let message = format!("max_pending_messages were on their way to the broker for {seconds} s");
                return End::Fault(down(message));
            }
        };
        let receipt = producer.publish(entry, publishing.send_timeout).await;
        drop(pending);
        match receipt {
            Ok(Receipt::Taken) => End::Taken,
            Ok(Receipt::Refused(refusal)) if is_too_large(refusal.error, &refusal.message) => {
                let words = too_large_words(refusal.error, &refusal.message);
                End::TooLarge(RecordFault::refused("message_too_large", words))
            }
            Ok(Receipt::Refused(refusal)) => {
                self.leave(publishing).await;
                End::Fault(target_fault(refusal.error, &refusal.message))
            }
            Ok(Receipt::Closed) => {
                self.producer = None;
                End::Fault(closed())
            }
            Ok(Receipt::Unsent) => {
                self.producer = None;
                End::Unsent
            }
            Err(fault) => End::Fault(fault),
        }
    }

    async fn opened(&mut self, publishing: &Publishing) -> Result<(), TargetFault> {
        if self.producer.as_ref().is_some_and(Producer::is_good) {
            return Ok(());
        }
        self.leave(publishing).await;
        self.bytes_max = usize::MAX;
        let connection = publishing.cluster.owner(&self.topic).await?;
        let within = publishing.cluster.operation_timeout();
        let producer = self.producer.insert(Producer::new(connection));
        let created = producer.create(&self.topic, &self.name, &publishing.connector, within).await;
        if created.is_err() {
            self.leave(publishing).await;
        }
        if let Err(Refused::NameTaken(fault)) = created {
            return Err(self.name_taken(publishing, fault));
        }
        self.taken_since = None;
        created.map_err(|refused| match refused {
            Refused::NameTaken(fault) | Refused::Fault(fault) => fault,
        })
    }

    /// By the owner before this one, as a rule: for a while that is nobody's fault. This seat alone knows for how long, and a
    /// sink that is opened anew would not.
    fn name_taken(&mut self, publishing: &Publishing, fault: TargetFault) -> TargetFault {
        let since = *self.taken_since.get_or_insert_with(Instant::now);
        let is_early = since.elapsed() < publishing.earlier_owner_within;
        let kind = if is_early { TargetFaultKind::Interrupted } else { fault.kind };
        TargetFault { kind, reopen: false, ..fault }
    }

    /// The broker has none of this name any more, where it answers.
    pub(super) async fn leave(&mut self, publishing: &Publishing) {
        if let Some(producer) = &mut self.producer {
            producer.leave(publishing.cluster.operation_timeout()).await;
            self.producer = None;
        }
    }

    async fn leave_unsettled(&mut self, publishing: &Publishing) {
        if self.producer.as_ref().is_some_and(|producer| !producer.is_good()) {
            self.leave(publishing).await;
        }
    }
}

/// How many messages make the next entry; at least one. What the broker may have already (up to `last`) goes alone: it judges an
/// entry by its first sequence id, and would take a whole for repeated of which it has the first only.
fn next_entry(last: Option<u64>, bytes_max: usize, count_max: usize, messages: &[Message]) -> usize {
    let may_be_known = |message: &Message| last.is_some_and(|last| message.sequence.0 <= last);
    if messages.first().is_some_and(may_be_known) {
        return 1;
    }
    let mut bytes = 0;
    let fits = |message: &&Message| {
        bytes += message.bytes();
        bytes <= bytes_max
    };
    messages.iter().take(count_max).take_while(fits).count().max(1)
}

/// Its size is a record's own; what goes wrong here is none's.
fn unmade(error: &EntryError) -> End {
    match error {
        EntryError::TooLarge { .. } | EntryError::Wire(_) => {
            End::TooLarge(RecordFault::offline("message_too_large", chain(error)))
        }
        EntryError::Compress(_) => End::Fault(interrupted(chain(error))),
    }
}

fn closed() -> TargetFault {
    down("the broker closed the producer: its topic is unloaded, deleted, or taken over")
}

fn bytes(messages: &[Message]) -> usize {
    messages.iter().map(Message::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::payload::PayloadFormat;
    use crate::sinks::opened::record;

    fn messages(numbers: std::ops::RangeInclusive<u64>) -> Vec<Message> {
        let message = |number| Message::new(&record(number, "x"), PayloadFormat::Raw).expect("can be carried");
        numbers.map(message).collect()
    }

    fn check(last: Option<u64>, bytes_max: usize, count_max: usize, expect: &[usize]) {
        let messages = messages(5..=12);
        let (mut rest, mut found) = (&messages[..], Vec::new());
        while !rest.is_empty() {
            let count = next_entry(last, bytes_max, count_max, rest);
            found.push(count);
            rest = &rest[count..];
        }
        assert_eq!(found, expect, "{last:?} {bytes_max} {count_max}");
    }

    #[test]
    fn what_the_broker_may_have_goes_alone_and_the_rest_together() {
        check(None, usize::MAX, 100, &[8]);
        check(Some(4), usize::MAX, 100, &[8]);
        check(Some(7), usize::MAX, 100, &[1, 1, 1, 5]);
        check(Some(99), usize::MAX, 100, &[1; 8]);
        check(Some(5), usize::MAX, 3, &[1, 3, 3, 1]);
        let one = messages(5..=5)[0].bytes();
        check(None, one * 3 + one / 2, 100, &[3, 3, 2]);
        check(None, 1, 100, &[1; 8]);
    }

    #[test]
    fn a_fault_of_this_process_ends_no_record() {
        let large = EntryError::TooLarge { bytes: 2, bytes_max: 1 };
        assert!(
            matches!(unmade(&large), End::TooLarge(fault) if fault.offline && &*fault.class == "message_too_large")
        );
        let broken = EntryError::Compress(std::io::Error::other("the runtime ends"));
        let End::Fault(fault) = unmade(&broken) else { panic!("is the record's") };
        assert_eq!(fault.kind, TargetFaultKind::Interrupted);
        assert!(fault.message.contains("the runtime ends"), "{}", fault.message);
    }
}
