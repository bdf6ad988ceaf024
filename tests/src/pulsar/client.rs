//! Pulsar's own clients: for Python, and where keys count for Java.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Pulsar, python};
use crate::process;

const READ_LIMIT: Duration = Duration::from_secs(120);
const TAKE_LIMIT: Duration = Duration::from_secs(60);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/pulsar_client.py");
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/PulsarKeys.java");

#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// With the partition's suffix.
    pub topic: String,
    pub ledger: i64,
    pub entry: i64,
    /// -1: it is no part of a batch.
    pub batch_index: i32,
    pub producer: String,
    pub key: String,
    pub event_time_ms: u64,
    pub properties: BTreeMap<String, String>,
    payload_base64: String,
}

impl Received {
    pub fn payload(&self) -> Result<Vec<u8>> {
        Ok(STANDARD.decode(&self.payload_base64)?)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload().unwrap_or_default()).into_owned()
    }

    pub fn partition(&self) -> Option<u32> {
        self.topic.rsplit_once("-partition-")?.1.parse().ok()
    }
}

/// A producer that has a topic for itself as long as this lives.
pub struct TakenOver {
    child: Child,
}

impl TakenOver {
    pub async fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let ended = tokio::time::timeout(TAKE_LIMIT, self.child.wait()).await.context("does not end")??;
        ensure!(ended.success(), "the client failed: {ended}");
        Ok(())
    }
}

impl Pulsar {
    /// Every message of a topic, partition by partition, in the order in which the topic has them.
    pub async fn messages(&self, topic: &str) -> Result<Vec<Received>> {
        let out = process::run(&mut self.client("read", topic)?, READ_LIMIT).await?.success()?.stdout;
        out.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// A message of another producer, by the client for Java, for each of these keys.
    pub async fn send(&self, topic: &str, keys: &[&str]) -> Result<()> {
        let mut java = Command::new("java");
        java.args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8", "-cp"]);
        java.arg(format!("{}/*", self.home.join("lib").display()));
        // A key is an argument, which Java reads as the locale says.
        java.env("LC_ALL", "C.UTF-8").arg(KEYS).arg(self.url()).arg(topic).args(keys);
        process::run(&mut java, READ_LIMIT).await?.success().map(drop)
    }

    pub async fn take_over(&self, topic: &str) -> Result<TakenOver> {
        let mut command = self.client("take", topic)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let taken = tokio::time::timeout(TAKE_LIMIT, lines.next_line()).await.context("is not taken")??;
        ensure!(taken.as_deref() == Some("\"taken\""), "{taken:?}");
        Ok(TakenOver { child })
    }

    fn client(&self, what: &str, topic: &str) -> Result<Command> {
        let mut command = Command::new(python()?);
        command.arg(SCRIPT).arg(self.url()).arg(what).arg(topic);
        if let Some(accounts) = &self.accounts {
            command.env("PULSAR_TOKEN", accounts.admin());
        }
        Ok(command)
    }
}
