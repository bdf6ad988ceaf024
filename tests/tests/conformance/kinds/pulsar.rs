//! Apache Pulsar, standalone. A destination is a topic of three partitions in a namespace that drops what comes twice.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::ports;
use tests::pulsar::{PASSWORD, Pulsar as Server, PulsarOptions, Received, USER};

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 200;
const NAMESPACE: &str = "public/once";
const PARTITIONS: u32 = 3;
/// Of an entry of a guarded topic: enough for some plain messages, and not for a poisoned one alone.
const ENTRY_BYTES_MAX: usize = 4_096;

const TOO_LARGE: Refused = Refused { class: "message_too_large", words: "Exceed maximum message size", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Failed to authenticate",
};
const NO_TOPIC: Breakage = Breakage {
    name: "missing topic",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "TopicNotFound",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to publish",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "not authorized",
};

pub struct Pulsar {
    main: Server,
    with_tls: BTreeMap<String, Server>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    /// Topics that were made on the first.
    made: BTreeSet<String>,
}

impl Pulsar {
    fn server(&self, destination: &Destination) -> &Server {
        self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key)).unwrap_or(&self.main)
    }

    /// It reads its passwords when it starts.
    async fn have_password(&mut self, password: &str) -> Result<()> {
        self.main.set_password(password).await?;
        self.main.kill()?;
        self.main.start_again().await
    }
}

/// Topics are made by nobody but [`Adapter::make`].
async fn started(options: PulsarOptions) -> Result<Server> {
    let settings = vec![("allowAutoTopicCreation".to_owned(), "false".to_owned())];
    let server = Server::with(PulsarOptions { settings, accounts: true, ..options }).await?;
    server.create_deduplicating(NAMESPACE).await?;
    Ok(server)
}

impl Adapter for Pulsar {
    const KIND: &'static str = "pulsar";

    async fn start(start: &Start) -> Result<Self> {
        let main = started(PulsarOptions { proxy_port: Some(start.proxy_port), ..PulsarOptions::default() }).await?;
        Ok(Self { main, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), made: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: true },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 1,
            repeats: Repeats::Never,
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
        let (server, topic) = (self.server(destination), topic(destination));
        server.create_partitioned(&topic, PARTITIONS).await?;
        if destination.guarded {
            server.limit_entries(&topic, ENTRY_BYTES_MAX).await?;
        }
        if !self.elsewhere.contains_key(&destination.name) {
            self.made.insert(destination.name.clone());
        }
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let server = format!("pulsar://127.0.0.1:{}", way.port.unwrap_or(self.main.port()));
        let mut config = json!({ "server": server, "topic": topic(destination), "basic_name": USER,
                                 "basic_password": PASSWORD });
        match way.safety {
            Safety::Confirmed => confirmed(&mut config),
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let received = self.server(destination).messages(&topic(destination)).await?;
        received.iter().map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let mut strangers = self.main.topics("public/default").await?;
        let known = |topic: &String| {
            let name = topic.split_once("-partition-").map_or(topic.as_str(), |(name, _)| name);
            self.made.contains(name)
        };
        strangers.extend(self.main.topics(NAMESPACE).await?.into_iter().filter(|topic| !known(topic)));
        Ok(strangers)
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "padding": "x".repeat(ENTRY_BYTES_MAX) }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.have_password("another").await,
            NO_TOPIC => self.main.delete_partitioned(&topic(destination)).await,
            NO_RIGHT => self.main.allow(NAMESPACE, USER, false).await,
            other => bail!("{other:?} is not declared"),
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.have_password(PASSWORD).await,
            NO_TOPIC => self.main.create_partitioned(&topic(destination), PARTITIONS).await,
            NO_RIGHT => self.main.allow(NAMESPACE, USER, true).await,
            other => bail!("{other:?} is not declared"),
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.main.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.main.start_again().await
    }

    fn pause(&self) -> Result<()> {
        self.main.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.main.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.main.proxied_port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        Ok(Some(ports::connections_to(self.main.port())? + ports::connections_to(self.main.proxied_port())?))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = PulsarOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..PulsarOptions::default()
            };
            self.with_tls.insert(key.clone(), started(options).await?);
        }
        let port = self.with_tls.get(&key).context("was just started")?.tls_port();
        let mut config = json!({ "server": format!("pulsar+ssl://127.0.0.1:{port}"), "topic": topic(destination),
                                 "basic_name": USER, "basic_password": PASSWORD });
        confirmed(&mut config);
        self.elsewhere.insert(destination.name.clone(), key);
        Ok(config)
    }

    fn finish(self) {
        self.main.finish();
        self.with_tls.into_values().for_each(Server::finish);
    }
}

fn topic(destination: &Destination) -> String {
    format!("{NAMESPACE}/{}", destination.name)
}

fn confirmed(config: &mut Value) {
    config["batch_size"] = BATCH_RECORDS.into();
    config["connection_timeout_secs"] = 2.into();
    config["operation_timeout_secs"] = 5.into();
    config["send_timeout_secs"] = 5.into();
}

fn seen(received: &Received) -> Result<Seen> {
    let property = |name: &str| received.properties.get(name).cloned();
    // Of these names every value stands there, as JSON.
    let repeated: Vec<String> = match property("mqtt.repeated") {
        Some(names) => serde_json::from_str(&names)?,
        None => Vec::new(),
    };
    let mut own = Vec::new();
    for (name, value) in received.properties.iter().filter(|(name, _)| !name.starts_with("mqtt.")) {
        let values =
            if repeated.contains(name) { serde_json::from_str::<Vec<String>>(value)? } else { vec![value.clone()] };
        own.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    // Properties have no order between their names: this is the one in which the suite makes them.
    own.sort_by_key(|(name, _)| match name.as_str() {
        "plant" => 0,
        "note" => 1,
        _ => 2,
    });
    Ok(Seen {
        id: property("mqtt.id"),
        topic: property("mqtt.topic"),
        client_id: property("mqtt.client_id"),
        payload: received.payload()?,
        user_properties: Some(own),
    })
}
