//! The first packet of a connection, which decides the version.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder;

use super::frame::{self, skip_field, skip_properties};
use super::{Codec, Properties, Reason, Version, Wire, decode};

const FLAG_RESERVED: u8 = 0x01;
const FLAG_CLEAN: u8 = 0x02;
const FLAG_WILL: u8 = 0x04;
const FLAGS_WILL_QOS: u8 = 0x18;
const FLAG_WILL_RETAIN: u8 = 0x20;
const FLAG_PASSWORD: u8 = 0x40;
const FLAG_USER_NAME: u8 = 0x80;
/// What the length field can say, less a margin for the fields around a payload: the codec panics beyond it.
const PEER_PACKET_BYTES_MAX: usize = 0x0FFF_FFFF - 64;

#[derive(Debug)]
pub struct Connect {
    pub client_id: ByteString,
    pub clean: bool,
    pub keep_alive_secs: u16,
    pub username: Option<ByteString>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// How many QoS 1 messages the client takes unacknowledged; `None` = it did not say.
    pub receive_max: Option<NonZeroU16>,
    pub session_expiry_secs: u32,
}

#[derive(Debug)]
pub struct Will {
    pub qos: u8,
    pub retain: bool,
    pub topic: ByteString,
    pub payload: Bytes,
    pub properties: Properties,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Not a client that would understand an answer.
    Close(Reason),
    /// Answer with a CONNACK of this version, then close.
    Refuse(Version, Reason),
}

/// Takes a CONNECT of at most `bytes_max` off the buffer; `None` = more bytes are needed.
pub fn decode_connect(
    buffer: &mut BytesMut,
    bytes_max: usize,
) -> Result<Option<(Wire, Connect)>, ConnectFailure> {
    let close = |reason| ConnectFailure::Close(reason);
    if buffer.first().is_some_and(|first| *first != frame::CONNECT) {
        return Err(close(Reason::ProtocolError));
    }
    let Some(total) = frame::frame_bytes(buffer, bytes_max).map_err(|error| close(error.0))? else { return Ok(None) };
    if buffer.len() < total {
        return Ok(None);
    }
    let Some((_, header_bytes)) = frame::remaining_length(buffer).map_err(|error| close(error.0))? else {
        return Ok(None);
    };
    let (version, flags_at) = version(&buffer[header_bytes..total])?;
    check_flags(&buffer[header_bytes..total], flags_at, version)?;
    match version {
        Version::V31 | Version::V311 => decode_v3(buffer, version).map(Some),
        Version::V5 => {
            // Every session is new, so the flag changes nothing here; without it the codec refuses an empty client id,
            // for which MQTT 5 lets the broker assign one.
            buffer[header_bytes + flags_at] |= FLAG_CLEAN;
            decode_v5(buffer).map(Some)
        }
    }
}

/// The version, and where the flags are.
fn version(body: &[u8]) -> Result<(Version, usize), ConnectFailure> {
    let (name, rest) = body
        .split_first_chunk::<2>()
        .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))))
        .ok_or(ConnectFailure::Close(Reason::MalformedPacket))?;
    let level = rest.first().copied();
    let version = match (name, level) {
        (b"MQIsdp", Some(3)) => Version::V31,
        (b"MQTT", Some(4)) => Version::V311,
        (b"MQTT", Some(5)) => Version::V5,
        // The form of this answer is the one that every client understands.
        (b"MQTT" | b"MQIsdp", Some(_)) => {
            return Err(ConnectFailure::Refuse(Version::V311, Reason::UnsupportedProtocolVersion));
        }
        (_, Some(_) | None) => return Err(ConnectFailure::Close(Reason::ProtocolError)),
    };
    Ok((version, 2 + name.len() + 1))
}

