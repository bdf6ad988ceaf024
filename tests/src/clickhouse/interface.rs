//! The HTTP interface, asked by curl as an administrator.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, Process};
use crate::wait;

const QUERY_LIMIT: Duration = Duration::from_secs(60);

pub struct Interface {
    port: u16,
    login: String,
}

impl Interface {
    pub(super) fn new(port: u16, user: &str, password: &str) -> Self {
        Self { port, login: format!("{user}:{password}") }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) async fn ready(&self, limit: Duration, process: &Process) -> Result<()> {
        let ready = wait::until(limit, "ClickHouse answers", async || {
            let mut curl = tokio::process::Command::new("curl");
            curl.args(["-sS", "-f", "-o", "/dev/null", &format!("{}/ping", self.url())]);
            process::run(&mut curl, QUERY_LIMIT).await?.success()?;
            Ok(())
        });
        ready.await.with_context(|| process.log_tail())
    }

    /// Runs one statement and gives what it answered.
    pub async fn run(&self, statement: &str) -> Result<String> {
        self.ask(&self.url(), statement).await
    }

    /// The rows of a query, each with its columns; numbers of 64 bits are numbers.
    pub async fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let url = format!("{}/?output_format_json_quote_64bit_integers=0", self.url());
        let answer = self.ask(&url, &format!("{query} FORMAT JSONEachRow")).await?;
        answer.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    async fn ask(&self, url: &str, statement: &str) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "-u", &self.login, "--data-raw", statement, url]);
        let answer = process::run(&mut curl, QUERY_LIMIT).await?.success().with_context(|| statement.to_owned())?;
        Ok(answer.stdout)
    }

    /// The one value of a query.
    pub async fn value(&self, query: &str) -> Result<String> {
        Ok(self.run(query).await?.trim_end().to_owned())
    }

    pub async fn count(&self, table: &str) -> Result<u64> {
        Ok(self.value(&format!("SELECT count() FROM {table}")).await?.parse()?)
    }
}

/// A configuration with these fields more.
pub(super) fn with(mut config: Value, more: &Value) -> Value {
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}
