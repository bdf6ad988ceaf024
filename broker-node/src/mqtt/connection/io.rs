//! Reading and writing at once, without a buffer for an idle connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Most bytes taken from the socket at once. They live on the stack of the poll: an idle connection holds no buffer,
/// and a received message keeps alive what it is made of, not a whole read buffer.
pub const READ_BYTES: usize = 32 << 10;
/// How long a closed connection is read so that the peer gets the last packets: a socket closed with unread bytes
/// is reset, which discards what was sent.
const LINGER: Duration = Duration::from_millis(1000);
const LINGER_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchanged {
    /// This many bytes were added to the buffer; 0 = the peer has closed.
    Read(usize),
    /// Some of the output went out, or all of it while nothing may be read.
    Wrote,
}

/// Writes what there is to write and reads what there is to read, whichever can be done first. Safe to cancel.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    output: &mut BytesMut,
    may_read: bool,
) -> io::Result<Exchanged> {
    std::future::poll_fn(|context| {
        let wrote = poll_write(stream, output, context)?;
        if may_read && let Poll::Ready(read) = poll_read(stream, input, context) {
            return Poll::Ready(read.map(Exchanged::Read));
        }
        // Whoever may read and has said everything has nothing to do before it hears something.
        let heard = may_read && output.is_empty();
        if wrote && !heard { Poll::Ready(Ok(Exchanged::Wrote)) } else { Poll::Pending }
    })
    .await
}

fn poll_write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    output: &mut BytesMut,
    context: &mut Context<'_>,
) -> io::Result<bool> {
    let mut wrote = false;
    while !output.is_empty() {
        match Pin::new(&mut *stream).poll_write(context, output) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(bytes)) => {
                output.advance(bytes);
                wrote = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(wrote),
        }
    }
    if wrote {
        // The memory of a burst is not kept.
        *output = BytesMut::new();
        if let Poll::Ready(Err(error)) = Pin::new(stream).poll_flush(context) {
            return Err(error);
        }
    }
    Ok(wrote)
}

fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    input: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut bytes = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES];
    let mut buffer = ReadBuf::uninit(&mut bytes);
    match Pin::new(stream).poll_read(context, &mut buffer) {
        Poll::Ready(Ok(())) => {
            input.extend_from_slice(buffer.filled());
            Poll::Ready(Ok(buffer.filled().len()))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// Ends the sending side and waits for the peer to end its own, for a bounded time and number of bytes.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let drain = async {
        let mut discarded = 0;
        let mut bytes = vec![0; 4 << 10];
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            discarded += count;
            if discarded > LINGER_BYTES_MAX {
                break;
            }
        }
    };
    // A peer that does not close by itself has had its time.
    let _ = tokio::time::timeout(LINGER, drain).await;
}