fn check_flags(body: &[u8], flags_at: usize, version: Version) -> Result<(), ConnectFailure> {
    let failure = match version {
        Version::V31 | Version::V311 => ConnectFailure::Close(Reason::MalformedPacket),
        Version::V5 => ConnectFailure::Refuse(version, Reason::MalformedPacket),
    };
    let Some(flags) = body.get(flags_at).copied() else { return Err(failure) };
    let will_parts = flags & (FLAGS_WILL_QOS | FLAG_WILL_RETAIN);
    let bad = flags & FLAG_RESERVED != 0
        || (flags & FLAG_WILL == 0 && will_parts != 0)
        || flags & FLAGS_WILL_QOS == FLAGS_WILL_QOS
        || (version != Version::V5 && flags & FLAG_PASSWORD != 0 && flags & FLAG_USER_NAME == 0);
    if bad || !ends_with_its_fields(&body[flags_at..], flags, version) { Err(failure) } else { Ok(()) }
}

/// Whether the packet holds the fields that its flags announce, and nothing after them.
fn ends_with_its_fields(from_flags: &[u8], flags: u8, version: Version) -> bool {
    let walk = || {
        let mut rest = from_flags.get(3..)?;
        if version == Version::V5 {
            rest = skip_properties(rest)?;
        }
        rest = skip_field(rest)?;
        if flags & FLAG_WILL != 0 {
            if version == Version::V5 {
                rest = skip_properties(rest)?;
            }
            rest = skip_field(skip_field(rest)?)?;
        }
        for flag in [FLAG_USER_NAME, FLAG_PASSWORD] {
            if flags & flag != 0 {
                rest = skip_field(rest)?;
            }
        }
        Some(rest.is_empty())
    };
    walk().unwrap_or(false)
}

fn decode_v3(buffer: &mut BytesMut, version: Version) -> Result<(Wire, Connect), ConnectFailure> {
    let mut codec = v3::Codec::new(0);
    let connect = match codec.decode(buffer) {
        Ok(Some((v3::Packet::Connect(connect), _))) => connect,
        Err(rmqtt_codec::error::DecodeError::InvalidClientId) => {
            return Err(ConnectFailure::Refuse(version, Reason::ClientIdNotValid));
        }
        Ok(_) | Err(_) => return Err(ConnectFailure::Close(Reason::MalformedPacket)),
    };
    let will = connect.last_will.map(|will| Will {
        qos: will.qos.value(),
        retain: will.retain,
        topic: will.topic,
        payload: will.message,
        properties: Properties::default(),
    });
    let connect = Connect {
        client_id: connect.client_id,
        clean: connect.clean_session,
        keep_alive_secs: connect.keep_alive,
        username: connect.username,
        password: connect.password,
        will,
        receive_max: None,
        session_expiry_secs: 0,
    };
    refuse_nul(&connect, version)?;
    let wire = Wire {
        version,
        codec: Codec::V3(codec),
        packet_bytes_max: PEER_PACKET_BYTES_MAX,
        peer_packet_bytes_max: PEER_PACKET_BYTES_MAX,
    };
    Ok((wire, connect))
}

fn decode_v5(buffer: &mut BytesMut) -> Result<(Wire, Connect), ConnectFailure> {
    let refuse = |reason| ConnectFailure::Refuse(Version::V5, reason);
    let mut codec = v5::Codec::new(0, 0);
    let connect = match codec.decode(buffer) {
        Ok(Some((v5::Packet::Connect(connect), _))) => connect,
        Ok(_) | Err(_) => return Err(refuse(Reason::MalformedPacket)),
    };
    if connect.auth_method.is_some() {
        return Err(refuse(Reason::BadAuthenticationMethod));
    }
    if connect.auth_data.is_some() {
        return Err(refuse(Reason::ProtocolError));
    }
    let will = connect.last_will.map(|will| Will {
        qos: will.qos.value(),
        retain: will.retain,
        topic: will.topic,
        payload: will.message,
        properties: Properties {
            utf8_payload: will.is_utf8_payload.unwrap_or(false),
            expiry_secs: will.message_expiry_interval,
            content_type: will.content_type,
            response_topic: will.response_topic,
            correlation_data: will.correlation_data,
            user: will.user_properties,
        },
    });
    let peer_packet_bytes_max = connect
        .max_packet_size
        .and_then(|bytes| usize::try_from(bytes.get()).ok())
        .map_or(PEER_PACKET_BYTES_MAX, |bytes| bytes.min(PEER_PACKET_BYTES_MAX));
    let connect = Connect {
        client_id: connect.client_id,
        clean: connect.clean_start,
        keep_alive_secs: connect.keep_alive,
        username: connect.username,
        password: connect.password,
        will,
        receive_max: connect.receive_max,
        session_expiry_secs: connect.session_expiry_interval_secs,
    };
    refuse_nul(&connect, Version::V5)?;
    let wire = Wire {
        version: Version::V5,
        codec: Codec::V5(codec),
        packet_bytes_max: PEER_PACKET_BYTES_MAX,
        peer_packet_bytes_max,
    };
    Ok((wire, connect))
}

