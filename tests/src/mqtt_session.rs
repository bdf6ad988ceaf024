//! One MQTT connection of rumqttc, 3.1.1 or 5, reduced to what a publisher has to know. It ends with its connection:
//! what to send again is the publisher's decision.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rumqttc::v5;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Signals wait here when the publisher is busy; a full channel stops reading the socket.
const SIGNALS_MAX: usize = 1_024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V5,
}

#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// What happened on the connection.
#[derive(Debug)]
pub enum Signal {
    Connected,
    /// The publish that was submitted first among those without a packet id has this one now.
    Sent(u16),
    Acknowledged(u16),
    /// A PUBACK with a failure in it (version 5 only).
    Refused(u16),
    /// Nothing more comes.
    Ended(anyhow::Error),
}

pub struct Session {
    client: Client,
    signals: mpsc::Receiver<Signal>,
    reader: JoinHandle<()>,
}

enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

impl Session {
    /// Begins to connect; [`Signal::Connected`] or [`Signal::Ended`] follows.
    pub fn open(version: Version, client_id: &str, port: u16, window: u16, login: Option<&Login>) -> Self {
        let (sender, signals) = mpsc::channel(SIGNALS_MAX);
        let capacity = usize::from(window);
        let (client, reader) = match version {
            Version::V4 => {
                let mut options = rumqttc::MqttOptions::new(client_id, "127.0.0.1", port);
                options.set_keep_alive(KEEP_ALIVE).set_inflight(window);
                if let Some(login) = login {
                    options.set_credentials(&login.user, &login.password);
                }
                let (client, events) = rumqttc::AsyncClient::new(options, capacity);
                (Client::V4(client), tokio::spawn(read_v4(events, sender)))
            }
            Version::V5 => {
                let mut options = v5::MqttOptions::new(client_id, "127.0.0.1", port);
                options.set_keep_alive(KEEP_ALIVE).set_outgoing_inflight_upper_limit(window);
                if let Some(login) = login {
                    options.set_credentials(&login.user, &login.password);
                }
                let (client, events) = v5::AsyncClient::new(options, capacity);
                (Client::V5(client), tokio::spawn(read_v5(events, sender)))
            }
        };
        Self { client, signals, reader }
    }

    /// Submits one publish with QoS 1; never more than the window without an acknowledgement.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        match &self.client {
            Client::V4(client) => client.try_publish(topic, rumqttc::QoS::AtLeastOnce, false, payload)?,
            Client::V5(client) => client.try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload)?,
        }
        Ok(())
    }

    pub async fn next(&mut self) -> Signal {
        self.signals.recv().await.unwrap_or_else(|| Signal::Ended(anyhow!("reader ended")))
    }

    /// Waits for CONNACK.
    pub async fn connected(&mut self) -> Result<()> {
        match self.next().await {
            Signal::Connected => Ok(()),
            Signal::Ended(error) => Err(error.context("connect")),
            other @ (Signal::Sent(_) | Signal::Acknowledged(_) | Signal::Refused(_)) => {
                Err(anyhow!("{other:?} before CONNACK"))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read_v4(mut events: rumqttc::EventLoop, signals: mpsc::Sender<Signal>) {
    use rumqttc::{Event, Outgoing, Packet};
    loop {
        let signal = match events.poll().await.context("connection of version 4") {
            Ok(Event::Incoming(Packet::ConnAck(_))) => Signal::Connected,
            Ok(Event::Outgoing(Outgoing::Publish(id))) => Signal::Sent(id),
            Ok(Event::Incoming(Packet::PubAck(ack))) => Signal::Acknowledged(ack.pkid),
            Ok(_) => continue,
            Err(error) => Signal::Ended(error),
        };
        if forward(&signals, signal).await.is_err() {
            return;
        }
    }
}

async fn read_v5(mut events: v5::EventLoop, signals: mpsc::Sender<Signal>) {
    use rumqttc::Outgoing;
    use v5::mqttbytes::v5::{Packet, PubAckReason};
    loop {
        let signal = match events.poll().await.context("connection of version 5") {
            Ok(v5::Event::Incoming(Packet::ConnAck(_))) => Signal::Connected,
            Ok(v5::Event::Outgoing(Outgoing::Publish(id))) => Signal::Sent(id),
            Ok(v5::Event::Incoming(Packet::PubAck(ack))) => match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Signal::Acknowledged(ack.pkid),
                _ => Signal::Refused(ack.pkid),
            },
            Ok(_) => continue,
            Err(error) => Signal::Ended(error),
        };
        if forward(&signals, signal).await.is_err() {
            return;
        }
    }
}

/// `Err` when nobody listens any more or this was the last signal.
async fn forward(signals: &mpsc::Sender<Signal>, signal: Signal) -> Result<(), ()> {
    let last = matches!(signal, Signal::Ended(_));
    signals.send(signal).await.map_err(drop)?;
    if last { Err(()) } else { Ok(()) }
}
