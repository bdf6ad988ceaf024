//! The line protocol of GreptimeDB, spoken by InfluxDB behind nginx, beside a bare HTTP client.

use anyhow::Result;
use serde_json::{Value, json};
use tests::front::{Front, FrontOptions};
use tests::influxdb::{InfluxDb, PASSWORD, USER};

use super::{Target, influxdb};

/// As by default.
const ROWS_PER_REQUEST: u64 = 1_000;

pub struct Greptime {
    server: InfluxDb,
    /// With the path of GreptimeDB.
    front: Front,
}

impl Target for Greptime {
    const KIND: &'static str = "greptime";
    const WRITES: &'static str = "rows of three columns, to InfluxDB 1.6 behind nginx";
    const TOOLS: &'static [&'static str] = &["a bare HTTP client in a loop"];
    const NOTE: &'static str = "The default `batch_records`, 1,000; one request at a time for both, through the same \
        nginx. The client has its bodies made before, and sends them as they are; Sluice compresses its own. \
        GreptimeDB itself cannot be had here.";
    const RECORDS: u64 = 100_000;

    async fn start() -> Result<Self> {
        let server = InfluxDb::start().await?;
        let lines = format!(
            "client_max_body_size 64m; client_body_buffer_size 64m;\n    \
             location = /v1/influxdb/write {{ proxy_pass {}/write; }}",
            server.url()
        );
        let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await?;
        Ok(Self { server, front })
    }

    fn config(&self, place: &str) -> Value {
        json!({ "server_addr": self.front.url(), "database": place, "user": USER, "password": PASSWORD,
                "table": "mqtt" })
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        influxdb::make(&self.server, place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        influxdb::count(&self.server, place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let url = format!("{}/v1/influxdb/write?db={place}&precision=ns", self.front.url());
        influxdb::write(&url, Self::RECORDS, ROWS_PER_REQUEST).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        influxdb::forget(&self.server, place).await
    }

    fn finish(self) {
        self.server.finish();
        self.front.finish();
    }
}
