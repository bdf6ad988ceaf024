//! A cluster of six nodes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ADMIN_PASSWORD, Redis, RedisOptions, START_LIMIT, certificates, config};
use crate::scratch::Scratch;
use crate::{ports, wait};

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
