//! Mosquitto, beside the load generator with the same window.

use anyhow::Result;
use serde_json::{Value, json};
use tests::ports;

use super::Target;
use crate::bare::records::BYTES;
use crate::generator;
use crate::peers::{self, mosquitto};

pub struct Mqtt {
    port: u16,
    broker: Option<peers::Server>,
}

impl Target for Mqtt {
    const KIND: &'static str = "mqtt";
    const WRITES: &'static str = "MQTT 5, QoS 1, to Mosquitto";
    const TOOLS: &'static [&'static str] = &["`sluice bench publish --v5`, one connection, window 1,000"];
    const NOTE: &'static str = "No persistence and nobody subscribed at Mosquitto; both have at most 1,000 messages \
        without acknowledgement. Sluice publishes each message with its eight user properties (`mqtt.id`, …), which \
        Mosquitto has to read; the generator's have none.";
    const RECORDS: u64 = 200_000;

    async fn start() -> Result<Self> {
        Ok(Self { port: ports::free()?, broker: None })
    }

    fn config(&self, place: &str) -> Value {
        json!({ "server": format!("mqtt://127.0.0.1:{}", self.port), "topic_prefix": format!("{place}/") })
    }

    /// Nobody listens.
    async fn hold(&mut self, _: &str) -> Result<()> {
        self.broker = None;
        Ok(())
    }

    async fn make(&mut self, _: &str) -> Result<()> {
        if self.broker.is_none() {
            self.broker = Some(mosquitto::start_on(self.port).await?);
        }
        Ok(())
    }

    async fn count(&self, _: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let (port, messages, bytes) = (self.port.to_string(), Self::RECORDS.to_string(), BYTES.to_string());
        let load = ["publish", "--port", &port, "--v5", "--connections", "1", "--window", "1000", "--topic", place];
        let much = ["--messages", &messages, "--payload-bytes", &bytes];
        let result = generator::run(&[&load[..], &much].concat()).await?;
        generator::figure(&result, "/seconds")
    }
}
