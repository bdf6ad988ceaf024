//! MariaDB: a table for each destination, with a column for the record's id. The payload column holds envelopes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::mariadb::{MariaDb, MariaDbOptions};

use super::envelope;
use crate::adapter::{
    Adapter, Breakage, Carried, Destination, Facts, Refused, Repeats, Safety, Seen, Start, TlsOffer, Way,
};
use crate::shapes::Shape;

const BATCH_RECORDS: u64 = 500;
const DATABASE: &str = "sluice";
/// With rights on single tables, each of which can be taken away.
const USER: &str = "writer";
const PASSWORD: &str = "it's \"quoted\" \\ and ü";

const REFUSED: Refused = Refused { class: "mysql_4025", words: "CONSTRAINT `believable` failed", offline: false };
const WRONG_PASSWORD: Breakage = Breakage {
    name: "wrong password",
    health_reason: "TARGET_AUTH",
    class: "target_auth",
    words: "Access denied for user 'writer'",
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
    words: "INSERT command denied to user 'writer'",
};

pub struct Mysql {
    server: MariaDb,
    /// One for each way to speak TLS.
    with_tls: BTreeMap<String, MariaDb>,
    /// Destination → its server, where it is not the first.
    elsewhere: BTreeMap<String, String>,
    tables: BTreeSet<String>,
}

impl Mysql {
    fn server_of(&self, destination: &Destination) -> &MariaDb {
        let other = self.elsewhere.get(&destination.name).and_then(|key| self.with_tls.get(key));
        other.unwrap_or(&self.server)
    }
}

async fn with_user(server: MariaDb) -> Result<MariaDb> {
    server.sql(&format!("CREATE USER {USER}@'%' IDENTIFIED BY '{}'", quoted(PASSWORD))).await?;
    Ok(server)
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

impl Adapter for Mysql {
    const KIND: &'static str = "mysql";

    async fn start(_: &Start) -> Result<Self> {
        let server = with_user(MariaDb::start().await?).await?;
        Ok(Self { server, with_tls: BTreeMap::new(), elsewhere: BTreeMap::new(), tables: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        Facts {
            parts: envelope::PARTS,
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

    fn carries(&self, shape: Shape) -> Carried {
        envelope::carries(shape)
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        let name = &destination.name;
        let check =
            if destination.guarded { ", CONSTRAINT believable CHECK (payload NOT LIKE '%poison%')" } else { "" };
        let statement = format!(
            "CREATE TABLE {name} (arrival BIGINT AUTO_INCREMENT PRIMARY KEY, record_key VARCHAR(512) NOT NULL, \
             payload LONGTEXT NOT NULL, timestamp DATETIME(3) NOT NULL, \
             id VARCHAR(96) CHARACTER SET ascii UNIQUE{check}); \
             GRANT INSERT, SELECT ON {DATABASE}.{name} TO {USER}@'%'"
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
            }
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        let query = format!("SELECT HEX(payload) FROM {} ORDER BY arrival", destination.name);
        let rows = self.server_of(destination).sql(&query).await?;
        rows.lines().map(|row| envelope::seen(&String::from_utf8(bytes(row)?)?)).collect()
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        let query = format!("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{DATABASE}'");
        let tables = self.server.sql(&query).await?;
        Ok(tables.lines().filter(|table| !self.tables.contains(*table)).map(str::to_owned).collect())
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        json!({ "message": name, "celsius": "poison" }).to_string().into_bytes()
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        let statement = match *breakage {
            WRONG_PASSWORD => format!("ALTER USER {USER}@'%' IDENTIFIED BY 'another one'"),
            NO_TABLE => format!("RENAME TABLE {table} TO {table}_away"),
            _ => format!("REVOKE INSERT ON {DATABASE}.{table} FROM {USER}@'%'"),
        };
        self.server.sql(&statement).await.map(drop)
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        let table = &destination.name;
        let statement = match *breakage {
            WRONG_PASSWORD => format!("ALTER USER {USER}@'%' IDENTIFIED BY '{}'", quoted(PASSWORD)),
            NO_TABLE => format!("RENAME TABLE {table}_away TO {table}"),
            _ => format!("GRANT INSERT ON {DATABASE}.{table} TO {USER}@'%'"),
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
        self.server.signal(Signal::STOP)
    }

    fn resume(&self) -> Result<()> {
        self.server.signal(Signal::CONT)
    }

    fn upstream(&self) -> Option<u16> {
        Some(self.server.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        let query = format!("SELECT count(*) FROM information_schema.PROCESSLIST WHERE USER = '{USER}'");
        Ok(Some(self.server.sql(&query).await?.parse()?))
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.with_tls.contains_key(&key) {
            let certificates = Some(offer.certificates.clone());
            let server = MariaDb::with(MariaDbOptions { certificates, ..MariaDbOptions::default() }).await?;
            let server = with_user(server).await?;
            let required = if offer.client_required { "SUBJECT '/CN=sluice'" } else { "SSL" };
            server.sql(&format!("ALTER USER {USER}@'%' REQUIRE {required}")).await?;
            self.with_tls.insert(key.clone(), server);
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
        self.with_tls.into_values().for_each(MariaDb::finish);
    }
}

fn config(port: u16, destination: &Destination) -> Value {
    json!({ "host": "127.0.0.1", "port": port, "database": DATABASE, "username": USER, "password": PASSWORD,
            "table": destination.name, "connect_timeout_secs": 2, "acquire_timeout_secs": 5 })
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?)).collect()
}
