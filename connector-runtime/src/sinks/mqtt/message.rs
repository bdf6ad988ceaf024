//! What a record becomes in a PUBLISH.

use std::num::NonZeroU16;

use api_types::envelope::envelope;
use api_types::topic::check_topic_name;
use api_types::{Message, Record, RecordId};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::types::{Publish as Packet, QoS};
use rmqtt_codec::v5::{PublishProperties, UserProperties};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Encoder;

use super::config::{Config, ProtocolVersion};
use super::wire;
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;

/// User property: how many bridges of this kind a message has passed.
const HOPS: &str = "sluice.hops";
/// User property: one such bridge. It stands once for each that the message has passed.
const VIA: &str = "sluice.via";
/// Longer than any chain of clusters that anybody builds on purpose.
const HOPS_MAX: u32 = 16;
/// What every message says about itself; a value that came with the record was about an earlier hop.
const OWN: [&str; 7] = ["mqtt.topic", "mqtt.client_id", "mqtt.qos", "mqtt.retain", "mqtt.timestamp", "mqtt.id", HOPS];
/// Stands in for the packet id that the window will give.
const SOME_PACKET_ID: NonZeroU16 = NonZeroU16::MIN;
const DUPLICATE: u8 = 0b1000;

/// A PUBLISH without its packet id. The payload is shared with the record, so that waiting costs no copy of it.
#[derive(Clone, Debug)]
pub(super) struct Publish {
    pub(super) id: RecordId,
    head: Bytes,
    /// Where the packet id stands in `head`; none with QoS 0.
    packet_id_at: Option<usize>,
    payload: Bytes,
    /// It carries characters that the standard lets a target close the connection for.
    pub(super) is_disputed: bool,
}

impl Publish {
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    pub(super) fn has_packet_id(&self) -> bool {
        self.packet_id_at.is_some()
    }

    pub(super) fn write(&self, packet_id: Option<NonZeroU16>, is_duplicate: bool, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.head);
        if let (Some(at), Some(packet_id)) = (self.packet_id_at, packet_id) {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
            if is_duplicate {
                out[start] |= DUPLICATE;
            }
        }
        out.extend_from_slice(&self.payload);
    }
}

/// Makes PUBLISH packets as one connector is configured.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    version: ProtocolVersion,
    qos: QoS,
    retain: bool,
    topic_prefix: String,
    format: PayloadFormat,
    /// Names this connector in the whole world.
    bridge: ByteString,
}

impl Publisher {
    pub(super) fn new(config: &Config, bridge: &str) -> Self {
        Self {
            version: config.protocol_version,
            qos: match config.qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            retain: config.retain,
            topic_prefix: config.topic_prefix.clone().unwrap_or_default(),
            format: config.payload_format,
            bridge: bridge.into(),
        }
    }

    /// Fails with a fault of that record alone, found without asking the target.
    pub(super) fn publish(&self, record: &Record) -> Result<Publish, RecordFault> {
        let message = &record.message;
        let topic = format!("{}{}", self.topic_prefix, message.topic);
        check_topic_name(&topic)
            .map_err(|error| RecordFault::offline("topic_name_invalid", format!("topic {topic:?}: {error}")))?;
        let properties = match self.version {
            ProtocolVersion::V3 | ProtocolVersion::V4 => None,
            ProtocolVersion::V5 => Some(self.properties(record)?),
        };
        let is_disputed = is_disputed(&topic) || properties.as_ref().is_some_and(any_disputed);
        let payload = match self.format {
            PayloadFormat::Raw => message.payload.clone(),
            PayloadFormat::Envelope => envelope(record).to_string().into(),
        };
        let packet_id = (self.qos != QoS::AtMostOnce).then_some(SOME_PACKET_ID);
        let topic_bytes = topic.len();
        let packet = Box::new(Packet {
            dup: false,
            retain: self.retain,
            qos: self.qos,
            topic: topic.into(),
            packet_id,
            payload: Bytes::new(),
            properties,
        });
        let mut encoded = BytesMut::new();
        match self.version {
            ProtocolVersion::V3 | ProtocolVersion::V4 => {
                v3::Codec::default().encode(v3::Packet::Publish(packet), &mut encoded)
            }
            ProtocolVersion::V5 => v5::Codec::default().encode(v5::Packet::Publish(packet), &mut encoded),
        }
        .map_err(|error| RecordFault::offline("cannot_be_encoded", error.to_string()))?;
        let (head, header_bytes) = wire::lengthened(&encoded, payload.len()).ok_or_else(|| {
            RecordFault::offline("packet_too_large", format!("{} bytes are more than MQTT allows", payload.len()))
        })?;
        // The topic stands first, behind its length.
        let packet_id_at = packet_id.map(|_| header_bytes + 2 + topic_bytes);
        Ok(Publish { id: record.id, head: head.freeze(), packet_id_at, payload, is_disputed })
    }

