//! Redis as a target: one server, a cluster of six, and a set with sentinels; redis-cli says what is in them.
//!
//! ```text
//!   sluice ──▶ user `sluice` (password) ──▶ keys
//!   tests  ──redis-cli──▶ as the default user, who may do everything
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{ports, wait};

mod cluster;
mod sentinel;

pub use cluster::RedisCluster;
pub use sentinel::{RedisSentinels, Sentinel};

const START_LIMIT: Duration = Duration::from_secs(60);
const CLI_LIMIT: Duration = Duration::from_secs(60);

pub const USER: &str = "sluice";
/// Everything that a file or a command line would have to escape, but no space: users are written in one line each.
pub const PASSWORD: &str = "p@ss:w/o?r#d\\%20ü";
/// Of the default user, whom redis-cli, the replicas and the sentinels use.
pub const ADMIN_PASSWORD: &str = "admin";
pub const SENTINEL_PASSWORD: &str = "sentinel";
pub const MASTER_NAME: &str = "mymaster";
pub const KEY: &str = "mqtt_messages";

#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// As on the command line, without the dashes.
    pub settings: Vec<(String, String)>,
    /// Names of the server in its certificate; without them it speaks no TLS, with them nothing else.
    pub tls_names: Option<String>,
    /// Of somebody else, instead of its own for `tls_names`.
    pub certificates: Option<Certificates>,
    /// Clients have to show a certificate as well.
    pub client_certificate: bool,
    /// What the user of the connectors may do, as an ACL has it.
    pub rights: Option<String>,
}

/// One server.
pub struct Redis {
    process: Process,
    port: u16,
    options: RedisOptions,
    certificates: Option<Certificates>,
    folders: Folders,
    /// Of a server that stands alone.
    scratch: Option<Scratch>,
}

#[derive(Clone, Debug)]
struct Folders {
    /// Data and log.
    own: PathBuf,
    /// Of the whole set, with its certificates.
    home: PathBuf,
}

impl Redis {
    pub async fn start() -> Result<Self> {
        Self::with(RedisOptions::default()).await
    }

    pub async fn with(options: RedisOptions) -> Result<Self> {
        let scratch = Scratch::new("redis")?;
        let certificates = certificates(scratch.path(), &options)?;
        let mut redis = Self::spawn(scratch.path(), "server", ports::free()?, options, certificates)?;
        redis.scratch = Some(scratch);
        redis.ready().await?;
        Ok(redis)
    }

    fn spawn(
        home: &Path,
        name: &str,
        port: u16,
        options: RedisOptions,
        certificates: Option<Certificates>,
    ) -> Result<Self> {
        let folders = Folders { own: home.join(name), home: home.to_owned() };
        std::fs::create_dir_all(&folders.own)?;
        let process = spawn(&folders, port, &options, certificates.as_ref())?;
        Ok(Self { process, port, options, certificates, folders, scratch: None })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector that pushes payloads to [`KEY`], with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        config(&self.address(), more)
    }

    /// What redis-cli says, with its last line break left away.
    pub async fn cli(&self, arguments: &[&str]) -> Result<String> {
        self.cli_as(&["-a", ADMIN_PASSWORD], arguments).await
    }

    /// Elements of the list [`KEY`], the oldest first.
    pub async fn list(&self) -> Result<Vec<String>> {
        Ok(self.cli(&["LRANGE", KEY, "0", "-1"]).await?.lines().map(str::to_owned).collect())
    }

    pub async fn count(&self) -> Result<u64> {
        Ok(self.cli(&["LLEN", KEY]).await?.parse()?)
    }

    /// As by a power cut of the process: what it has written to its log of commands stays.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// SIGTERM: it saves what there is to save, and goes.
    pub fn stop(&mut self) -> Result<()> {
        self.process.end(Signal::TERM).map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        self.start_without_waiting()?;
        self.ready().await
    }

