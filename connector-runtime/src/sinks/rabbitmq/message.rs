//! What a record becomes: a publish with its properties, and the payload's bytes as its body.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use amq_protocol::frame::AMQPContentHeader;
use amq_protocol::protocol::{BasicProperties, basic};
use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use api_types::envelope::envelope;
use api_types::{Message, Record, RecordId};
use bytes::{Bytes, BytesMut};

use super::config::{Config, DeliveryMode};
use super::wire::{self, Head};
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::template::{Template, TemplateContext, TemplateError};

const CLASS_BASIC: u16 = 60;
const NON_PERSISTENT: u8 = 1;
const PERSISTENT: u8 = 2;
/// Of a name in a table of AMQP 0-9-1.
const NAME_BYTES_MAX: usize = 128;
/// RabbitMQ delivers further copies to the routing keys in these: a device must not choose them.
const ROUTING_HEADERS: [&str; 2] = ["CC", "BCC"];
const RESPONSE_TOPIC: &str = "mqtt.response_topic";
const CORRELATION_DATA: &str = "mqtt.correlation_data";
/// What every message says about itself; a value that came with the record was about an earlier hop.
const OWN: [&str; 8] = [
    "mqtt.topic",
    "mqtt.client_id",
    "mqtt.qos",
    "mqtt.retain",
    "mqtt.timestamp",
    "mqtt.id",
    RESPONSE_TOPIC,
    CORRELATION_DATA,
];

/// A message for any channel. The payload is shared with the record, so that waiting costs no copy of it.
#[derive(Clone, Debug)]
pub(super) struct Publish {
    pub(super) id: RecordId,
    /// The same for all messages of one publisher on one topic, which must stay in their order.
    pub(super) lane: u64,
    /// Where the record has a part in it.
    pub(super) own_key: Option<ShortString>,
    head: Head,
    body: Bytes,
}

impl Publish {
    pub(super) fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    pub(super) fn largest_frame_bytes(&self) -> usize {
        self.head.largest_frame_bytes()
    }

    pub(super) fn write(&self, channel: u16, frame_bytes_max: usize, out: &mut BytesMut) {
        out.reserve(self.head.bytes() + self.body.len() + wire::FRAME_OVERHEAD_BYTES);
        self.head.write(channel, out);
        wire::body(channel, &self.body, frame_bytes_max, out);
    }
}

/// Makes messages as one connector is configured.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    exchange: ShortString,
    routing_key: Template,
    delivery_mode: u8,
    /// What cannot be routed comes back. Without confirmations nobody waits for it.
    is_mandatory: bool,
    format: PayloadFormat,
}

impl Publisher {
    pub(super) fn new(config: &Config, exchange: ShortString) -> Result<Self, TemplateError> {
        Ok(Self {
            exchange,
            routing_key: Template::parse(&config.routing_key, TemplateContext::Plain)?,
            delivery_mode: match config.delivery_mode {
                DeliveryMode::NonPersistent => NON_PERSISTENT,
                DeliveryMode::Persistent => PERSISTENT,
            },
            is_mandatory: config.publisher_confirms,
            format: config.payload_format,
        })
    }

    /// Fails with a fault of that record alone, found without asking the target.
    pub(super) fn publish(&self, record: &Record) -> Result<Publish, RecordFault> {
        let routing_key = self
            .routing_key
            .render_text(record)
            .map_err(|error| RecordFault::offline("missing_value", error.to_string()))?;
        let body = match self.format {
            PayloadFormat::Raw => record.message.payload.clone(),
            PayloadFormat::Envelope => envelope(record).to_string().into(),
        };
        let routing_key = short("routing_key_too_long", "the routing key", routing_key)?;
        let own_key = (!self.routing_key.is_literal()).then(|| routing_key.clone());
        let method = basic::Publish {
            exchange: self.exchange.clone(),
            routing_key,
            mandatory: self.is_mandatory,
            immediate: false,
        };
        let properties = self.properties(record)?;
        let header = AMQPContentHeader { class_id: CLASS_BASIC, body_size: body.len() as u64, properties };
        let head =
            Head::new(method, header).map_err(|error| RecordFault::offline("cannot_be_encoded", error.to_string()))?;
        Ok(Publish { id: record.id, lane: lane(&record.message), own_key, head, body })
    }

