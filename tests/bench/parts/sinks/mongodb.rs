//! Documents of what stands for MongoDB, beside its driver in a loop.

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::mongodb::MongoDb;

use super::Target;
use crate::bare::mongodb;

const DOCUMENTS_PER_INSERT: usize = 1_000;
/// As of the sink by default.
const INSERTS_AT_A_TIME: usize = 4;

pub struct Mongodb {
    server: MongoDb,
}

impl Target for Mongodb {
    const KIND: &'static str = "mongodb";
    const WRITES: &'static str = "envelopes as documents, to mongo-java-server";
    const TOOLS: &'static [&'static str] = &["its driver in a loop, `insert_many` of 1,000"];
    const NOTE: &'static str = "`batch_size` 1 000, unordered, `w` 1, four inserts at a time for both, by the same \
        driver. The loop has its documents made before. MongoDB itself cannot be had here: mongo-java-server speaks \
        its protocol, keeps documents in a file, and works on one insert at a time.";
    const RECORDS: u64 = 20_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: MongoDb::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(&json!({ "collection": place, "batch_size": DOCUMENTS_PER_INSERT }))
    }

    /// Collections make themselves, and nobody has rights: it answers nobody.
    async fn hold(&mut self, _: &str) -> Result<()> {
        self.server.signal(Signal::STOP)
    }

    async fn make(&mut self, _: &str) -> Result<()> {
        self.server.signal(Signal::CONT)
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.count(place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let inserts =
            mongodb::Inserts { records: Self::RECORDS, each: DOCUMENTS_PER_INSERT, window: INSERTS_AT_A_TIME };
        mongodb::insert(&self.server, place, inserts).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.command(&json!({ "drop": place })).await.map(drop)
    }

    fn finish(self) {
        self.server.finish();
    }
}
