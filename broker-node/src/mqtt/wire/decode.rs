//! From the codec's packets to ours, with the checks of fields that the codec does not make.

use bytes::BytesMut;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::Publish as CodecPublish;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder;

use super::{Inbound, Properties, Publish, Reason, Subscribe, SubscribeOptions, WireError};

pub fn v3(codec: &mut v3::Codec, buffer: &mut BytesMut) -> Result<Option<Inbound>, WireError> {
    let Some((packet, _)) = codec.decode(buffer).map_err(refused)? else { return Ok(None) };
    let packet = match packet {
        v3::Packet::Publish(publish) => Inbound::Publish(Box::new(publish_from(*publish)?)),
        v3::Packet::PublishAck { packet_id } => Inbound::Puback(packet_id),
        v3::Packet::PublishReceived { packet_id } => Inbound::Pubrec(packet_id),
        v3::Packet::PublishRelease { packet_id } => Inbound::Pubrel(packet_id),
        v3::Packet::PublishComplete { .. } => Inbound::Pubcomp,
        v3::Packet::Subscribe { packet_id, topic_filters } => {
            let plain = |qos: rmqtt_codec::types::QoS| SubscribeOptions { qos: qos.value(), ..Default::default() };
            let filters = topic_filters.into_iter().map(|(filter, qos)| (filter, plain(qos))).collect();
            Inbound::Subscribe(Subscribe { packet_id, identifier: None, filters })
        }
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Inbound::Unsubscribe { packet_id, filters: topic_filters }
        }
        v3::Packet::PingRequest => Inbound::Pingreq,
        v3::Packet::Disconnect => Inbound::Disconnect { reason: Reason::Normal, session_expiry_secs: None },
        v3::Packet::Connect(_)
        | v3::Packet::ConnectAck(_)
        | v3::Packet::SubscribeAck { .. }
        | v3::Packet::UnsubscribeAck { .. }
        | v3::Packet::PingResponse => return Err(WireError(Reason::ProtocolError)),
    };
    Ok(Some(packet))
}

pub fn v5(codec: &mut v5::Codec, buffer: &mut BytesMut) -> Result<Option<Inbound>, WireError> {
    let Some((packet, _)) = codec.decode(buffer).map_err(refused)? else { return Ok(None) };
    let packet = match packet {
        v5::Packet::Publish(publish) => Inbound::Publish(Box::new(publish_from(*publish)?)),
        v5::Packet::PublishAck(ack) => Inbound::Puback(ack.packet_id),
        v5::Packet::PublishReceived(ack) => Inbound::Pubrec(ack.packet_id),
        v5::Packet::PublishRelease(ack) => Inbound::Pubrel(ack.packet_id),
        v5::Packet::PublishComplete(_) => Inbound::Pubcomp,
        v5::Packet::Subscribe(subscribe) => {
            let options = |options: v5::SubscriptionOptions| SubscribeOptions {
                qos: options.qos.value(),
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
            };
            let filters = subscribe.topic_filters.into_iter().map(|(filter, given)| (filter, options(given))).collect();
            Inbound::Subscribe(Subscribe { packet_id: subscribe.packet_id, identifier: subscribe.id, filters })
        }
        v5::Packet::Unsubscribe(packet) => {
            Inbound::Unsubscribe { packet_id: packet.packet_id, filters: packet.topic_filters }
        }
        v5::Packet::PingRequest => Inbound::Pingreq,
        v5::Packet::Disconnect(packet) => Inbound::Disconnect {
            // Whatever else a client gives as its reason, only 0 takes the will back.
            reason: match packet.reason_code {
                v5::DisconnectReasonCode::NormalDisconnection => Reason::Normal,
                _ => Reason::DisconnectWithWill,
            },
            session_expiry_secs: packet.session_expiry_interval_secs,
        },
        v5::Packet::Connect(_)
        | v5::Packet::ConnectAck(_)
        | v5::Packet::SubscribeAck(_)
        | v5::Packet::UnsubscribeAck(_)
        | v5::Packet::PingResponse
        // No authentication method was agreed in the CONNECT.
        | v5::Packet::Auth(_) => return Err(WireError(Reason::ProtocolError)),
    };
    Ok(Some(packet))
}

fn publish_from(packet: CodecPublish) -> Result<Publish, WireError> {
    let properties = packet.properties.unwrap_or_default();
    // Only a broker tells subscription identifiers.
    if !properties.subscription_ids.is_empty() {
        return Err(WireError(Reason::ProtocolError));
    }
    let publish = Publish {
        qos: packet.qos.value(),
        retain: packet.retain,
        topic: packet.topic,
        alias: properties.topic_alias,
        packet_id: packet.packet_id,
        payload: packet.payload,
        properties: Properties {
            utf8_payload: properties.is_utf8_payload,
            expiry_secs: properties.message_expiry_interval,
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user: properties.user_properties,
        },
    };
    if properties_are_clean(&publish.properties) { Ok(publish) } else { Err(WireError(Reason::MalformedPacket)) }
}

/// No text has U+0000, and the response topic is a topic.
pub fn properties_are_clean(properties: &Properties) -> bool {
    let texts = properties.user.iter().flat_map(|(name, value)| [name, value]).chain(&properties.content_type);
    let response_topic_is_fine = match &properties.response_topic {
        Some(topic) => api_types::topic::check_topic_name(topic).is_ok(),
        None => true,
    };
    response_topic_is_fine && texts.into_iter().all(|text| !text.contains('\0'))
}

fn refused(error: DecodeError) -> WireError {
    WireError(match error {
        DecodeError::MaxSizeExceeded { .. } => Reason::PacketTooLarge,
        // The codec's words for a SUBSCRIBE or UNSUBSCRIBE without filters.
        DecodeError::InvalidTopicFilter => Reason::ProtocolError,
        DecodeError::InvalidTopicName => Reason::TopicNameInvalid,
        DecodeError::InvalidProtocol
        | DecodeError::InvalidLength
        | DecodeError::MalformedPacket
        | DecodeError::UnsupportedProtocolLevel
        | DecodeError::ConnectReservedFlagSet
        | DecodeError::InvalidConnectFlags
        | DecodeError::ConnAckReservedFlagSet
        | DecodeError::InvalidClientId
        | DecodeError::UnsupportedPacketType
        | DecodeError::PacketIdRequired
        | DecodeError::Utf8Error
        | DecodeError::Io(_) => Reason::MalformedPacket,
    })
}