    fn properties(&self, record: &Record) -> Result<BasicProperties, RecordFault> {
        let message = &record.message;
        let mut headers = user_headers(message)?;
        let [topic, client_id, qos, retain, timestamp, id, ..] = OWN;
        for (name, value) in [
            (topic, message.topic.clone()),
            (client_id, message.client_id.clone()),
            (qos, message.qos.to_string()),
            (retain, message.retain.to_string()),
            (timestamp, message.timestamp_ms.to_string()),
            (id, record.id.to_string()),
        ] {
            headers.insert(name.into(), long(value));
        }
        // A topic of MQTT is no queue of RabbitMQ, which is what `reply-to` names – and some names there mean more.
        if let Some(topic) = &message.response_topic {
            headers.insert(RESPONSE_TOPIC.into(), long(topic.as_str()));
        }
        let mut properties = BasicProperties::default()
            .with_delivery_mode(self.delivery_mode)
            .with_message_id(short("cannot_be_encoded", "the id", record.id.to_string())?)
            .with_timestamp(message.timestamp_ms / 1_000);
        let content_type = match self.format {
            PayloadFormat::Raw => message.content_type.as_deref(),
            PayloadFormat::Envelope => Some("application/json"),
        };
        if let Some(content_type) = content_type {
            properties =
                properties.with_content_type(short("content_type_too_long", "the content type", content_type)?);
        }
        if let Some(data) = &message.correlation_data {
            // `correlation-id` is a short text; what is none of that is a header.
            match std::str::from_utf8(data).ok().and_then(|text| ShortString::try_new(text).ok()) {
                Some(text) => properties = properties.with_correlation_id(text),
                None => {
                    headers.insert(CORRELATION_DATA.into(), long(data.to_vec()));
                }
            }
        }
        Ok(properties.with_headers(FieldTable::from(headers)))
    }
}

/// A name that stands there several times becomes one header with an array of its values: a table has each name once.
fn user_headers(message: &Message) -> Result<BTreeMap<ShortString, AMQPValue>, RecordFault> {
    let mut values: BTreeMap<&str, Vec<AMQPValue>> = BTreeMap::new();
    for (name, value) in &message.user_properties {
        if OWN.contains(&name.as_str()) {
            continue;
        }
        if ROUTING_HEADERS.contains(&name.as_str()) {
            let message = format!("user property {name} would choose where RabbitMQ delivers copies");
            return Err(RecordFault::offline("header_reserved", message));
        }
        if name.len() > NAME_BYTES_MAX {
            let message = format!("a user property's name has {} bytes, and AMQP takes {NAME_BYTES_MAX}", name.len());
            return Err(RecordFault::offline("header_name_too_long", message));
        }
        values.entry(name).or_default().push(long(value.as_str()));
    }
    let headers = values.into_iter().map(|(name, mut values)| {
        let name = short("header_name_too_long", "a user property's name", name)?;
        let value = match values.pop() {
            Some(value) if values.is_empty() => value,
            last => AMQPValue::FieldArray(FieldArray::from(values.into_iter().chain(last).collect::<Vec<_>>())),
        };
        Ok((name, value))
    });
    headers.collect()
}

fn long(value: impl Into<LongString>) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn short(class: &'static str, what: &str, text: impl Into<String>) -> Result<ShortString, RecordFault> {
    ShortString::try_new(text).map_err(|error| RecordFault::offline(class, format!("{what}: {error}")))
}

