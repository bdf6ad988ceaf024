//! A server that another one replaces, and those who decide it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    ADMIN_PASSWORD, Folders, MASTER_NAME, Redis, RedisOptions, SENTINEL_PASSWORD, START_LIMIT, certificates, cli,
    config,
};
use crate::certificates::Certificates;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{ports, wait};

/// A master, a replica, and three sentinels that watch them.
pub struct RedisSentinels {
    pub servers: Vec<Redis>,
    pub sentinels: Vec<Sentinel>,
    scratch: Scratch,
}

pub struct Sentinel {
    process: Process,
    port: u16,
    folders: Folders,
    certificates: Option<Certificates>,
}

impl Sentinel {
    fn start(
        folders: Folders,
        port: u16,
        master: u16,
        password: Option<&str>,
        certificates: Option<Certificates>,
    ) -> Result<Self> {
        std::fs::create_dir_all(&folders.own)?;
        let mut lines = vec!["bind 127.0.0.1".to_owned(), format!("dir {}", folders.own.display())];
        match &certificates {
            None => lines.push(format!("port {port}")),
            Some(Certificates { ca, server, server_key, .. }) => lines.extend([
                format!("port 0\ntls-port {port}\ntls-replication yes\ntls-auth-clients optional"),
                format!("tls-ca-cert-file {}\ntls-cert-file {}", ca.display(), server.display()),
                format!("tls-key-file {}", server_key.display()),
            ]),
        }
        lines.extend([
            format!("sentinel monitor {MASTER_NAME} 127.0.0.1 {master} 2"),
            format!("sentinel auth-pass {MASTER_NAME} {ADMIN_PASSWORD}"),
            format!("sentinel down-after-milliseconds {MASTER_NAME} 1000"),
            format!("sentinel failover-timeout {MASTER_NAME} 5000\n"),
        ]);
        if let Some(password) = password {
            lines.push(format!("requirepass {password}\nsentinel sentinel-pass {password}\n"));
        }
        std::fs::write(folders.own.join("sentinel.conf"), lines.join("\n"))?;
        let process = spawn_sentinel(&folders)?;
        Ok(Self { process, port, folders, certificates })
    }

    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// It remembers what it has seen.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn_sentinel(&self.folders)?;
        Ok(())
    }
}

fn spawn_sentinel(folders: &Folders) -> Result<Process> {
    let mut command = Command::new("redis-server");
    command.arg(folders.own.join("sentinel.conf")).arg("--sentinel");
    Process::spawn_unprivileged("sentinel", &mut command, &folders.own.join("sentinel.log"), &folders.home)
}

impl RedisSentinels {
    pub async fn start() -> Result<Self> {
        Self::with(RedisOptions::default(), Some(SENTINEL_PASSWORD)).await
    }

    pub async fn with(options: RedisOptions, password: Option<&str>) -> Result<Self> {
        let scratch = Scratch::new("redis-sentinel")?;
        let home = scratch.path();
        let certificates = certificates(home, &options)?;
        let mut servers = vec![Redis::spawn(home, "server0", ports::free()?, options.clone(), certificates.clone())?];
        servers[0].ready().await?;
        let master = servers[0].port;
        let mut replica = options;
        // A replica that is promoted writes this away in its configuration; a restarted one asks the sentinels.
        replica.settings.push(("replicaof".to_owned(), format!("127.0.0.1 {master}")));
        servers.push(Redis::spawn(home, "server1", ports::free()?, replica, certificates.clone())?);
        servers[1].ready().await?;
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let folders = Folders { own: home.join(format!("sentinel{number}")), home: home.to_owned() };
            sentinels.push(Sentinel::start(folders, ports::free()?, master, password, certificates.clone())?);
        }
        let set = Self { servers, sentinels, scratch };
        wait::until(START_LIMIT, "the sentinels know each other and the replica", async || {
            for sentinel in &set.sentinels {
                let quorum = set.ask(sentinel, password, &["SENTINEL", "ckquorum", MASTER_NAME]).await?;
                ensure!(quorum.starts_with("OK 3 usable"), "{quorum}");
                let replicas = set.ask(sentinel, password, &["SENTINEL", "replicas", MASTER_NAME]).await?;
                ensure!(replicas.contains("master-link-status\nok"), "no replica yet");
            }
            Ok(())
        })
        .await?;
        Ok(set)
    }

    pub fn config(&self, more: &Value) -> Value {
        let sentinels: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
        let mode = json!({
            "mode": "sentinel", "sentinel_master_name": MASTER_NAME, "sentinel_password": SENTINEL_PASSWORD,
        });
        let mut config = config(&sentinels.join(","), &mode);
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// The port of the master, as most of the sentinels that answer see it.
    pub async fn master_port(&self) -> Result<u16> {
        let mut votes: BTreeMap<u16, usize> = BTreeMap::new();
        for sentinel in &self.sentinels {
            let question = ["SENTINEL", "get-master-addr-by-name", MASTER_NAME];
            if let Ok(answer) = self.ask(sentinel, Some(SENTINEL_PASSWORD), &question).await
                && let Some(port) = answer.lines().nth(1)
            {
                *votes.entry(port.parse()?).or_default() += 1;
            }
        }
        let (port, _) = votes.into_iter().max_by_key(|(_, count)| *count).context("no sentinel answers")?;
        Ok(port)
    }

    /// The server that the sentinels call the master.
    pub async fn master(&self) -> Result<&Redis> {
        let port = self.master_port().await?;
        self.servers.iter().find(|server| server.port == port).with_context(|| format!("nobody listens on {port}"))
    }

    /// Kills the master, and starts it again once the sentinels name another one.
    pub async fn replace_master(&mut self) -> Result<()> {
        let port = self.master_port().await?;
        let place = self.servers.iter().position(|server| server.port == port).context("no such server")?;
        self.servers[place].kill()?;
        self.replaced(port).await?;
        self.servers[place].start_again().await
    }

    /// Waits until the sentinels name another master than this.
    pub async fn replaced(&self, port: u16) -> Result<()> {
        wait::until(START_LIMIT, "the sentinels name another master", async || {
            ensure!(self.master_port().await? != port, "still {port}");
            Ok(())
        })
        .await
    }

    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn ask(&self, sentinel: &Sentinel, password: Option<&str>, arguments: &[&str]) -> Result<String> {
        let login = password.map_or_else(Vec::new, |password| vec!["-a", password]);
        cli(sentinel.port, sentinel.certificates.as_ref(), &[&login, arguments].concat()).await
    }
}
