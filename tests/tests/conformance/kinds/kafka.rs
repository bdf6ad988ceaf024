//! Apache Kafka, one broker. A destination is a topic; connectors log in, on a listener of their own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::kafka::{GUEST, GUEST_PRINCIPAL, Kafka as Server, KafkaOptions, Listener, PASSWORD, Received, TopicReader};
use tests::ports;

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 200;
const BATCHES_IN_FLIGHT: u64 = 2;
const PARTITIONS: i32 = 3;
const MECHANISM: &str = "SCRAM-SHA-512";
/// Of one message of a guarded topic; a batch of the client is smaller, so that a message that is larger stands alone.
const MESSAGE_BYTES_MAX: usize = 8_192;
const BATCH_BYTES_MAX: usize = 4_096;

const TOO_LARGE: Refused = Refused { class: "message_too_large", words: "Message size too large", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Authentication failed",
};
const NO_TOPIC: Breakage = Breakage {
    name: "missing topic",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "Unknown topic or partition",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to write",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "Topic authorization failed",
};

pub struct Kafka {
    main: Server,
    with_tls: BTreeMap<String, Server>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    /// Topics that were made on the first.
    made: Vec<String>,
    /// For all destinations at once. Java, which changes it, takes seconds to start.
    has_other_password: bool,
    readers: Mutex<BTreeMap<String, Arc<Mutex<TopicReader>>>>,
}

impl Kafka {
    fn server(&self, destination: &Destination) -> &Server {
        self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key)).unwrap_or(&self.main)
    }

    async fn has_password(&mut self, right: bool) -> Result<()> {
        if self.has_other_password == right {
            let password = if right { PASSWORD } else { "another" };
            self.main.set_scram_password(GUEST, MECHANISM, password).await?;
            self.has_other_password = !right;
        }
        Ok(())
    }

    fn reader(&self, destination: &Destination) -> Option<Arc<Mutex<TopicReader>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).get(&destination.name).cloned()
    }

    fn keep(&self, destination: &Destination, reader: TopicReader) -> Arc<Mutex<TopicReader>> {
        let reader = Arc::new(Mutex::new(reader));
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.insert(destination.name.clone(), Arc::clone(&reader));
        reader
    }
}

impl Adapter for Kafka {
    const KIND: &'static str = "kafka";

