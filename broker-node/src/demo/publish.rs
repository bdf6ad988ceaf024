//! Publishers at QoS 1. Each begins at its own node and goes on at the next when the connection breaks, as a careful
//! device does; what was not acknowledged by then is sent again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::DemoError;

/// Unacknowledged publishes per publisher: fills the listener's group commit.
const WINDOW: u16 = 200;
const RECONNECT_EVERY: Duration = Duration::from_millis(100);
const TOPIC: &str = "demo";

/// The filter that matches all publishers.
pub(super) const FILTER: &str = "demo/#";

/// All publishers of the demo.
pub(super) struct Publishers {
    tasks: JoinSet<Published>,
    acknowledged: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
pub(super) struct Published {
    /// Name of the message → MQTT port of the node that acknowledged it.
    pub acknowledged: BTreeMap<String, u16>,
    /// Sent a second time, because the node died before its acknowledgement came.
    pub sent_again: u64,
}

impl Publishers {
    pub fn start(ports: &[u16], messages: u64) -> Self {
        let mut publishers = Self { tasks: JoinSet::new(), acknowledged: Arc::default() };
        let count = ports.len() as u64;
        for (index, _) in ports.iter().enumerate() {
            let mut ports = ports.to_vec();
            ports.rotate_left(index);
            let share = messages / count + u64::from((index as u64) < messages % count);
            let publisher = Publisher::new(format!("device-{}", index + 1), share, &publishers.acknowledged);
            publishers.tasks.spawn(publisher.run(ports));
        }
        publishers
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub fn finished(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for all of them.
    pub async fn join(mut self) -> Result<Published, DemoError> {
        let mut all = Published::default();
        while let Some(one) = self.tasks.join_next().await {
            let one = one.map_err(|_| DemoError::Publisher)?;
            all.acknowledged.extend(one.acknowledged);
            all.sent_again += one.sent_again;
        }
        Ok(all)
    }
}

struct Publisher {
    name: String,
    total: Arc<AtomicU64>,
    to_send: VecDeque<u64>,
    /// Handed to the client, without a packet id yet, in order.
    submitted: VecDeque<u64>,
    in_flight: HashMap<u16, u64>,
    published: Published,
}

impl Publisher {
    fn new(name: String, messages: u64, total: &Arc<AtomicU64>) -> Self {
        Self {
            name,
            total: Arc::clone(total),
            to_send: (0..messages).collect(),
            submitted: VecDeque::new(),
            in_flight: HashMap::new(),
            published: Published::default(),
        }
    }

    async fn run(mut self, ports: Vec<u16>) -> Published {
        let mut attempts = tokio::time::interval(RECONNECT_EVERY);
        attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for port in ports.iter().copied().cycle() {
            if self.done() {
                break;
            }
            attempts.tick().await;
            let mut options = MqttOptions::new(&self.name, "127.0.0.1", port);
            options.set_outgoing_inflight_upper_limit(WINDOW).set_connection_timeout(5);
            let (client, events) = AsyncClient::new(options, usize::from(WINDOW));
            self.one_connection(&client, events, port).await;
            self.take_back();
        }
        self.published
    }

    /// Until all is acknowledged or the connection ends.
    async fn one_connection(&mut self, client: &AsyncClient, mut events: EventLoop, port: u16) {
        while !self.done() {
            let Ok(event) = events.poll().await else { return };
            match event {
                Event::Outgoing(Outgoing::Publish(id)) => {
                    if let Some(number) = self.submitted.pop_front() {
                        self.in_flight.insert(id, number);
                    }
                }
                Event::Incoming(Packet::PubAck(ack)) => match ack.reason {
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => self.acknowledged(ack.pkid, port),
                    _ => return,
                },
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
            if self.submit(client).is_none() {
                return;
            }
        }
    }

    /// `None` when the client takes no more: its connection is over.
    fn submit(&mut self, client: &AsyncClient) -> Option<()> {
        while self.submitted.len() + self.in_flight.len() < usize::from(WINDOW) {
            let Some(number) = self.to_send.pop_front() else { break };
            self.submitted.push_back(number);
            let payload = serde_json::json!({ "message": self.message(number) }).to_string();
            client.try_publish(format!("{TOPIC}/{}", self.name), QoS::AtLeastOnce, false, payload).ok()?;
        }
        Some(())
    }

    fn acknowledged(&mut self, id: u16, port: u16) {
        if let Some(number) = self.in_flight.remove(&id) {
            self.published.acknowledged.insert(self.message(number), port);
            self.total.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the lost connection left open goes again, first and in order.
    fn take_back(&mut self) {
        self.published.sent_again += self.in_flight.len() as u64;
        let mut open: Vec<u64> = self.in_flight.drain().map(|(_, number)| number).collect();
        open.extend(self.submitted.drain(..));
        open.sort_unstable();
        for number in open.into_iter().rev() {
            self.to_send.push_front(number);
        }
    }

    fn message(&self, number: u64) -> String {
        format!("{}/{number}", self.name)
    }

    fn done(&self) -> bool {
        self.to_send.is_empty() && self.submitted.is_empty() && self.in_flight.is_empty()
    }
}
