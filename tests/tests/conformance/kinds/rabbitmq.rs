//! RabbitMQ: an exchange with one durable queue for each destination. Its management API reads the queue.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::ports;
use tests::rabbitmq::{self, EXCHANGE, Message, PASSWORD, QUEUE, RabbitmqOptions, USER, VIRTUAL_HOST};

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
const BATCHES_IN_FLIGHT: u64 = 2;

const UNROUTABLE: Refused = Refused { class: "unroutable", words: "NO_ROUTE (code 312)", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
};
const NO_EXCHANGE: Breakage = Breakage {
    name: "missing exchange",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "NOT_FOUND - no exchange",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to write",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "ACCESS_REFUSED - access to exchange",
};

pub struct Rabbitmq {
    server: rabbitmq::Rabbitmq,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, rabbitmq::Rabbitmq>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    made: BTreeSet<String>,
}

impl Rabbitmq {
    fn server_of(&self, destination: &Destination) -> &rabbitmq::Rabbitmq {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }

    async fn names(&self, what: &str) -> Result<Vec<String>> {
        let all = self.server.get(&[what, VIRTUAL_HOST]).await?;
        let all = all.as_array().context("no list")?;
        Ok(all.iter().filter_map(|one| one["name"].as_str()).map(str::to_owned).collect())
    }
}

impl Adapter for Rabbitmq {
    const KIND: &'static str = "rabbitmq";

    async fn start(_: &Start) -> Result<Self> {
        let server = rabbitmq::Rabbitmq::start().await?;
        Ok(Self { server, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), made: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: true },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            repeats: Repeats::InFlight,
            loses_when_killed: None,
            poison: UNROUTABLE,
            breakages: &[WRONG_PASSWORD, NO_EXCHANGE, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    /// A guarded one has a place for a temperature of 21.5 only.
    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let name = &destination.name;
        let server = self.server_of(destination);
        server.add_exchange(VIRTUAL_HOST, name, if destination.guarded { "direct" } else { "fanout" }).await?;
        server.add_queue(VIRTUAL_HOST, name, &json!({})).await?;
        server.bind(VIRTUAL_HOST, name, name, "21.5").await?;
        self.made.insert(name.clone());
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(way.port.unwrap_or(self.server.port()), destination);
        match way.safety {
            Safety::Confirmed => {
                config["delivery_mode"] = "Persistent".into();
                config["batch_size"] = BATCH_RECORDS.into();
                config["max_in_flight"] = BATCHES_IN_FLIGHT.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let messages = self.server_of(destination).messages(VIRTUAL_HOST, &destination.name).await?;
        messages.into_iter().map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let mut strangers = Vec::new();
        for what in ["exchanges", "queues"] {
            let is_strange = |name: &String| {
                let is_of_the_server = name.is_empty() || name.starts_with("amq.") || name == EXCHANGE || name == QUEUE;
                !is_of_the_server && !self.made.contains(name)
            };
            strangers.extend(self.names(what).await?.into_iter().filter(is_strange));
        }
        Ok(strangers)
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.server.add_user(USER, "another one").await,
            NO_EXCHANGE => self.server.delete(&["exchanges", VIRTUAL_HOST, &destination.name]).await,
            _ => self.server.permit(VIRTUAL_HOST, USER, "^$").await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.server.add_user(USER, PASSWORD).await,
            NO_EXCHANGE => {
                // Between the exchange and its binding a message has no way: nobody may publish then.
                self.server.permit(VIRTUAL_HOST, USER, "^$").await?;
                self.make(destination).await?;
                self.server.permit(VIRTUAL_HOST, USER, ".*").await
            }
            _ => self.server.permit(VIRTUAL_HOST, USER, ".*").await,
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    fn pause(&self) -> Result<()> {
        self.server.pause()
    }

    fn resume(&self) -> Result<()> {
        self.server.resume()
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.server.port())
    }

    /// The reader speaks HTTP, on another port.
    async fn connections(&self) -> Result<Option<usize>> {
        Ok(Some(ports::connections_to(self.server.port())?))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = RabbitmqOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..RabbitmqOptions::default()
            };
            self.with_tls.insert(key.clone(), rabbitmq::Rabbitmq::with(options).await?);
        }
        let port = self.with_tls[&key].tls_port();
        self.elsewhere.insert(destination.name.clone(), key);
        let mut config = config(port, destination);
        config["enable_tls"] = true.into();
        Ok(config)
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(rabbitmq::Rabbitmq::finish);
    }
}

/// The routing key says nothing to an exchange that is not guarded.
fn config(port: u16, destination: &Destination) -> Value {
    let routing_key = if destination.guarded { "${payload.celsius}" } else { "${topic}" };
    json!({ "server": "127.0.0.1", "port": port, "username": USER, "password": PASSWORD,
            "virtual_host": VIRTUAL_HOST, "exchange": destination.name, "routing_key": routing_key,
            "connection_timeout_secs": 2, "confirm_timeout_secs": 5, "heartbeat_secs": 2 })
}

fn seen(message: Message) -> Result<Seen> {
    let header = |name: &str| message.header(name).map(str::to_owned);
    let headers = message.properties["headers"].as_object().context("no headers")?;
    let mut own = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with("mqtt.")) {
        // Of a name that stood there several times.
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            own.push((name.clone(), value.as_str().context("a header that is no text")?.to_owned()));
        }
    }
    // A table of AMQP has no order between its names: this is the one in which the suite makes them.
    own.sort_by_key(|(name, _)| match name.as_str() {
        "plant" => 0,
        "note" => 1,
        _ => 2,
    });
    let seen = Seen {
        id: header("mqtt.id"),
        topic: header("mqtt.topic"),
        client_id: header("mqtt.client_id"),
        user_properties: Some(own),
        payload: message.payload,
    };
    ensure!(message.properties["message_id"].as_str() == seen.id.as_deref(), "message id of {seen:?}");
    Ok(seen)
}
