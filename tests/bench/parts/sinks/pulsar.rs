//! A topic of Pulsar, beside `pulsar-perf`.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::pulsar::{Pulsar, PulsarOptions};

use super::Target;
use crate::bare::records::BYTES;
use crate::peers::pulsar;

const BATCH: usize = 1_000;
/// As of the sink by default.
const LINGER_MS: u64 = 5;
const PENDING: usize = 1_000;

pub struct Topics {
    server: Pulsar,
}

impl Target for Topics {
    const KIND: &'static str = "pulsar";
    const WRITES: &'static str = "messages, one topic, receipts awaited, Pulsar 4.0";
    const TOOLS: &'static [&'static str] = &["`pulsar-perf produce`, one producer"];
    const NOTE: &'static str = "One broker, standalone, whose journal is not synced, as its distribution has it. Both \
        have entries of at most 1,000 messages that wait 5 ms, and at most 1,000 messages without a receipt. The \
        tool's rate is counted from when its producer was there to when it had all receipts, its CPU includes the \
        start of Java. Sluice's messages have a key, an event time and six properties, the tool's none.";
    const RECORDS: u64 = 200_000;
    /// It counts receipts before it sends the next message, and its client makes room for messages before it tells of
    /// the receipts.
    const BEYOND: u64 = 2 * PENDING as u64;

    /// Nobody makes a topic by asking for it, and none goes because nobody writes to it.
    async fn start() -> Result<Self> {
        let settings = [("allowAutoTopicCreation", "false"), ("brokerDeleteInactiveTopicsEnabled", "false")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Ok(Self { server: Pulsar::with(PulsarOptions { settings, ..PulsarOptions::default() }).await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({ "batch_size": BATCH, "max_pending_messages": PENDING }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.create_topic(place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        let stats = self.server.stats(place).await?;
        stats["msgInCounter"].as_u64().map(Some).with_context(|| format!("no counter in {stats}"))
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let load = pulsar::Load {
            messages: Self::RECORDS,
            bytes: BYTES,
            batch: BATCH,
            linger_ms: LINGER_MS,
            pending: PENDING,
        };
        pulsar::produce(&self.server, place, &load).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.delete_topic(place).await
    }

    fn finish(self) {
        self.server.finish();
    }
}
