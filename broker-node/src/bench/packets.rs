//! The few MQTT packets that a load generator sends and understands, encoded once and patched in place.
//!
//! A payload is JSON of a fixed length: `{"sent_us":…,"number":…,"pad":"xxx…"}`, with more members before the last one
//! where somebody asks for them. Both numbers have a fixed number of
//! digits, so that a packet is written by copying it and overwriting the packet id and the digits.

use super::BenchError;

/// Microseconds since the Unix epoch have 16 digits from 2001 to 2286.
const STAMP_DIGITS: usize = 16;
/// Numbers begin here, so that each has ten digits.
pub const FIRST_NUMBER: u64 = 1_000_000_000;
const NUMBER_DIGITS: usize = 10;
const HEAD: &[u8] = b"{\"sent_us\":";
const MIDDLE: &[u8] = b",\"number\":";
const TAIL: &[u8] = b",\"pad\":\"";
const END: &[u8] = b"\"}";
/// Of a payload without padding.
const PAYLOAD_BYTES_MIN: usize = HEAD.len() + STAMP_DIGITS + MIDDLE.len() + NUMBER_DIGITS + TAIL.len() + END.len();

pub const DISCONNECT: [u8; 2] = [0xe0, 0];
pub const CONNACK: u8 = 0x20;
pub const PUBACK: u8 = 0x40;

pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a str,
}

/// CONNECT, clean, without a keep alive.
pub fn connect(client_id: &str, v5: bool, login: Option<&Login<'_>>) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.push(if v5 { 5 } else { 4 });
    body.push(0x02 | if login.is_some() { 0xc0 } else { 0 });
    body.extend_from_slice(&[0, 0]);
    if v5 {
        body.push(0);
    }
    put_text(&mut body, client_id);
    if let Some(login) = login {
        put_text(&mut body, login.user);
        put_text(&mut body, login.password);
    }
    packet(0x10, &body)
}

/// One PUBLISH of QoS 1, to be copied and patched.
pub struct PublishTemplate {
    bytes: Vec<u8>,
    id_at: usize,
    stamp_at: usize,
    number_at: usize,
}

impl PublishTemplate {
    /// `members` are JSON without the braces, such as `"metric":"m"`; mostly there are none.
    pub fn new(topic: &str, payload_bytes: usize, members: &str, v5: bool) -> Result<Self, BenchError> {
        let members = if members.is_empty() { String::new() } else { format!(",{members}") };
        let least = PAYLOAD_BYTES_MIN + members.len();
        let padding = payload_bytes.checked_sub(least).ok_or(BenchError::PayloadTooSmall(least))?;
        let mut body = Vec::new();
        put_text(&mut body, topic);
        let id_at = body.len();
        body.extend_from_slice(&[0, 0]);
        if v5 {
            body.push(0);
        }
        body.extend_from_slice(HEAD);
        let stamp_at = body.len();
        body.extend_from_slice(&[b'0'; STAMP_DIGITS]);
        body.extend_from_slice(MIDDLE);
        let number_at = body.len();
        body.extend_from_slice(&[b'0'; NUMBER_DIGITS]);
        body.extend_from_slice(members.as_bytes());
        body.extend_from_slice(TAIL);
        body.extend(std::iter::repeat_n(b'x', padding));
        body.extend_from_slice(END);
        let bytes = packet(0x32, &body);
        let header = bytes.len() - body.len();
        Ok(Self { bytes, id_at: header + id_at, stamp_at: header + stamp_at, number_at: header + number_at })
    }

    /// Appends the packet of one message.
    pub fn append(&self, output: &mut Vec<u8>, id: u16, sent_us: u64, number: u64) {
        let start = output.len();
        output.extend_from_slice(&self.bytes);
        let packet = &mut output[start..];
        packet[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
        put_digits(&mut packet[self.stamp_at..self.stamp_at + STAMP_DIGITS], sent_us);
        put_digits(&mut packet[self.number_at..self.number_at + NUMBER_DIGITS], FIRST_NUMBER + number);
    }
}

/// The time of publishing in the first payload of a text, whether it stands there as it is or as JSON in JSON.
pub fn sent_us(line: &str) -> Option<u64> {
    let after = line.split_once("sent_us")?.1.trim_start_matches(['"', '\\', ':', ' ']);
    let digits = after.find(|character: char| !character.is_ascii_digit()).unwrap_or(after.len());
    after[..digits].parse().ok()
}

/// The packets that a broker sends to a client that only publishes, one after the other.
pub struct Received<'a> {
    pub kind: u8,
    pub body: &'a [u8],
    /// Of the whole packet.
    pub bytes: usize,
}

