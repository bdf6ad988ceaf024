//! Cassandra: a table for each destination, with the columns that the page shows and the client's id.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::cassandra::{self, CassandraOptions, KEYSPACE, PASSWORD, USER};
use tests::ports;

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
/// A batch under way is in memory outside of `connectors.memory_bytes_max`, as the driver sends it.
const BATCH_BYTES: u64 = 1 << 20;
/// As the kind has it by default.
const BATCHES_IN_FLIGHT: u64 = 4;
/// Of a poisoned payload: in no column of ASCII.
const POISON: &str = "w\u{e4}rm";

const REFUSED: Refused = Refused { class: "cassandra_2200", words: "Invalid byte for ascii", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Provided username sluice and/or password are incorrect",
};
const NO_TABLE: Breakage = Breakage {
    name: "missing table",
    health_reason: "TARGET_MISSING",
    class: "target_missing",
    words: "does not exist",
};
const NO_RIGHT: Breakage = Breakage {
    name: "no right to insert",
    health_reason: "TARGET_PERMISSION",
    class: "target_permission",
    words: "User sluice has no MODIFY permission",
};

pub struct Cassandra {
    server: cassandra::Cassandra,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, cassandra::Cassandra>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    tables: BTreeSet<String>,
}

impl Cassandra {
    fn server_of(&self, destination: &Destination) -> &cassandra::Cassandra {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }
}

impl Adapter for Cassandra {
    const KIND: &'static str = "cassandra";

    async fn start(_: &Start) -> Result<Self> {
        let server = cassandra::Cassandra::start().await?;
        Ok(Self { server, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), tables: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: false },
            // Rows come in the order of their tokens.
            shows_order: false,
            batch_records: BATCH_RECORDS,
            batches_in_flight: BATCHES_IN_FLIGHT,
            // The id is the primary key.
            repeats: Repeats::Never,
            // The server syncs its log before it confirms a write.
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_TABLE, NO_RIGHT],
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
        let payload = if destination.guarded { "ascii" } else { "blob" };
        let columns = format!(
            "msgid text PRIMARY KEY, topic text, client_id text, qos int, payload {payload}, arrived timestamp"
        );
        self.server_of(destination).make_table(&destination.name, &columns).await?;
        self.tables.insert(destination.name.clone());
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(way.port.unwrap_or(self.server.port()), destination);
        match way.safety {
            Safety::Confirmed => {
                config["batch_records"] = BATCH_RECORDS.into();
                config["batch_bytes"] = BATCH_BYTES.into();
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let query = format!("SELECT msgid, topic, client_id, payload FROM {KEYSPACE}.{}", destination.name);
        self.server_of(destination).rows(&query).await?.iter().map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let tables = self.server.rows("SELECT keyspace_name, table_name FROM system_schema.tables").await?;
        let name = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
        let own = |row: &&Value| {
            let keyspace = name(row, "keyspace_name");
            let ours = keyspace == KEYSPACE && self.tables.contains(&name(row, "table_name"));
            ours || keyspace == "system" || keyspace.starts_with("system_")
        };
        let strange = tables.iter().filter(|row| !own(row));
        Ok(strange.map(|row| format!("{}.{}", name(row, "keyspace_name"), name(row, "table_name"))).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": POISON }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        match *breakage {
            WRONG_PASSWORD => self.server.set_password("another one").await,
            NO_TABLE => self.server.run(&[&format!("DROP TABLE {KEYSPACE}.{table}")]).await,
            _ => self.server.run(&[&format!("REVOKE MODIFY ON {KEYSPACE}.{table} FROM {USER}")]).await,
        }
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        match *breakage {
            WRONG_PASSWORD => self.server.set_password(PASSWORD).await,
            NO_TABLE => self.make(destination).await,
            _ => self.server.run(&[&format!("GRANT MODIFY ON {KEYSPACE}.{table} TO {USER}")]).await,
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
            let options = CassandraOptions {
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..CassandraOptions::default()
            };
            self.with_tls.insert(key.clone(), cassandra::Cassandra::with(options).await?);
        }
        let mut config = config(self.with_tls[&key].port(), destination);
        config["enable_tls"] = true.into();
        self.elsewhere.insert(destination.name.clone(), key);
        Ok(config)
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(cassandra::Cassandra::finish);
    }
}

fn config(port: u16, destination: &Destination) -> Value {
    json!({ "nodes": ["127.0.0.1"], "port": port, "keyspace": KEYSPACE, "table": destination.name, "username": USER,
            "password": PASSWORD, "timeout_secs": 5 })
}

fn seen(row: &Value) -> Result<Seen> {
    let text = |column: &str| row[column].as_str().map(str::to_owned);
    let payload = match &row["payload"] {
        // Where it is ASCII.
        Value::String(payload) => payload.clone().into_bytes(),
        payload => {
            let hex = payload["hex"].as_str().context("no payload")?;
            let bytes = (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?));
            bytes.collect::<Result<_>>()?
        }
    };
    Ok(Seen { id: text("msgid"), topic: text("topic"), client_id: text("client_id"), payload, user_properties: None })
}
