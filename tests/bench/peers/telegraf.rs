//! Telegraf between an MQTT broker and PostgreSQL, built with the plugins that are used.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::process::{self, Process};
use tests::scratch::Scratch;
use tests::wait;

use super::go_program;
use super::postgres::Postgres;

const PACKAGE: &str = "github.com/influxdata/telegraf/cmd/telegraf@latest";
const TAGS: &str = "custom,inputs.mqtt_consumer,outputs.postgresql,parsers.value";
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

pub struct Telegraf {
    process: Process,
    _scratch: Scratch,
}

impl Telegraf {
    /// Subscribed at the broker; writes one row for each message into `table`.
    pub async fn start(broker_port: u16, topic: &str, postgres: &Postgres, table: &str) -> Result<Self> {
        let binary = go_program("telegraf", PACKAGE, TAGS).await?;
        let mut scratch = Scratch::new("telegraf")?;
        scratch.passed();
        let config = scratch.path().join("telegraf.conf");
        // Large batches, and a flush as often as it allows in whole seconds: its defaults (1,000 and 10 s) are slower.
        let text = format!(
            "[agent]\n  interval = \"1s\"\n  flush_interval = \"1s\"\n  metric_batch_size = 10000\n  \
             metric_buffer_limit = 1000000\n  omit_hostname = true\n\
             [[inputs.mqtt_consumer]]\n  servers = [\"tcp://127.0.0.1:{broker_port}\"]\n  topics = [\"{topic}\"]\n  \
             qos = 1\n  persistent_session = true\n  client_id = \"telegraf\"\n  max_undelivered_messages = 100000\n  \
             data_format = \"value\"\n  data_type = \"string\"\n  name_override = \"{table}\"\n\
             [[outputs.postgresql]]\n  connection = \"{}\"\n",
            postgres.url()
        );
        std::fs::write(&config, text)?;
        let log = scratch.path().join("telegraf.log");
        let mut command = Command::new(binary);
        command.arg("--config").arg(&config);
        let process = Process::spawn("telegraf", &mut command, &log)?;
        wait::until(CONNECT_LIMIT, "telegraf is connected", || async {
            let text = process::tail(&log, 50);
            text.contains("Connected [tcp://").then_some(()).context(text)
        })
        .await?;
        Ok(Self { process, _scratch: scratch })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