/// The first packet of `input`, once it is whole. Only short ones come to a publisher.
pub fn first(input: &[u8]) -> Option<Received<'_>> {
    let (kind, length) = (*input.first()?, usize::from(*input.get(1)?));
    if length < 0x80 {
        let body = input.get(2..2 + length)?;
        return Some(Received { kind, body, bytes: 2 + length });
    }
    let length = (length & 0x7f) | usize::from(*input.get(2)?) << 7;
    let body = input.get(3..3 + length)?;
    Some(Received { kind, body, bytes: 3 + length })
}

fn put_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut left = body.len();
    loop {
        let more = left >= 0x80;
        bytes.push((left & 0x7f) as u8 | if more { 0x80 } else { 0 });
        left >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rmqtt_codec::v3;
    use tokio_util::codec::Decoder;

    use super::*;

    /// What another implementation reads.
    fn decoded(bytes: &[u8]) -> v3::Packet {
        let mut bytes = BytesMut::from(bytes);
        let (packet, _) = v3::Codec::new(1 << 20).decode(&mut bytes).expect("well formed").expect("whole");
        assert!(bytes.is_empty());
        packet
    }

    #[test]
    fn a_patched_packet_is_a_publish_with_a_json_payload_of_the_length_asked_for() {
        for payload_bytes in [PAYLOAD_BYTES_MIN, 256, 20_000] {
            let template = PublishTemplate::new("a/b", payload_bytes, "", false).expect("large enough");
            let mut bytes = Vec::new();
            template.append(&mut bytes, 513, 1_700_000_000_123_456, 17);
            let v3::Packet::Publish(publish) = decoded(&bytes) else { panic!("no publish") };
            assert_eq!((publish.topic.as_ref(), publish.packet_id.map(u16::from)), ("a/b", Some(513)));
            assert_eq!(publish.payload.len(), payload_bytes);
            let payload: serde_json::Value = serde_json::from_slice(&publish.payload).expect("JSON");
            assert_eq!(payload["sent_us"], 1_700_000_000_123_456_u64);
            assert_eq!(payload["number"], FIRST_NUMBER + 17);
        }
        assert!(PublishTemplate::new("a/b", PAYLOAD_BYTES_MIN - 1, "", false).is_err());
    }

    #[test]
    fn more_members_take_of_the_padding() {
        let members = "\"metric\":\"m\",\"site\":7";
        let template = PublishTemplate::new("a/b", 256, members, false).expect("large enough");
        let mut bytes = Vec::new();
        template.append(&mut bytes, 1, 1_700_000_000_123_456, 0);
        let v3::Packet::Publish(publish) = decoded(&bytes) else { panic!("no publish") };
        let payload: serde_json::Value = serde_json::from_slice(&publish.payload).expect("JSON");
        assert_eq!((publish.payload.len(), &payload["metric"], &payload["site"]), (256, &"m".into(), &7.into()));
        assert!(PublishTemplate::new("a/b", PAYLOAD_BYTES_MIN + members.len(), members, false).is_err());
    }

    #[test]
    fn a_connect_carries_the_login() {
        let login = Login { user: "u", password: "p" };
        let v3::Packet::Connect(connect) = decoded(&connect("c-1", false, Some(&login))) else { panic!("no connect") };
        assert_eq!((connect.client_id.as_ref(), connect.username.as_deref()), ("c-1", Some("u")));
        assert_eq!((connect.password.as_deref(), connect.keep_alive), (Some(b"p".as_ref()), 0));
    }

    #[test]
    fn stamps_are_found_in_an_envelope_and_in_quoted_json() {
        for line in ["{\"payload\":{\"sent_us\":12,\"x\":1}}", "{\"payload\":\"{\\\"sent_us\\\":12,\\\"x\\\":1}\"}"] {
            assert_eq!(sent_us(line), Some(12), "{line}");
        }
        assert_eq!(sent_us("{}"), None);
    }

    #[test]
    fn packets_are_told_apart_at_their_lengths() {
        let input = [PUBACK, 2, 0, 7, PUBACK, 3, 0, 8];
        let packet = first(&input).expect("whole");
        assert_eq!((packet.kind, packet.body, packet.bytes), (PUBACK, [0, 7].as_slice(), 4));
        assert!(first(&input[4..]).is_none(), "a byte is missing");
        let long = [vec![CONNACK, 0x80, 1], vec![0; 128]].concat();
        assert_eq!(first(&long).map(|packet| (packet.body.len(), packet.bytes)), Some((128, 131)));
    }
}
