//! From our packets to bytes.

use bytes::BytesMut;
use rmqtt_codec::types::{Publish as CodecPublish, QoS};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Encoder;

use super::{Accepted, Ack, AckKind, AckOutcome, Codec, Delivery, Outbound, Reason, Version, Wire};

/// The packet is larger than the peer takes, or cannot be expressed. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet cannot be sent to this peer")]
pub struct Unsendable;

impl Wire {
    /// Appends the packet to `out`, whole or not at all.
    pub fn encode(&mut self, packet: Outbound<'_>, out: &mut BytesMut) -> Result<(), Unsendable> {
        if let Outbound::Publish(delivery) = &packet
            && delivery.payload.len() + delivery.topic.len() > self.peer_packet_bytes_max
        {
            return Err(Unsendable);
        }
        let before = out.len();
        let encoded = match &mut self.codec {
            Codec::V3(codec) => match v3_packet(packet) {
                Some(packet) => codec.encode(packet, out),
                None => Ok(()),
            },
            Codec::V5(codec) => codec.encode(v5_packet(packet), out),
        };
        if encoded.is_ok() && out.len() - before <= self.peer_packet_bytes_max {
            return Ok(());
        }
        out.truncate(before);
        Err(Unsendable)
    }
}

/// The CONNACK that refuses a connection.
pub fn encode_refusal(version: Version, reason: Reason, out: &mut BytesMut) {
    match version {
        Version::V31 | Version::V311 => out.extend_from_slice(&[0x20, 2, 0, reason.connack_v3()]),
        Version::V5 => out.extend_from_slice(&[0x20, 3, 0, reason.code(), 0]),
    }
}

fn v3_packet(packet: Outbound<'_>) -> Option<v3::Packet> {
    Some(match packet {
        Outbound::Connack(_) => v3::Packet::ConnectAck(v3::ConnectAck {
            return_code: v3::ConnectAckReason::ConnectionAccepted,
            session_present: false,
        }),
        Outbound::Ack(Ack { kind, packet_id, outcome: _ }) => match kind {
            AckKind::Puback => v3::Packet::PublishAck { packet_id },
            AckKind::Pubrec => v3::Packet::PublishReceived { packet_id },
            AckKind::Pubcomp => v3::Packet::PublishComplete { packet_id },
        },
        Outbound::Pubrel(packet_id) => v3::Packet::PublishRelease { packet_id },
        Outbound::Suback { packet_id, results } => v3::Packet::SubscribeAck {
            packet_id,
            status: results
                .iter()
                .map(|result| match result {
                    Ok(granted) => v3::SubscribeReturnCode::Success(qos(*granted)),
                    Err(_) => v3::SubscribeReturnCode::Failure,
                })
                .collect(),
        },
        Outbound::Unsuback { packet_id, existed: _ } => v3::Packet::UnsubscribeAck { packet_id },
        Outbound::Pingresp => v3::Packet::PingResponse,
        Outbound::Publish(delivery) => v3::Packet::Publish(Box::new(publish(&delivery, false))),
        Outbound::Disconnect(_) => return None,
    })
}

fn v5_packet(packet: Outbound<'_>) -> v5::Packet {
    match packet {
        Outbound::Connack(accepted) => v5::Packet::ConnectAck(Box::new(connack(accepted))),
        Outbound::Ack(Ack { kind, packet_id, outcome }) => match kind {
            AckKind::Puback => v5::Packet::PublishAck(ack(packet_id, outcome)),
            AckKind::Pubrec => v5::Packet::PublishReceived(ack(packet_id, outcome)),
            AckKind::Pubcomp => v5::Packet::PublishComplete(ack2(packet_id, outcome)),
        },
        Outbound::Pubrel(packet_id) => v5::Packet::PublishRelease(ack2(packet_id, AckOutcome::PacketIdNotFound)),
        Outbound::Suback { packet_id, results } => v5::Packet::SubscribeAck(v5::SubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: None,
            status: results
                .iter()
                .map(|result| {
                    let code = result.unwrap_or_else(Reason::code);
                    v5::SubscribeAckReason::try_from(code).unwrap_or(v5::SubscribeAckReason::UnspecifiedError)
                })
                .collect(),
        }),
        Outbound::Unsuback { packet_id, existed } => v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: None,
            status: existed
                .iter()
                .map(|existed| match existed {
                    true => v5::UnsubscribeAckReason::Success,
                    false => v5::UnsubscribeAckReason::NoSubscriptionExisted,
                })
                .collect(),
        }),
        Outbound::Pingresp => v5::Packet::PingResponse,
        Outbound::Publish(delivery) => v5::Packet::Publish(Box::new(publish(&delivery, true))),
        Outbound::Disconnect(reason) => v5::Packet::Disconnect(v5::Disconnect::new(
            v5::DisconnectReasonCode::try_from(reason.code()).unwrap_or(v5::DisconnectReasonCode::UnspecifiedError),
        )),
    }
}

fn connack(accepted: &Accepted) -> v5::ConnectAck {
    v5::ConnectAck {
        receive_max: accepted.window,
        max_packet_size: Some(accepted.packet_bytes_max),
        topic_alias_max: accepted.alias_max,
        assigned_client_id: accepted.assigned_client_id.clone(),
        session_expiry_interval_secs: accepted.session_ends.then_some(0),
        shared_subscription_available: false,
        ..v5::ConnectAck::default()
    }
}

fn ack(packet_id: std::num::NonZeroU16, outcome: AckOutcome) -> v5::PublishAck {
    let reason_code = match outcome {
        AckOutcome::Success => v5::PublishAckReason::Success,
        AckOutcome::TopicNameInvalid => v5::PublishAckReason::TopicNameInvalid,
        AckOutcome::PacketIdNotFound => v5::PublishAckReason::UnspecifiedError,
    };
    v5::PublishAck { packet_id, reason_code, ..v5::PublishAck::default() }
}

fn ack2(packet_id: std::num::NonZeroU16, outcome: AckOutcome) -> v5::PublishAck2 {
    let reason_code = match outcome {
        AckOutcome::Success | AckOutcome::TopicNameInvalid => v5::PublishAck2Reason::Success,
        AckOutcome::PacketIdNotFound => v5::PublishAck2Reason::PacketIdNotFound,
    };
    v5::PublishAck2 { packet_id, reason_code, ..v5::PublishAck2::default() }
}

fn publish(delivery: &Delivery<'_>, with_properties: bool) -> CodecPublish {
    let properties = with_properties.then(|| v5::PublishProperties {
        topic_alias: None,
        correlation_data: delivery.properties.correlation_data.clone(),
        message_expiry_interval: delivery.expiry_secs,
        content_type: delivery.properties.content_type.clone(),
        user_properties: delivery.properties.user.clone(),
        is_utf8_payload: delivery.properties.utf8_payload,
        response_topic: delivery.properties.response_topic.clone(),
        subscription_ids: delivery.subscription_ids.to_vec(),
    });
    CodecPublish {
        dup: false,
        retain: delivery.retain,
        qos: if delivery.packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        topic: delivery.topic.clone(),
        packet_id: delivery.packet_id,
        payload: delivery.payload.clone(),
        properties,
    }
}

fn qos(value: u8) -> QoS {
    match value {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
