//! Lists of Redis, beside `redis-benchmark`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::process;
use tests::redis::{self, PASSWORD, USER};

use super::Target;
use crate::bare::records::BYTES;

const TOOL_LIMIT: Duration = Duration::from_secs(120);
/// Connections of the sink by default, and commands of one pipeline.
const CONNECTIONS: &str = "10";
const PIPELINE: &str = "500";

pub struct Redis {
    server: redis::Redis,
}

impl Redis {
    async fn permit(&self, rule: &str) -> Result<()> {
        let answer = self.server.cli(&["ACL", "SETUSER", USER, rule]).await?;
        ensure!(answer == "OK", "{answer}");
        Ok(())
    }
}

impl Target for Redis {
    const KIND: &'static str = "redis";
    const WRITES: &'static str = "`RPUSH` of the payload";
    const TOOLS: &'static [&'static str] = &["`redis-benchmark -P 500 -c 10`"];
    const NOTE: &'static str = "One server with `appendonly`, synced every second, for both. The same command with as \
        many bytes. Sluice with its defaults: batches of 500, four under way, up to 10 connections.";
    const RECORDS: u64 = 400_000;

    async fn start() -> Result<Self> {
        Ok(Self { server: redis::Redis::start().await? })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(&json!({ "command_template": format!("RPUSH {place} {{payload}}") }))
    }

    async fn hold(&mut self, _: &str) -> Result<()> {
        self.permit("-rpush").await
    }

    async fn make(&mut self, _: &str) -> Result<()> {
        self.permit("+rpush").await
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        Ok(Some(self.server.cli(&["LLEN", place]).await?.parse()?))
    }

    async fn write(&self, _: usize, _: &str, place: &str) -> Result<f64> {
        let mut command = tokio::process::Command::new("redis-benchmark");
        command.args(["-p", &self.server.port().to_string(), "--user", USER, "-a", PASSWORD]);
        command.args(["-n", &Self::RECORDS.to_string(), "-c", CONNECTIONS, "-P", PIPELINE, "--csv"]);
        command.args(["RPUSH", place, &"x".repeat(BYTES)]);
        let said = process::run(&mut command, TOOL_LIMIT).await?.success()?.stdout;
        let per_second = said.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse::<f64>().ok());
        Ok(Self::RECORDS as f64 / per_second.with_context(|| format!("no rate in {said}"))?)
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.cli(&["UNLINK", place]).await.map(drop)
    }

    fn finish(self) {
        self.server.finish();
    }
}
