//! Replies as ASCII: what a server repeats in an error may be any bytes, and the parser gives up a connection over them.
//!
//! ```text
//! socket ──► AsciiLines: `-…` and `+…` ──► each byte that is not ASCII becomes `?`
//!                        everything else ──► as it is
//! ```
//!
//! This knows of RESP2 what it takes to tell lines from bulk strings.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

pub(super) struct AsciiLines<R> {
    reader: R,
    lines: Lines,
}

impl<R> AsciiLines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, lines: Lines { state: State::Type, last: 0 } }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for AsciiLines<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { reader, lines } = self.get_mut();
        let known = buffer.filled().len();
        ready!(Pin::new(reader).poll_read(cx, buffer))?;
        for byte in buffer.filled_mut().iter_mut().skip(known) {
            *byte = lines.pass(*byte);
        }
        Poll::Ready(Ok(()))
    }
}

struct Lines {
    state: State,
    /// The byte before: a line ends with two.
    last: u8,
}

/// Where the next byte stands.
#[derive(Clone, Copy)]
enum State {
    /// At the begin of a reply, or of a part of an array.
    Type,
    /// In the words of a status or an error.
    Words,
    /// In any other line: a number, the length of an array, a bulk string that there is none of.
    Plain,
    /// In the length of a bulk string, which is this so far.
    Length(u64),
    /// In a bulk string of which so many bytes are left, with its line end.
    Bulk(u64),
}

impl Lines {
    fn pass(&mut self, byte: u8) -> u8 {
        let ends = self.last == b'\r' && byte == b'\n';
        self.last = byte;
        let is_words = matches!(self.state, State::Words);
        self.state = match self.state {
            State::Type => match byte {
                b'+' | b'-' => State::Words,
                b'$' => State::Length(0),
                _ => State::Plain,
            },
            State::Length(length) if ends => State::Bulk(length.saturating_add(2)),
            State::Length(length) => match byte {
                b'0'..=b'9' => State::Length(length.saturating_mul(10).saturating_add(u64::from(byte - b'0'))),
                b'\r' => State::Length(length),
                _ => State::Plain,
            },
            State::Words | State::Plain if ends => State::Type,
            State::Words => State::Words,
            State::Plain => State::Plain,
            State::Bulk(left) if left > 1 => State::Bulk(left - 1),
            State::Bulk(_) => State::Type,
        };
        if is_words && !byte.is_ascii() { b'?' } else { byte }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// What comes out, with the input cut in two at every position.
    async fn check(input: &[u8], expect: &[u8]) {
        for at in 0..=input.len() {
            let (first, second) = input.split_at(at);
            let mut passed = Vec::new();
            let mut reader = AsciiLines::new(first.chain(second));
            reader.read_to_end(&mut passed).await.expect("reads");
            assert_eq!(passed, expect, "{} cut at {at}", input.escape_ascii());
        }
    }

    #[tokio::test]
    async fn words_become_ascii_and_keep_their_length() {
        check(b"-ERR bad \xff\xfe\x80 value\r\n", b"-ERR bad ??? value\r\n").await;
        check("+größer\r\n:1\r\n".as_bytes(), b"+gr????er\r\n:1\r\n").await;
        check(b"-ERR a\rb\nc \xff\r\n-\xff\r\n", b"-ERR a\rb\nc ?\r\n-?\r\n").await;
    }

    #[tokio::test]
    async fn bulk_strings_pass_as_they_are() {
        for input in [
            &b"$3\r\n\xff\xfe\x80\r\n"[..],
            b"$8\r\na\r\n-\xff\r\n+\r\n:5\r\n",
            b"$0\r\n\r\n$-1\r\n$2\r\n-\xff\r\n",
            b"$12\r\n$3\r\n+\xff\xff\r\n-\xff\xff\r\n",
        ] {
            check(input, input).await;
        }
    }

    #[tokio::test]
    async fn arrays_hold_both() {
        check(
            b"*3\r\n*2\r\n$2\r\n-\xff\r\n-ERR \xff\r\n*-1\r\n*0\r\n$1\r\n\xff\r\n+\xff\r\n",
            b"*3\r\n*2\r\n$2\r\n-\xff\r\n-ERR ?\r\n*-1\r\n*0\r\n$1\r\n\xff\r\n+?\r\n",
        )
        .await;
    }
}
