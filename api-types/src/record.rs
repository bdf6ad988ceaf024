//! A message as a publisher sent it, and a record: a message with its place in a queue.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, RaftId, Sequence};

/// One PUBLISH, decoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub topic: String,
    pub client_id: String,
    pub qos: u8,
    pub retain: bool,
    pub payload: Bytes,
    /// Receive time at the broker, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    pub user_properties: Vec<(String, String)>,
    /// The connectors this message was dead-lettered by, oldest first; empty for what a device published.
    pub dead_letter_of: Vec<Incarnation>,
}

impl Message {
    /// The client id, else the topic.
    pub fn key(&self) -> &str {
        if self.client_id.is_empty() { &self.topic } else { &self.client_id }
    }

    /// Bytes this message counts for in budgets and bounds.
    pub fn size_bytes(&self) -> usize {
        let properties: usize = self.user_properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        let optional = self.content_type.as_ref().map_or(0, String::len)
            + self.response_topic.as_ref().map_or(0, String::len)
            + self.correlation_data.as_ref().map_or(0, Bytes::len);
        self.topic.len() + self.client_id.len() + self.payload.len() + properties + optional + 64
    }
}

/// Unique in the cluster for ever, and the same on every redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordId {
    /// The Raft id under which the record was appended.
    pub raft_id: RaftId,
    pub incarnation: Incarnation,
    pub sequence: Sequence,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.raft_id, self.incarnation, self.sequence)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record id has the form raft_id-incarnation-sequence, three decimal numbers")]
pub struct InvalidRecordId;

impl std::str::FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-').map(|part| part.parse::<u64>().map_err(|_| InvalidRecordId));
        let mut next = || parts.next().ok_or(InvalidRecordId)?;
        let id = Self { raft_id: RaftId(next()?), incarnation: Incarnation(next()?), sequence: Sequence(next()?) };
        if parts.next().is_some() { Err(InvalidRecordId) } else { Ok(id) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: RecordId,
    pub message: Message,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_id_reads_back_what_it_prints() {
        let id = RecordId { raft_id: RaftId(3), incarnation: Incarnation(17), sequence: Sequence(1 << 40) };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "1-2", "1-2-3-4", "1-x-3"] {
            assert_eq!(bad.parse::<RecordId>(), Err(InvalidRecordId), "{bad}");
        }
    }

    #[test]
    fn key_is_the_client_id_else_the_topic() {
        let mut message = Message { topic: "a/b".into(), client_id: "c".into(), ..Message::default() };
        assert_eq!(message.key(), "c");
        message.client_id.clear();
        assert_eq!(message.key(), "a/b");
    }
}
