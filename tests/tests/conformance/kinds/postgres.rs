//! PostgreSQL: a table for each destination, with a column for the record's id.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::postgres::{self, PASSWORD, PostgresOptions, ROLE};

use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Parts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
/// While a batch is written as arrays, it stands in memory many times over, outside of `connectors.memory_bytes_max`.
const BATCH_BYTES: u64 = 1 << 20;

const REFUSED: Refused =
    Refused { class: "sqlstate_23514", words: "violates check constraint \"believable\"", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "password authentication failed for user \"sluice\"",
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
    words: "permission denied for table",
};

pub struct Postgres {
    server: postgres::Postgres,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, postgres::Postgres>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    tables: BTreeSet<String>,
}

impl Postgres {
    fn server_of(&self, destination: &Destination) -> &postgres::Postgres {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }
}

impl Adapter for Postgres {
    const KIND: &'static str = "postgres";

    async fn start(_: &Start) -> Result<Self> {
        let server = postgres::Postgres::start().await?;
        Ok(Self { server, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), tables: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: Parts { id: true, topic: true, client_id: true, user_properties: false },
            shows_order: true,
            batch_records: BATCH_RECORDS,
            batches_in_flight: 1,
            repeats: Repeats::Never,
            loses_when_killed: None,
            poison: REFUSED,
            breakages: &[WRONG_PASSWORD, NO_TABLE, NO_RIGHT],
            has_login: true,
            has_tls: true,
        }
    }

    /// `data` has the bytes of every payload, and no topic or client id of MQTT has a NUL.
    fn carries(&self, shape: Shape) -> Carried {
        match shape {
            Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
        }
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let name = &destination.name;
        let check =
            if destination.guarded { ", CONSTRAINT believable CHECK (payload NOT LIKE '%poison%')" } else { "" };
        let statement = format!(
            "CREATE TABLE {name} (client_id text NOT NULL, topic text NOT NULL, timestamp bigint NOT NULL, payload text, \
             data bytea NOT NULL, id text NOT NULL UNIQUE, arrival bigserial{check}); \
             GRANT INSERT, SELECT ON {name} TO {ROLE}; GRANT USAGE ON SEQUENCE {name}_arrival_seq TO {ROLE}"
        );
        self.server_of(destination).sql(&statement).await?;
        self.tables.insert(name.clone());
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(way.port.unwrap_or(self.server.port()), destination);
        match way.safety {
            Safety::Confirmed => {
                config["enable_batch_insert"] = true.into();
                config["batch_size"] = BATCH_RECORDS.into();
                config["id_column"] = "id".into();
                config["batch_bytes"] = BATCH_BYTES.into();
            }
            // The table of this suite has an id that must not be empty.
            Safety::SeedDefaults => config["id_column"] = "id".into(),
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let query = format!(
            "SELECT id, topic, client_id, encode(data, 'hex') AS data FROM {} ORDER BY arrival",
            destination.name
        );
        self.server_of(destination).rows(&query).await?.iter().map(seen).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let tables = self.server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").await?;
        Ok(tables.lines().filter(|table| !self.tables.contains(*table)).map(str::to_owned).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        let statement = match *breakage {
            WRONG_PASSWORD => format!("ALTER ROLE {ROLE} PASSWORD 'another one'"),
            NO_TABLE => format!("ALTER TABLE {table} RENAME TO {table}_away"),
            _ => format!("REVOKE INSERT ON {table} FROM {ROLE}"),
        };
        self.server.sql(&statement).await.map(drop)
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        let statement = match *breakage {
            WRONG_PASSWORD => format!("ALTER ROLE {ROLE} PASSWORD '{}'", PASSWORD.replace('\'', "''")),
            NO_TABLE => format!("ALTER TABLE {table}_away RENAME TO {table}"),
            _ => format!("GRANT INSERT ON {table} TO {ROLE}"),
        };
        self.server.sql(&statement).await.map(drop)
    }

    async fn kill(&mut self) -> Result<()> {
        self.server.kill()
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.start_again().await
    }

    fn pause(&self) -> Result<()> {
        self.server.signal_all(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.server.signal_all(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.server.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        let count = self.server.sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'")).await?;
        Ok(Some(count.parse()?))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let options = PostgresOptions {
                certificates: Some(Box::new(offer.certificates.clone())),
                client_certificate: offer.client_required,
                ..PostgresOptions::default()
            };
            self.with_tls.insert(key.clone(), postgres::Postgres::with(options).await?);
        }
        let port = self.with_tls[&key].port();
        self.elsewhere.insert(destination.name.clone(), key);
        let mut config = config(port, destination);
        config["enable_tls"] = true.into();
        config["id_column"] = "id".into();
        Ok(config)
    }

    fn finish(self) {
        self.server.finish();
        self.with_tls.into_values().for_each(postgres::Postgres::finish);
    }
}

fn config(port: u16, destination: &Destination) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "database": ROLE, "username": ROLE, "password": PASSWORD,
            "table": destination.name, "connect_timeout_secs": 2, "acquire_timeout_secs": 5 })
}

fn seen(row: &Value) -> Result<Seen> {
    let text = |column: &str| row[column].as_str().map(str::to_owned);
    Ok(Seen {
        id: text("id"),
        topic: text("topic"),
        client_id: text("client_id"),
        payload: bytes(row["data"].as_str().context("no data")?)?,
        user_properties: None,
    })
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?)).collect()
}
