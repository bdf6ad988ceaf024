//! Documents of Elasticsearch, beside a bare HTTP client.

use anyhow::Result;
use serde_json::{Value, json};
use tests::elasticsearch::{self, PASSWORD, USER};

use super::Target;
use crate::bare::{http, records};

/// As by default, and so are the requests at a time.
const DOCUMENTS_PER_REQUEST: u64 = 1_000;
const REQUESTS_AT_A_TIME: usize = 4;
/// Of the answer, as the sink asks for it.
const FILTER: &str = "items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason";

pub struct Elasticsearch {
    server: elasticsearch::Elasticsearch,
}

impl Target for Elasticsearch {
    const KIND: &'static str = "elasticsearch";
    const WRITES: &'static str = "envelopes as documents, Elasticsearch 8.19";
    const TOOLS: &'static [&'static str] = &["a bare HTTP client, four `_bulk` at a time"];
    const NOTE: &'static str = "One shard without replicas, its translog synced for each request; the payload is kept, \
        and not searched in. The defaults, 1,000 documents in a request and four requests at a time, for both, each \
        document with `create` and its id. The client has its bodies made before, and sends them as they are; Sluice \
        compresses its own.";
    const RECORDS: u64 = 60_000;

    /// Nobody makes an index by writing to it.
    async fn start() -> Result<Self> {
        let server = elasticsearch::Elasticsearch::start().await?;
        server.set("action.auto_create_index", json!("false")).await?;
        Ok(Self { server })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({}))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        let word = json!({ "type": "keyword", "ignore_above": 1024 });
        let body = json!({
            "settings": { "number_of_shards": 1, "number_of_replicas": 0 },
            "mappings": { "dynamic": false, "properties": {
                "@timestamp": { "type": "date" }, "id": word, "topic": word, "client_id": word,
                "payload": { "type": "object", "enabled": false },
            } },
        });
        self.server.make_index(place, &body).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.count(place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        http::send(http::Requests {
            url: &format!("{}/{place}/_bulk?filter_path={FILTER}", self.server.url()),
            content_type: "application/x-ndjson",
            login: Some((USER, PASSWORD)),
            bodies: records::bodies(Self::RECORDS, DOCUMENTS_PER_REQUEST, records::creations),
            connections: REQUESTS_AT_A_TIME,
        })
        .await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.call("DELETE", place, &Value::Null).await.map(drop)
    }

    fn finish(self) {
        self.server.finish();
    }
}
