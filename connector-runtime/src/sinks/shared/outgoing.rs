//! A socket of a sink that keeps connections for long: it misses a target that vanished, and it is silent as soon as its
//! sink is aborted.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// An idle connection is probed after this time, so that a target that vanished is missed before it is needed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// What the target's kernel has not acknowledged by then never arrives: the connection is over.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Sends nothing more once its sink was aborted, whoever still holds it and whatever is buffered above it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: TcpStream,
    aborted: CancellationToken,
}

impl Outgoing {
    pub(crate) fn new(stream: TcpStream, aborted: CancellationToken) -> io::Result<Self> {
        let outgoing = Self::patient(stream, aborted)?;
        SockRef::from(&outgoing.stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        Ok(outgoing)
    }

    /// For a target that may take nothing for long and is there: a window of zero counts as unacknowledged as well. The
    /// sink itself has to miss a target that vanished.
    pub(crate) fn patient(stream: TcpStream, aborted: CancellationToken) -> io::Result<Self> {
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&keepalive)?;
        Ok(Self { stream, aborted })
    }

    fn may_send(&self) -> io::Result<()> {
        if self.aborted.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the sink was aborted"));
        }
        Ok(())
    }
}

impl AsyncRead for Outgoing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.may_send()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.may_send()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
