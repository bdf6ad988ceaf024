//! From an accepted socket to a session: one CONNECT, judged, answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use super::connection::io::linger;
use super::hub::{Admission, Hub};
use super::subscriptions::{LEVELS_MAX, levels};
use super::wire::{Connect, ConnectFailure, Reason, Version, Wire, decode_connect, encode_refusal};

/// Largest CONNECT: will and credentials of a device are small, and whoever sends it has proved nothing yet.
const CONNECT_BYTES_MAX: usize = 64 << 10;
/// Time from the accepted socket to a complete CONNECT.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Every record carries its client id.
const CLIENT_ID_BYTES_MAX: usize = 1024;
const READ_BYTES: usize = 1024;

/// A connection that may become a session.
pub struct Established {
    pub wire: Wire,
    pub connect: Connect,
    pub client_id: ByteString,
    /// Whether the broker chose the client id.
    pub assigned: bool,
    pub admission: Admission,
    /// Bytes that came after the CONNECT.
    pub rest: BytesMut,
}

/// Reads and judges the CONNECT. `None`: the client was refused, told so where it can understand it, and is gone.
pub async fn handshake<S>(hub: &Arc<Hub>, stream: &mut S) -> Option<Established>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::new();
    let read = tokio::select! {
        read = tokio::time::timeout(CONNECT_TIMEOUT, read_connect(stream, &mut buffer)) => read.ok()?,
        () = hub.stopping.cancelled() => return None,
    };
    let judged = match read {
        Ok((wire, connect)) => judge(hub, connect, wire.version()).await.map(|judged| (wire, judged)),
        Err(failure) => Err(failure),
    };
    match judged {
        Ok((wire, Judged { connect, client_id, assigned, admission })) => {
            Some(Established { wire, connect, client_id, assigned, admission, rest: buffer })
        }
        Err(failure) => {
            refuse(stream, failure).await;
            None
        }
    }
}

struct Judged {
    connect: Connect,
    client_id: ByteString,
    assigned: bool,
    admission: Admission,
}

async fn judge(hub: &Arc<Hub>, connect: Connect, version: Version) -> Result<Judged, ConnectFailure> {
    let refuse = |reason| ConnectFailure::Refuse(version, reason);
    if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
        return Err(refuse(Reason::ClientIdNotValid));
    }
    let assigned = connect.client_id.is_empty();
    match version {
        Version::V31 if assigned => return Err(refuse(Reason::ClientIdNotValid)),
        // The wire refuses an empty id without a clean session.
        Version::V31 | Version::V311 | Version::V5 => {}
    }
    if let Some(will) = &connect.will {
        let name = api_types::topic::check_topic_name(&will.topic);
        if name.is_err() || will.topic.starts_with('$') || levels(&will.topic) > LEVELS_MAX {
            return Err(refuse(Reason::TopicNameInvalid));
        }
    }
    hub.auth.check(connect.username.as_deref(), connect.password.clone()).await.map_err(refuse)?;
    let client_id = match assigned {
        true => ByteString::from(format!("auto-{:032x}", rand::random::<u128>())),
        false => connect.client_id.clone(),
    };
    let admission = hub.admit(hub.sessions.contains(&client_id)).ok_or(refuse(Reason::QuotaExceeded))?;
    Ok(Judged { connect, client_id, assigned, admission })
}

async fn read_connect<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
) -> Result<(Wire, Connect), ConnectFailure> {
    loop {
        if let Some(found) = decode_connect(buffer, CONNECT_BYTES_MAX)? {
            return Ok(found);
        }
        buffer.reserve(READ_BYTES);
        match stream.read_buf(buffer).await {
            Ok(0) | Err(_) => return Err(ConnectFailure::Close(Reason::Normal)),
            Ok(_) => {}
        }
    }
}

async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, failure: ConnectFailure) {
    debug!(?failure, "connection refused");
    match failure {
        ConnectFailure::Close(_) => {}
        ConnectFailure::Refuse(version, reason) => {
            let mut answer = BytesMut::new();
            encode_refusal(version, reason, &mut answer);
            if stream.write_all(&answer).await.is_ok() {
                linger(stream).await;
            }
        }
    }
}
