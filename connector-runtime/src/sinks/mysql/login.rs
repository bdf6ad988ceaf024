//! How a connection begins: greeting, TLS, authentication.
//!
//! ```text
//! server: greeting ──► [TLS] ──► login ──► [another way of authentication] ──► [full authentication] ──► welcome
//! ```
//!
//! `mysql_common` reads the greeting and computes the answers to its challenge.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};

use bytes::{Buf, Bytes, BytesMut};
use mysql_common::constants::CapabilityFlags;
use mysql_common::crypto;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, HandshakePacket, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize;
use tokio::io::AsyncWriteExt;

use super::answer::{AnswerError, checked};
use super::fault::target_fault;
use super::packet::{put_packet, read_packet};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::shared::outgoing::Outgoing;
use crate::sinks::shared::stream::{Stream, Tls};

/// What is asked for, as far as the server can. Not among them: statements one after the other in one text, files of
/// this machine, and affected rows that are found rather than changed.
const WANTED: CapabilityFlags = CapabilityFlags::CLIENT_LONG_PASSWORD
    .union(CapabilityFlags::CLIENT_LONG_FLAG)
    .union(CapabilityFlags::CLIENT_TRANSACTIONS)
    .union(CapabilityFlags::CLIENT_MULTI_RESULTS)
    .union(CapabilityFlags::CLIENT_PS_MULTI_RESULTS)
    .union(CapabilityFlags::CLIENT_CONNECT_ATTRS)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA)
    .union(NEEDED);
/// Without these it is a server from before version 5.5.
const NEEDED: CapabilityFlags = CapabilityFlags::CLIENT_PROTOCOL_41
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_CONNECT_WITH_DB);

/// `utf8mb4_general_ci`: the texts of the login are UTF-8.
const COLLATION: u8 = 45;
/// Longest packet that this side would take; what the server takes is looked up.
const PACKET_BYTES_MAX: u32 = 16 << 20;
/// Only texts from here on `HandshakeResponse` writes in four bytes for each character.
const SERVER_VERSION: (u16, u16, u16) = (5, 5, 3);

/// The server may know a user by several ways, and asks for one after the other.
const STEPS_MAX: usize = 16;
const CHALLENGE_BYTES: usize = 20;
const ED25519_CHALLENGE_BYTES: usize = 32;

const WELCOME: u8 = 0x00;
const MORE: u8 = 0x01;
const SWITCH: u8 = 0xfe;
/// Of `caching_sha2_password`: the server knows the password's hash, or wants the password itself.
const KNOWN: u8 = 0x03;
const FULL: u8 = 0x04;
const WANTS_PUBLIC_KEY: u8 = 0x02;
const PUBLIC_KEY: &[u8] = b"-----BEGIN PUBLIC KEY-----";

pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: String,
    pub(super) database: String,
    pub(super) connector: String,
    pub(super) tls: Option<Tls>,
}

/// A connection that may be used.
pub(super) struct Welcome {
    pub(super) stream: Box<dyn Stream>,
    /// What the server has sent already.
    pub(super) buffer: BytesMut,
    pub(super) connection_id: u32,
}

impl Login {
    pub(super) async fn log_in(&self, socket: Outgoing) -> Result<Welcome, TargetFault> {
        let mut channel = Channel { stream: Box::new(socket), buffer: BytesMut::new(), sequence: 0 };
        let packet = channel.read().await.map_err(|error| target_fault(&error))?;
        let greeting: HandshakePacket<'_> = ParseBuf(&packet).parse(()).map_err(|_| no_mysql("its greeting"))?;
        let offered = greeting.capabilities();
        if !offered.contains(NEEDED) {
            return Err(no_mysql("it is too old"));
        }
        let mut capabilities = WANTED & offered;
        if let Some(tls) = &self.tls {
            if !offered.contains(CapabilityFlags::CLIENT_SSL) {
                let kind = TargetFaultKind::Misconfigured("TARGET_WITHOUT_TLS");
                return Err(TargetFault::new(kind, "the server does not speak TLS"));
            }
            capabilities |= CapabilityFlags::CLIENT_SSL;
            channel = channel.encrypted(capabilities, tls).await?;
        }
        let nonce = greeting.nonce();
        // Whoever is known by another way is told so by the server.
        let plugin = match greeting.auth_plugin() {
            Some(AuthPlugin::CachingSha2Password) => AuthPlugin::CachingSha2Password,
            Some(_) | None => AuthPlugin::MysqlNativePassword,
        };
        let response = HandshakeResponse::new(
            plugin.gen_data(Some(&self.password), &nonce).map(|data| data.to_vec()),
            SERVER_VERSION,
            Some(self.username.as_bytes()),
            Some(self.database.as_bytes()),
            Some(plugin.borrow()),
            capabilities,
            Some(self.attributes()),
            PACKET_BYTES_MAX,
        );
        let failed = |error: AnswerError| target_fault(&error);
        channel.write_struct(&response).await.map_err(failed)?;
        let mut exchange =
            Exchange { channel: &mut channel, plugin, nonce, password: &self.password, encrypted: self.tls.is_some() };
        exchange.authenticate().await.map_err(failed)?;
        let connection_id = greeting.connection_id();
        Ok(Welcome { stream: channel.stream, buffer: channel.buffer, connection_id })
    }

