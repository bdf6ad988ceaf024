//! What a record becomes in Pulsar: a key, properties, an event time, and a payload.

use std::collections::BTreeMap;

use api_types::envelope::envelope;
use api_types::{Message as Published, Record, Sequence};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message as _;

use super::proto::{KeyValue, SingleMessageMetadata};
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;

/// Says which properties hold several values; see [`user_properties`].
const REPEATED: &str = "mqtt.repeated";
/// What every message says about itself; a property of that name that came with the record was about an earlier hop.
const OWN: [&str; 11] = [
    "mqtt.topic",
    "mqtt.client_id",
    "mqtt.qos",
    "mqtt.retain",
    "mqtt.timestamp",
    "mqtt.id",
    "mqtt.content_type",
    "mqtt.response_topic",
    "mqtt.correlation_data",
    "mqtt.correlation_data_base64",
    REPEATED,
];

/// A message of Pulsar. The payload is shared with the record where it is the record's own.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) sequence: Sequence,
    pub(super) metadata: SingleMessageMetadata,
    pub(super) payload: Bytes,
}

impl Message {
    /// Fails with a fault of that record alone, found without asking the target.
    pub(super) fn new(record: &Record, format: PayloadFormat) -> Result<Self, RecordFault> {
        let payload = match format {
            PayloadFormat::Raw => record.message.payload.clone(),
            PayloadFormat::Envelope => envelope(record).to_string().into(),
        };
        let too_large = |_| RecordFault::offline("message_too_large", "more than Pulsar's protocol can carry");
        let message = &record.message;
        let metadata = SingleMessageMetadata {
            properties: properties(record),
            partition_key: Some(message.key().to_owned()),
            payload_size: i32::try_from(payload.len()).map_err(too_large)?,
            event_time: (message.timestamp_ms > 0).then_some(message.timestamp_ms),
            sequence_id: Some(record.id.sequence.0),
        };
        Ok(Self { sequence: record.id.sequence, metadata, payload })
    }

    /// What it takes of a batch.
    pub(super) fn bytes(&self) -> usize {
        size_of::<u32>() + self.metadata.encoded_len() + self.payload.len()
    }

    pub(super) fn key(&self) -> &str {
        self.metadata.partition_key.as_deref().unwrap_or_default()
    }
}

fn properties(record: &Record) -> Vec<KeyValue> {
    let message = &record.message;
    let [topic, client_id, qos, retain, timestamp, id, content_type, response_topic, data, data_base64, _] = OWN;
    let mut properties = vec![
        property(topic, &message.topic),
        property(client_id, &message.client_id),
        property(qos, message.qos.to_string()),
        property(retain, message.retain.to_string()),
        property(timestamp, message.timestamp_ms.to_string()),
        property(id, record.id.to_string()),
    ];
    properties.extend(message.content_type.as_ref().map(|text| property(content_type, text)));
    properties.extend(message.response_topic.as_ref().map(|text| property(response_topic, text)));
    // Properties are texts.
    properties.extend(message.correlation_data.as_ref().map(|bytes| match std::str::from_utf8(bytes) {
        Ok(text) => property(data, text),
        Err(_) => property(data_base64, STANDARD.encode(bytes)),
    }));
    properties.extend(user_properties(message));
    properties
}

/// Consumers read properties as a map, in which the last one of a name would stand alone. So a name that stands there several
/// times becomes one property with all its values as a JSON array, and [`REPEATED`] is a JSON array of such names.
fn user_properties(message: &Published) -> Vec<KeyValue> {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &message.user_properties {
        if !OWN.contains(&name.as_str()) {
            values.entry(name).or_default().push(value);
        }
    }
    let repeated: Vec<&str> = values.iter().filter(|(_, values)| values.len() > 1).map(|(name, _)| *name).collect();
    let is_some_repeated = !repeated.is_empty();
    let repeated = is_some_repeated.then(|| property(REPEATED, serde_json::Value::from(repeated).to_string()));
    let properties = values.into_iter().map(|(name, values)| match values.as_slice() {
        [value] => property(name, *value),
        values => property(name, serde_json::Value::from(values.to_vec()).to_string()),
    });
    properties.chain(repeated).collect()
}

fn property(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    fn made(record: &Record) -> BTreeMap<String, String> {
        let message = Message::new(record, PayloadFormat::Raw).expect("can be carried");
        let count = message.metadata.properties.len();
        let pairs = message.metadata.properties.into_iter().map(|property| (property.key, property.value));
        let map: BTreeMap<String, String> = pairs.collect();
        assert_eq!(map.len(), count, "a name stands there twice");
        map
    }

    #[test]
    fn a_record_says_all_of_itself() {
        let mut record = record(7, vec![0, 159, 146, 150]);
        record.message.qos = 1;
        record.message.content_type = Some("image/png".into());
        record.message.response_topic = Some("reply/here".into());
        record.message.correlation_data = Some(Bytes::from_static(b"c-1"));
        record.message.user_properties = vec![("plant".into(), "north".into()), ("mqtt.id".into(), "forged".into())];
        let message = Message::new(&record, PayloadFormat::Raw).expect("can be carried");
        assert_eq!((message.key(), message.metadata.event_time), ("device-7", Some(1_700_000_000_007)));
        assert_eq!((message.sequence.0, &message.payload[..]), (7, &[0, 159, 146, 150][..]));
        assert_eq!(message.metadata.sequence_id, Some(7));
        let properties = made(&record);
        for (name, value) in [
            ("mqtt.topic", "plant/one"),
            ("mqtt.client_id", "device-7"),
            ("mqtt.qos", "1"),
            ("mqtt.retain", "false"),
            ("mqtt.timestamp", "1700000000007"),
            ("mqtt.id", "1-7-7"),
            ("mqtt.content_type", "image/png"),
            ("mqtt.response_topic", "reply/here"),
            ("mqtt.correlation_data", "c-1"),
            ("plant", "north"),
        ] {
            assert_eq!(properties.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(properties.len(), 10);
    }

    #[test]
    fn what_no_property_can_hold_is_written_so_that_it_can() {
        let mut record = record(1, "x");
        record.message.correlation_data = Some(Bytes::from_static(&[0xff, 0]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        record.message.user_properties = vec![pair("a", "1"), pair("b", "[\"x\"]"), pair("a", "2"), pair("a", "")];
        let properties = made(&record);
        assert_eq!(properties["mqtt.correlation_data_base64"], "/wA=");
        assert_eq!(properties["a"], r#"["1","2",""]"#);
        assert_eq!(properties["b"], r#"["x"]"#);
        assert_eq!(properties["mqtt.repeated"], r#"["a"]"#);
    }

    #[test]
    fn without_a_client_the_topic_is_the_key() {
        let mut record = record(1, "x");
        record.message.client_id.clear();
        assert_eq!(Message::new(&record, PayloadFormat::Raw).expect("can be carried").key(), "plant/one");
    }
}
