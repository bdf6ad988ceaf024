//! Mosquitto, and a subscriber that remembers everything it hears. A destination is a first level of the topic.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::mosquitto::{self, Broker, BrokerOptions};
use tests::scratch::Scratch;
use tests::{ports, wait};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::bare::BareClient;
use crate::shapes::{Shape, Text};

const BATCH_RECORDS: u64 = 200;
const BATCHES_IN_FLIGHT: u64 = 2;
const USER: &str = "sluice";
const PASSWORD: &str = "p@ss:w/o?r#d ü";
const READER: &str = "conformance-reader";
const READY_LIMIT: Duration = Duration::from_secs(20);
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
const PACKET_BYTES_MAX: u32 = 8 << 20;
/// Of the broker that refuses large messages.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// Mosquitto takes no control character in a text of MQTT, and says so by closing the connection.
const CONTROL_CHARACTER: Refused =
    Refused { class: "connection_closed", words: "control characters in a topic or property", offline: false };
const TOO_LARGE: Refused = Refused { class: "packet_too_large", words: "packet too large", offline: false };
const WRONG_PASSWORD: Breakage =
    Breakage { name: "wrong password", health_reason: "TARGET_AUTH", class: "target_auth", words: "not authorized" };
const NO_RIGHT: Breakage = Breakage {
    name: "no right to publish",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "not authorized",
};
/// Without a bound Mosquitto 2.0.11 takes its queue for full whenever it refuses a message, and closes the connection.
const QUEUE: &str = "max_queued_messages 1000000\n";
const IN_MEMORY: &str = "Mosquitto acknowledges what it has in memory only";

pub struct Mqtt {
    main: Listened,
    /// For guarded destinations.
    strict: Listened,
    with_tls: BTreeMap<String, (Listened, u16)>,
    /// Destination → its broker, where it is neither of the first two.
    elsewhere: BTreeMap<String, String>,
    rules: Rules,
}

/// A broker with its reader.
struct Listened {
    broker: Broker,
    reader: Reader,
}

impl Listened {
    async fn start(extra: &str) -> Result<Self> {
        let extra = format!("{QUEUE}{extra}");
        let broker = Broker::with(BrokerOptions { persistence: true, extra }).await?;
        let reader = Reader::start(broker.port()).await?;
        // A kill does not take the subscription along.
        broker.save(READER).await?;
        Ok(Self { broker, reader })
    }
}

/// Who may what; kept where the broker can read it.
struct Rules {
    passwords: PathBuf,
    rights: PathBuf,
    denied: Vec<String>,
    scratch: Scratch,
}

impl Rules {
    async fn new() -> Result<Self> {
        let scratch = Scratch::new("mosquitto-rules")?;
        let folder = scratch.path();
        let rules =
            Self { passwords: folder.join("passwords"), rights: folder.join("rights"), denied: Vec::new(), scratch };
        rules.set_password(PASSWORD).await?;
        rules.write_rights()?;
        Ok(rules)
    }

    async fn set_password(&self, password: &str) -> Result<()> {
        mosquitto::add_password(&self.passwords, USER, password).await?;
        readable(&self.passwords)
    }

    fn write_rights(&self) -> Result<()> {
        // The pattern is for the reader while it is away: rules without one count from its next connection on.
        let mut text = format!("pattern read #\ntopic readwrite #\n\nuser {USER}\ntopic readwrite #\n");
        for destination in &self.denied {
            text.push_str(&format!("topic deny {destination}/#\n"));
        }
        std::fs::write(&self.rights, text)?;
        readable(&self.rights)
    }
}

fn readable(file: &Path) -> Result<()> {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).context("set permissions")
}

impl Mqtt {
    fn listened(&self, destination: &Destination) -> &Listened {
        match self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key)) {
            Some((listened, _)) => listened,
            None if destination.guarded => &self.strict,
            None => &self.main,
        }
    }
}

impl Adapter for Mqtt {
    const KIND: &'static str = "mqtt";