    async fn start(start: &Start) -> Result<Self> {
        let options = KafkaOptions { accounts: true, proxy_port: Some(start.proxy_port), ..KafkaOptions::default() };
        let main = Server::with(options).await?;
        let rights = ["--add", "--allow-principal", GUEST_PRINCIPAL, "--operation", "Write", "--operation", "Describe"];
        main.rights(&[&rights[..], &["--topic", "*"]].concat()).await?;
        Ok(Self {
            main,
            with_tls: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            made: Vec::new(),
            has_other_password: false,
            readers: Mutex::default(),
        })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: true },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            // One producer repeats nothing, but for messages whose time (see `config`) was over before their confirmation
            // came: they are sent anew.
            repeats: Repeats::InFlight,
            loses_when_killed: None,
            poison: TOO_LARGE,
            breakages: &[WRONG_PASSWORD, NO_TOPIC, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let limit = MESSAGE_BYTES_MAX.to_string();
        let settings: &[(&str, &str)] = if destination.guarded { &[("max.message.bytes", &limit)] } else { &[] };
        self.server(destination).create_topic(&destination.name, PARTITIONS, settings).await?;
        if !self.elsewhere.contains_key(&destination.name) {
            self.made.push(destination.name.clone());
        }
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let servers = format!("127.0.0.1:{}", way.port.unwrap_or(self.main.port(Listener::Sasl)));
        let mut config = json!({ "bootstrap_servers": servers, "topic": destination.name,
                                 "sasl_mechanism": "scram_sha_512", "sasl_username": GUEST, "sasl_password": PASSWORD });
        match way.safety {
            Safety::Confirmed => confirmed(&mut config),
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let reader = match self.reader(destination) {
            Some(reader) => reader,
            None => {
                let servers = self.server(destination).bootstrap(Listener::Plain);
                let topic = destination.name.clone();
                let opened = tokio::task::spawn_blocking(move || TopicReader::open(&servers, &topic)).await??;
                self.keep(destination, opened)
            }
        };
        tokio::task::spawn_blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(reader.read()?.iter().map(seen).collect())
        })
        .await?
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let topics = self.main.topics().await?;
        Ok(topics.into_iter().filter(|topic| !self.made.contains(topic)).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "padding": "x".repeat(MESSAGE_BYTES_MAX) }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.has_password(false).await,
            NO_TOPIC => self.main.delete_topic(&destination.name).await,
            NO_RIGHT => self.main.rights(&[&["--add"][..], &denial(&destination.name)].concat()).await,
            other => bail!("{other:?} is not declared"),
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.has_password(true).await,
            NO_TOPIC => self.main.create_topic(&destination.name, PARTITIONS, &[]).await,
            NO_RIGHT => self.main.rights(&[&["--remove", "--force"][..], &denial(&destination.name)].concat()).await,
            other => bail!("{other:?} is not declared"),
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.main.kill(0)
    }

    async fn start_again(&mut self) -> Result<()> {
        self.main.start_again(0).await
    }

    fn pause(&self) -> Result<()> {
        self.main.signal(0, Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.main.signal(0, Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.main.port(Listener::Proxied))
    }

    /// Nobody else comes to these listeners.
    async fn connections(&self) -> Result<Option<usize>> {
        let count = |listener| ports::connections_to(self.main.port(listener));
        Ok(Some(count(Listener::Sasl)? + count(Listener::Proxied)?))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = KafkaOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..KafkaOptions::default()
            };
            self.with_tls.insert(key.clone(), Server::with(options).await?);
        }
        let server = self.with_tls.get(&key).context("was just started")?;
        let mut config = json!({ "bootstrap_servers": server.bootstrap(Listener::Tls), "topic": destination.name,
                                 "enable_tls": true });
        confirmed(&mut config);
        self.elsewhere.insert(destination.name.clone(), key);
        Ok(config)
    }

    /// Each broker is verified by the name that it advertises.
    fn takes_server_name(&self) -> bool {
        false
    }

    fn beside(&self, field: &str, _: u64) -> Value {
        match field {
            "linger_ms" => json!({ "message_timeout_ms": 300_000 }),
            _ => Value::Null,
        }
    }

    fn finish(self) {
        self.main.finish();
        self.with_tls.into_values().for_each(Server::finish);
    }
}

fn confirmed(config: &mut Value) {
    config["acks"] = "all".into();
    config["batch_size"] = BATCH_BYTES_MAX.into();
    config["batch_records"] = BATCH_RECORDS.into();
    config["max_in_flight"] = BATCHES_IN_FLIGHT.into();
    config["message_timeout_ms"] = 5_000.into();
    config["cleanup_timeout_secs"] = 1.into();
}

fn denial(topic: &str) -> [&str; 6] {
    ["--deny-principal", GUEST_PRINCIPAL, "--operation", "Write", "--topic", topic]
}

fn seen(received: &Received) -> Seen {
    let mut seen = Seen { payload: received.value.clone(), ..Seen::default() };
    let mut own = Vec::new();
    for (name, value) in &received.headers {
        let value = String::from_utf8_lossy(value).into_owned();
        match name.as_str() {
            "mqtt.id" => seen.id = Some(value),
            "mqtt.topic" => seen.topic = Some(value),
            "mqtt.client_id" => seen.client_id = Some(value),
            _ if name.starts_with("mqtt.") => {}
            _ => own.push((name.clone(), value)),
        }
    }
    seen.user_properties = Some(own);
    seen
}
