//! A durable queue of RabbitMQ, beside its own client in Java.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::rabbitmq::{QUEUE, Rabbitmq};

use super::Target;
use crate::bare::records::BYTES;
use crate::peers::rabbitmq;

/// A place is a virtual host.
pub struct Queues {
    server: Rabbitmq,
}

impl Target for Queues {
    const KIND: &'static str = "rabbitmq";
    const WRITES: &'static str = "persistent messages, confirmed";
    const TOOLS: &'static [&'static str] = &["RabbitMQ's Java client in a loop, window 4,000"];
    const NOTE: &'static str = "One durable queue. `Persistent`, `batch_size` 1 000, four batches under way. The loop \
        publishes persistent and mandatory messages over as many channels (eight) and has as many unconfirmed; its CPU \
        includes the start of Java and as many messages to nobody before, for which the time does not count. Sluice's \
        messages have eight headers, the loop's none.";
    const RECORDS: u64 = 100_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: Rabbitmq::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(place, &json!({ "delivery_mode": "Persistent", "batch_size": 1_000 }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.add_virtual_host(place).await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        let queue = self.server.get(&["queues", place, QUEUE]).await?;
        queue["messages"].as_u64().map(Some).with_context(|| format!("no messages in {queue}"))
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        rabbitmq::publish(&self.server, place, Self::RECORDS, BYTES).await
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.delete(&["vhosts", place]).await
    }

    fn finish(self) {
        self.server.finish();
    }
}
