//! Bytes to packets and back, for MQTT 3.1, 3.1.1 and 5. The only place that names the codec crate.
//!
//! ```text
//! bytes ─► frame (length, size limit) ─► raw checks ─► codec ─► Inbound
//! Outbound ─► codec ─► bytes          (or nothing, when the peer could not take it)
//! ```
//!
//! What the codec leaves open is closed here: it is handed complete packets only (alone it reserves the announced
//! length), packets without a body have none, reserved bits are zero, text has no U+0000, the CONNECT ends where its
//! fields end and its protocol name fits its level.

mod connect;
mod decode;
mod encode;
mod frame;
mod reason;

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

pub use connect::{Connect, ConnectFailure, Will, decode_connect};
pub use encode::{Unsendable, encode_refusal};
pub use frame::frame_bytes;
pub use reason::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V31,
    V311,
    V5,
}

/// A packet that broke the protocol, and the reason to tell the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet refused: {0}")]
pub struct WireError(pub Reason);

/// What a connected client may send.
#[derive(Debug)]
pub enum Inbound {
    Publish(Box<Publish>),
    Puback(NonZeroU16),
    Pubrec(NonZeroU16),
    Pubrel(NonZeroU16),
    Pubcomp,
    Subscribe(Subscribe),
    Unsubscribe { packet_id: NonZeroU16, filters: Vec<ByteString> },
    Pingreq,
    Disconnect { reason: Reason, session_expiry_secs: Option<u32> },
}

#[derive(Debug)]
pub struct Publish {
    pub qos: u8,
    pub retain: bool,
    /// Empty when only the alias was sent.
    pub topic: ByteString,
    pub alias: Option<NonZeroU16>,
    /// Present exactly when `qos` is not 0.
    pub packet_id: Option<NonZeroU16>,
    pub payload: Bytes,
    pub properties: Properties,
}

/// The properties of a PUBLISH or a will that travel with the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    pub utf8_payload: bool,
    pub expiry_secs: Option<NonZeroU32>,
    pub content_type: Option<ByteString>,
    pub response_topic: Option<ByteString>,
    pub correlation_data: Option<Bytes>,
    pub user: Vec<(ByteString, ByteString)>,
}

#[derive(Debug)]
pub struct Subscribe {
    pub packet_id: NonZeroU16,
    pub identifier: Option<NonZeroU32>,
    pub filters: Vec<(ByteString, SubscribeOptions)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
}

/// The answer to one packet of a publisher. Acks leave in the order of the packets they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub kind: AckKind,
    pub packet_id: NonZeroU16,
    pub outcome: AckOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckKind {
    Puback,
    Pubrec,
    Pubcomp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckOutcome {
    Success,
    /// MQTT 5 only: well formed, but not accepted here.
    TopicNameInvalid,
    /// MQTT 5 only, for PUBCOMP.
    PacketIdNotFound,
}

/// What the broker sends.
#[derive(Debug)]
pub enum Outbound<'a> {
    Connack(&'a Accepted),
    Ack(Ack),
    /// Answers a PUBREC that nothing here asked for.
    Pubrel(NonZeroU16),
    Suback { packet_id: NonZeroU16, results: &'a [Result<u8, Reason>] },
    Unsuback { packet_id: NonZeroU16, existed: &'a [bool] },
    Pingresp,
    Publish(Delivery<'a>),
    /// MQTT 5 only; nothing is written for the older versions.
    Disconnect(Reason),
}

/// The CONNACK of an accepted connection. Only MQTT 5 carries more than the return code.
#[derive(Debug)]
pub struct Accepted {
    pub window: NonZeroU16,
    pub packet_bytes_max: u32,
    pub alias_max: u16,
    pub assigned_client_id: Option<ByteString>,
    /// Whether to say that the session ends with the connection, because the client asked for more.
    pub session_ends: bool,
}

/// One message on its way to one subscriber.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub topic: &'a ByteString,
    pub payload: &'a Bytes,
    pub properties: &'a Properties,
    pub expiry_secs: Option<NonZeroU32>,
    pub retain: bool,
    /// Present = QoS 1.
    pub packet_id: Option<NonZeroU16>,
    pub subscription_ids: &'a [NonZeroU32],
}

/// The codec of one connection, made by its CONNECT.
#[derive(Debug)]
pub struct Wire {
    version: Version,
    codec: Codec,
    /// Largest packet accepted, fixed header included.
    packet_bytes_max: usize,
    /// Largest packet the peer accepts.
    peer_packet_bytes_max: usize,
}

#[derive(Debug)]
enum Codec {
    V3(rmqtt_codec::v3::Codec),
    V5(rmqtt_codec::v5::Codec),
}

impl Wire {
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sets the limit that holds after the CONNECT.
    pub fn set_packet_bytes_max(&mut self, packet_bytes_max: usize) {
        self.packet_bytes_max = packet_bytes_max;
    }

    /// The whole size of the packet at the head of the buffer, once its header is there.
    pub fn announced_bytes(&self, buffer: &[u8]) -> Result<Option<usize>, WireError> {
        frame_bytes(buffer, self.packet_bytes_max)
    }

    /// Takes the first complete packet off the buffer; `None` = more bytes are needed.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<(Inbound, usize)>, WireError> {
        let Some(total) = frame_bytes(buffer, self.packet_bytes_max)? else { return Ok(None) };
        if buffer.len() < total {
            return Ok(None);
        }
        frame::check_raw(&buffer[..total], self.version)?;
        let packet = match &mut self.codec {
            Codec::V3(codec) => decode::v3(codec, buffer)?,
            Codec::V5(codec) => decode::v5(codec, buffer)?,
        };
        Ok(packet.map(|packet| (packet, total)))
    }
}
