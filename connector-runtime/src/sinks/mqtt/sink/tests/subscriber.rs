//! Reads back what arrived, with a client that shares no code with the sink. Its session outlives a restart of the
//! broker, so that it loses nothing itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::pipeline::tests::double::until;

const RECONNECT_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Subscriber {
    arrived: Arc<Mutex<Vec<Publish>>>,
    reading: JoinHandle<()>,
    _client: AsyncClient,
}

impl Subscriber {
    pub(super) async fn start(port: u16, filter: &str) -> Self {
        Self::start_as("reader", port, filter, QoS::ExactlyOnce).await
    }

    /// For brokers that restart: rumqttc does not resume QoS 2 (it takes a PUBREL after a new connection for an error).
    pub(super) async fn resuming(port: u16, filter: &str) -> Self {
        Self::start_as("reader", port, filter, QoS::AtLeastOnce).await
    }

    /// Subscribed when this returns.
    pub(super) async fn start_as(client_id: &str, port: u16, filter: &str, qos: QoS) -> Self {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30)).set_clean_start(false);
        options.set_session_expiry_interval(Some(3_600)).set_max_packet_size(Some(16 << 20));
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe(filter, qos).await.expect("room for one request");
        let (arrived, subscribed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
        let (into, told) = (Arc::clone(&arrived), Arc::clone(&subscribed));
        let reading = tokio::spawn(async move {
            let mut attempts = interval(RECONNECT_EVERY);
            attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => into.lock().expect("no panic").push(publish),
                    Ok(Event::Incoming(Packet::SubAck(_))) => *told.lock().expect("no panic") = true,
                    Ok(_) => {}
                    Err(_) => {
                        attempts.tick().await;
                    }
                }
            }
        });
        until("the subscription is acknowledged", || *subscribed.lock().expect("no panic")).await;
        Self { arrived, reading, _client: client }
    }

    pub(super) fn count(&self) -> usize {
        self.arrived.lock().expect("no panic").len()
    }

    pub(super) fn all(&self) -> Vec<Publish> {
        self.arrived.lock().expect("no panic").clone()
    }

    /// As soon as there are so many.
    pub(super) async fn messages(&self, count: usize) -> Vec<Publish> {
        until(&format!("{count} messages arrive"), || self.count() >= count).await;
        self.all()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

pub(super) fn topic(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.topic).expect("topics are text")
}

pub(super) fn properties(publish: &Publish) -> PublishProperties {
    publish.properties.clone().unwrap_or_default()
}

/// The values of one user property.
pub(super) fn user<'p>(properties: &'p PublishProperties, name: &str) -> Vec<&'p str> {
    let pairs = properties.user_properties.iter().filter(|(key, _)| key == name);
    pairs.map(|(_, value)| value.as_str()).collect()
}
