//! From an address to a connection with open channels, on which the exchange was found.
//!
//! ```text
//!   AMQP 0-9-1 ──► start ──► PLAIN ──► tune ──► virtual host ──► channels, confirmations, exchange
//! ```

use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, channel, confirm, connection, exchange};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::refusal::Close;
use super::window::Limits;
use super::wire::{self, WireError};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::chain;
use crate::sinks::shared::stream::{Route, Stream, broken};

/// Before both ends have agreed on more, and the least that they may agree on; RabbitMQ's own properties take a third of
/// it.
const FIRST_FRAME_BYTES_MAX: usize = 4_096;
/// Each is a process of its own at the server, so that several cores work for one connector. More gain nothing.
const CHANNELS_MAX: u16 = 8;
/// One round trip.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const MECHANISM: &str = "PLAIN";
const REPLY_SUCCESS: u16 = 200;

/// Everything that it takes to connect, again and again.
pub(super) struct Dialer {
    pub(super) route: Route,
    pub(super) connect_timeout: Duration,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) virtual_host: ShortString,
    pub(super) exchange: ShortString,
    /// Shown by the server's own tools.
    pub(super) connection_name: String,
    pub(super) heartbeat_secs: u16,
    pub(super) channel_max: u16,
    pub(super) frame_max: u32,
    pub(super) confirms: bool,
}

pub(super) struct Link {
    pub(super) reader: ReadHalf<Box<dyn Stream>>,
    pub(super) writer: WriteHalf<Box<dyn Stream>>,
    pub(super) inbox: BytesMut,
    pub(super) limits: Limits,
    pub(super) heartbeat: Option<Duration>,
}

/// A connection on which this end asks and the server answers.
struct Talk {
    stream: Box<dyn Stream>,
    inbox: BytesMut,
    frame_bytes_max: usize,
    is_logged_in: bool,
}

impl Dialer {
    pub(super) async fn connect(&self) -> Result<Link, TargetFault> {
        let timeout = self.connect_timeout;
        let late = |_| down(format!("no connection within {} s", timeout.as_secs()));
        tokio::time::timeout(timeout, self.greet()).await.map_err(late)?
    }

    async fn greet(&self) -> Result<Link, TargetFault> {
        let stream = self.route.connect().await?;
        let mut talk =
            Talk { stream, inbox: BytesMut::new(), frame_bytes_max: FIRST_FRAME_BYTES_MAX, is_logged_in: false };
        talk.send(wire::PROTOCOL_HEADER).await?;
        let AMQPClass::Connection(connection::AMQPMethod::Start(start)) = talk.hear().await?.1 else {
            return Err(unexpected("the greeting"));
        };
        if !start.mechanisms.to_string().split_ascii_whitespace().any(|mechanism| mechanism == MECHANISM) {
            let message = format!("the server offers {}, and not {MECHANISM}", start.mechanisms);
            return Err(TargetFault::new(TargetFaultKind::Misconfigured("TARGET_AUTH_MECHANISM"), message));
        }
        talk.say(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(self.login()))).await?;
        let AMQPClass::Connection(connection::AMQPMethod::Tune(tune)) = talk.hear().await?.1 else {
            return Err(unexpected("the login"));
        };
        talk.is_logged_in = true;
        let tuned = self.tuned(&tune);
        talk.frame_bytes_max = frame_bytes_max(tuned.frame_max);
        if talk.frame_bytes_max < FIRST_FRAME_BYTES_MAX {
            let bytes = tuned.frame_max;
            return Err(down(format!(
                "the server takes frames of {bytes} bytes at most; AMQP 0-9-1 asks for {FIRST_FRAME_BYTES_MAX}"
            )));
        }
        let open = connection::Open { virtual_host: self.virtual_host.clone() };
        let (channels, heartbeat) = (tuned.channel_max.min(CHANNELS_MAX), tuned.heartbeat);
        talk.say(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tuned))).await?;
        talk.say(0, AMQPClass::Connection(connection::AMQPMethod::Open(open))).await?;
        let AMQPClass::Connection(connection::AMQPMethod::OpenOk(_)) = talk.hear().await?.1 else {
            return Err(unexpected("the virtual host"));
        };
        self.open_channels(&mut talk, channels).await?;
        let limits = Limits { channels, frame_bytes_max: talk.frame_bytes_max };
        let (reader, writer) = tokio::io::split(talk.stream);
        let heartbeat = (heartbeat > 0).then(|| Duration::from_secs(heartbeat.into()));
        Ok(Link { reader, writer, inbox: talk.inbox, limits, heartbeat })
    }

    fn login(&self) -> connection::StartOk {
        let text = |value: &str| AMQPValue::LongString(LongString::from(value));
        let mut capabilities = FieldTable::default();
        for capability in ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"] {
            capabilities.insert(capability.into(), AMQPValue::Boolean(true));
        }
        let mut client_properties = FieldTable::default();
        client_properties
            .insert("product".into(), text("Sluice"))
            .insert("version".into(), text(env!("CARGO_PKG_VERSION")))
            .insert("connection_name".into(), text(&self.connection_name))
            .insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        connection::StartOk {
            client_properties,
            mechanism: MECHANISM.into(),
            response: LongString::from(format!("\0{}\0{}", self.username, self.password)),
            locale: "en_US".into(),
        }
    }

    /// The lower of both ends where the server sets a limit; heartbeats are as this end wants them.
    fn tuned(&self, tune: &connection::Tune) -> connection::TuneOk {
        connection::TuneOk {
            channel_max: self.channel_max.min(if tune.channel_max == 0 { u16::MAX } else { tune.channel_max }),
            frame_max: self.frame_max.min(if tune.frame_max == 0 { u32::MAX } else { tune.frame_max }),
            heartbeat: self.heartbeat_secs,
        }
    }

    /// All is asked at once: the server answers in order.
    async fn open_channels(&self, talk: &mut Talk, channels: u16) -> Result<(), TargetFault> {
        let mut asked = BytesMut::new();
        for channel in 1..=channels {
            open_channel(channel, self.confirms, &mut asked).map_err(|error| unreadable(&error))?;
        }
        let look = exchange::Declare {
            exchange: self.exchange.clone(),
            kind: "direct".into(),
            passive: true,
            durable: false,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        };
        let look = AMQPClass::Exchange(exchange::AMQPMethod::Declare(look));
        wire::method(1, look, &mut asked).map_err(|error| unreadable(&error))?;
        talk.send(&asked).await?;
        let mut answers_left = usize::from(channels) * if self.confirms { 2 } else { 1 } + 1;
        while answers_left > 0 {
            match talk.hear().await?.1 {
                AMQPClass::Channel(channel::AMQPMethod::OpenOk(_))
                | AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_))
                | AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(_)) => answers_left -= 1,
                _ => return Err(unexpected("the channels")),
            }
        }
        Ok(())
    }
}

