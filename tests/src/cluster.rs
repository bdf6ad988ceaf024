//! A cluster of `sluice` processes on loopback. One at a time: two clusters on two cores disturb each other's leases.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::ApiClient;
use crate::node::{Node, NodeOptions, READY_LIMIT};
use crate::scratch::Scratch;
use crate::{process, wait};

/// Of each node, when a test fails; the whole log stays in the scratch folder.
const LOG_LINES: usize = 25;

/// A cluster takes both places; a node that is alone has no lease that others could disturb, and may share.
const PLACES: u32 = 2;

/// Whose turn it is.
static TURN: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(PLACES as usize)));

/// Waits for the turn of a test that runs nodes of its own.
pub async fn turn() -> OwnedSemaphorePermit {
    places(PLACES).await
}

/// The semaphore is never closed.
async fn places(count: u32) -> OwnedSemaphorePermit {
    Arc::clone(&TURN).acquire_many_owned(count).await.expect("an open semaphore")
}

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// All of them initial voters.
    pub nodes: usize,
    /// More lines of TOML for every node, whole sections.
    pub extra: String,
    /// `--set` arguments for every node.
    pub set: Vec<String>,
    /// Another cluster of this kind may run beside it: only for one node, and where no test measures time or memory of
    /// the whole machine.
    pub shares_turn: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { nodes: 3, extra: String::new(), set: Vec::new(), shares_turn: false }
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    options: ClusterOptions,
    scratch: Scratch,
    _turn: OwnedSemaphorePermit,
}

impl Cluster {
    /// Three nodes, ready.
    pub async fn start() -> Result<Self> {
        Self::with(ClusterOptions::default()).await
    }

    pub async fn with(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::configured(options).await?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// Configured, not started.
    pub async fn configured(options: ClusterOptions) -> Result<Self> {
        let turn = places(if options.shares_turn { 1 } else { PLACES }).await;
        let scratch = Scratch::new("cluster")?;
        std::fs::create_dir(scratch.path().join("files"))?;
        let nodes = (0..options.nodes).map(|index| Node::reserve(&format!("sluice-{index}"), scratch.path()));
        let nodes = nodes.collect::<Result<Vec<Node>>>()?;
        let mut cluster = Self { nodes, options, scratch, _turn: turn };
        let node_options = cluster.node_options();
        for node in &mut cluster.nodes {
            node.configure(&node_options)?;
        }
        Ok(cluster)
    }

    /// The options of an initial voter.
    pub fn node_options(&self) -> NodeOptions {
        let voters = self.nodes[..self.options.nodes].iter();
        NodeOptions {
            initial_voters: voters.map(|node| format!("{}={}", node.name, node.rpc_address())).collect(),
            join: Vec::new(),
            secret: SECRET.to_owned(),
            file_root: self.files(),
            extra: self.options.extra.clone(),
            set: self.options.set.clone(),
        }
    }

    /// Starts every node that does not run, and waits until all are ready.
    pub async fn start_all(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            if !node.is_running() {
                node.start()?;
            }
        }
        for node in &mut self.nodes {
            node.ready().await?;
        }
        Ok(())
    }

