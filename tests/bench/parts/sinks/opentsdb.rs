//! Points of OpenTSDB, beside a bare HTTP client.

use anyhow::Result;
use serde_json::{Value, json};
use tests::opentsdb::OpenTsdb;

use super::Target;
use crate::bare::{http, records};

/// As many as fit into the 4 KiB that OpenTSDB reads by default, which the sink keeps to.
const POINTS_PER_REQUEST: u64 = 44;
/// Of the sink.
const REQUESTS_AT_A_TIME: usize = 16;

pub struct Opentsdb {
    server: OpenTsdb,
}

impl Target for Opentsdb {
    const KIND: &'static str = "opentsdb";
    const WRITES: &'static str = "points, `sync`, OpenTSDB 2.4 on HBase";
    const TOOLS: &'static [&'static str] = &["a bare HTTP client, 16 requests at a time"];
    const NOTE: &'static str = "Requests of at most 4 KiB, all that OpenTSDB reads by default, up to 16 at a time; the \
        server answers when HBase has the points. The client has its bodies made before.";
    const RECORDS: u64 = 20_000;
    const LOAD: &'static [&'static str] = &["--members", r#""metric":"bench","site":"north""#];

    async fn start() -> Result<Self> {
        Ok(Self { server: OpenTsdb::start().await? })
    }

    fn config(&self, _: &str) -> Value {
        json!({ "server": self.server.url(), "value_field": "number", "tags_fields": ["site"] })
    }

    async fn hold(&mut self, _: &str) -> Result<()> {
        self.server.kill()
    }

    async fn make(&mut self, _: &str) -> Result<()> {
        if self.server.is_running() { Ok(()) } else { self.server.start_again().await }
    }

    /// Points of one millisecond are one.
    async fn count(&self, _: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let array = |records: &mut dyn Iterator<Item = records::Record>| {
            let point = |record: records::Record| {
                json!({ "metric": "bench", "value": record.number, "timestamp": record.sent_us / 1_000,
                        "tags": { "site": place } })
            };
            Value::Array(records.map(point).collect()).to_string()
        };
        http::send(http::Requests {
            url: &format!("{}/api/put?sync=true&sync_timeout=27000", self.server.url()),
            content_type: "application/json",
            login: None,
            bodies: records::bodies(Self::RECORDS, POINTS_PER_REQUEST, array),
            connections: REQUESTS_AT_A_TIME,
        })
        .await
    }

    fn finish(self) {
        self.server.finish();
    }
}
