//! From an address to a connection on which the target has accepted the session.

use std::sync::Arc;
use std::time::Duration;

use api_types::ConnectorName;
use bytes::BytesMut;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::answers;
use super::config::{Config, ProtocolVersion, V3_PREFIX_CHARS_MAX};
use super::window::{Kept, Limits};
use super::wire::{self, Connack, Hello, Received};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{SinkContext, chain};
use crate::sinks::shared::network::Network;
use crate::sinks::shared::stream::{Route, Stream, Tls, broken};

/// Version 5 asks the target to keep the session so long after a lost connection: far longer than the attempts to
/// connect again take, also after a sink that nobody asked for anything for a while.
const SESSION_EXPIRY_SECS: u32 = 3_600;
/// Of messages on the wire, where a target allows more: enough for 100,000 a second at a round trip of 10 ms, and a
/// bound for what is sent again after a lost connection.
const ON_WIRE_MAX: usize = 1_000;
/// Before version 5 a target cannot say how much it takes. Those that are common hold twenty messages of QoS 2 per
/// client (Mosquitto's and VerneMQ's `max_inflight_messages`), and may drop what is above it.
const ON_WIRE_MAX_QOS_2_UNSAID: usize = 20;
/// One round trip.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const PREFIX_DEFAULT: &str = "sluice";
const BRIDGE_CHARS: usize = 11;

/// Everything that it takes to connect, again and again.
pub(super) struct Dialer {
    hello: Hello,
    route: Route,
    connect_timeout: Duration,
    qos: u8,
    retain: bool,
}

/// A connection whose session the target has accepted.
pub(super) struct Link {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: WriteHalf<Box<dyn Stream>>,
    pub(super) inbox: BytesMut,
    pub(super) kept: Kept,
    pub(super) limits: Limits,
    pub(super) keepalive: Duration,
}

/// A name for one connector among all clusters: a bridge of another cluster may speak to the same target, and its
/// connector may have the same name and incarnation.
pub(super) fn bridge_name(context: &SinkContext) -> String {
    let SinkContext { cluster, connector: ConnectorName(name), incarnation, .. } = context;
    let digest = Sha256::digest(format!("{cluster}/{incarnation}/{name}"));
    digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).take(BRIDGE_CHARS).map(|bits| format!("{bits:x}")).collect()
}