    /// One node more, which joins the cluster with the options given.
    pub fn add_node(&mut self, name: &str, change: impl FnOnce(&mut NodeOptions)) -> Result<usize> {
        let mut options = self.node_options();
        options.initial_voters.clear();
        options.join = self.nodes.iter().map(Node::rpc_address).collect();
        change(&mut options);
        let mut node = Node::reserve(name, self.scratch.path())?;
        node.configure(&options)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    pub fn api(&self, index: usize) -> &ApiClient {
        self.nodes[index].api()
    }

    pub fn mqtt_ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.mqtt_port).collect()
    }

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// The folder that file connectors may write to.
    pub fn files(&self) -> PathBuf {
        self.scratch.path().join("files")
    }

    /// The node that leads, by its own word and that of nobody else.
    pub async fn leader(&mut self) -> Result<usize> {
        let running = self.running();
        let nodes = &self.nodes;
        wait::until(READY_LIMIT, "one leader", || async {
            let mut leaders = Vec::new();
            for index in running.iter().copied() {
                if nodes[index].api().metric("sluice_raft_is_leader", &[]).await.is_ok_and(|value| value == 1.0) {
                    leaders.push(index);
                }
            }
            ensure!(leaders.len() == 1, "leaders: {leaders:?}");
            Ok(leaders[0])
        })
        .await
    }

    /// The node that runs a connector.
    pub async fn owner(&mut self, connector: &str) -> Result<usize> {
        let asked = *self.running().first().context("no node runs")?;
        self.owner_seen_by(asked, connector).await
    }

    pub async fn owner_seen_by(&self, asked: usize, connector: &str) -> Result<usize> {
        wait::until(READY_LIMIT, &format!("{connector} runs"), || async {
            let row = self.api(asked).row(connector).await?;
            ensure!(row["status"] == "Running", "{connector} is {}: {}", row["status"], row["state_reason"]);
            let owner = row["broker_name"].as_str().context("no broker_name")?;
            self.nodes.iter().position(|node| node.name == owner).with_context(|| format!("unknown owner {owner}"))
        })
        .await
    }

    /// A node that is neither of these.
    pub fn other_than(&self, these: &[usize]) -> Result<usize> {
        (0..self.nodes.len()).find(|index| !these.contains(index)).context("no other node")
    }

    /// Creates a connector through a node and waits until its task runs.
    pub async fn create_running(&mut self, index: usize, connector: &Value) -> Result<usize> {
        self.api(index).create(connector).await?.data()?;
        let name = connector["connector_name"].as_str().context("connector_name")?.to_owned();
        self.owner_seen_by(index, &name).await
    }

    /// A file connector into the shared folder.
    pub fn file_connector(&self, name: &str, topic: &str) -> (Value, PathBuf) {
        let path = self.files().join(format!("{name}.log"));
        let config = json!({ "local_file_path": path }).to_string();
        let connector =
            json!({ "connector_name": name, "connector_type": "file", "config": config, "topic_name": topic });
        (connector, path)
    }

    /// Waits until the ledger of a connector has nothing pending, and checks that it balances.
    pub async fn drained(&self, asked: usize, connector: &str, limit: Duration) -> Result<api_types::status::Ledger> {
        let ledger = wait::until(limit, &format!("{connector} has nothing pending"), || async {
            let ledger = self.api(asked).ledger(connector).await?;
            ensure!(ledger.pending == 0, "{ledger:?}");
            Ok(ledger)
        })
        .await?;
        ensure!(ledger.balances(), "ledger of {connector} does not balance: {ledger:?}");
        Ok(ledger)
    }

    /// All nodes run, nobody panicked, everybody tells the same connectors: the folder may go.
    pub async fn finish(mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.check_sound()?;
        }
        let Some((first, others)) = self.nodes.split_first() else { bail!("a cluster without nodes") };
        let names = first.api().names().await?;
        for node in others {
            let told = node.api().names().await?;
            ensure!(told == names, "{} lists {told:?}, {} lists {names:?}", node.name, first.name);
        }
        self.scratch.passed();
        Ok(())
    }

    fn running(&mut self) -> Vec<usize> {
        let running = self.nodes.iter_mut().enumerate().filter_map(|(index, node)| node.is_running().then_some(index));
        running.collect()
    }
}

/// A test that fails says what its nodes said last.
impl Drop for Cluster {
    fn drop(&mut self) {
        if self.scratch.has_passed() {
            return;
        }
        for node in &self.nodes {
            eprintln!("--- the end of {}'s log:\n{}", node.name, process::tail(&node.log_path(), LOG_LINES));
        }
    }
}

/// The secret of every cluster in tests.
pub const SECRET: &str = "a-secret-that-only-tests-know";

/// A webhook connector.
pub fn webhook_connector(name: &str, topic: &str, url: &str) -> Value {
    let config = json!({ "url": url }).to_string();
    json!({ "connector_name": name, "connector_type": "webhook", "config": config, "topic_name": topic })
}
