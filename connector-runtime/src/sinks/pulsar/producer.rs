//! What the broker has of us on a topic: asked for, open, given back.
//!
//! ```text
//!   claim ──create──► open ──publish──► on its way ──receipt──► open
//!                                           │ closed, lost, or nobody waited for it
//!                                           └──► given back before there is another
//! ```
//!
//! Whoever asks for something may be dropped before the answer is there. So what the broker may have is written down before it is
//! asked for, and is forgotten when the broker has said that it is gone, or the connection is.

use std::sync::Arc;
use std::time::Duration;

use super::connection::{Connection, Receipt};
use super::entry::Entry;
use super::fault::{is_name_taken, target_fault, unexpected};
use super::proto::{self, BaseCommand, CommandKind, KeyValue};
use super::wire::{self, Answer};
use crate::sink::TargetFault;

pub(super) struct Producer {
    id: u64,
    connection: Arc<Connection>,
    /// The broker has it, and nothing of it is on its way.
    is_settled: bool,
    /// What the broker may have already ends there: it had begun to write so far when this producer was made, or has confirmed it
    /// since. Of one that does not drop what comes twice the first is nothing.
    last: Option<u64>,
}

/// Why there is none.
pub(super) enum Refused {
    /// Another producer of this very name is on the topic.
    NameTaken(TargetFault),
    Fault(TargetFault),
}

impl Producer {
    /// Nobody has heard of it.
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { id: connection.next_id(), connection, is_settled: false, last: None }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.connection.message_bytes_max
    }

    /// It can publish.
    pub(super) fn is_good(&self) -> bool {
        self.is_settled && !self.connection.is_lost()
    }

    pub(super) async fn create(
        &mut self,
        topic: &str,
        name: &str,
        connector: &str,
        within: Duration,
    ) -> Result<(), Refused> {
        let request_id = self.connection.next_id();
        let create = proto::CreateProducer {
            topic: topic.to_owned(),
            producer_id: self.id,
            request_id,
            producer_name: Some(name.to_owned()),
            metadata: vec![KeyValue { key: "connector".to_owned(), value: connector.to_owned() }],
            user_provided_producer_name: Some(true),
        };
        let create = BaseCommand { producer: Some(create), ..wire::of(CommandKind::CreateProducer) };
        match self.connection.request(request_id, create, within, "producer").await.map_err(Refused::Fault)? {
            Answer::Producer(success) => {
                self.last = success.last_sequence_id.and_then(|last| u64::try_from(last).ok());
                self.is_settled = true;
                Ok(())
            }
            Answer::Error(error) => {
                let fault = target_fault(error.error, &error.message);
                let is_taken = is_name_taken(error.error, &error.message);
                Err(if is_taken { Refused::NameTaken(fault) } else { Refused::Fault(fault) })
            }
            Answer::Success | Answer::Partitions(_) | Answer::Owner(_) => Err(Refused::Fault(unexpected())),
        }
    }

    /// One entry at a time.
    pub(super) async fn publish(&mut self, entry: Entry, within: Duration) -> Result<Receipt, TargetFault> {
        let last = *entry.sequence_ids.end();
        self.is_settled = false;
        let receipt = self.connection.publish(self.id, entry, within).await?;
        match &receipt {
            Receipt::Taken => {
                self.last = self.last.max(Some(last));
                self.is_settled = true;
            }
            Receipt::Refused(_) => self.is_settled = true,
            Receipt::Closed | Receipt::Unsent => {}
        }
        Ok(receipt)
    }

    /// The broker has none of this name any more when this ends, or has lost the connection.
    pub(super) async fn leave(&mut self, within: Duration) {
        self.is_settled = false;
        if !self.connection.is_lost() {
            // One that does not answer has lost its connection by now, and one that refuses has no such producer.
            let _ = self.connection.leave(self.id, within).await;
        }
    }
}