    fn properties(&self, record: &Record) -> Result<PublishProperties, RecordFault> {
        let message = &record.message;
        let content_type = match self.format {
            PayloadFormat::Raw => message.content_type.as_deref().map(ByteString::from),
            PayloadFormat::Envelope => Some(ByteString::from_static("application/json")),
        };
        let properties = PublishProperties {
            correlation_data: message.correlation_data.clone(),
            content_type,
            response_topic: message.response_topic.as_deref().map(ByteString::from),
            user_properties: self.user_properties(record)?,
            ..PublishProperties::default()
        };
        if texts(&properties).any(|text| text.contains('\0')) {
            return Err(RecordFault::offline("property_invalid", "MQTT allows no NUL in a property"));
        }
        Ok(properties)
    }

    fn user_properties(&self, record: &Record) -> Result<UserProperties, RecordFault> {
        let message = &record.message;
        let hops = self.hops(message)? + 1;
        let mut properties: UserProperties = message
            .user_properties
            .iter()
            .filter(|(name, _)| !OWN.contains(&name.as_str()))
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect();
        let [topic, client_id, qos, retain, timestamp, id, _] = OWN.map(ByteString::from_static);
        properties.extend([
            (topic, message.topic.as_str().into()),
            (client_id, message.client_id.as_str().into()),
            (qos, message.qos.to_string().into()),
            (retain, message.retain.to_string().into()),
            (timestamp, message.timestamp_ms.to_string().into()),
            (id, record.id.to_string().into()),
            (ByteString::from_static(HOPS), hops.to_string().into()),
            (ByteString::from_static(VIA), self.bridge.clone()),
        ]);
        Ok(properties)
    }

    /// How many bridges the message has passed; refuses one that has passed this one, or too many.
    fn hops(&self, message: &Message) -> Result<u32, RecordFault> {
        let mut hops = 0;
        for (name, value) in &message.user_properties {
            if name == VIA && *value == *self.bridge {
                return Err(RecordFault::offline("loop", "the message has passed this bridge before"));
            }
            if name == HOPS {
                hops = hops.max(value.parse().unwrap_or(HOPS_MAX));
            }
        }
        if hops >= HOPS_MAX {
            let message = format!("the message has passed {hops} bridges, and more than {HOPS_MAX} are a loop");
            return Err(RecordFault::offline("loop", message));
        }
        Ok(hops)
    }
}

fn texts(properties: &PublishProperties) -> impl Iterator<Item = &ByteString> {
    let pairs = properties.user_properties.iter().flat_map(|(name, value)| [name, value]);
    pairs.chain(&properties.content_type).chain(&properties.response_topic)
}

fn any_disputed(properties: &PublishProperties) -> bool {
    texts(properties).any(|text| is_disputed(text))
}

