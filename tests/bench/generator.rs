//! `sluice bench …`, run as a process of its own.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{binary, process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Longer than any load that is asked for.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs a generator to its end and gives what it measured.
pub async fn run(arguments: &[&str]) -> Result<Value> {
    let mut command = Command::new(binary::sluice()?);
    command.arg("bench").args(arguments);
    let finished = process::run(&mut command, LIMIT).await?.success().with_context(|| arguments.join(" "))?;
    let last = finished.stdout.lines().last().context("a generator printed nothing")?;
    Ok(serde_json::from_str(last)?)
}

/// One that goes on beside something else.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Started, and its first line read: it is at work.
    pub async fn start(arguments: &[&str]) -> Result<(Self, Value)> {
        let mut command = Command::new(binary::sluice()?);
        command.arg("bench").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start a generator")?;
        let stdout = child.stdout.take().context("a generator without standard output")?;
        let mut running = Self { child, lines: BufReader::new(stdout).lines() };
        let first = running.next().await?;
        Ok((running, first))
    }

    async fn next(&mut self) -> Result<Value> {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.context("a generator says nothing")??;
        Ok(serde_json::from_str(&line.context("a generator ended early")?)?)
    }

    /// Its last line, when it ends by itself.
    pub async fn finish(mut self) -> Result<Value> {
        let last = self.next().await?;
        self.child.wait().await?;
        Ok(last)
    }

    /// Ends its standard input, which tells those to end that wait for it.
    pub async fn end(mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        self.finish().await
    }
}

/// A number of a generator's result.
pub fn figure(result: &Value, pointer: &str) -> Result<f64> {
    result.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer} in {result}"))
}
