//! Rows of PostgreSQL, beside its own `COPY` and a loop of statements.

use anyhow::Result;
use serde_json::Value;

use super::Target;
use crate::peers::postgres::{Loader, Postgres};

pub struct Rows {
    server: Postgres,
}

impl Target for Rows {
    const KIND: &'static str = "postgres";
    const WRITES: &'static str = "rows of five columns";
    const TOOLS: &'static [&'static str] = &[Loader::Insert.says(), Loader::Copy.says()];
    const NOTE: &'static str = "`enable_batch_insert`, `batch_size` 10 000, no index. The others are `psql` with the \
        same rows from a file; a statement is a transaction, and `COPY` is one for all.";
    const RECORDS: u64 = 200_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: Postgres::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.connector_config(place)
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.create_table(place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.count(place).await.map(Some)
    }

    async fn write(&self, tool: usize, from: &str, place: &str) -> Result<f64> {
        let loader = if tool == 0 { Loader::Insert } else { Loader::Copy };
        self.server.load(loader, from, place).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.ask(&format!("drop table {place}")).await.map(drop)
    }
}
