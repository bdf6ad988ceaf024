//! MQTT 3.1, 3.1.1 and 5 on the wire: what this client says, and what it understands of the answers.
//!
//! `rmqtt-codec` encodes CONNECT and PUBLISH and decodes what carries properties. The acknowledgements are read here:
//! the codec refuses reason codes that the standard does not list (Mosquitto sends 0x95 in a PUBACK), and would take
//! the connection down with them.

use std::num::NonZeroU16;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rmqtt_codec::error::{DecodeError, EncodeError};
use rmqtt_codec::types::{MQTT_LEVEL_31, Protocol};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder, Encoder};

use super::config::ProtocolVersion;

/// Nothing that the target has to say to a client without subscriptions is longer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The largest remaining length that the protocol can express.
pub(super) const REMAINING_MAX: usize = 268_435_455;
/// The protocol's reason codes from here on are failures.
pub(super) const FAILURE: u8 = 0x80;
const CONNACK: u8 = 0x20;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;
/// "MQIsdp" with its length, before the protocol level of MQTT 3.1.
const V31_NAME_BYTES: usize = 8;

/// How this client introduces itself.
#[derive(Clone)]
pub(super) struct Hello {
    pub(super) version: ProtocolVersion,
    pub(super) client_id: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<Bytes>,
    pub(super) keepalive_secs: u16,
    /// Version 5 only; the older ones keep a session for ever.
    pub(super) session_expiry_secs: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Connected(Connack),
    /// PUBACK.
    Acknowledged(Answer),
    /// PUBREC.
    Taken(Answer),
    /// PUBCOMP.
    Completed(Answer),
    Pong,
    /// DISCONNECT of version 5.
    Closing {
        reason: u8,
        words: Option<String>,
    },
    /// Nothing that was asked for, for example messages of a subscription that somebody else made under this client id.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) packet_id: NonZeroU16,
    pub(super) reason: u8,
    pub(super) words: Option<String>,
}

/// `reason` is a return code before version 5, and then below [`FAILURE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Connack {
    pub(super) reason: u8,
    pub(super) words: Option<String>,
    pub(super) session_present: bool,
    pub(super) receive_max: Option<u16>,
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) keepalive_secs: Option<u16>,
    pub(super) qos_max: Option<u8>,
    pub(super) retain_unavailable: bool,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("an answer of {0} bytes is longer than any that belongs here")]
    TooLong(usize),
    #[error("the answer cannot be read")]
    Unreadable(#[source] DecodeError),
    #[error("an answer breaks off")]
    BreaksOff,
}

pub(super) fn connect(hello: &Hello, clean: bool, out: &mut BytesMut) -> Result<(), EncodeError> {
    let client_id = hello.client_id.as_str().into();
    let (username, password) = (hello.username.as_deref().map(Into::into), hello.password.clone());
    match hello.version {
        ProtocolVersion::V3 | ProtocolVersion::V4 => {
            let protocol =
                if hello.version == ProtocolVersion::V3 { Protocol(MQTT_LEVEL_31) } else { Protocol::default() };
            let connect = v3::Connect {
                protocol,
                clean_session: clean,
                keep_alive: hello.keepalive_secs,
                last_will: None,
                client_id,
                username,
                password,
                cert: None,
            };
            let start = out.len();
            v3::Codec::default().encode(connect.into(), out)?;
            if hello.version == ProtocolVersion::V3 {
                // The codec writes the level of 3.1.1 behind either name.
                let header_bytes = header(&out[start..]).map_or(0, |header| header.bytes);
                if let Some(level) = out.get_mut(start + header_bytes + V31_NAME_BYTES) {
                    *level = MQTT_LEVEL_31;
                }
            }
            Ok(())
        }
        ProtocolVersion::V5 => {
            let connect = v5::Connect {
                clean_start: clean,
                keep_alive: hello.keepalive_secs,
                session_expiry_interval_secs: hello.session_expiry_secs,
                client_id,
                username,
                password,
                ..v5::Connect::default()
            };
            v5::Codec::default().encode(v5::Packet::Connect(Box::new(connect)), out)
        }
    }
}

pub(super) fn release(packet_id: NonZeroU16, out: &mut BytesMut) {
    out.put_slice(&[PUBREL, 2]);
    out.put_u16(packet_id.get());
}

pub(super) fn ping(out: &mut BytesMut) {
    out.put_slice(&[PINGREQ, 0]);
}

/// Keeps the session, in every version.
pub(super) fn goodbye(out: &mut BytesMut) {
    out.put_slice(&[DISCONNECT, 0]);
}