    /// Shown in `performance_schema.session_connect_attrs`.
    fn attributes(&self) -> HashMap<String, String> {
        let attributes = [
            ("program_name", format!("sluice/{}", self.connector)),
            ("_client_name", "sluice".to_owned()),
            ("_client_version", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn no_mysql(what: &str) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, format!("the server does not speak MySQL's protocol: {what}"))
}

/// A connection while packets go back and forth one at a time.
struct Channel {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    /// Of the next packet.
    sequence: u8,
}

impl Channel {
    async fn read(&mut self) -> Result<Bytes, AnswerError> {
        let (sequence, packet) = read_packet(&mut self.stream, &mut self.buffer).await?;
        self.sequence = sequence.wrapping_add(1);
        checked(packet)
    }

    async fn write(&mut self, content: &[u8]) -> Result<(), AnswerError> {
        let mut out = BytesMut::new();
        put_packet(self.sequence, content, &mut out);
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn write_struct(&mut self, content: &impl MySerialize) -> Result<(), AnswerError> {
        let mut bytes = Vec::new();
        content.serialize(&mut bytes);
        self.write(&bytes).await
    }

    /// What comes before TLS has begun could come from anybody, and must not be taken for the server's.
    async fn encrypted(mut self, capabilities: CapabilityFlags, tls: &Tls) -> Result<Self, TargetFault> {
        let request = SslRequest::new(capabilities, PACKET_BYTES_MAX, COLLATION);
        self.write_struct(&request).await.map_err(|error| target_fault(&error))?;
        if !self.buffer.is_empty() {
            return Err(no_mysql("it speaks before TLS has begun"));
        }
        let stream = Box::new(tls.over(self.stream).await?);
        Ok(Self { stream, ..self })
    }
}

struct Exchange<'a> {
    channel: &'a mut Channel,
    plugin: AuthPlugin<'static>,
    nonce: Vec<u8>,
    password: &'a str,
    encrypted: bool,
}

impl Exchange<'_> {
    async fn authenticate(&mut self) -> Result<(), AnswerError> {
        for _ in 0..STEPS_MAX {
            let packet = self.channel.read().await?;
            match packet.first() {
                Some(&WELCOME) => return Ok(()),
                Some(&SWITCH) => self.switch(&packet[1..]).await?,
                Some(&MORE) if self.plugin == AuthPlugin::CachingSha2Password => match packet.get(1) {
                    Some(&KNOWN) => {}
                    Some(&FULL) => self.show_password().await?,
                    Some(_) | None => return Err(AnswerError::Protocol("a step of authentication")),
                },
                Some(_) | None => return Err(AnswerError::Protocol("a step of authentication")),
            }
        }
        Err(AnswerError::Protocol("no end of authentication"))
    }

    /// The server knows this user by another way (name, NUL), and has another challenge for it.
    async fn switch(&mut self, request: &[u8]) -> Result<(), AnswerError> {
        let name = request.iter().position(|byte| *byte == 0);
        let name = name.ok_or(AnswerError::Protocol("a change of authentication"))?;
        let (name, challenge) = (&request[..name], &request[name + 1..]);
        let plugin = AuthPlugin::from_bytes(name).into_owned();
        match &plugin {
            AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password | AuthPlugin::Ed25519 => {}
            // It is sent as it is: only where nobody else can read it.
            AuthPlugin::MysqlClearPassword if self.encrypted => {}
            AuthPlugin::MysqlClearPassword => {
                return Err(unknown("wants the password in the clear, which is sent over TLS only"));
            }
            AuthPlugin::MysqlOldPassword => return Err(unknown("wants the password as before version 4.1")),
            AuthPlugin::MariadbParsec { .. } | AuthPlugin::Other(_) => {
                let name = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
                return Err(unknown(&format!("wants authentication by {name}, which is not spoken here")));
            }
        }
        // What comes behind a challenge is no part of it, and a challenge may end with any byte.
        let length = if plugin == AuthPlugin::Ed25519 { ED25519_CHALLENGE_BYTES } else { CHALLENGE_BYTES };
        self.nonce = challenge[..length.min(challenge.len())].to_vec();
        let data = plugin.gen_data(Some(self.password), &self.nonce).map(|data| data.to_vec());
        let data = match &plugin {
            AuthPlugin::MysqlClearPassword => terminated(self.password),
            _ => data.unwrap_or_default(),
        };
        self.plugin = plugin;
        self.channel.write(&data).await
    }

    /// Without TLS the password is encrypted with the key that the server shows: who only listens learns nothing, who
    /// stands in between does.
    async fn show_password(&mut self) -> Result<(), AnswerError> {
        let mut password = terminated(self.password);
        if self.encrypted {
            return self.channel.write(&password).await;
        }
        self.channel.write(&[WANTS_PUBLIC_KEY]).await?;
        let mut key = self.channel.read().await?;
        key.advance(1);
        if !key.starts_with(PUBLIC_KEY) || self.nonce.is_empty() {
            return Err(AnswerError::Protocol("a key that is none"));
        }
        for (byte, mask) in password.iter_mut().zip(self.nonce.iter().cycle()) {
            *byte ^= mask;
        }
        // It panics over what the server has sent.
        let encrypted = panic::catch_unwind(AssertUnwindSafe(|| crypto::encrypt(&password, &key)));
        let encrypted =
            encrypted.map_err(|_| AnswerError::Protocol("a key that is none, or too short for the password"))?;
        self.channel.write(&encrypted).await
    }
}

fn terminated(password: &str) -> Vec<u8> {
    let mut bytes = password.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `ER_NOT_SUPPORTED_AUTH_MODE`, in our words.
fn unknown(what: &str) -> AnswerError {
    use super::answer::ServerError;
    AnswerError::Server(ServerError { code: 1251, state: "08004".into(), message: format!("the server {what}") })
}

#[cfg(test)]
mod tests;
