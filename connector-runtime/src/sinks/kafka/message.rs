//! What a record becomes in Kafka: a key, a value, headers and a time.

use std::borrow::Cow;

use api_types::Record;
use api_types::envelope::envelope;
use rdkafka::message::{Header, OwnedHeaders};

use super::config::Config;
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::template::{MissingValue, Template, TemplateContext, TemplateError};

/// What every message says about itself; a property of that name that came with the record was about an earlier hop.
const OWN: [&str; 9] = [
    "mqtt.topic",
    "mqtt.client_id",
    "mqtt.qos",
    "mqtt.retain",
    "mqtt.timestamp",
    "mqtt.id",
    "mqtt.content_type",
    "mqtt.response_topic",
    "mqtt.correlation_data",
];

/// Makes messages as one connector is configured.
pub(super) struct Messages {
    /// Empty: the record's own key.
    key: Template,
    headers: Vec<(String, Template)>,
    format: PayloadFormat,
}

pub(super) struct Message<'r> {
    pub(super) key: Cow<'r, [u8]>,
    pub(super) value: Cow<'r, [u8]>,
    pub(super) headers: OwnedHeaders,
    pub(super) timestamp_ms: i64,
}

impl Messages {
    pub(super) fn new(config: &Config) -> Result<Self, TemplateError> {
        let parse = |text: &str| Template::parse(text, TemplateContext::Plain);
        let headers = config.headers.iter().map(|(name, text)| Ok((name.clone(), parse(text)?)));
        Ok(Self {
            key: parse(&config.key)?,
            headers: headers.collect::<Result<_, TemplateError>>()?,
            format: config.payload_format,
        })
    }

    /// Fails with a fault of that record alone, found without asking the target.
    pub(super) fn message<'r>(&self, record: &'r Record) -> Result<Message<'r>, RecordFault> {
        let message = &record.message;
        let key = if self.key.is_empty() {
            Cow::Borrowed(message.key().as_bytes())
        } else {
            Cow::Owned(self.key.render(record).map_err(missing)?)
        };
        let value = match self.format {
            PayloadFormat::Raw => Cow::Borrowed(&message.payload[..]),
            PayloadFormat::Envelope => Cow::Owned(envelope(record).to_string().into_bytes()),
        };
        let out_of_range = |_| RecordFault::offline("out_of_range", "its time does not fit into a message of Kafka");
        Ok(Message {
            key,
            value,
            headers: self.headers(record)?,
            timestamp_ms: i64::try_from(message.timestamp_ms).map_err(out_of_range)?,
        })
    }

    /// The configured ones stand last: a reader that asks for one of a name gets the last.
    fn headers(&self, record: &Record) -> Result<OwnedHeaders, RecordFault> {
        let message = &record.message;
        let count = OWN.len() + message.user_properties.len() + self.headers.len();
        let [topic, client_id, qos, retain, timestamp, id, content_type, response_topic, correlation_data] = OWN;
        let mut headers = OwnedHeaders::new_with_capacity(count);
        headers = with(headers, topic, message.topic.as_bytes());
        headers = with(headers, client_id, message.client_id.as_bytes());
        headers = with(headers, qos, message.qos.to_string().as_bytes());
        headers = with(headers, retain, message.retain.to_string().as_bytes());
        headers = with(headers, timestamp, message.timestamp_ms.to_string().as_bytes());
        headers = with(headers, id, record.id.to_string().as_bytes());
        let optional = [
            (content_type, message.content_type.as_deref().map(str::as_bytes)),
            (response_topic, message.response_topic.as_deref().map(str::as_bytes)),
            (correlation_data, message.correlation_data.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                headers = with(headers, name, value);
            }
        }
        for (name, value) in &message.user_properties {
            if !OWN.contains(&name.as_str()) {
                headers = with(headers, name, value.as_bytes());
            }
        }
        for (name, template) in &self.headers {
            headers = with(headers, name, &template.render(record).map_err(missing)?);
        }
        Ok(headers)
    }
}

impl Message<'_> {
    /// Without what Kafka adds: a message takes at least this much of its batch.
    pub(super) fn bytes_at_least(&self) -> usize {
        self.key.len() + self.value.len()
    }
}

fn with(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

fn missing(error: MissingValue) -> RecordFault {
    RecordFault::offline("missing_value", error.to_string())
}
