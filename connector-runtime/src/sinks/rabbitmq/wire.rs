//! Frames of AMQP 0-9-1, from bytes and to bytes.
//!
//! ```text
//!   type (1) channel (2) size (4) | payload (size) | 0xce
//! ```

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, GenError, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::constants::{FRAME_BODY, FRAME_END};
use amq_protocol::protocol::{AMQPClass, basic};
use bytes::{BufMut, Bytes, BytesMut};

/// "I speak AMQP 0-9-1."
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\0\0\x09\x01";
/// Of every frame, beside its payload.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 8;
/// Type, channel and size.
const FRAME_HEADER_BYTES: usize = 7;
const CHANNEL_AT: usize = 1;
const SIZE_AT: usize = 3;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// A server that speaks another version says so with its own protocol header.
    #[error("the server does not speak AMQP 0-9-1")]
    OtherProtocol,
    #[error("the server sent a frame of {bytes} bytes, and at most {bytes_max} are agreed")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("the server sent a frame that cannot be read")]
    Unreadable,
    #[error("a method cannot be written")]
    Unwritable(#[source] GenError),
}

/// The next whole frame, if there is one.
pub(super) fn decode(inbox: &mut BytesMut, frame_bytes_max: usize) -> Result<Option<AMQPFrame>, WireError> {
    if inbox.first() == Some(&PROTOCOL_HEADER[0]) {
        return Err(WireError::OtherProtocol);
    }
    let Some(size) = inbox.get(SIZE_AT..FRAME_HEADER_BYTES) else { return Ok(None) };
    let size = size.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
    let bytes = size + FRAME_OVERHEAD_BYTES;
    if bytes > frame_bytes_max {
        return Err(WireError::TooLarge { bytes, bytes_max: frame_bytes_max });
    }
    if inbox.len() < bytes {
        inbox.reserve(bytes - inbox.len());
        return Ok(None);
    }
    let whole = inbox.split_to(bytes);
    // The parser's own error holds the bytes that it could not read.
    let (_, frame) = parse_frame(&whole[..]).map_err(|_| WireError::Unreadable)?;
    Ok(Some(frame))
}

pub(super) fn method(channel: u16, method: AMQPClass, out: &mut BytesMut) -> Result<(), WireError> {
    out.extend_from_slice(&encode(&AMQPFrame::Method(channel, method))?);
    Ok(())
}

pub(super) fn heartbeat(out: &mut BytesMut) {
    out.extend_from_slice(&[8, 0, 0, 0, 0, 0, 0, FRAME_END]);
}

/// A message without its body, for any channel.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// The method, and behind it the properties.
    frames: Bytes,
    properties_at: usize,
}

impl Head {
    pub(super) fn new(publish: basic::Publish, properties: AMQPContentHeader) -> Result<Self, WireError> {
        let publish = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        let mut frames = encode(&AMQPFrame::Method(0, publish))?;
        let properties_at = frames.len();
        frames.extend_from_slice(&encode(&AMQPFrame::Header(0, properties))?);
        Ok(Self { frames: frames.into(), properties_at })
    }

    /// The properties are one frame, however large they are.
    pub(super) fn largest_frame_bytes(&self) -> usize {
        self.properties_at.max(self.frames.len() - self.properties_at)
    }

    pub(super) fn bytes(&self) -> usize {
        self.frames.len()
    }

    pub(super) fn write(&self, channel: u16, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.frames);
        for frame in [start, start + self.properties_at] {
            out[frame + CHANNEL_AT..frame + SIZE_AT].copy_from_slice(&channel.to_be_bytes());
        }
    }
}

/// The body of a message, in as many frames as it takes.
pub(super) fn body(channel: u16, body: &[u8], frame_bytes_max: usize, out: &mut BytesMut) {
    for part in body.chunks(frame_bytes_max - FRAME_OVERHEAD_BYTES) {
        out.put_u8(FRAME_BODY);
        out.put_u16(channel);
        out.put_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.put_slice(part);
        out.put_u8(FRAME_END);
    }
}

fn encode(frame: &AMQPFrame) -> Result<Vec<u8>, WireError> {
    let written = gen_frame(frame)(WriteContext::from(Vec::new())).map_err(WireError::Unwritable)?;
    Ok(written.into_inner().0)
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::{BasicProperties, connection};

    use super::*;

    const FRAME_BYTES_MAX: usize = 4_096;

    #[test]
    fn frames_come_out_whole_however_they_come_in() {
        let blocked = connection::AMQPMethod::Blocked(connection::Blocked { reason: "low on memory".into() });
        let blocked = AMQPClass::Connection(blocked);
        let mut bytes = BytesMut::new();
        method(0, blocked.clone(), &mut bytes).expect("can be written");
        heartbeat(&mut bytes);
        body(7, b"abc", FRAME_BYTES_MAX, &mut bytes);
        let mut inbox = BytesMut::new();
        let mut frames = Vec::new();
        for byte in bytes {
            inbox.put_u8(byte);
            frames.extend(decode(&mut inbox, FRAME_BYTES_MAX).expect("can be read"));
        }
        let expect = [AMQPFrame::Method(0, blocked), AMQPFrame::Heartbeat, AMQPFrame::Body(7, b"abc".to_vec())];
        assert_eq!(frames, expect);
        assert!(inbox.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_told_from_what_is_none_yet() {
        let decode = |bytes: &[u8]| decode(&mut BytesMut::from(bytes), FRAME_BYTES_MAX);
        assert!(matches!(decode(b""), Ok(None)));
        assert!(matches!(decode(PROTOCOL_HEADER), Err(WireError::OtherProtocol)));
        assert!(matches!(decode(b"HTTP/1.1 400 Bad Request\r\n"), Err(WireError::TooLarge { .. })));
        // The last byte is not the end of a frame.
        assert!(matches!(decode(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(WireError::Unreadable)));
        // Class 9 does not exist.
        assert!(matches!(decode(&[1, 0, 0, 0, 0, 0, 4, 0, 9, 0, 9, FRAME_END]), Err(WireError::Unreadable)));
        assert!(matches!(decode(&[3, 0, 1, 0, 0, 0x0f, 0xf8]), Ok(None)));
        let too_large = decode(&[3, 0, 1, 0, 0, 0x0f, 0xf9]);
        assert!(matches!(too_large, Err(WireError::TooLarge { bytes: 4_097, bytes_max: 4_096 })));
    }

    #[test]
    fn a_message_goes_to_the_channel_that_is_chosen_last() {
        let publish =
            basic::Publish { exchange: "e".into(), routing_key: "k".into(), mandatory: true, immediate: false };
        let properties = BasicProperties::default().with_message_id("1-2-3".into());
        let payload = vec![7; 2 * FRAME_BYTES_MAX];
        let header = AMQPContentHeader { class_id: 60, body_size: payload.len() as u64, properties };
        let head = Head::new(publish.clone(), header.clone()).expect("can be written");
        let mut bytes = BytesMut::new();
        head.write(0x0102, &mut bytes);
        assert_eq!(bytes.len(), head.bytes());
        body(0x0102, &payload, FRAME_BYTES_MAX, &mut bytes);
        let mut next = || decode(&mut bytes, FRAME_BYTES_MAX).expect("can be read").expect("is whole");
        let method = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
        assert_eq!(next(), AMQPFrame::Method(0x0102, method));
        assert_eq!(next(), AMQPFrame::Header(0x0102, header));
        let mut arrived = Vec::new();
        while arrived.len() < payload.len() {
            match next() {
                AMQPFrame::Body(0x0102, part) => arrived.extend(part),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(arrived, payload);
    }
}
