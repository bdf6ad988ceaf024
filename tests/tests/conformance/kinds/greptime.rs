//! InfluxDB behind nginx in place of GreptimeDB: a database for each destination, with one table.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::front::{Front, FrontOptions};
use tests::influxdb::{self, PASSWORD, USER};
use tests::ports;

use super::points;
use crate::adapter::{Adapter, Breakage, Carried, Destination, Facts, Safety, Seen, Start, TlsOffer, Way};
use crate::shapes::Shape;

pub struct Greptime {
    server: influxdb::InfluxDb,
    /// With the path of GreptimeDB.
    front: Front,
    /// nginx with TLS before it, one for each way to speak it.
    fronts: BTreeMap<String, Front>,
    databases: BTreeSet<String>,
}

impl Adapter for Greptime {
    const KIND: &'static str = "greptime";

    async fn start(_: &Start) -> Result<Self> {
        let server = influxdb::InfluxDb::start().await?;
        let front = Front::start(FrontOptions { lines: lines(&server), ..FrontOptions::default() }).await?;
        Ok(Self { server, front, fronts: BTreeMap::new(), databases: BTreeSet::new() })
    }

    fn facts(&self) -> Facts {
        points::facts()
    }

    fn carries(&self, shape: Shape) -> Carried {
        points::carries(shape)
    }

    async fn make(&mut self, destination: &Destination) -> Result<()> {
        points::make(&self.server, destination).await?;
        self.databases.insert(destination.name.clone());
        Ok(())
    }

    fn config(&self, destination: &Destination, way: Way) -> Value {
        let mut config = config(&format!("127.0.0.1:{}", way.port.unwrap_or(self.front.port())), destination);
        match way.safety {
            Safety::Confirmed => config["batch_records"] = points::BATCH_RECORDS.into(),
            Safety::SeedDefaults => {}
        }
        config
    }

    async fn read(&self, destination: &Destination) -> Result<Vec<Seen>> {
        points::read(&self.server, destination).await
    }

    async fn strangers(&self) -> Result<Vec<String>> {
        points::strangers(&self.server, &self.databases).await
    }

    fn poison(&self, name: &str) -> Vec<u8> {
        points::poison(name)
    }

    async fn requests(&self, destination: &Destination) -> Result<Option<u64>> {
        points::requests(&self.server, destination)
    }

    async fn break_by(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        points::break_by(&self.server, breakage, destination).await
    }

    async fn mend(&mut self, breakage: &Breakage, destination: &Destination) -> Result<()> {
        points::mend(&self.server, breakage, destination).await
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
        Some(self.front.port())
    }

    async fn connections(&self) -> Result<Option<usize>> {
        ports::connections_to(self.front.port()).map(Some)
    }

    async fn tls(&mut self, offer: &TlsOffer, destination: &Destination) -> Result<Value> {
        let key = format!("{} {}", offer.certificates.server.display(), offer.client_required);
        if !self.fronts.contains_key(&key) {
            let options = FrontOptions {
                lines: lines(&self.server),
                certificates: Some(offer.certificates.clone()),
                client_certificate: offer.client_required,
                ..FrontOptions::default()
            };
            self.fronts.insert(key.clone(), Front::start(options).await?);
        }
        Ok(config(&self.fronts[&key].url(), destination))
    }

    fn finish(self) {
        self.server.finish();
        self.front.finish();
        self.fronts.into_values().for_each(Front::finish);
    }
}

fn lines(server: &influxdb::InfluxDb) -> String {
    format!("location = /v1/influxdb/write {{ proxy_pass {}/write; }}", server.url())
}

fn config(server: &str, destination: &Destination) -> Value {
    json!({ "server_addr": server, "database": destination.name, "user": USER, "password": PASSWORD,
            "table": points::MEASUREMENT, "timeout_secs": 5 })
}
