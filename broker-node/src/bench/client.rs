//! One MQTT connection of a load generator.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::latencies::Latencies;
use super::packets::{self, CONNACK, DISCONNECT, Login, PUBACK, PublishTemplate, Received};
use super::{BenchError, BrokerArgs};

/// Most bytes of answers taken at once: 4,096 acknowledgements.
const READ_BYTES: usize = 16 << 10;
/// "No matching subscribers": a success.
const NOBODY_LISTENS: u8 = 0x10;

pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Packet id and time of what is not acknowledged, in order.
    in_flight: VecDeque<(u16, Instant)>,
    next_id: u16,
}

impl Client {
    /// Connected and accepted.
    pub async fn connect(broker: &BrokerArgs, number: usize) -> Result<Self, BenchError> {
        let stream =
            TcpStream::connect((broker.host.as_str(), broker.port)).await.map_err(BenchError::io("connect"))?;
        stream.set_nodelay(true).map_err(BenchError::io("set TCP_NODELAY"))?;
        let (input, output) = (Vec::new(), Vec::new());
        let mut client = Self { stream, input, output, in_flight: VecDeque::new(), next_id: 1 };
        let login = match (&broker.user, &broker.password) {
            (Some(user), Some(password)) => Some(Login { user, password }),
            _ => None,
        };
        client.output = packets::connect(&format!("{}-{number}", broker.client_id), broker.v5, login.as_ref());
        client.flush().await?;
        loop {
            if let Some(Received { kind, body, bytes }) = packets::first(&client.input) {
                return match (kind, body) {
                    (CONNACK, [_, 0, ..]) => {
                        client.input.drain(..bytes);
                        Ok(client)
                    }
                    (CONNACK, [_, code, ..]) => Err(BenchError::Refused(*code)),
                    _ => Err(BenchError::Unexpected(kind)),
                };
            }
            client.read().await?;
        }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Encodes one publish; `flush` sends it.
    pub fn publish(&mut self, template: &PublishTemplate, now: Instant, sent_us: u64, number: u64) {
        template.append(&mut self.output, self.next_id, sent_us, number);
        self.in_flight.push_back((self.next_id, now));
        self.next_id = if self.next_id == u16::MAX { 1 } else { self.next_id + 1 };
    }

    pub async fn flush(&mut self) -> Result<(), BenchError> {
        self.stream.write_all(&self.output).await.map_err(BenchError::io("send"))?;
        self.output.clear();
        Ok(())
    }

    /// Waits until the broker has sent something, and takes it in. Safe to cancel.
    pub async fn readable(&mut self) -> Result<Instant, BenchError> {
        self.read().await?;
        Ok(Instant::now())
    }

    /// Counts the acknowledgements among what was taken in, each of which must come in its turn.
    pub fn acknowledged(&mut self, now: Instant, mut latencies: Option<&mut Latencies>) -> Result<u64, BenchError> {
        let (mut taken, mut count) = (0, 0);
        while let Some(Received { kind, body, bytes }) = packets::first(&self.input[taken..]) {
            let (id, reason) = match (kind, body) {
                (PUBACK, [high, low]) => (u16::from_be_bytes([*high, *low]), 0),
                (PUBACK, [high, low, reason, ..]) => (u16::from_be_bytes([*high, *low]), *reason),
                _ => return Err(BenchError::Unexpected(kind)),
            };
            if !matches!(reason, 0 | NOBODY_LISTENS) {
                return Err(BenchError::PublishRefused { id, reason });
            }
            let (expected, sent) = self.in_flight.pop_front().ok_or(BenchError::Unexpected(kind))?;
            if id != expected {
                return Err(BenchError::Order { expected, found: id });
            }
            if let Some(latencies) = &mut latencies {
                latencies.add(now - sent);
            }
            taken += bytes;
            count += 1;
        }
        self.input.drain(..taken);
        Ok(count)
    }

    pub async fn disconnect(mut self) -> Result<(), BenchError> {
        self.output.extend_from_slice(&DISCONNECT);
        self.flush().await
    }

    async fn read(&mut self) -> Result<(), BenchError> {
        self.input.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.input).await.map_err(BenchError::io("receive"))? {
            0 => Err(BenchError::Ended),
            _ => Ok(()),
        }
    }
}