    async fn start(_: &Start) -> Result<Self> {
        let rules = Rules::new().await?;
        let extra = format!("password_file {}\nacl_file {}\n", rules.passwords.display(), rules.rights.display());
        let main = Listened::start(&extra).await?;
        let strict = Listened::start(&format!("message_size_limit {MESSAGE_BYTES_MAX}\n")).await?;
        Ok(Self { main, strict, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), rules })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: true },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            repeats: Repeats::InFlight,
            loses_when_killed: Some(IN_MEMORY),
            poison: TOO_LARGE,
            breakages: &[WRONG_PASSWORD, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Topic(Text::LineBreaks)
            | Shape::ClientId(Text::LineBreaks)
            | Shape::UserProperty(Text::LineBreaks) => Carried::Refused(CONTROL_CHARACTER),
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    /// For a control character.
    fn refusals_interrupt(&self) -> bool {
        true
    }

    /// A level of a topic is there when somebody publishes to it.
    async fn make(&mut self, _: &Destination) -> Result<()> {
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let port = way.port.unwrap_or(self.listened(destination).broker.port());
        let mut config = config(&format!("mqtt://127.0.0.1:{port}"), destination);
        match way.safety {
            Safety::Confirmed => {
                config["batch_records"] = BATCH_RECORDS.into();
                config["max_in_flight"] = BATCHES_IN_FLIGHT.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        Ok(lock(&self.listened(destination).reader.heard).publishes.get(&destination.name).cloned().unwrap_or_default())
    }

    /// First levels of topics that no connector publishes to.
    async fn strangers(&self) -> Result<Vec<String>> {
        let heard = lock(&self.main.reader.heard);
        let levels = heard.publishes.keys().filter(|level| level.contains("stranger") || level.contains("POST"));
        Ok(levels.cloned().collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "padding": "x".repeat(MESSAGE_BYTES_MAX) }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.rules.set_password("another one").await?,
            _ => {
                self.rules.denied.push(destination.name.clone());
                self.rules.write_rights()?;
            }
        }
        self.main.broker.reload().await
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.rules.set_password(PASSWORD).await?,
            _ => {
                self.rules.denied.retain(|name| *name != destination.name);
                self.rules.write_rights()?;
            }
        }
        self.main.broker.reload().await
    }

    async fn kill(&mut self) -> Result<()> {
        self.main.broker.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.main.broker.start_again().await
    }

    async fn bare(&self, destination: &Destination) -> Result<Option<BareClient>> {
        let (port, topic) = (self.main.broker.port().to_string(), format!("{}/c/bare", destination.name));
        // Line by line, please; `stdbuf` becomes what it starts.
        let mut command = tokio::process::Command::new("stdbuf");
        command.args(["-oL", "mosquitto_pub", "-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", &topic]);
        // A message from each line, and a word for each packet.
        command.args(["-l", "-d"]);
        Ok(Some(BareClient {
            command,
            line: Box::new(str::to_owned),
            confirms: |said, _| said.split_once("received PUBACK (Mid: ")?.1.strip_suffix(", RC:0)")?.parse().ok(),
        }))
    }

    fn pause(&self) -> Result<()> {
        self.main.broker.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.main.broker.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.main.broker.port())
    }

    /// Without the reader's.
    async fn connections(&self) -> Result<Option<usize>> {
        Ok(Some(ports::connections_to(self.main.broker.port())?.saturating_sub(1)))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let files = &offer.certificates;
        let key = format!("{} {}", files.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let port = ports::free()?;
            let extra = format!(
                "listener {port} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate {}\n",
                files.ca.display(),
                files.server.display(),
                files.server_key.display(),
                offer.client_required
            );
            self.with_tls.insert(key.clone(), (Listened::start(&extra).await?, port));
        }
        let port = self.with_tls[&key].1;
        self.elsewhere.insert(destination.name.clone(), key);
        Ok(config(&format!("mqtts://127.0.0.1:{port}"), destination))
    }

    fn finish(mut self) {
        self.rules.scratch.passed();
        self.main.broker.finish();
        self.strict.broker.finish();
        self.with_tls.into_values().for_each(|(listened, _)| listened.broker.finish());
    }
}

/// A link without a word is missed after four seconds.
fn config(server: &str, destination: &Destination) -> Value {
    json!({ "server": server, "username": USER, "password": PASSWORD, "connect_timeout_secs": 2, "keepalive_secs": 4,
            "topic_prefix": format!("{}/", destination.name) })
}

/// Subscribed to everything, with a session that outlives its connections.
struct Reader {
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    subscribed: bool,
    /// By the first level of the topic.
    publishes: BTreeMap<String, Vec<Seen>>,
}

impl Reader {
    async fn start(port: u16) -> Result<Self> {
        let mut options = MqttOptions::new(READER, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30)).set_clean_start(false);
        options.set_session_expiry_interval(Some(u32::MAX)).set_max_packet_size(Some(PACKET_BYTES_MAX));
        let (client, events) = AsyncClient::new(options, 16);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let reader = Self { heard: Arc::clone(&heard), task: tokio::spawn(listen(client, events, heard)) };
        wait::until(READY_LIMIT, "the reader has subscribed", async || {
            ensure!(lock(&reader.heard).subscribed, "no SUBACK");
            Ok(())
        })
        .await?;
        Ok(reader)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(client: AsyncClient, mut events: EventLoop, heard: Arc<Mutex<Heard>>) {
    let mut attempts = tokio::time::interval(RECONNECT_EVERY);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match events.poll().await {
            // The room of the channel is enough for one.
            Ok(Event::Incoming(Packet::ConnAck(_))) => drop(client.try_subscribe("#", QoS::AtLeastOnce)),
            Ok(Event::Incoming(Packet::SubAck(_))) => lock(&heard).subscribed = true,
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let (destination, seen) = seen(publish);
                lock(&heard).publishes.entry(destination).or_default().push(seen);
            }
            Ok(_) => {}
            Err(_) => {
                attempts.tick().await;
            }
        }
    }
}

fn seen(publish: Publish) -> (String, Seen) {
    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
    let (destination, topic) = topic.split_once('/').unwrap_or((&topic, ""));
    let mut seen = Seen { topic: Some(topic.to_owned()), payload: publish.payload.to_vec(), ..Seen::default() };
    let mut own = Vec::new();
    for (name, value) in publish.properties.map(|properties| properties.user_properties).unwrap_or_default() {
        match name.as_str() {
            "mqtt.id" => seen.id = Some(value),
            "mqtt.client_id" => seen.client_id = Some(value),
            _ if name.starts_with("mqtt.") || name.starts_with("sluice.") => {}
            _ => own.push((name, value)),
        }
    }
    seen.user_properties = Some(own);
    (destination.to_owned(), seen)
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
