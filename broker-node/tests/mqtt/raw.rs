//! A client that sends what it is told, byte by byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Longest wait of a test for something that should happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

pub struct Raw {
    reader: OwnedReadHalf,
    writer: Arc<Mutex<OwnedWriteHalf>>,
    buffer: Vec<u8>,
}

impl Raw {
    pub async fn dial(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the listener accepts");
        stream.set_nodelay(true).expect("set");
        let (reader, writer) = stream.into_split();
        Self { reader, writer: Arc::new(Mutex::new(writer)), buffer: Vec::new() }
    }

    /// Connects and expects to be accepted.
    pub async fn connect(address: SocketAddr, level: Level, client_id: &str) -> Self {
        Self::connect_with(address, &Connect::new(level, client_id)).await
    }

    pub async fn connect_with(address: SocketAddr, connect: &Connect) -> Self {
        let mut raw = Self::dial(address).await;
        raw.send(&connect.bytes()).await;
        let connack = raw.packet().await.expect("a CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0), "accepted: {connack:02x?}");
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The broker may have closed already; the test sees that when it reads.
        let _ = self.writer.lock().await.write_all(bytes).await;
    }

    /// Sends what the broker may not read at once.
    pub fn send_later(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let writer = self.writer.clone();
        tokio::spawn(async move { writer.lock().await.write_all(&bytes).await.expect("sent") })
    }

    /// Whether no packet and no end comes within this time.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.read_packet()).await.is_err()
    }

    /// The next whole packet; `None` when the broker has closed.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.read_packet()).await.expect("a packet or the end in time")
    }

    async fn read_packet(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(total) = whole(&self.buffer) {
                return Some(self.buffer.drain(..total).collect());
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    pub async fn expect(&mut self, bytes: &[u8]) {
        let got = self.packet().await;
        assert_eq!(got.as_deref(), Some(bytes), "got {got:02x?}, expected {bytes:02x?}");
    }

    pub async fn expect_closed(&mut self) {
        assert_eq!(self.packet().await, None);
    }

    /// DISCONNECT with this reason, then the end.
    pub async fn expect_disconnect(&mut self, reason: u8) {
        self.expect(&[0xE0, 2, reason, 0]).await;
        self.expect_closed().await;
    }

    /// Asserts that nothing waits to be read, after the broker has answered something that overtakes acks.
    pub async fn expect_nothing_before_ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        self.expect(&[0xD0, 0]).await;
    }

    pub async fn subscribe(&mut self, level: Level, packet_id: u16, filter: &str, qos: u8) {
        self.send(&subscribe(level, packet_id, filter, qos)).await;
        let suback = self.packet().await.expect("a SUBACK");
        assert_eq!(suback[0], 0x90);
        assert_eq!(suback.last(), Some(&qos.min(1)), "granted: {suback:02x?}");
    }
}

fn whole(buffer: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (index, byte) in buffer.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let total = 2 + index + length;
            return (buffer.len() >= total).then_some(total);
        }
    }
    None
}

/// A packet from its first byte and its body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = (length & 0x7F) as u8;
        length >>= 7;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

pub fn field(text: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes
}

/// Properties shorter than 128 bytes.
pub fn properties(level: Level, properties: &[u8]) -> Vec<u8> {
    match level {
        Level::V31 | Level::V311 => Vec::new(),
        Level::V5 => {
            let mut bytes = vec![u8::try_from(properties.len()).expect("short")];
            bytes.extend_from_slice(properties);
            bytes
        }
    }
}

#[derive(Clone)]
pub struct Connect {
    pub level: Level,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive_secs: u16,
    pub properties: Vec<u8>,
    /// QoS, properties, topic, payload.
    pub will: Option<(u8, Vec<u8>, String, Vec<u8>)>,
}

impl Connect {
    pub fn new(level: Level, client_id: &str) -> Self {
        let client_id = client_id.to_owned();
        Self { level, client_id, clean: true, keep_alive_secs: 0, properties: Vec::new(), will: None }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = field(if self.level == Level::V31 { b"MQIsdp" } else { b"MQTT" });
        let will_flags = self.will.as_ref().map_or(0, |will| 0x04 | (will.0 << 3));
        body.extend([self.level as u8, (u8::from(self.clean) << 1) | will_flags]);
        body.extend(self.keep_alive_secs.to_be_bytes());
        body.extend(properties(self.level, &self.properties));
        body.extend(field(self.client_id.as_bytes()));
        if let Some((_, will_properties, topic, payload)) = &self.will {
            body.extend(properties(self.level, will_properties));
            body.extend(field(topic.as_bytes()));
            body.extend(field(payload));
        }
        packet(0x10, &body)
    }
}

pub fn publish(level: Level, qos: u8, packet_id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    publish_with(level, qos, packet_id, topic, &[], payload)
}

pub fn publish_with(level: Level, qos: u8, packet_id: u16, topic: &str, props: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = field(topic.as_bytes());
    if qos > 0 {
        body.extend(packet_id.to_be_bytes());
    }
    body.extend(properties(level, props));
    body.extend_from_slice(payload);
    packet(0x30 | (qos << 1), &body)
}

pub fn subscribe(level: Level, packet_id: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties(level, &[]));
    body.extend(field(filter.as_bytes()));
    body.push(options);
    packet(0x82, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP as the broker writes it for success.
pub fn ack(level: Level, first: u8, packet_id: u16) -> Vec<u8> {
    ack_with(level, first, packet_id, 0)
}

pub fn ack_with(level: Level, first: u8, packet_id: u16, reason: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if level == Level::V5 {
        body.extend([reason, 0]);
    }
    packet(first, &body)
}

pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
