//! RabbitMQ's own Java client, in a loop that publishes and awaits confirmations.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::jars::{self, class_path};
use tests::process;
use tests::rabbitmq::{EXCHANGE, PASSWORD, Rabbitmq, USER};

const LIMIT: Duration = Duration::from_secs(120);
/// Messages without a confirmation, and the channels they are on: as of the sink.
const WINDOW: &str = "4000";
const CHANNELS: &str = "8";

/// Persistent and mandatory messages to [`EXCHANGE`]; gives the seconds it took.
pub async fn publish(server: &Rabbitmq, virtual_host: &str, messages: u64, bytes: usize) -> Result<f64> {
    let jars = jars::folder(jars::AMQP_CLIENT)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/AmqpPublisher.java");
    let mut command = tokio::process::Command::new("java");
    command.args(["-Xmx256m", "-cp", &class_path(&jars)]).arg(source);
    command.args([&server.port().to_string(), USER, PASSWORD, virtual_host, EXCHANGE]);
    command.args([&messages.to_string(), &bytes.to_string(), WINDOW, CHANNELS]);
    let said = process::run(&mut command, LIMIT).await?.success()?.stdout;
    said.trim().parse().with_context(|| format!("no seconds: {said}"))
}
