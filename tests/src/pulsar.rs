//! Apache Pulsar as a target, standalone, and its own client for Python, which reads topics.
//!
//! ```text
//!   sluice ──▶ broker: plain · TLS · behind a proxy ──▶ topics
//!   tests  ──curl──▶ its administration: topics, namespaces, entries as they lie in a topic
//!          ──Python client (tests/servers/pulsar_client.py)──▶ messages
//! ```
//!
//! The distribution comes from Maven and the client from PyPI, by `scripts/setup all`; Java is the machine's.

mod accounts;
mod admin;
mod client;
mod settings;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{cache, wait};

use accounts::Accounts;
use settings::Ports;

pub use accounts::{Issuer, PASSWORD, STRANGER, USER};
pub use admin::Entry;
pub use client::{Received, TakenOver};

pub const VERSION: &str = "4.0.8";
const CLIENT_VERSION: &str = "3.13.0";
/// Several Java processes start at a time on a small machine.
const START_LIMIT: Duration = Duration::from_secs(180);

#[derive(Clone, Debug, Default)]
pub struct PulsarOptions {
    /// More settings, as in standalone.conf.
    pub settings: Vec<(String, String)>,
    /// [`USER`] and [`STRANGER`] show tokens or passwords, and rights are checked.
    pub accounts: bool,
    /// With these it speaks TLS on a port of its own.
    pub certificates: Option<Certificates>,
    /// Who comes by TLS has to show a certificate.
    pub client_certificate: bool,
    /// For what stands between: one more port, of which clients hear this one.
    pub proxy_port: Option<u16>,
}

pub struct Pulsar {
    process: Process,
    ports: Ports,
    home: PathBuf,
    accounts: Option<Accounts>,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

impl Pulsar {
    pub async fn start() -> Result<Self> {
        Self::with(PulsarOptions::default()).await
    }

    pub async fn with(options: PulsarOptions) -> Result<Self> {
        let scratch = Scratch::new("pulsar")?;
        let home = home(scratch.path())?;
        let certificates = match &options.certificates {
            Some(made) => Some(made.copied_to(scratch.path())?),
            None => None,
        };
        let accounts = if options.accounts { Some(Accounts::make(scratch.path()).await?) } else { None };
        let ports = Ports::free()?;
        let text = settings::text(&home, scratch.path(), &ports, &options, accounts.as_ref(), certificates.as_ref())?;
        std::fs::write(scratch.path().join("standalone.conf"), text)?;
        let process = spawn(&home, scratch.path())?;
        let server = Self { process, ports, home, accounts, certificates, scratch };
        server.ready().await?;
        if server.accounts.is_some() {
            server.allow("public/default", USER, true).await?;
        }
        Ok(server)
    }

    /// Nobody but connectors comes to it.
    pub fn port(&self) -> u16 {
        self.ports.connectors
    }

    pub fn tls_port(&self) -> u16 {
        self.ports.tls
    }

    /// Where the proxy of [`PulsarOptions::proxy_port`] has to pass connections on to.
    pub fn proxied_port(&self) -> u16 {
        self.ports.proxied
    }

    /// Where HTTP is spoken.
    pub fn admin_port(&self) -> u16 {
        self.ports.admin
    }

    /// Of its own clients.
    fn url(&self) -> String {
        format!("pulsar://127.0.0.1:{}", self.ports.internal)
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector into this topic, with these fields more.
    pub fn config(&self, topic: &str, more: &Value) -> Value {
        let mut config = json!({ "server": format!("pulsar://127.0.0.1:{}", self.port()), "topic": topic });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Of one who may do what [`Self::allow`] says.
    pub async fn token(&self, subject: &str) -> Result<String> {
        self.accounts()?.token(subject).await
    }

    /// Somebody who issues tokens that this server takes.
    pub async fn issuer(&self, life: Duration) -> Result<Issuer> {
        Issuer::start(self.accounts()?, life).await
    }

    /// From now on this password is [`USER`]'s. The server has to be started again to know it.
    pub async fn set_password(&self, password: &str) -> Result<()> {
        self.accounts()?.set_password(password).await
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "Pulsar still runs");
        self.process = spawn(&self.home, self.scratch.path())?;
        self.ready().await
    }

    /// Stops (SIGSTOP) or continues it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub fn open_files(&self) -> Result<usize> {
        self.process.open_files()
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    /// Of a server that many tests share, and whose folder nobody looks into.
    pub fn keep_nothing(mut self) -> Self {
        self.scratch.passed();
        self
    }

    fn accounts(&self) -> Result<&Accounts> {
        self.accounts.as_ref().context("the server has no accounts")
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "Pulsar is healthy", async || {
            let says = self.admin_text("GET", "brokers/health", None).await?;
            ensure!(says.trim() == "ok", "{says}");
            Ok(())
        });
        ready.await.with_context(|| self.process.log_tail())
    }
}

fn home(scratch: &Path) -> Result<PathBuf> {
    let home = cache::folder()?.join(format!("servers/pulsar-{VERSION}/home"));
    ensure!(
        home.is_dir(),
        "Pulsar {VERSION} is not at {}: run `scripts/setup all`, which fetches it with Maven (mvn)",
        home.display()
    );
    cache::readable(&home, scratch)
}

fn python() -> Result<PathBuf> {
    let python = cache::folder()?.join(format!("servers/pulsar-client-{CLIENT_VERSION}/bin/python"));
    ensure!(python.exists(), "Pulsar's client is not at {}: run `scripts/setup all`", python.display());
    Ok(python)
}

/// The script ends in `exec java`, so the process is the server's own.
fn spawn(home: &Path, folder: &Path) -> Result<Process> {
    let conf = folder.join("standalone.conf");
    let mut command = Command::new(home.join("bin/pulsar"));
    command
        .current_dir(folder)
        .env("PULSAR_STANDALONE_CONF", &conf)
        .env("PULSAR_LOG_DIR", folder.join("logs"))
        .env("PULSAR_LOG_APPENDER", "Console")
        .env("PULSAR_LOG_LEVEL", "info")
        .env("PULSAR_MEM", "-Xms256m -Xmx512m -XX:MaxDirectMemorySize=512m")
        .env("PULSAR_GC", "-XX:+UseSerialGC")
        .env("PULSAR_GC_LOG", " ")
        .env("PULSAR_EXTRA_OPTS", "-XX:TieredStopAtLevel=1")
        .args(["standalone", "-nfw", "-nss", "-c"])
        .arg(&conf)
        .arg("--metadata-dir")
        .arg(folder.join("metadata"))
        .arg("--bookkeeper-dir")
        .arg(folder.join("bookkeeper"));
    Process::spawn_unprivileged("pulsar", &mut command, &folder.join("pulsar.log"), folder)
}