impl Talk {
    async fn say(&mut self, channel: u16, method: AMQPClass) -> Result<(), TargetFault> {
        let mut bytes = BytesMut::new();
        wire::method(channel, method, &mut bytes).map_err(|error| unreadable(&error))?;
        self.send(&bytes).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), TargetFault> {
        self.stream.write_all(bytes).await.map_err(|error| broken(&error))?;
        self.stream.flush().await.map_err(|error| broken(&error))
    }

    /// The next method, and its channel. A `close` of the server is a fault.
    async fn hear(&mut self) -> Result<(u16, AMQPClass), TargetFault> {
        loop {
            match wire::decode(&mut self.inbox, self.frame_bytes_max).map_err(|error| unreadable(&error))? {
                Some(AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close)))) => {
                    let close = Close { code: close.reply_code, text: close.reply_text.to_string() };
                    let fault = if self.is_logged_in { close.of_connection() } else { close.of_login() };
                    // It has said all that there is to say.
                    let _ = self
                        .say(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})))
                        .await;
                    return Err(fault);
                }
                Some(AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(close)))) => {
                    let close = Close { code: close.reply_code, text: close.reply_text.to_string() };
                    return Err(close.of_channel());
                }
                Some(AMQPFrame::Method(channel, method)) => return Ok((channel, method)),
                Some(AMQPFrame::Heartbeat) => {}
                Some(_) => return Err(unexpected("the connection")),
                None => {
                    if self.stream.read_buf(&mut self.inbox).await.map_err(|error| broken(&error))? == 0 {
                        return Err(down("the server closed the connection before it was open"));
                    }
                }
            }
        }
    }
}

impl Link {
    /// The server closes the connection; it waits for this word.
    pub(super) async fn agree(mut self) {
        self.say(connection::AMQPMethod::CloseOk(connection::CloseOk {})).await;
    }

    /// A server that is gone needs no goodbye, and is not waited for.
    pub(super) async fn goodbye(mut self) {
        let close =
            connection::Close { reply_code: REPLY_SUCCESS, reply_text: "Goodbye".into(), class_id: 0, method_id: 0 };
        let said = async {
            self.say(connection::AMQPMethod::Close(close)).await;
            // Whatever comes is no longer of interest; the server closes its end after its last word.
            while self.reader.read_buf(&mut self.inbox).await? > 0 {
                let last = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                while let Ok(Some(frame)) = wire::decode(&mut self.inbox, self.limits.frame_bytes_max) {
                    if frame == AMQPFrame::Method(0, last.clone()) {
                        return Ok(());
                    }
                }
            }
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(GOODBYE_WITHIN, said).await;
    }

    async fn say(&mut self, method: connection::AMQPMethod) {
        let mut bytes = BytesMut::new();
        if wire::method(0, AMQPClass::Connection(method), &mut bytes).is_ok() {
            let said = async {
                self.writer.write_all(&bytes).await?;
                self.writer.flush().await
            };
            // A last word: nothing follows from its loss.
            let _ = tokio::time::timeout(GOODBYE_WITHIN, said).await;
        }
    }
}

/// Also after the server has closed it: the server takes methods in order, so nothing waits for the answer.
pub(super) fn open_channel(channel: u16, confirms: bool, out: &mut BytesMut) -> Result<(), WireError> {
    wire::method(channel, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})), out)?;
    if confirms {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        wire::method(channel, AMQPClass::Confirm(select), out)?;
    }
    Ok(())
}

fn frame_bytes_max(frame_max: u32) -> usize {
    usize::try_from(frame_max).unwrap_or(usize::MAX)
}

pub(super) fn down(message: impl Into<std::sync::Arc<str>>) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, message)
}

pub(super) fn unreadable(error: &WireError) -> TargetFault {
    let kind = match error {
        WireError::OtherProtocol => TargetFaultKind::Misconfigured("TARGET_PROTOCOL_VERSION"),
        WireError::TooLarge { .. } | WireError::Unreadable | WireError::Unwritable(_) => TargetFaultKind::Down,
    };
    TargetFault::new(kind, chain(error))
}

fn unexpected(what: &str) -> TargetFault {
    down(format!("the server answered {what} with something else"))
}