fn lane(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&message.client_id, &message.topic).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use amq_protocol::frame::AMQPFrame;
    use amq_protocol::protocol::AMQPClass;
    use serde_json::{Value, json};

    use super::*;
    use crate::sinks::opened::record;

    pub(in crate::sinks::rabbitmq) fn publisher(config: &Value) -> Publisher {
        let mut all = json!({
            "server": "s", "port": 1, "username": "u", "password": "", "virtual_host": "/", "exchange": "e",
            "routing_key": "", "delivery_mode": "NonPersistent", "enable_tls": false, "connection_timeout_secs": 1,
            "heartbeat_secs": 1, "channel_max": 1, "frame_max": 4096, "batch_size": 1, "publisher_confirms": true,
            "confirm_timeout_secs": 1, "payload_format": "raw", "tls_verify": true,
        });
        let (Value::Object(all), Value::Object(config)) = (&mut all, config.clone()) else { panic!("objects") };
        all.extend(config);
        let config: Config = serde_json::from_value(Value::Object(all.clone())).expect("is a configuration");
        Publisher::new(&config, "e".into()).expect("is a template")
    }

    fn frames(publish: &Publish) -> (basic::Publish, BasicProperties, Vec<u8>) {
        let mut bytes = BytesMut::new();
        publish.write(3, 4_096, &mut bytes);
        let mut next = || wire::decode(&mut bytes, 1 << 20).expect("can be read");
        let Some(AMQPFrame::Method(3, AMQPClass::Basic(basic::AMQPMethod::Publish(method)))) = next() else {
            panic!("is no publish")
        };
        let Some(AMQPFrame::Header(3, header)) = next() else { panic!("has no properties") };
        let mut body = Vec::new();
        while let Some(AMQPFrame::Body(3, part)) = next() {
            body.extend(part);
        }
        assert_eq!(header.body_size, body.len() as u64);
        (method, header.properties, body)
    }

    fn text(headers: &FieldTable, name: &str) -> Option<String> {
        match headers.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => panic!("{other:?}"),
        }
    }

    fn class(publisher: &Publisher, record: &Record) -> String {
        let fault = publisher.publish(record).expect_err("cannot be carried");
        assert!(fault.offline);
        fault.class.to_string()
    }

    #[test]
    fn a_record_says_all_of_itself() {
        let mut record = record(7, vec![0, 159, 146, 150]);
        record.message.qos = 1;
        record.message.content_type = Some("image/png".into());
        record.message.response_topic = Some("reply/here".into());
        record.message.correlation_data = Some(Bytes::from_static(b"c-1"));
        record.message.user_properties =
            vec![("room".into(), "kitchen".into()), ("mqtt.id".into(), "another".into()), ("".into(), "ü".into())];
        let publisher = publisher(&json!({"routing_key": "${topic[1]}.x", "delivery_mode": "Persistent"}));
        let (method, properties, body) = frames(&publisher.publish(&record).expect("can be carried"));
        assert_eq!((method.routing_key.as_str(), method.mandatory, method.immediate), ("one.x", true, false));
        assert_eq!(body, [0, 159, 146, 150]);
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
        assert_eq!(properties.message_id(), &Some("1-7-7".into()));
        assert_eq!(properties.timestamp(), &Some(1_700_000_000));
        assert_eq!(properties.content_type(), &Some("image/png".into()));
        assert_eq!(properties.correlation_id(), &Some("c-1".into()));
        assert_eq!((properties.reply_to(), properties.user_id()), (&None, &None));
        let headers = properties.headers().clone().expect("has headers");
        for (name, expect) in [
            ("mqtt.topic", "plant/one"),
            ("mqtt.client_id", "device-7"),
            ("mqtt.qos", "1"),
            ("mqtt.retain", "false"),
            ("mqtt.timestamp", "1700000000007"),
            ("mqtt.id", "1-7-7"),
            ("mqtt.response_topic", "reply/here"),
            ("room", "kitchen"),
            ("", "ü"),
        ] {
            assert_eq!(text(&headers, name).as_deref(), Some(expect), "{name}");
        }
        assert_eq!(headers.inner().len(), 9);
    }

    #[test]
    fn a_property_that_stands_there_twice_keeps_both_values() {
        let mut record = record(1, "x");
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        record.message.user_properties = vec![property("a", "2"), property("b", "0"), property("a", "1")];
        let (_, properties, _) = frames(&publisher(&json!({})).publish(&record).expect("can be carried"));
        let headers = properties.headers().clone().expect("has headers");
        let both = AMQPValue::FieldArray(FieldArray::from(vec![long("2"), long("1")]));
        assert_eq!((headers.inner().get("a"), text(&headers, "b").as_deref()), (Some(&both), Some("0")));
    }

    #[test]
    fn correlation_data_that_is_no_short_text_is_a_header() {
        for data in [vec![0xff, 0], vec![b'x'; 256]] {
            let mut record = record(1, "x");
            record.message.correlation_data = Some(data.clone().into());
            let (_, properties, _) = frames(&publisher(&json!({})).publish(&record).expect("can be carried"));
            let headers = properties.headers().clone().expect("has headers");
            assert_eq!(properties.correlation_id(), &None);
            assert_eq!(headers.inner().get("mqtt.correlation_data"), Some(&long(data)));
        }
    }

    #[test]
    fn what_cannot_be_carried_is_the_records_own_fault() {
        let with_property = |name: String| {
            let mut record = record(1, "x");
            record.message.user_properties = vec![(name, "v".into())];
            record
        };
        let plain = publisher(&json!({}));
        assert_eq!(class(&plain, &with_property("n".repeat(129))), "header_name_too_long");
        assert!(plain.publish(&with_property("n".repeat(128))).is_ok());
        for name in ROUTING_HEADERS {
            assert_eq!(class(&plain, &with_property(name.into())), "header_reserved");
        }
        let mut typed = record(1, "x");
        typed.message.content_type = Some("t".repeat(256));
        assert_eq!(class(&plain, &typed), "content_type_too_long");
        let by_topic = publisher(&json!({"routing_key": "${topic}"}));
        let mut long_topic = record(1, "x");
        long_topic.message.topic = "t".repeat(255);
        assert!(by_topic.publish(&long_topic).is_ok());
        long_topic.message.topic.push('t');
        assert_eq!(class(&by_topic, &long_topic), "routing_key_too_long");
        assert_eq!(class(&publisher(&json!({"routing_key": "${user.none}"})), &record(1, "x")), "missing_value");
    }

    #[test]
    fn an_envelope_is_json_and_says_so() {
        let config = json!({"payload_format": "envelope", "publisher_confirms": false});
        let mut record = record(1, "x");
        record.message.content_type = Some("text/plain".into());
        let (method, properties, body) = frames(&publisher(&config).publish(&record).expect("can be carried"));
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("is JSON")["payload"], "x");
        assert_eq!(properties.content_type(), &Some("application/json".into()));
        assert!(!method.mandatory, "nobody waits for what comes back");
    }

    #[test]
    fn a_routing_key_that_is_the_same_for_all_is_no_records_own() {
        let own_key = |routing_key: &str| {
            let publish = publisher(&json!({"routing_key": routing_key})).publish(&record(1, "x"));
            publish.expect("can be carried").own_key
        };
        assert_eq!(own_key("${topic[1]}.x"), Some("one.x".into()));
        assert_eq!((own_key("fixed"), own_key("")), (None, None));
    }

    #[test]
    fn a_publisher_on_a_topic_has_one_lane() {
        let plain = publisher(&json!({}));
        let lane = |client: &str, number| {
            let mut record = record(number, "x");
            record.message.client_id = client.into();
            plain.publish(&record).expect("can be carried").lane
        };
        assert_eq!(lane("a", 1), lane("a", 2));
        assert_ne!(lane("a", 1), lane("b", 1));
    }
}
