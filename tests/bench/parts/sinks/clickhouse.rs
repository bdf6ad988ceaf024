//! Rows of ClickHouse, beside its own client and a bare HTTP client.

use std::path::Path;

use anyhow::Result;
use reqwest::Url;
use serde_json::{Value, json};
use tests::clickhouse::{ClickHouse, DATABASE, PASSWORD, USER};

use super::Target;
use crate::bare::http;
use crate::peers::clickhouse;

/// As by default, and so are the requests at a time.
const ROWS_PER_BATCH: usize = 10_000;
const REQUESTS_AT_A_TIME: usize = 4;
/// As the page has them for an old release.
const COLUMNS: &str = "id String, topic String, client_id String, qos UInt8, retain UInt8, timestamp DateTime, \
                       payload String, key String";

pub struct Clickhouse {
    server: ClickHouse,
}

impl Clickhouse {
    /// Each request has so many rows of the file.
    async fn send(&self, table: &str, file: &Path) -> Result<f64> {
        let text = std::fs::read_to_string(file)?;
        let rows: Vec<&str> = text.split_inclusive('\n').collect();
        let query = format!("INSERT INTO {DATABASE}.{table} FORMAT TabSeparated");
        http::send(http::Requests {
            url: Url::parse_with_params(&self.server.url(), [("query", query)])?.as_str(),
            content_type: "text/tab-separated-values",
            login: Some((USER, PASSWORD)),
            bodies: rows.chunks(ROWS_PER_BATCH).map(<[&str]>::concat).collect(),
            connections: REQUESTS_AT_A_TIME,
        })
        .await
    }
}

impl Target for Clickhouse {
    const KIND: &'static str = "clickhouse";
    const WRITES: &'static str = "rows of eight columns, ClickHouse 18.16";
    const TOOLS: &'static [&'static str] =
        &["`clickhouse-client`, blocks of 10,000 rows", "a bare HTTP client, inserts of 10,000 rows, four at a time"];
    const NOTE: &'static str = "`MergeTree`. Sluice with its defaults: batches of 10,000, four under way, compressed. \
        The others have the same rows: `clickhouse-client` from a file, in one `INSERT` of which every block becomes a \
        part, over the server's own protocol, and the bare client in bodies made before, as they are.";
    const RECORDS: u64 = 300_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: ClickHouse::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({ "linger_ms": 1_000 }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        let table =
            format!("CREATE TABLE {DATABASE}.{place} ({COLUMNS}) ENGINE = MergeTree ORDER BY (topic, timestamp)");
        self.server.interface().run(&table).await.map(drop)
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.interface().count(&format!("{DATABASE}.{place}")).await.map(Some)
    }

    async fn write(&self, tool: usize, from: &str, place: &str) -> Result<f64> {
        let file = self.server.folder().join(format!("{place}.rows"));
        clickhouse::export(&self.server, from, &file).await?;
        let took = match tool {
            0 => clickhouse::insert(&self.server, place, &file, ROWS_PER_BATCH).await?,
            _ => self.send(place, &file).await?,
        };
        std::fs::remove_file(&file)?;
        Ok(took)
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.interface().run(&format!("DROP TABLE {DATABASE}.{place}")).await.map(drop)
    }

    fn finish(self) {
        self.server.finish();
    }
}
