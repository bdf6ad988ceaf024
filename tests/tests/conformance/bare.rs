//! A client that comes with the target and knows nothing of Sluice. It writes to a destination of its own beside the
//! connectors: what the target had confirmed to it and does not have afterwards, the target itself has lost.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// How often it gets something to write.
const BURST_EVERY: Duration = Duration::from_millis(5);
const END_LIMIT: Duration = Duration::from_secs(10);

/// A program that reads a message from each line, and tells of each confirmation in a line.
pub struct BareClient {
    /// Without its streams.
    pub command: Command,
    /// Makes a line of a payload, which is JSON without line breaks.
    pub line: Box<dyn Fn(&str) -> String + Send + Sync>,
    /// Which message, counted from 1, a line of its output confirms. It has confirmed so many before.
    pub confirms: fn(said: &str, before: u64) -> Option<u64>,
}

/// One at work.
pub struct Bare {
    child: Child,
    writer: JoinHandle<()>,
    reader: JoinHandle<BTreeSet<String>>,
}

impl Bare {
    pub fn start(client: BareClient, per_second: u64) -> Result<Self> {
        let BareClient { mut command, line, confirms } = client;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        let writer = tokio::spawn(write(input, line, per_second));
        Ok(Self { child, writer, reader: tokio::spawn(read(output, confirms)) })
    }

    /// The names of what was confirmed to it so far. It writes nothing more.
    pub async fn stop(mut self) -> Result<BTreeSet<String>> {
        self.writer.abort();
        self.child.kill().await.context("end a bare client")?;
        let confirmed =
            tokio::time::timeout(END_LIMIT, self.reader).await.context("a bare client's output stays open")??;
        ensure!(!confirmed.is_empty(), "nothing was confirmed to a bare client");
        Ok(confirmed)
    }
}

fn name(number: u64) -> String {
    format!("bare-{number}")
}

/// Until the client is gone.
async fn write(mut input: ChildStdin, line: Box<dyn Fn(&str) -> String + Send + Sync>, per_second: u64) {
    let burst = (per_second * BURST_EVERY.as_millis() as u64).div_ceil(1_000);
    let mut bursts = tokio::time::interval(BURST_EVERY);
    let mut next = 1;
    loop {
        bursts.tick().await;
        let mut text = String::new();
        for number in next..next + burst {
            text.push_str(&line(&json!({ "message": name(number) }).to_string()));
            text.push('\n');
        }
        next += burst;
        if input.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read(output: ChildStdout, confirms: fn(&str, u64) -> Option<u64>) -> BTreeSet<String> {
    let mut lines = BufReader::new(output).lines();
    let mut confirmed = BTreeSet::new();
    while let Ok(Some(line)) = lines.next_line().await {
        confirmed.extend(confirms(&line, confirmed.len() as u64).map(name));
    }
    confirmed
}
