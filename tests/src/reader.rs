//! A subscriber that loses nothing by itself: QoS 1, and a session that outlives its connections and, where the broker
//! keeps it, a restart of the broker. It remembers everything that arrived.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::mqtt_session::Login;
use crate::records::Arrived;
use crate::wait;

const RECONNECT_EVERY: Duration = Duration::from_millis(50);
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const PACKET_BYTES_MAX: usize = 1 << 20;

pub struct Reader {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
    _client: AsyncClient,
}

#[derive(Default)]
struct Heard {
    subscribed: bool,
    messages: BTreeMap<String, u32>,
    topics: BTreeMap<String, u64>,
    /// Payloads that are envelopes, read as such.
    arrived: Arrived,
}

impl Reader {
    /// Subscribed when this returns.
    pub async fn start(name: &str, port: u16, login: Option<&Login>, filter: &str) -> Result<Self> {
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_keep_alive(KEEP_ALIVE).set_clean_session(false);
        options.set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(login) = login {
            options.set_credentials(&login.user, &login.password);
        }
        let (client, events) = AsyncClient::new(options, 16);
        client.subscribe(filter, QoS::AtLeastOnce).await.context("subscribe")?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let task = tokio::spawn(listen(events, Arc::clone(&heard)));
        let reader = Self { heard, task, _client: client };
        wait::until(SUBSCRIBE_LIMIT, &format!("{name} has subscribed"), || async {
            ensure!(lock(&reader.heard).subscribed, "no SUBACK");
            Ok(())
        })
        .await?;
        Ok(reader)
    }

    /// The publisher's name of each message → how often it arrived.
    pub fn messages(&self) -> BTreeMap<String, u32> {
        lock(&self.heard).messages.clone()
    }

    /// Of a bridge that publishes envelopes: what they held.
    pub fn arrived(&self) -> Arrived {
        lock(&self.heard).arrived.clone()
    }

    /// Topic → messages that arrived on it.
    pub fn topics(&self) -> BTreeMap<String, u64> {
        lock(&self.heard).topics.clone()
    }

    /// Those of `acknowledged` that have not arrived.
    pub fn missing<'a>(&self, acknowledged: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
        let heard = lock(&self.heard);
        acknowledged.into_iter().filter(|message| !heard.messages.contains_key(*message)).collect()
    }

    /// Messages that arrived more than once.
    pub fn repeated(&self) -> u64 {
        lock(&self.heard).messages.values().map(|times| u64::from(times - 1)).sum()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(mut events: rumqttc::EventLoop, heard: Arc<Mutex<Heard>>) {
    let mut attempts = interval(RECONNECT_EVERY);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let payload = serde_json::from_slice::<serde_json::Value>(&publish.payload).unwrap_or_default();
                let name = payload["message"].as_str().map(str::to_owned);
                let name = name.unwrap_or_else(|| String::from_utf8_lossy(&publish.payload).into_owned());
                let mut heard = lock(&heard);
                *heard.messages.entry(name).or_default() += 1;
                // What carries no id is no envelope, and counts by its name alone.
                let _ = heard.arrived.add(payload);
                *heard.topics.entry(publish.topic).or_default() += 1;
            }
            Ok(Event::Incoming(Packet::SubAck(_))) => lock(&heard).subscribed = true,
            Ok(_) => {}
            Err(_) => {
                attempts.tick().await;
            }
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
