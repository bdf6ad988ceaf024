//! From an address to a connection on which the broker knows who is there.
//!
//! ```text
//!   connect (method, credentials, the broker behind a proxy) ──► connected (largest message), or error
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::fault::{down, interrupted, target_fault};
use super::proto::{AuthData, AuthResponse, BaseCommand, CommandKind, Connect, FeatureFlags};
use super::wire::{self, Answer, Heard, WireError};
use crate::sink::TargetFault;
use crate::sinks::offered::chain;
use crate::sinks::shared::network::Network;
use crate::sinks::shared::stream::{Route, Stream, Trust, broken};

/// The protocol's version 19; what came after version 14 (refreshed credentials) is for consumers and transactions.
const PROTOCOL_VERSION: i32 = 19;
const CLIENT_VERSION: &str = concat!("Sluice ", env!("CARGO_PKG_VERSION"));
/// Of a broker that does not say it: Pulsar's default.
const MESSAGE_BYTES_MAX: usize = 5 << 20;

/// Where a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// A proxy stands there, which passes on to this broker.
    pub(super) behind: Option<String>,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Everything that it takes to connect to any broker, again and again.
pub(super) struct Dialer {
    pub(super) trust: Option<Trust>,
    pub(super) auth: Arc<Auth>,
    pub(super) deny_networks: Arc<[Network]>,
    pub(super) connect_timeout: Duration,
    /// The sink's.
    pub(super) aborted: CancellationToken,
}

pub(super) struct Link {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: WriteHalf<Box<dyn Stream>>,
    pub(super) inbox: BytesMut,
    pub(super) message_bytes_max: usize,
}

/// A connection on which this end asks and the broker answers.
struct Talk {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
}

impl Dialer {
    /// `silent` ends this one connection.
    pub(super) async fn connect(&self, address: &Address, silent: CancellationToken) -> Result<Link, TargetFault> {
        let timeout = self.connect_timeout;
        let late = |_| down(format!("no connection to {address} within {} s", timeout.as_secs()));
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => Err(interrupted("the sink was aborted")),
            greeted = tokio::time::timeout(timeout, self.greet(address, silent)) => greeted.map_err(late)?,
        }
    }

    async fn greet(&self, address: &Address, silent: CancellationToken) -> Result<Link, TargetFault> {
        // An issuer of tokens is asked before the broker is, which does not wait for long.
        let credentials = self.auth.credentials(false).await?;
        let (method, data) = match credentials {
            Some(credentials) => (Some(credentials.method.to_owned()), Some(credentials.data)),
            None => (None, None),
        };
        let tls = self.trust.as_ref().map(|trust| trust.towards(&address.host)).transpose()?;
        let route = Route {
            host: address.host.clone(),
            port: address.port,
            tls,
            deny_networks: Arc::clone(&self.deny_networks),
            // Both ends ask each other whether they are there.
            is_patient: true,
            aborted: silent,
        };
        let mut talk = Talk { stream: route.connect().await?, inbox: BytesMut::new() };
        let connect = Connect {
            client_version: CLIENT_VERSION.to_owned(),
            auth_data: data,
            protocol_version: Some(PROTOCOL_VERSION),
            auth_method_name: method,
            proxy_to_broker_url: address.behind.clone(),
            feature_flags: Some(FeatureFlags { supports_auth_refresh: Some(true) }),
        };
        talk.say(&BaseCommand { connect: Some(connect), ..wire::of(CommandKind::Connect) }).await?;
        let message_bytes_max = talk.connected(&self.auth).await?;
        let (reader, writer) = tokio::io::split(talk.stream);
        Ok(Link { reader, writer, inbox: talk.inbox, message_bytes_max })
    }
}

impl Talk {
    async fn connected(&mut self, auth: &Auth) -> Result<usize, TargetFault> {
        loop {
            match self.hear().await? {
                Heard::Connected(connected) => {
                    let told = connected.max_message_size.and_then(|size| usize::try_from(size).ok());
                    return Ok(told.filter(|size| *size > 0).unwrap_or(MESSAGE_BYTES_MAX));
                }
                Heard::Answer { answer: Answer::Error(error), .. } => {
                    return Err(target_fault(error.error, &error.message));
                }
                Heard::Challenge => {
                    let response = auth_response(auth, true).await?;
                    self.say(&response).await?;
                }
                Heard::Ping => self.say(&wire::pong()).await?,
                Heard::Answer { .. }
                | Heard::Receipt(_)
                | Heard::Refusal(_)
                | Heard::CloseProducer(_)
                | Heard::Pong
                | Heard::Other(_) => return Err(down("the broker answered the greeting with something else")),
            }
        }
    }

    async fn say(&mut self, command: &BaseCommand) -> Result<(), TargetFault> {
        let mut bytes = BytesMut::new();
        wire::command(command, &mut bytes);
        self.stream.write_all(&bytes).await.map_err(|error| broken(&error))?;
        self.stream.flush().await.map_err(|error| broken(&error))
    }

    async fn hear(&mut self) -> Result<Heard, TargetFault> {
        loop {
            if let Some(heard) = wire::decode(&mut self.inbox).map_err(|error| unreadable(&error))? {
                return Ok(heard);
            }
            if self.stream.read_buf(&mut self.inbox).await.map_err(|error| broken(&error))? == 0 {
                return Err(down("the broker closed the connection before it was open"));
            }
        }
    }
}

/// The answer to a challenge: who is there, said anew.
pub(super) async fn auth_response(auth: &Auth, renew: bool) -> Result<BaseCommand, TargetFault> {
    let credentials = auth.credentials(renew).await?;
    let response = credentials.map(|credentials| AuthData {
        auth_method_name: Some(credentials.method.to_owned()),
        auth_data: Some(credentials.data),
    });
    let response = AuthResponse {
        client_version: Some(CLIENT_VERSION.to_owned()),
        response,
        protocol_version: Some(PROTOCOL_VERSION),
    };
    Ok(BaseCommand { auth_response: Some(response), ..wire::of(CommandKind::AuthResponse) })
}

pub(super) fn unreadable(error: &WireError) -> TargetFault {
    down(chain(error))
}
