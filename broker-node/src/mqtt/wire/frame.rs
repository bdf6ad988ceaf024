//! Packet boundaries and the checks that need the raw bytes.

use super::{Reason, Version, WireError};

pub const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const PINGREQ: u8 = 0xC0;
const DISCONNECT: u8 = 0xE0;
/// Bytes of a length field at most.
const LENGTH_BYTES_MAX: usize = 4;

/// The whole size of the packet at the head of `buffer`, fixed header included; `None` = the header is not complete.
pub fn frame_bytes(buffer: &[u8], bytes_max: usize) -> Result<Option<usize>, WireError> {
    let Some((length, header_bytes)) = remaining_length(buffer)? else { return Ok(None) };
    let total = header_bytes + length;
    if total > bytes_max { Err(WireError(Reason::PacketTooLarge)) } else { Ok(Some(total)) }
}

/// The remaining length and the size of the fixed header before it.
pub fn remaining_length(buffer: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let Some(rest) = buffer.get(1..) else { return Ok(None) };
    match variable_length(rest)? {
        Some((length, bytes)) => Ok(Some((length, bytes + 1))),
        None => Ok(None),
    }
}

/// A variable byte integer and how many bytes it took.
pub fn variable_length(buffer: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut value = 0;
    for (index, byte) in buffer.iter().take(LENGTH_BYTES_MAX).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if buffer.len() >= LENGTH_BYTES_MAX { Err(WireError(Reason::MalformedPacket)) } else { Ok(None) }
}

/// Refuses what the codec lets pass and does not hand on.
pub fn check_raw(frame: &[u8], version: Version) -> Result<(), WireError> {
    const MALFORMED: Result<(), WireError> = Err(WireError(Reason::MalformedPacket));
    let Some((length, header_bytes)) = remaining_length(frame)? else { return MALFORMED };
    let first = frame[0];
    let old = version != Version::V5;
    match first {
        PINGREQ if length != 0 => MALFORMED,
        DISCONNECT if old && length != 0 => MALFORMED,
        // A message of QoS 0 is never a repeat.
        _ if first & 0xF0 == PUBLISH && first & 0b0110 == 0 && first & 0b1000 != 0 => MALFORMED,
        SUBSCRIBE if old && !subscribe_options_are_plain(&frame[header_bytes..]) => MALFORMED,
        _ => Ok(()),
    }
}

/// In version 3 the byte after each filter holds a QoS and nothing else.
fn subscribe_options_are_plain(body: &[u8]) -> bool {
    let Some(mut rest) = body.get(2..) else { return false };
    while !rest.is_empty() {
        let Some(after) = skip_field(rest) else { return false };
        match after.split_first() {
            Some((options, next)) if *options <= 2 => rest = next,
            Some(_) | None => return false,
        }
    }
    true
}

/// Skips a field with a 16-bit length.
pub fn skip_field(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.get(usize::from(u16::from_be_bytes(*length))..)
}

/// Skips a property block of MQTT 5.
pub fn skip_properties(bytes: &[u8]) -> Option<&[u8]> {
    let (length, taken) = variable_length(bytes).ok()??;
    bytes.get(taken + length..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_alone_tells_the_size() {
        for (bytes, expect) in [
            (&b""[..], Ok(None)),
            (b"\x30", Ok(None)),
            (b"\x30\x05", Ok(Some(7))),
            (b"\x30\x80", Ok(None)),
            (b"\x30\x80\x01", Ok(Some(131))),
            (b"\x30\xff\xff\xff\x7f", Err(WireError(Reason::PacketTooLarge))),
            (b"\x30\xff\xff\xff\xff", Err(WireError(Reason::MalformedPacket))),
            (b"\x30\x80\x08", Err(WireError(Reason::PacketTooLarge))),
        ] {
            assert_eq!(frame_bytes(bytes, 1000), expect, "{bytes:02x?}");
        }
    }

    #[test]
    fn raw_bytes_that_the_codec_would_accept_are_refused() {
        for (frame, version, fine) in [
            (&b"\xc0\x00"[..], Version::V311, true),
            (b"\xc0\x01\x00", Version::V311, false),
            (b"\xe0\x01\x00", Version::V311, false),
            (b"\xe0\x01\x00", Version::V5, true),
            (b"\x38\x03\x00\x01a", Version::V311, false),
            (b"\x3a\x05\x00\x01a\x00\x01", Version::V311, true),
            (b"\x82\x06\x00\x01\x00\x01a\x01", Version::V311, true),
            (b"\x82\x06\x00\x01\x00\x01a\x05", Version::V311, false),
            (b"\x82\x06\x00\x01\x00\x05a\x01", Version::V311, false),
        ] {
            assert_eq!(check_raw(frame, version).is_ok(), fine, "{frame:02x?} {version:?}");
        }
    }
}
