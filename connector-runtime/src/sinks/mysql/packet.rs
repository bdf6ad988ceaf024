//! Packets of the MySQL protocol: what goes over the wire, in both directions, before it means anything.
//!
//! ```text
//! length (3 bytes) | sequence (1 byte) | content        content of 2^24 - 1 bytes: the next packet continues it
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use mysql_common::proto::codec::packet_to_chunks;
use tokio::io::{AsyncRead, AsyncReadExt};

const HEADER_BYTES: usize = 4;
/// A packet of this length is continued by the next one.
const CONTINUED: usize = 0xff_ffff;
/// Nothing that is asked for here has a long answer; whoever sends more is no MySQL server.
const PACKET_BYTES_MAX: usize = 16 << 20;
/// Room for what one read may bring.
const READ_BYTES: usize = 16 << 10;

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;

/// Reads the next packet, and gives its sequence number and its content. `buffer` holds what came behind it.
pub(super) async fn read_packet<R>(stream: &mut R, buffer: &mut BytesMut) -> io::Result<(u8, Bytes)>
where
    R: AsyncRead + Unpin,
{
    let mut whole = BytesMut::new();
    loop {
        fill(stream, buffer, HEADER_BYTES).await?;
        let length = usize::from(buffer[0]) | usize::from(buffer[1]) << 8 | usize::from(buffer[2]) << 16;
        let sequence = buffer[3];
        if whole.len() + length > PACKET_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server's answer is too long"));
        }
        fill(stream, buffer, HEADER_BYTES + length).await?;
        buffer.advance(HEADER_BYTES);
        let part = buffer.split_to(length);
        if whole.is_empty() && length < CONTINUED {
            return Ok((sequence, part.freeze()));
        }
        whole.extend_from_slice(&part);
        if length < CONTINUED {
            return Ok((sequence, whole.freeze()));
        }
    }
}

async fn fill<R: AsyncRead + Unpin>(stream: &mut R, buffer: &mut BytesMut, length: usize) -> io::Result<()> {
    while buffer.len() < length {
        buffer.reserve(READ_BYTES.max(length - buffer.len()));
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed the connection"));
        }
    }
    Ok(())
}

/// Appends the packets of one content.
pub(super) fn put_packet(sequence: u8, content: &[u8], out: &mut BytesMut) {
    packet_to_chunks(sequence, &mut &*content, out);
}

/// A statement as text.
pub(super) fn put_query(sql: &str, out: &mut BytesMut) {
    put_command(COM_QUERY, sql.as_bytes(), out);
}

pub(super) fn put_prepare(sql: &str, out: &mut BytesMut) {
    put_command(COM_STMT_PREPARE, sql.as_bytes(), out);
}

pub(super) fn put_quit(out: &mut BytesMut) {
    put_command(COM_QUIT, &[], out);
}

fn put_command(command: u8, argument: &[u8], out: &mut BytesMut) {
    let mut content = Vec::with_capacity(1 + argument.len());
    content.push(command);
    content.extend_from_slice(argument);
    put_packet(0, &content, out);
}

/// What goes before the values of an execution: command, statement, flags, iterations, nulls, types.
const EXECUTE_HEAD_BYTES: usize = 1 + 4 + 1 + 4;
/// Types are given with each execution: a value's type may be another one in the next row.
const NEW_TYPES: u8 = 1;

/// Length of the content of an execution with so many parameters and so many bytes of values.
pub(super) fn execute_bytes(parameters: usize, values: usize) -> usize {
    EXECUTE_HEAD_BYTES + parameters.div_ceil(8) + 1 + 2 * parameters + values
}

/// Executes a statement that was prepared. None of the values is NULL; `types` has two bytes for each of them.
pub(super) fn put_execute<'a>(
    statement: u32,
    types: impl Iterator<Item = &'a [u8]> + Clone,
    values: impl Iterator<Item = &'a [u8]> + Clone,
    out: &mut BytesMut,
) {
    let parameters = types.clone().map(<[u8]>::len).sum::<usize>() / 2;
    let length = execute_bytes(parameters, values.clone().map(<[u8]>::len).sum());
    let mut content = BytesMut::with_capacity(length);
    content.put_u8(COM_STMT_EXECUTE);
    content.put_u32_le(statement);
    // No cursor, one iteration.
    content.put_u8(0);
    content.put_u32_le(1);
    content.put_bytes(0, parameters.div_ceil(8));
    content.put_u8(NEW_TYPES);
    types.for_each(|types| content.put_slice(types));
    values.for_each(|values| content.put_slice(values));
    put_packet(0, &content, out);
}

/// A length, and what it is the length of.
pub(super) fn put_text(value: &[u8], out: &mut BytesMut) {
    match value.len() {
        length @ 0..=0xfa => out.put_u8(length as u8),
        length @ 0xfb..=0xffff => {
            out.put_u8(0xfc);
            out.put_u16_le(length as u16);
        }
        length @ 0x1_0000..=0xff_ffff => {
            out.put_u8(0xfd);
            out.put_uint_le(length as u64, 3);
        }
        length => {
            out.put_u8(0xfe);
            out.put_u64_le(length as u64);
        }
    }
    out.put_slice(value);
}

/// Takes a number of variable length; `None` when there is none (or NULL, where a text would stand).
pub(super) fn take_number(packet: &mut Bytes) -> Option<u64> {
    let width = match *packet.first()? {
        0xfb | 0xff => return None,
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        small => {
            packet.advance(1);
            return Some(small.into());
        }
    };
    if packet.len() <= width {
        return None;
    }
    packet.advance(1);
    Some(packet.get_uint_le(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_as_they_are_read() {
        for length in [0, 1, 0xfa, 0xfb, 0xff, 0x100, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000] {
            let mut out = BytesMut::new();
            put_text(&vec![b'x'; length], &mut out);
            let mut read = out.freeze();
            assert_eq!(take_number(&mut read), Some(length as u64));
            assert_eq!(read.len(), length);
        }
        for none in [&b""[..], b"\xfb", b"\xff", b"\xfc\x01", b"\xfe\x01\x02"] {
            assert_eq!(take_number(&mut Bytes::copy_from_slice(none)), None, "{none:?}");
        }
    }

    #[tokio::test]
    async fn a_content_of_several_packets_is_read_as_one() {
        for length in [0, 5, CONTINUED - 1, CONTINUED, CONTINUED + 3] {
            let content: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut out = BytesMut::new();
            put_packet(7, &content, &mut out);
            put_packet(0, b"behind", &mut out);
            let (mut stream, mut buffer) = (&out[..], BytesMut::new());
            if content.len() > PACKET_BYTES_MAX {
                read_packet(&mut stream, &mut buffer).await.expect_err("is too long");
                continue;
            }
            let (_, read) = read_packet(&mut stream, &mut buffer).await.expect("reads");
            assert!(read == content, "{length}");
            let (sequence, behind) = read_packet(&mut stream, &mut buffer).await.expect("reads");
            assert_eq!((sequence, &*behind), (0, &b"behind"[..]));
        }
    }
}