/// The next whole packet, if it is there.
pub(super) fn decode(version: ProtocolVersion, inbox: &mut BytesMut) -> Result<Option<Received>, WireError> {
    let Some(Header { bytes, remaining }) = header(inbox) else {
        return if inbox.len() > 5 { Err(WireError::BreaksOff) } else { Ok(None) };
    };
    if bytes + remaining > ANSWER_BYTES_MAX {
        return Err(WireError::TooLong(remaining));
    }
    if inbox.len() < bytes + remaining {
        return Ok(None);
    }
    let packet = inbox.split_to(bytes + remaining);
    let first = packet[0];
    let body = &packet[bytes..];
    let received = match first & 0xf0 {
        CONNACK => connack(version, body, &packet)?,
        PUBACK => Received::Acknowledged(answer(version, body, &packet)?),
        PUBREC => Received::Taken(answer(version, body, &packet)?),
        PUBCOMP => Received::Completed(answer(version, body, &packet)?),
        PINGRESP => Received::Pong,
        DISCONNECT => closing(body, &packet),
        _ => Received::Other,
    };
    Ok(Some(received))
}

struct Header {
    /// Of the header itself: the first byte and the remaining length.
    bytes: usize,
    remaining: usize,
}

fn header(packet: &[u8]) -> Option<Header> {
    let mut remaining = 0;
    for (place, byte) in packet.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(Header { bytes: place + 2, remaining });
        }
    }
    None
}

/// `packet` with `payload_bytes` more in its remaining length; also how long its header is now.
pub(super) fn lengthened(packet: &[u8], payload_bytes: usize) -> Option<(BytesMut, usize)> {
    let Header { bytes, remaining } = header(packet)?;
    let body = &packet[bytes..];
    let mut length = remaining + payload_bytes;
    if length > REMAINING_MAX {
        return None;
    }
    let mut head = BytesMut::with_capacity(body.len() + 5);
    head.put_u8(packet[0]);
    loop {
        // Seven bits at a time.
        let bits = (length & 0x7f) as u8;
        length >>= 7;
        head.put_u8(if length == 0 { bits } else { bits | 0x80 });
        if length == 0 {
            break;
        }
    }
    let header_bytes = head.len();
    head.put_slice(body);
    Some((head, header_bytes))
}

fn connack(version: ProtocolVersion, body: &[u8], packet: &[u8]) -> Result<Received, WireError> {
    let (Some(flags), Some(reason)) = (body.first(), body.get(1)) else { return Err(WireError::BreaksOff) };
    // A target that does not speak version 5 refuses it in the form that it knows.
    if body.len() == 2 {
        let session_present = flags & 1 == 1;
        return Ok(Received::Connected(Connack { reason: *reason, session_present, ..Connack::default() }));
    }
    if version != ProtocolVersion::V5 {
        return Err(WireError::BreaksOff);
    }
    match decode_v5(packet)? {
        v5::Packet::ConnectAck(ack) => Ok(Received::Connected(Connack {
            reason: ack.reason_code.into(),
            words: ack.reason_string.map(|words| words.to_string()),
            session_present: ack.session_present,
            receive_max: Some(ack.receive_max.get()),
            packet_bytes_max: ack.max_packet_size,
            keepalive_secs: ack.server_keepalive_sec,
            qos_max: Some(ack.max_qos.into()),
            retain_unavailable: !ack.retain_available,
        })),
        _ => Err(WireError::BreaksOff),
    }
}

fn answer(version: ProtocolVersion, mut body: &[u8], packet: &[u8]) -> Result<Answer, WireError> {
    if body.len() < 2 {
        return Err(WireError::BreaksOff);
    }
    let packet_id = NonZeroU16::new(body.get_u16()).ok_or(WireError::Unreadable(DecodeError::MalformedPacket))?;
    let reason = if version == ProtocolVersion::V5 { body.first().copied().unwrap_or(0) } else { 0 };
    // The codec knows properties; reason codes that it does not know come without words.
    let words = if reason >= FAILURE && body.len() > 1 { words_of(packet) } else { None };
    Ok(Answer { packet_id, reason, words })
}

fn closing(body: &[u8], packet: &[u8]) -> Received {
    Received::Closing { reason: body.first().copied().unwrap_or(0), words: words_of(packet) }
}

fn words_of(packet: &[u8]) -> Option<String> {
    let words = match decode_v5(packet).ok()? {
        v5::Packet::PublishAck(ack) | v5::Packet::PublishReceived(ack) => ack.reason_string,
        v5::Packet::PublishRelease(ack) | v5::Packet::PublishComplete(ack) => ack.reason_string,
        v5::Packet::Disconnect(disconnect) => disconnect.reason_string,
        _ => None,
    };
    words.map(|words| words.to_string())
}

