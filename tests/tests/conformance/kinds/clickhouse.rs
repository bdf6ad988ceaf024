//! ClickHouse (Debian's 18.16): a table for each destination, in a database of its own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::clickhouse::{self, ClickHouseOptions, DATABASE, PASSWORD, USER};
use tests::ports;

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
/// A batch and its compressed rows are in memory outside of `connectors.memory_bytes_max`.
const BATCH_BYTES: u64 = 1 << 20;
/// As the kind has it by default.
const BATCHES_IN_FLIGHT: u64 = 4;

const REFUSED: Refused =
    Refused { class: "clickhouse_6", words: "Cannot parse string '\"poison\"' as Float64", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Wrong password for user sluice",
};
const NO_TABLE: Breakage = Breakage {
    name: "missing table",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "doesn't exist",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to insert",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "in readonly mode",
};

pub struct Clickhouse {
    server: clickhouse::ClickHouse,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, clickhouse::ClickHouse>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    tables: BTreeSet<String>,
}

impl Clickhouse {
    fn server_of(&self, destination: &Destination) -> &clickhouse::ClickHouse {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }
}

impl Adapter for Clickhouse {
    const KIND: &'static str = "clickhouse";

    async fn start(_: &Start) -> Result<Self> {
        let server = clickhouse::ClickHouse::start().await?;
        Ok(Self { server, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), tables: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: false },
            // Rows come in the order of their parts.
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            // This release knows no tokens, and its table keeps no list of what it has taken.
            repeats: Repeats::InFlight,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_TABLE, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    /// A `String` of ClickHouse is bytes, and every one that would end a value is escaped.
    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let name = &destination.name;
        let guard = if destination.guarded {
            ", celsius Float64 MATERIALIZED toFloat64(visitParamExtractRaw(payload, 'celsius'))"
        } else {
            ""
        };
        let statement = format!(
            "CREATE TABLE {DATABASE}.{name} (id String, topic String, client_id String, qos UInt8, retain UInt8, \
             timestamp DateTime, payload String, key String{guard}) ENGINE = MergeTree ORDER BY id"
        );
        self.server_of(destination).interface().run(&statement).await?;
        self.tables.insert(name.clone());
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let port = way.port.unwrap_or(self.server.port());
        let mut config = config(&format!("http://127.0.0.1:{port}"), destination);
        match way.safety {
            Safety::Confirmed => {
                config["batch_records"] = BATCH_RECORDS.into();
                config["batch_bytes"] = BATCH_BYTES.into();
                config["linger_ms"] = 20.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let query =
            format!("SELECT id, topic, client_id, hex(payload) AS payload FROM {DATABASE}.{}", destination.name);
        self.server_of(destination).interface().rows(&query).await?.iter().map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let interface = self.server.interface();
        let tables = interface.run(&format!("SELECT name FROM system.tables WHERE database = '{DATABASE}'")).await?;
        let databases = interface.run("SHOW DATABASES").await?;
        let own = [DATABASE, "default", "system"];
        let mut strangers: Vec<String> =
            databases.lines().filter(|database| !own.contains(database)).map(str::to_owned).collect();
        strangers.extend(tables.lines().filter(|table| !self.tables.contains(*table)).map(str::to_owned));
        Ok(strangers)
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn requests(&self, destination: &Destination) -> Result<Option<u64>> {
        self.server_of(destination).inserts(&destination.name).map(Some)
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.server.set_password("another one").await,
            NO_TABLE => self.rename(&destination.name, &format!("{}_away", destination.name)).await,
            _ => self.server.set_readonly(true).await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        match *breakage {
            WRONG_PASSWORD => self.server.set_password(PASSWORD).await,
            NO_TABLE => self.rename(&format!("{}_away", destination.name), &destination.name).await,
            _ => self.server.set_readonly(false).await,
        }
    }

    async fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    fn pause(&self) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.server.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        ports::connections_to(self.server.port()).map(Some)
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = ClickHouseOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..ClickHouseOptions::default()
            };
            self.with_tls.insert(key.clone(), clickhouse::ClickHouse::with(options).await?);
        }
        let url = self.with_tls[&key].tls_url()?;
        self.elsewhere.insert(destination.name.clone(), key);
        Ok(config(&url, destination))
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(clickhouse::ClickHouse::finish);
    }
}

impl Clickhouse {
    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let statement = format!("RENAME TABLE {DATABASE}.{from} TO {DATABASE}.{to}");
        self.server.interface().run(&statement).await.map(drop)
    }
}

fn config(url: &str, destination: &Destination) -> Value {
    json!({ "url": url, "database": DATABASE, "table": destination.name, "username": USER, "password": PASSWORD,
            "timeout_secs": 5 })
}

fn seen(row: &Value) -> Result<Seen> {
    let text = |column: &str| row[column].as_str().map(str::to_owned);
    let hex = row["payload"].as_str().context("no payload")?;
    let bytes = (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?));
    Ok(Seen {
        id: text("id"),
        topic: text("topic"),
        client_id: text("client_id"),
        payload: bytes.collect::<Result<_>>()?,
        user_properties: None,
    })
}
