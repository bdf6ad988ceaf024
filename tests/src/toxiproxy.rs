//! Toxiproxy: a TCP proxy that fails on request. One proxy, between a connector and its target.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::process::Process;
use crate::scratch::Scratch;
use crate::{api, ports, wait};

/// As `scripts/setup` names it.
const PROGRAM: &str = "toxiproxy-server";
const START_LIMIT: Duration = Duration::from_secs(20);
const PROXY: &str = "target";
const LATENCY_MS: u64 = 500;
const SLOW_KILOBYTES_PER_SECOND: u64 = 1;
/// A reset comes so long after the connection began: when something is under way.
const RESET_AFTER_MS: u64 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Connections are closed, and no new one is accepted.
    Refused,
    /// Each connection is reset a moment after it was opened, whatever is under way.
    Reset,
    /// Nothing that is sent arrives, and the connection stays open.
    BlackHole,
    /// Every answer comes half a second late.
    Latency,
    /// 1 kB/s to the target.
    Slow,
}

pub const FAULTS: [Fault; 5] = [Fault::Refused, Fault::Reset, Fault::BlackHole, Fault::Latency, Fault::Slow];

pub struct Toxiproxy {
    _process: Process,
    http: reqwest::Client,
    base: String,
    scratch: Scratch,
}

impl Toxiproxy {
    /// Whether the program is there: it is built by Go, which not every machine has.
    pub fn is_installed() -> bool {
        program().is_some()
    }

    /// Listens on `listen` and passes on to `upstream`, both on 127.0.0.1.
    pub async fn between(listen: u16, upstream: u16) -> Result<Self> {
        let program = program().with_context(|| format!("{PROGRAM} is not installed; run scripts/setup"))?;
        let scratch = Scratch::new("toxiproxy")?;
        let port = ports::free()?;
        let mut command = Command::new(program);
        command.args(["-host", "127.0.0.1", "-port", &port.to_string()]).env("LOG_LEVEL", "warn");
        let log = scratch.path().join("toxiproxy.log");
        let process = Process::spawn("toxiproxy", &mut command, &log)?;
        let proxy =
            Self { _process: process, http: api::http_client()?, base: format!("http://127.0.0.1:{port}"), scratch };
        wait::until(START_LIMIT, "Toxiproxy answers", async || proxy.ask(Method::GET, "/version", None).await).await?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let made = json!({ "name": PROXY, "listen": address(listen), "upstream": address(upstream), "enabled": true });
        proxy.ask(Method::POST, "/proxies", Some(made)).await?;
        Ok(proxy)
    }

    /// From now on, until [`Self::heal`].
    pub async fn inflict(&self, fault: Fault) -> Result<()> {
        let toxic = |kind: &str, stream: &str, attributes: Value| json!({ "name": "fault", "type": kind, "stream": stream, "attributes": attributes });
        let toxic = match fault {
            Fault::Refused => return self.enable(false).await,
            Fault::Reset => toxic("reset_peer", "upstream", json!({ "timeout": RESET_AFTER_MS })),
            Fault::BlackHole => toxic("timeout", "upstream", json!({ "timeout": 0 })),
            Fault::Latency => toxic("latency", "downstream", json!({ "latency": LATENCY_MS })),
            Fault::Slow => toxic("bandwidth", "upstream", json!({ "rate": SLOW_KILOBYTES_PER_SECOND })),
        };
        self.ask(Method::POST, &format!("/proxies/{PROXY}/toxics"), Some(toxic)).await
    }

    /// Everything passes again.
    pub async fn heal(&self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Refused => self.enable(true).await,
            Fault::Reset | Fault::BlackHole | Fault::Latency | Fault::Slow => {
                self.ask(Method::DELETE, &format!("/proxies/{PROXY}/toxics/fault"), None).await
            }
        }
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn enable(&self, enabled: bool) -> Result<()> {
        self.ask(Method::POST, &format!("/proxies/{PROXY}"), Some(json!({ "enabled": enabled }))).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<()> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(())
    }
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::BlackHole => "black hole",
            Self::Latency => "500 ms",
            Self::Slow => "1 kB/s",
        }
    }
}

/// On the path, or where scripts/setup puts what it builds.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let cache = std::env::var_os("SLUICE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/sluice")));
    folders.extend(cache.map(|cache| cache.join("tools/bin")));
    folders.into_iter().map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}
