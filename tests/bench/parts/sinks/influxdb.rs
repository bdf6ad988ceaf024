//! Points of InfluxDB, beside a bare HTTP client.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::influxdb::{InfluxDb, PASSWORD, USER};

use super::Target;
use crate::bare::{http, records};

/// As by default.
const POINTS_PER_REQUEST: u64 = 5_000;

pub struct Influxdb {
    server: InfluxDb,
}

impl Target for Influxdb {
    const KIND: &'static str = "influxdb";
    const WRITES: &'static str = "points of three fields, InfluxDB 1.6";
    const TOOLS: &'static [&'static str] = &["a bare HTTP client in a loop"];
    const NOTE: &'static str = "The default `batch_records`, 5,000; one request at a time for both. The client has its \
        bodies made before, and sends them as they are; Sluice compresses its own.";
    const RECORDS: u64 = 100_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: InfluxDb::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(&json!({ "database": place }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        make(&self.server, place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        count(&self.server, place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let url = format!("{}/write?db={place}&precision=ns", self.server.url());
        write(&url, Self::RECORDS, POINTS_PER_REQUEST).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        forget(&self.server, place).await
    }

    fn finish(self) {
        self.server.finish();
    }
}

/// A place is a database.
pub async fn make(server: &InfluxDb, place: &str) -> Result<()> {
    server.run(&format!("CREATE DATABASE {place}")).await?;
    server.run(&format!("GRANT ALL ON {place} TO {USER}")).await.map(drop)
}

pub async fn count(server: &InfluxDb, place: &str) -> Result<u64> {
    let rows = server.rows_of(place, "SELECT count(\"number\") FROM mqtt").await?;
    rows.first().and_then(|row| row["count"].as_u64()).context("no points")
}

/// Sends points, so many in each request.
pub async fn write(url: &str, records: u64, each: u64) -> Result<f64> {
    http::send(http::Requests {
        url,
        content_type: "text/plain; charset=utf-8",
        login: Some((USER, PASSWORD)),
        bodies: records::bodies(records, each, records::points),
        connections: 1,
    })
    .await
}

pub async fn forget(server: &InfluxDb, place: &str) -> Result<()> {
    server.run(&format!("DROP DATABASE {place}")).await.map(drop)
}