fn decode_v5(packet: &[u8]) -> Result<v5::Packet, WireError> {
    let decoded = v5::Codec::default().decode(&mut BytesMut::from(packet)).map_err(WireError::Unreadable)?;
    decoded.map(|(packet, _)| packet).ok_or(WireError::BreaksOff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(version: ProtocolVersion) -> Hello {
        Hello {
            version,
            client_id: "c".into(),
            username: Some("u".into()),
            password: Some(Bytes::from_static(b"p\xff\0")),
            keepalive_secs: 60,
            session_expiry_secs: 3_600,
        }
    }

    #[test]
    fn each_version_introduces_itself() {
        for (version, expect) in [
            (ProtocolVersion::V3, &b"\x10\x17\0\x06MQIsdp\x03\xc0\0\x3c\0\x01c\0\x01u\0\x03p\xff\0"[..]),
            (ProtocolVersion::V4, b"\x10\x15\0\x04MQTT\x04\xc0\0\x3c\0\x01c\0\x01u\0\x03p\xff\0"),
            (ProtocolVersion::V5, b"\x10\x1b\0\x04MQTT\x05\xc0\0\x3c\x05\x11\0\0\x0e\x10\0\x01c\0\x01u\0\x03p\xff\0"),
        ] {
            let mut out = BytesMut::new();
            connect(&hello(version), false, &mut out).expect("encodes");
            assert_eq!(&out[..], expect, "{version:?}");
        }
    }

    fn check(version: ProtocolVersion, bytes: &[u8], expect: Received) {
        for whole in 0..bytes.len() {
            let mut inbox = BytesMut::from(&bytes[..whole]);
            assert!(decode(version, &mut inbox).expect("no error").is_none(), "{whole} bytes of {bytes:?}");
        }
        let mut inbox = BytesMut::from(bytes);
        inbox.put_u8(0xd0);
        assert_eq!(decode(version, &mut inbox).expect("reads"), Some(expect));
        assert_eq!(&inbox[..], [0xd0], "what follows stays");
    }

    #[test]
    fn answers_are_read_with_codes_that_nobody_listed() {
        let id = |id| NonZeroU16::new(id).expect("not zero");
        let answer = |reason, words: Option<&str>| Answer { packet_id: id(258), reason, words: words.map(Into::into) };
        for version in [ProtocolVersion::V3, ProtocolVersion::V4, ProtocolVersion::V5] {
            check(version, b"\x40\x02\x01\x02", Received::Acknowledged(answer(0, None)));
            check(version, b"\x50\x02\x01\x02", Received::Taken(answer(0, None)));
            check(version, b"\x70\x02\x01\x02", Received::Completed(answer(0, None)));
            check(version, b"\xd0\x00", Received::Pong);
        }
        check(ProtocolVersion::V5, b"\x40\x03\x01\x02\x95", Received::Acknowledged(answer(0x95, None)));
        let refused = Received::Taken(answer(0x87, Some("no")));
        check(ProtocolVersion::V5, b"\x50\x09\x01\x02\x87\x05\x1f\0\x02no", refused);
        let closing = Received::Closing { reason: 0x8e, words: None };
        check(ProtocolVersion::V5, b"\xe0\x02\x8e\x00", closing);
    }

    #[test]
    fn a_connack_of_an_older_version_is_understood() {
        let refused = Connack { reason: 0x84, ..Connack::default() };
        check(ProtocolVersion::V5, b"\x20\x02\0\x84", Received::Connected(refused));
        let taken = Connack { session_present: true, ..Connack::default() };
        check(ProtocolVersion::V4, b"\x20\x02\x01\0", Received::Connected(taken));
        let limits = Connack {
            receive_max: Some(20),
            packet_bytes_max: Some(1_024),
            qos_max: Some(1),
            retain_unavailable: true,
            keepalive_secs: Some(30),
            ..Connack::default()
        };
        let bytes = b"\x20\x12\0\0\x0f\x21\0\x14\x27\0\0\x04\0\x24\x01\x25\0\x13\0\x1e";
        check(ProtocolVersion::V5, bytes, Received::Connected(limits));
    }

    #[test]
    fn garbage_is_an_error_and_no_endless_wait() {
        for bytes in
            [&b"\x40\xff\xff\xff\xff\x01"[..], b"\x40\xff\xff\xff\x7f", b"\x40\x00", b"\x40\x02\0\0", b"\x20\x01\0"]
        {
            let mut inbox = BytesMut::from(bytes);
            assert!(decode(ProtocolVersion::V5, &mut inbox).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_packet_is_lengthened_up_to_the_limit() {
        let (head, header_bytes) = lengthened(b"\x30\x03\0\x01t", 125).expect("fits");
        assert_eq!((&head[..], header_bytes), (&b"\x30\x80\x01\0\x01t"[..], 3));
        assert!(lengthened(b"\x30\x03\0\x01t", REMAINING_MAX - 3).is_some());
        assert!(lengthened(b"\x30\x03\0\x01t", REMAINING_MAX - 2).is_none());
    }
}