/// Control characters and non-characters: "a receiver may close the connection".
fn is_disputed(text: &str) -> bool {
    let non_character = |code: u32| (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe;
    text.chars().any(|character| character.is_control() || non_character(u32::from(character)))
}

#[cfg(test)]
mod tests {
    use rmqtt_codec::v5::Packet as V5;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::sinks::opened::record;

    fn publisher(version: ProtocolVersion, qos: QoS, topic_prefix: &str, format: PayloadFormat) -> Publisher {
        Publisher { version, qos, retain: false, topic_prefix: topic_prefix.into(), format, bridge: "b1".into() }
    }

    fn v5(record: &Record) -> Result<Packet, RecordFault> {
        let publish = publisher(ProtocolVersion::V5, QoS::AtLeastOnce, "to/", PayloadFormat::Raw).publish(record)?;
        let mut bytes = BytesMut::new();
        publish.write(NonZeroU16::new(0x1234), true, &mut bytes);
        assert_eq!(bytes.len(), publish.bytes());
        match v5::Codec::default().decode(&mut bytes).expect("decodes") {
            Some((V5::Publish(packet), _)) => Ok(*packet),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn payload_packet_id_and_length_are_put_together() {
        for bytes in [0, 1, 100, 20_000, 3_000_000] {
            let packet = v5(&record(1, vec![7; bytes])).expect("can be published");
            assert_eq!((packet.payload.len(), packet.packet_id), (bytes, NonZeroU16::new(0x1234)));
            assert!(packet.dup && !packet.retain && packet.topic == "to/plant/one");
        }
        let v3 = publisher(ProtocolVersion::V3, QoS::AtMostOnce, "", PayloadFormat::Raw);
        let mut bytes = BytesMut::new();
        v3.publish(&record(1, "x")).expect("can be published").write(None, true, &mut bytes);
        assert_eq!(&bytes[..], b"\x30\x0c\0\x09plant/onex");
    }

    #[test]
    fn what_the_record_says_of_itself_replaces_what_an_earlier_hop_said() {
        let mut record = record(5, "x");
        record.message.user_properties =
            vec![("mqtt.id".into(), "old".into()), ("a".into(), "1".into()), ("a".into(), "2".into())];
        record.message.content_type = Some("text/plain".into());
        let properties = v5(&record).expect("can be published").properties.expect("version 5 has them");
        let pairs: Vec<(&str, &str)> =
            properties.user_properties.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expect = [
            ("a", "1"),
            ("a", "2"),
            ("mqtt.topic", "plant/one"),
            ("mqtt.client_id", "device-5"),
            ("mqtt.qos", "0"),
            ("mqtt.retain", "false"),
            ("mqtt.timestamp", "1700000000005"),
            ("mqtt.id", "1-7-5"),
            ("sluice.hops", "1"),
            ("sluice.via", "b1"),
        ];
        assert_eq!(pairs, expect);
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    }

    #[test]
    fn a_loop_is_seen_at_its_first_turn_and_a_long_chain_at_its_end() {
        let mut record = record(1, "x");
        for (properties, expect) in [
            (vec![(VIA, "b2"), (HOPS, "1")], None),
            (vec![(VIA, "b2"), (VIA, "b1"), (HOPS, "2")], Some("loop")),
            (vec![(HOPS, "15")], None),
            (vec![(HOPS, "16")], Some("loop")),
            (vec![(HOPS, "many")], Some("loop")),
        ] {
            record.message.user_properties =
                properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let fault = v5(&record).err();
            assert_eq!(fault.as_ref().map(|fault| (&*fault.class, fault.offline)), expect.map(|class| (class, true)));
        }
    }

    #[test]
    fn what_cannot_be_published_is_known_without_asking() {
        let with = |topic: &str, property: &str| {
            let mut record = record(1, "x");
            record.message.topic = topic.to_owned();
            record.message.user_properties = vec![("name".into(), property.to_owned())];
            v5(&record).err().map(|fault| fault.class.to_string())
        };
        assert_eq!(with(&"t".repeat(65_532), ""), None);
        assert_eq!(with(&"t".repeat(65_533), "").as_deref(), Some("topic_name_invalid"));
        assert_eq!(with("a/+", "").as_deref(), Some("topic_name_invalid"));
        assert_eq!(with("a", "nul \0").as_deref(), Some("property_invalid"));
        assert_eq!(with("a", &"p".repeat(65_536)).as_deref(), Some("cannot_be_encoded"));
    }

    #[test]
    fn disputed_characters_are_noticed() {
        for (text, expect) in [("plain/ü/😀", false), ("a\u{1}", true), ("\u{7f}", true), ("\u{fdd0}", true)] {
            assert_eq!(is_disputed(text), expect, "{text:?}");
        }
        assert!(is_disputed("\u{1ffff}"));
    }
}
