//! A real Prometheus that scrapes the nodes, and promtool, which judges their metrics page.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::process::Process;
use crate::scratch::Scratch;
use crate::{api, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(30);

pub struct Prometheus {
    _process: Process,
    port: u16,
    scratch: Scratch,
    http: reqwest::Client,
}

impl Prometheus {
    /// Starts a server that scrapes `targets` (`host:port`) every second.
    pub async fn start(targets: &[String]) -> Result<Self> {
        let scratch = Scratch::new("prometheus")?;
        let port = ports::free()?;
        let config = scratch.path().join("prometheus.yml");
        std::fs::write(&config, configuration(targets))?;
        let process = spawn(scratch.path(), &config, port)?;
        let prometheus = Self { _process: process, port, scratch, http: api::http_client()? };
        wait::until(START_LIMIT, "prometheus is ready", || async {
            let url = format!("http://127.0.0.1:{port}/-/ready");
            prometheus.http.get(url).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        Ok(prometheus)
    }

    /// `host:port` of its own pages.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sum over all series that the query gives, and how many they are.
    pub async fn query_sum(&self, query: &str) -> Result<(f64, usize)> {
        let base = format!("http://{}/api/v1/query", self.address());
        let url = reqwest::Url::parse_with_params(&base, [("query", query)])?;
        let response = self.http.get(url).send().await?;
        let body: Value = serde_json::from_str(&response.text().await?)?;
        ensure!(body["status"] == "success", "query {query}: {body}");
        let series = body["data"]["result"].as_array().context("no result")?;
        let values: Vec<f64> =
            series.iter().filter_map(|one| one["value"][1].as_str()).filter_map(|text| text.parse().ok()).collect();
        Ok((values.iter().sum(), values.len()))
    }

    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

/// `promtool check metrics` over a page; its complaints are the error.
pub async fn check_metrics(page: &str) -> Result<()> {
    let mut child = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start promtool")?;
    let mut stdin = child.stdin.take().context("promtool without stdin")?;
    stdin.write_all(page.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    let complaints = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success() && complaints.is_empty(),
        "promtool check metrics: {}",
        String::from_utf8_lossy(&complaints)
    );
    Ok(())
}

fn spawn(folder: &Path, config: &Path, port: u16) -> Result<Process> {
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--log.level=warn");
    Process::spawn_unprivileged("prometheus", &mut command, &folder.join("prometheus.log"), folder)
}

fn configuration(targets: &[String]) -> String {
    let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: sluice\n  \
         static_configs: [{{targets: [{}]}}]\n",
        targets.join(", ")
    )
}
