//! VictoriaMetrics as a target of OpenTSDB's `/api/put`, and curl, which says what is in it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{ports, wait};

const START_LIMIT: Duration = Duration::from_secs(30);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

pub struct VictoriaMetrics {
    process: Process,
    port: u16,
    put_port: u16,
    scratch: Scratch,
}

/// Points of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub metric: String,
    /// Names and values, by name.
    pub tags: Vec<(String, String)>,
    /// Times in milliseconds, and values.
    pub points: Vec<(u64, f64)>,
}

impl VictoriaMetrics {
    pub async fn start() -> Result<Self> {
        let scratch = Scratch::new("victoria")?;
        let (port, put_port) = (ports::free()?, ports::free()?);
        let process = spawn(scratch.path(), port, put_port)?;
        let victoria = Self { process, port, put_port, scratch };
        victoria.ready().await?;
        Ok(victoria)
    }

    /// Where `/api/put` is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.put_port)
    }

    pub fn put_port(&self) -> u16 {
        self.put_port
    }

    /// Everything in it, by metric and tags.
    pub async fn series(&self) -> Result<Vec<Series>> {
        self.series_with("{__name__!=\"\"}").await
    }

    /// What a selector names, such as `{site="north"}`.
    pub async fn series_with(&self, selector: &str) -> Result<Vec<Series>> {
        self.flush().await?;
        // Without an end it leaves out the second of now.
        let text = self.curl(&format!("/api/v1/export?start=0&end=4102444800&match[]={selector}")).await?;
        let mut series: Vec<Series> = text.lines().map(parse_series).collect::<Result<_>>()?;
        series.sort_by(|a, b| (&a.metric, &a.tags).cmp(&(&b.metric, &b.tags)));
        Ok(series)
    }

    /// Makes what it confirmed visible, and safe: it keeps it in memory for a while otherwise.
    pub async fn flush(&self) -> Result<()> {
        self.curl("/internal/force_flush").await.map(drop)
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "VictoriaMetrics still runs");
        self.process = spawn(self.scratch.path(), self.port, self.put_port)?;
        self.ready().await
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "VictoriaMetrics answers", async || {
            self.curl("/health").await?;
            tokio::net::TcpStream::connect(("127.0.0.1", self.put_port)).await?;
            Ok(())
        });
        ready.await.with_context(|| self.process.log_tail())
    }

    async fn curl(&self, path: &str) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "-g", &format!("http://127.0.0.1:{}{path}", self.port)]);
        Ok(process::run(&mut curl, QUERY_LIMIT).await?.success()?.stdout)
    }
}

fn spawn(folder: &Path, port: u16, put_port: u16) -> Result<Process> {
    let mut command = Command::new("victoria-metrics");
    command
        .arg(format!("-storageDataPath={}", folder.join("data").display()))
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
        .arg(format!("-opentsdbHTTPListenAddr=127.0.0.1:{put_port}"))
        // A point that comes again is the same one, as with OpenTSDB.
        .args(["-retentionPeriod=100y", "-memory.allowedBytes=256MB", "-dedup.minScrapeInterval=1ms"]);
    Process::spawn_unprivileged("victoria-metrics", &mut command, &folder.join("victoria.log"), folder)
}

/// `{"metric":{"__name__":…,"tag":…},"values":[…],"timestamps":[…]}`
fn parse_series(line: &str) -> Result<Series> {
    let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let list = |name: &str| value[name].as_array().with_context(|| format!("no {name} in {line}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let labels = value["metric"].as_object().context("no metric")?;
    let mut tags: Vec<(String, String)> = labels
        .iter()
        .filter(|(name, _)| *name != "__name__")
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    tags.sort();
    let mut points = Vec::new();
    for (time, value) in list("timestamps")?.iter().zip(list("values")?) {
        points.push((time.as_u64().context("no time")?, value.as_f64().context("no value")?));
    }
    points.sort_by_key(|(time, _)| *time);
    Ok(Series { metric: text(&value["metric"]["__name__"]), tags, points })
}
