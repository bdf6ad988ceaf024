//! Redis as a target: one server, a cluster of six, and a set with sentinels; redis-cli says what is in them.
//!
//! ```text
//!   sluice ──▶ user `sluice` (password) ──▶ keys
//!   tests  ──redis-cli──▶ as the default user, who may do everything
//! ```

use std::collections::BTreeMap;
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

/// Three masters, each with a replica.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
    scratch: Scratch,
}

/// Without it a master is missed after 15 s.
const NODE_TIMEOUT_MS: &str = "2000";

impl RedisCluster {
    pub async fn start() -> Result<Self> {
        Self::with(RedisOptions::default()).await
    }

    pub async fn with(options: RedisOptions) -> Result<Self> {
        let scratch = Scratch::new("redis-cluster")?;
        let certificates = certificates(scratch.path(), &options)?;
        let mut nodes = Vec::new();
        for number in 0..6 {
            let port = ports::free()?;
            let mut options = options.clone();
            let bus = ports::free()?.to_string();
            for (name, value) in [
                ("cluster-enabled", "yes"),
                ("cluster-config-file", "nodes.conf"),
                ("cluster-node-timeout", NODE_TIMEOUT_MS),
                ("cluster-announce-ip", "127.0.0.1"),
                ("cluster-port", bus.as_str()),
            ] {
                options.settings.push((name.to_owned(), value.to_owned()));
            }
            let name = format!("node{number}");
            nodes.push(Redis::spawn(scratch.path(), &name, port, options, certificates.clone())?);
        }
        let mut cluster = Self { nodes, scratch };
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        cluster.create().await?;
        Ok(cluster)
    }

    pub fn config(&self, more: &Value) -> Value {
        let servers: Vec<String> = self.nodes.iter().map(Redis::address).collect();
        let mut config = config(&servers.join(","), &json!({"mode": "cluster"}));
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Asks a node that runs, and follows it to whoever has the key.
    pub async fn cli(&mut self, arguments: &[&str]) -> Result<String> {
        let node = self.nodes.iter_mut().find_map(|node| node.process.is_running().then_some(&*node));
        let node = node.context("no node runs")?;
        node.cli_as(&["-a", ADMIN_PASSWORD, "-c"], arguments).await
    }

    /// Every key of every master with the length of its list.
    pub async fn lists(&mut self) -> Result<BTreeMap<String, Vec<String>>> {
        let mut lists = BTreeMap::new();
        for master in self.masters().await? {
            let keys = self.nodes[master].cli(&["KEYS", "*"]).await?;
            for key in keys.lines().filter(|key| !key.is_empty()) {
                let elements = self.nodes[master].cli(&["LRANGE", key, "0", "-1"]).await?;
                lists.insert(key.to_owned(), elements.lines().map(str::to_owned).collect());
            }
        }
        Ok(lists)
    }

    /// Places of the nodes that run and say that they are masters.
    pub async fn masters(&mut self) -> Result<Vec<usize>> {
        let mut masters = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            if node.process.is_running() && node.cli(&["ROLE"]).await?.starts_with("master") {
                masters.push(at);
            }
        }
        Ok(masters)
    }

    /// The place of the node that has this key's slot, by the map of a node that runs.
    pub async fn master_of(&mut self, key: &str) -> Result<usize> {
        let slot: u16 = self.cli(&["CLUSTER", "KEYSLOT", key]).await?.parse()?;
        let nodes = self.cli(&["CLUSTER", "NODES"]).await?;
        let has_it = |line: &&str| {
            line.contains("master")
                && line.split(' ').skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    let bounds = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
                    bounds.is_some_and(|(first, last)| (first..=last).contains(&slot))
                })
        };
        let line = nodes.lines().find(has_it).context("nobody has the slot")?;
        let port = line.split([' ', ':', '@']).nth(2).context("no port")?;
        let at = self.nodes.iter().position(|node| node.port.to_string() == port);
        at.with_context(|| format!("{port} is nobody's port"))
    }

    /// Moves so many slots from one master to another, with the keys in them, while both are used.
    pub async fn reshard(&mut self, from: usize, to: usize, slots: u16) -> Result<()> {
        let id = async |at: usize| self.nodes[at].cli(&["CLUSTER", "MYID"]).await;
        let (from_id, to_id) = (id(from).await?, id(to).await?);
        let address = self.nodes[from].address();
        let slots = slots.to_string();
        let node = &self.nodes[from];
        let reshard = ["--cluster", "reshard", &address, "--cluster-from", &from_id, "--cluster-to", &to_id];
        let reshard = [&reshard[..], &["--cluster-slots", &slots, "--cluster-yes"]].concat();
        node.cli_as(&["-a", ADMIN_PASSWORD], &reshard).await.map(drop)
    }

    /// Every slot is served, as every running node sees it.
    pub async fn healthy(&mut self) -> Result<()> {
        let running: Vec<usize> = (0..6).filter(|at| self.nodes[*at].process.is_running()).collect();
        let nodes = &self.nodes;
        let healthy = wait::until(START_LIMIT, "the cluster is healthy", async || {
            for at in &running {
                let info = nodes[*at].cli(&["CLUSTER", "INFO"]).await?;
                ensure!(info.contains("cluster_state:ok"), "{info}");
            }
            Ok(())
        });
        healthy.await
    }

    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn create(&mut self) -> Result<()> {
        let addresses: Vec<String> = self.nodes.iter().map(Redis::address).collect();
        let mut create = vec!["--cluster", "create"];
        create.extend(addresses.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        self.nodes[0].cli_as(&["-a", ADMIN_PASSWORD], &create).await?;
        self.healthy().await?;
        let nodes = &self.nodes;
        let replicated = wait::until(START_LIMIT, "each master has its replica", async || {
            let mut online = 0;
            for node in nodes {
                online += node.cli(&["INFO", "replication"]).await?.matches("state=online").count();
            }
            ensure!(online == 3, "{online} replicas are online");
            Ok(())
        });
        replicated.await
    }
}

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

/// The request that creates such a connector.
pub fn request(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "redis", "config": config.to_string(), "topic_name": topic,
    })
}