impl Dialer {
    pub(super) async fn new(
        config: &Config,
        bridge: &str,
        deny_networks: Arc<[Network]>,
        aborted: CancellationToken,
    ) -> Result<Self, TargetFault> {
        let unusable = |message: String| TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), message);
        let server = Server::parse(&config.server).ok_or_else(|| unusable("config.server is not readable".into()))?;
        let tls = Tls::read(server.is_tls || config.enable_tls, config.tls.clone(), &server.host).await?;
        let mut prefix =
            config.client_id_prefix.as_deref().filter(|prefix| !prefix.is_empty()).unwrap_or(PREFIX_DEFAULT);
        if config.protocol_version == ProtocolVersion::V3 {
            let end = prefix.char_indices().nth(V3_PREFIX_CHARS_MAX).map_or(prefix.len(), |(end, _)| end);
            prefix = &prefix[..end];
        }
        let password = config.password.as_ref().map(|password| password.reveal().to_owned());
        let hello = Hello {
            version: config.protocol_version,
            client_id: format!("{prefix}{bridge}"),
            username: config.username.clone(),
            password: password.map(Into::into),
            keepalive_secs: config.keepalive_secs,
            session_expiry_secs: SESSION_EXPIRY_SECS,
        };
        Ok(Self {
            hello,
            route: Route {
                port: server.port.unwrap_or(if server.is_tls { 8_883 } else { 1_883 }),
                host: server.host,
                tls,
                deny_networks,
                is_patient: false,
                aborted,
            },
            connect_timeout: Duration::from_secs(config.connect_timeout_secs),
            qos: config.qos,
            retain: config.retain,
        })
    }

    pub(super) fn version(&self) -> ProtocolVersion {
        self.hello.version
    }

    pub(super) fn qos(&self) -> u8 {
        self.qos
    }

    /// A session that knows nothing of a sink before this one. The target may hold packet ids that a sink of this
    /// connector has used and not released – on this node or on another –, and would refuse the next message under such
    /// an id, or take it for a repetition and drop it.
    pub(super) async fn open(&self) -> Result<Link, TargetFault> {
        self.connect(true).await
    }

    /// Goes on with the session that the target has, where it is sure to be this sink's own. Before version 5 nobody is
    /// told that another owner of the connector took the session over: packet ids of both would be mistaken for each
    /// other, so each connection there has a session for itself, which ends with it.
    pub(super) async fn resume(&self) -> Result<Link, TargetFault> {
        match self.hello.version {
            ProtocolVersion::V5 => self.connect(false).await,
            ProtocolVersion::V3 | ProtocolVersion::V4 => self.connect(true).await,
        }
    }

    async fn connect(&self, clean: bool) -> Result<Link, TargetFault> {
        let timeout = self.connect_timeout;
        let late = |_| {
            let message = format!("no connection within {} s", timeout.as_secs());
            TargetFault::new(TargetFaultKind::Down, message)
        };
        tokio::time::timeout(timeout, self.greet(clean)).await.map_err(late)?
    }

    async fn greet(&self, clean: bool) -> Result<Link, TargetFault> {
        let mut stream = self.route.connect().await?;
        let mut hello = BytesMut::new();
        wire::connect(&self.hello, clean, &mut hello).map_err(|error| {
            TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), format!("CONNECT: {error}"))
        })?;
        stream.write_all(&hello).await.map_err(|error| broken(&error))?;
        stream.flush().await.map_err(|error| broken(&error))?;
        let mut inbox = BytesMut::new();
        let connack = loop {
            let answer = wire::decode(self.hello.version, &mut inbox).map_err(|error| unreadable(&error))?;
            match answer {
                Some(Received::Connected(connack)) => break connack,
                Some(_) => return Err(down("the target's first answer is no CONNACK")),
                None => {}
            }
            if stream.read_buf(&mut inbox).await.map_err(|error| broken(&error))? == 0 {
                let version = self.hello.version.name();
                return Err(down(format!("the target closed the connection instead of accepting {version}")));
            }
        };
        if let Some(fault) = answers::refusal(self.hello.version, &connack) {
            return Err(fault);
        }
        self.check(&connack)?;
        let (reader, writer) = tokio::io::split(stream);
        let keepalive_secs = connack.keepalive_secs.filter(|seconds| *seconds > 0).unwrap_or(self.hello.keepalive_secs);
        Ok(Link {
            reader,
            writer,
            inbox,
            kept: if connack.session_present && !clean { Kept::Session } else { Kept::Nothing },
            limits: self.limits(&connack),
            keepalive: Duration::from_secs(keepalive_secs.into()),
        })
    }

    /// What the target says that it cannot do.
    fn check(&self, connack: &Connack) -> Result<(), TargetFault> {
        let cannot = |reason, message| Err(TargetFault::new(TargetFaultKind::Misconfigured(reason), message));
        match connack.qos_max {
            Some(qos_max) if qos_max < self.qos => {
                cannot("TARGET_QOS", format!("the target takes QoS {qos_max} at most"))
            }
            Some(_) | None if connack.retain_unavailable && self.retain => {
                cannot("TARGET_RETAIN", "the target takes no retained messages".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    fn limits(&self, connack: &Connack) -> Limits {
        let on_wire_max = match connack.receive_max {
            Some(receive_max) => ON_WIRE_MAX.min(receive_max.into()),
            None if self.qos == 2 => ON_WIRE_MAX_QOS_2_UNSAID,
            None => ON_WIRE_MAX,
        };
        let packet_bytes_max = connack.packet_bytes_max.and_then(|bytes| usize::try_from(bytes).ok());
        // The header of the longest packet has five bytes.
        Limits { on_wire_max, packet_bytes_max: packet_bytes_max.unwrap_or(wire::REMAINING_MAX + 5) }
    }
}

impl Link {
    /// Ends the connection and leaves the session. When the target has closed its end, it will not take the next
    /// connection for a second one beside this. A target that is gone needs no goodbye, and is not waited for.
    pub(super) async fn goodbye(mut self) {
        let mut farewell = BytesMut::new();
        wire::goodbye(&mut farewell);
        let said = async {
            self.writer.write_all(&farewell).await?;
            self.writer.shutdown().await?;
            while self.reader.read_buf(&mut self.inbox).await? > 0 {
                self.inbox.clear();
            }
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(GOODBYE_WITHIN, said).await;
    }
}

pub(super) fn down(message: impl Into<Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, message)
}

pub(super) fn unreadable(error: &wire::WireError) -> TargetFault {
    down(chain(error))
}

/// The parts of `mqtt://host:port`.
struct Server {
    host: String,
    port: Option<u16>,
    is_tls: bool,
}

impl Server {
    fn parse(server: &str) -> Option<Self> {
        let (scheme, rest) = server.split_once("://")?;
        let is_tls = scheme.eq_ignore_ascii_case("mqtts");
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = match authority.rsplit_once(':') {
            // The last group of an address without a port.
            Some((_, after)) if after.ends_with(']') => (authority, None),
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        // A session belongs to one broker; user information has fields of its own.
        (!host.is_empty() && !host.contains([',', '@'])).then(|| Self { host: host.to_owned(), port, is_tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_host_and_perhaps_a_port() {
        for (text, expect) in [
            ("mqtt://a.b", Some(("a.b", None, false))),
            ("MQTTS://a:1/", Some(("a", Some(1), true))),
            ("mqtt://[::1]", Some(("[::1]", None, false))),
            ("mqtt://[::1]:1884", Some(("[::1]", Some(1_884), false))),
            ("mqtt://a:0x1", None),
            ("mqtt://:1883", None),
            ("mqtt://a,b:1883", None),
            ("mqtt://user@a", None),
            ("a:1883", None),
        ] {
            let server = Server::parse(text);
            let parts = server.as_ref().map(|server| (server.host.as_str(), server.port, server.is_tls));
            assert_eq!(parts, expect, "{text}");
        }
    }
}
