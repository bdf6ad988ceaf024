//! Rows of Cassandra, beside its driver in a loop.

use anyhow::Result;
use serde_json::{Value, json};
use tests::cassandra::{COLUMNS, Cassandra, CassandraOptions, KEYSPACE};

use super::Target;
use crate::bare::cassandra;

/// Inserts under way, as of the sink by default.
const WINDOW: usize = 256;

pub struct Rows {
    server: Cassandra,
}

impl Target for Rows {
    const KIND: &'static str = "cassandra";
    const WRITES: &'static str = "rows of five columns, Cassandra 5.0";
    const TOOLS: &'static [&'static str] = &["its driver in a loop, window 256"];
    const NOTE: &'static str = "One node without logins, its log synced before a row is confirmed; `LOCAL_QUORUM`, `USING \
        TIMESTAMP`. Sluice with its defaults: batches of 500, four under way, 256 inserts at a time over one \
        connection. The loop runs the same prepared statement with the same driver, window and level, its rows made \
        before. `cassandra-stress`, Cassandra's own tool, is not on Maven.";
    const RECORDS: u64 = 50_000;

    /// With logins the tests' server would look up rights for each insert: it keeps none in memory.
    async fn start() -> Result<Self> {
        let options = CassandraOptions { login: false, ..CassandraOptions::default() };
        Ok(Self { server: Cassandra::with(options).await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({}))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.make_table(place, COLUMNS).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.count(place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        cassandra::insert(&self.server, place, Self::RECORDS, WINDOW).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.run(&[&format!("DROP TABLE {KEYSPACE}.{place}")]).await
    }

    fn finish(self) {
        self.server.finish();
    }
}
