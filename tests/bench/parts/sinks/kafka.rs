//! A topic of Kafka, beside `kafka-producer-perf-test`.

use anyhow::Result;
use serde_json::{Value, json};

use super::Target;
use crate::bare::records::BYTES;
use crate::peers::kafka::Kafka;

const PROPERTIES: [&str; 4] = ["acks=all", "enable.idempotence=true", "linger.ms=5", "batch.size=131072"];

pub struct Topics {
    broker: Kafka,
}

impl Target for Topics {
    const KIND: &'static str = "kafka";
    const WRITES: &'static str = "messages, one partition, `acks` `all`";
    const TOOLS: &'static [&'static str] = &["`kafka-producer-perf-test`"];
    const NOTE: &'static str = "One broker. Both are idempotent, with `linger_ms` 5 and a `batch_size` of 128 KiB; Sluice \
        has batches of 5,000 records and four under way. The tool's rate is its own, its CPU includes the start of Java. \
        Sluice's messages have a key and six headers, the tool's none.";
    const RECORDS: u64 = 400_000;

    async fn start() -> Result<Self> {
        Ok(Self { broker: Kafka::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        json!({ "bootstrap_servers": self.broker.bootstrap(), "topic": place, "acks": "all", "linger_ms": 5,
                "batch_size": 131_072, "batch_records": 5_000 })
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.broker.create_topic(place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.broker.count(place).await.map(Some)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let per_second = self.broker.produce(place, Self::RECORDS, BYTES, &PROPERTIES).await?;
        Ok(Self::RECORDS as f64 / per_second)
    }
}