    pub fn start_without_waiting(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "Redis still runs");
        self.process = spawn(&self.folders, self.port, &self.options, self.certificates.as_ref())?;
        Ok(())
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// What clients have sent and the server, paused perhaps, has not read.
    pub fn unread_bytes(&self) -> Result<u64> {
        ports::unread_bytes(self.port)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        if let Some(scratch) = &mut self.scratch {
            scratch.passed();
        }
    }

    /// It has loaded what it had, and answers.
    pub async fn ready(&mut self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "Redis answers", async || {
            ensure!(self.process.is_running(), "it has ended");
            let answer = self.cli(&["PING"]).await?;
            ensure!(answer == "PONG", "{answer}");
            Ok(())
        });
        let ready = ready.await;
        ready.with_context(|| self.process.log_tail())
    }

    async fn cli_as(&self, login: &[&str], arguments: &[&str]) -> Result<String> {
        cli(self.port, self.certificates.as_ref(), &[login, arguments].concat()).await
    }
}

fn config(server: &str, more: &Value) -> Value {
    let mut config = json!({
        "server": server, "command_template": format!("RPUSH {KEY} {{payload}}"),
        "username": USER, "password": PASSWORD,
    });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

fn certificates(home: &Path, options: &RedisOptions) -> Result<Option<Certificates>> {
    if let Some(of_others) = &options.certificates {
        return of_others.copied_to(home).map(Some);
    }
    options.tls_names.as_ref().map(|names| Certificates::make(home, names, USER)).transpose()
}

fn spawn(folders: &Folders, port: u16, options: &RedisOptions, certificates: Option<&Certificates>) -> Result<Process> {
    let folder = &folders.own;
    let users = folder.join("users.acl");
    if !users.exists() {
        let rights = options.rights.as_deref().unwrap_or("~* &* +@all");
        let text = format!("user default on >{ADMIN_PASSWORD} ~* &* +@all\nuser {USER} on >{PASSWORD} {rights}\n");
        std::fs::write(&users, text)?;
    }
    let mut command = Command::new("redis-server");
    let mut set = |name: &str, value: &str| {
        command.arg(format!("--{name}")).arg(value);
    };
    // The second one is the same machine under an address that nobody announces.
    set("bind", "127.0.0.1 127.0.0.2");
    set("dir", &folder.display().to_string());
    set("aclfile", &users.display().to_string());
    set("masterauth", ADMIN_PASSWORD);
    // What was confirmed survives the process.
    set("appendonly", "yes");
    // Replicas are there at once.
    set("repl-diskless-sync-delay", "0");
    set("save", "");
    match certificates {
        Some(certificates) => {
            set("port", "0");
            set("tls-port", &port.to_string());
            set("tls-ca-cert-file", &certificates.ca.display().to_string());
            set("tls-cert-file", &certificates.server.display().to_string());
            set("tls-key-file", &certificates.server_key.display().to_string());
            set("tls-auth-clients", if options.client_certificate { "yes" } else { "optional" });
            set("tls-replication", "yes");
            set("tls-cluster", "yes");
        }
        None => set("port", &port.to_string()),
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    Process::spawn_unprivileged("redis", &mut command, &folder.join("redis.log"), &folders.home)
}

/// Calls redis-cli with what it takes to reach a server.
async fn cli(port: u16, certificates: Option<&Certificates>, arguments: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new("redis-cli");
    command.args(["-p", &port.to_string(), "--no-auth-warning"]);
    if let Some(Certificates { client, client_key, .. }) = certificates {
        command.args(["--tls", "--insecure", "--cert"]).arg(client).arg("--key").arg(client_key);
    }
    let finished = process::run(command.args(arguments), CLI_LIMIT).await?.success()?;
    Ok(finished.stdout.trim_end_matches('\n').to_owned())
}

/// The request that creates such a connector.
pub fn request(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "redis", "config": config.to_string(), "topic_name": topic,
    })
}