fn refuse_nul(connect: &Connect, version: Version) -> Result<(), ConnectFailure> {
    if connect.client_id.contains('\0') {
        return Err(ConnectFailure::Refuse(version, Reason::ClientIdNotValid));
    }
    let will_is_clean = connect
        .will
        .as_ref()
        .is_none_or(|will| !will.topic.contains('\0') && decode::properties_are_clean(&will.properties));
    let name_is_clean = connect.username.as_ref().is_none_or(|name| !name.contains('\0'));
    if will_is_clean && name_is_clean {
        return Ok(());
    }
    match version {
        Version::V31 | Version::V311 => Err(ConnectFailure::Close(Reason::MalformedPacket)),
        Version::V5 => Err(ConnectFailure::Refuse(version, Reason::MalformedPacket)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expect: Result<Option<Version>, ConnectFailure>) {
        let mut buffer = BytesMut::from(bytes);
        let got = decode_connect(&mut buffer, 1000).map(|found| found.map(|(wire, _)| wire.version()));
        assert_eq!(got, expect, "{bytes:02x?}");
    }

    #[test]
    fn each_version_is_known_by_name_and_level() {
        check(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x00\x00\x01a", Ok(Some(Version::V31)));
        check(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a", Ok(Some(Version::V311)));
        check(b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a", Ok(Some(Version::V5)));
        check(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00", Ok(None));
        check(b"", Ok(None));
    }

    #[test]
    fn what_is_no_connect_is_refused() {
        let close = |reason| Err(ConnectFailure::Close(reason));
        let wrong_version = || Err(ConnectFailure::Refuse(Version::V311, Reason::UnsupportedProtocolVersion));
        check(b"GET / HTTP/1.1\r\n", close(Reason::ProtocolError));
        check(b"\x10\xff\xff\xff\x7f", close(Reason::PacketTooLarge));
        check(b"\x10\x0d\x00\x04MQTT\x03\x02\x00\x00\x00\x01a", wrong_version());
        check(b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x01a", wrong_version());
        check(b"\x10\x0f\x00\x06MQIsdp\x04\x02\x00\x00\x00\x01a", wrong_version());
        check(b"\x10\x0d\x00\x04HTTP\x04\x02\x00\x00\x00\x01a", close(Reason::ProtocolError));
        // Bytes after the last field, a reserved flag, a will QoS without a will, a password without a name.
        check(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x01ab", close(Reason::MalformedPacket));
        check(b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x00\x00\x01a", close(Reason::MalformedPacket));
        check(b"\x10\x0d\x00\x04MQTT\x04\x0a\x00\x00\x00\x01a", close(Reason::MalformedPacket));
        check(b"\x10\x10\x00\x04MQTT\x04\x42\x00\x00\x00\x01a\x00\x01b", close(Reason::MalformedPacket));
        let malformed = || Err(ConnectFailure::Refuse(Version::V5, Reason::MalformedPacket));
        check(b"\x10\x0e\x00\x04MQTT\x05\x0a\x00\x00\x00\x00\x01a", malformed());
        check(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01ab", malformed());
        check(
            b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00",
            Err(ConnectFailure::Refuse(Version::V311, Reason::ClientIdNotValid)),
        );
    }

    #[test]
    fn an_empty_client_id_needs_a_clean_session_before_mqtt_5() {
        let invalid = Err(ConnectFailure::Refuse(Version::V311, Reason::ClientIdNotValid));
        check(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x00\x00\x00", invalid);
        check(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", Ok(Some(Version::V311)));
        check(b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x00\x00\x00\x00", Ok(Some(Version::V5)));
    }
}
