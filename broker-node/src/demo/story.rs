//! The demo's steps, one function each.

use std::time::{Duration, Instant};

use serde_json::json;

use super::children::{self, Node};
use super::client::Owner;
use super::publish::{FILTER, Published, Publishers};
use super::table::{Outcome, TargetOutcome};
use super::targets::{FileTarget, Received, WebhookTarget};
use super::{DemoError, DemoOptions, NODES, until};

const FILE: &str = "demo_file";
const WEBHOOK: &str = "demo_webhook";

/// Fail-over takes about 4 s; a slow machine may need more.
const FAILOVER_LIMIT: Duration = Duration::from_secs(50);
/// For everything that moves data.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(300);

pub(super) struct Story {
    folder: tempfile::TempDir,
    nodes: Vec<Node>,
    file: FileTarget,
    webhook: WebhookTarget,
    messages: u64,
}

impl Story {
    pub async fn begin(options: &DemoOptions) -> Result<Self, DemoError> {
        let folder = tempfile::Builder::new()
            .prefix("sluice-demo-")
            .tempdir()
            .map_err(DemoError::io("create a temporary folder"))?;
        let files = folder.path().join("target");
        std::fs::create_dir(&files).map_err(DemoError::io("create the folder of the target file"))?;
        println!("Starting {NODES} nodes in {} …", folder.path().display());
        let nodes = children::start(folder.path(), &files, NODES).await?;
        for node in &nodes {
            println!("  {}  API http://127.0.0.1:{}  MQTT 127.0.0.1:{}", node.name, node.api_port, node.mqtt_port);
        }
        let webhook = WebhookTarget::start().await?;
        Ok(Self { folder, nodes, file: FileTarget::new(files.join("demo.log")), webhook, messages: options.messages })
    }

    /// The whole run.
    pub async fn tell(&mut self) -> Result<Outcome, DemoError> {
        let (file_before, webhook_before) = self.create().await?;
        println!("Publishing {} messages with QoS 1, to all {NODES} nodes …", self.messages);
        let ports: Vec<u16> = self.nodes.iter().map(|node| node.mqtt_port).collect();
        let publishers = Publishers::start(&ports, self.messages);
        self.half_way(&publishers).await?;
        let (dead, delivering_again) = self.kill_owner(&file_before, publishers.acknowledged()).await?;

        let published = tokio::time::timeout(TRAFFIC_LIMIT, publishers.join())
            .await
            .map_err(|_| too_long("publishing", "not everything is acknowledged"))??;
        println!("All {} messages are acknowledged.", published.acknowledged.len());
        let waited = self.survivors_drained(&published, self.nodes[dead].mqtt_port).await?;
        self.restart(dead, &waited).await?;
        self.everything_arrived(&published).await?;

        Ok(Outcome {
            acknowledged: published.acknowledged.len() as u64,
            sent_again: published.sent_again,
            killed: self.nodes[dead].name.clone(),
            delivering_again,
            targets: vec![
                self.target(FILE, &self.file.received()?, &published, waited[0], file_before).await?,
                self.target(WEBHOOK, &self.webhook.received(), &published, waited[1], webhook_before).await?,
            ],
        })
    }

    /// Leaves everything running until Ctrl-C.
    pub async fn stay(&mut self) -> Result<(), DemoError> {
        let (api, mqtt) = (self.nodes[0].api_port, self.nodes[1].mqtt_port);
        println!("The nodes go on running, with their logs and data in {}:", self.folder.path().display());
        for node in &self.nodes {
            println!("  {}  API http://127.0.0.1:{}  MQTT 127.0.0.1:{}", node.name, node.api_port, node.mqtt_port);
        }
        println!("Try, for example:");
        println!("  curl 'http://127.0.0.1:{api}/api/mqtt/connector/list'");
        println!("  mosquitto_pub -h 127.0.0.1 -p {mqtt} -q 1 -t demo/hello -m '{{\"hello\":\"world\"}}'");
        println!("  curl 'http://127.0.0.1:{api}/api/mqtt/connector/detail?connector_name={FILE}'");
        println!("What {FILE} writes is in {}. Ctrl-C stops everything.", self.file.path().display());
        tokio::signal::ctrl_c().await.map_err(DemoError::io("wait for Ctrl-C"))
    }

    /// Something went wrong: the logs stay.
    pub fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
        println!("The logs and data of the nodes stay in {}.", self.folder.path().display());
    }

    /// Stops the nodes; the folder goes with `self`.
    pub async fn end(mut self) -> Result<(), DemoError> {
        println!("Stopping the nodes …");
        for node in &mut self.nodes {
            node.stop().await?;
        }
        Ok(())
    }

    async fn create(&self) -> Result<(Owner, Owner), DemoError> {
        let api = &self.nodes[0].api;
        api.create(FILE, "file", FILTER, &json!({ "local_file_path": self.file.path() })).await?;
        api.create(WEBHOOK, "webhook", FILTER, &json!({ "url": self.webhook.url() })).await?;
        println!("Created two connectors through {}, both for {FILTER}:", self.nodes[0].name);
        let owners = (self.owner(FILE, None).await?, self.owner(WEBHOOK, None).await?);
        println!("  {FILE}     writes to {}", self.file.path().display());
        println!("  {WEBHOOK}  posts to {} (a receiver inside this demo)", self.webhook.url());
        for (name, owner) in [(FILE, &owners.0), (WEBHOOK, &owners.1)] {
            println!("  {name} runs on {}: {}", owner.node, owner.why);
        }
        Ok(owners)
    }

    async fn half_way(&self, publishers: &Publishers) -> Result<(), DemoError> {
        until("publishing the first half", TRAFFIC_LIMIT, async || {
            let acknowledged = publishers.acknowledged();
            let enough = acknowledged >= self.messages / 2 || publishers.finished();
            Ok(if enough { Ok(()) } else { Err(format!("{acknowledged} are acknowledged")) })
        })
        .await
    }

    /// SIGKILL for the owner of the file connector; waits until another node writes to the file.
    async fn kill_owner(&mut self, owner: &Owner, acknowledged: u64) -> Result<(usize, Duration), DemoError> {
        let dead = self.nodes.iter().position(|node| node.name == owner.node).unwrap_or_default();
        self.nodes[dead].kill().await?;
        let began = Instant::now();
        let bytes = self.file.bytes();
        println!("Killed {} (SIGKILL) after {acknowledged} acknowledgements; it ran {FILE}.", owner.node);
        let new_owner = self.owner(FILE, Some(&owner.node)).await?;
        until("delivery by the new owner", FAILOVER_LIMIT, async || {
            let grown = self.file.bytes() > bytes;
            Ok(if grown { Ok(()) } else { Err("the file does not grow".to_owned()) })
        })
        .await?;
        let took = began.elapsed();
        println!("  {} delivers it after {:.1} s: {}", new_owner.node, took.as_secs_f64(), new_owner.why);
        Ok((dead, took))
    }

    /// Waits until all that the living nodes acknowledged has arrived, and counts what has not: it is on the disk of
    /// the dead node. One number per target.
    async fn survivors_drained(&self, published: &Published, dead_port: u16) -> Result<[u64; 2], DemoError> {
        until("delivery of what the living nodes hold", TRAFFIC_LIMIT, async || {
            let mut waiting = [0; 2];
            for (index, received) in self.received()?.iter().enumerate() {
                let missing = published.acknowledged.iter().filter(|(name, _)| !received.messages.contains_key(*name));
                let (on_dead, on_living): (Vec<_>, Vec<_>) = missing.partition(|(_, port)| **port == dead_port);
                if !on_living.is_empty() {
                    return Ok(Err(format!("{} messages have not arrived", on_living.len())));
                }
                waiting[index] = on_dead.len() as u64;
            }
            Ok(Ok(waiting))
        })
        .await
    }

    async fn restart(&mut self, dead: usize, waited: &[u64; 2]) -> Result<(), DemoError> {
        let name = self.nodes[dead].name.clone();
        println!("On the disk of {name} wait {} records for {FILE} and {} for {WEBHOOK}.", waited[0], waited[1]);
        println!("Starting {name} again …");
        self.nodes[dead].start()?;
        self.nodes[dead].ready().await
    }

    async fn everything_arrived(&self, published: &Published) -> Result<(), DemoError> {
        // What does not arrive is for the table to tell: the limit ends the waiting, not the demo.
        let waiting = until("delivery of everything", TRAFFIC_LIMIT, async || {
            for received in self.received()? {
                let missing =
                    published.acknowledged.keys().filter(|name| !received.messages.contains_key(*name)).count();
                if missing > 0 {
                    return Ok(Err(format!("{missing} messages have not arrived")));
                }
            }
            for name in [FILE, WEBHOOK] {
                match self.living().api.ledger(name).await {
                    Ok(Ok(ledger)) if ledger.pending == 0 => {}
                    Ok(Ok(ledger)) => return Ok(Err(format!("{name}: {} pending", ledger.pending))),
                    Ok(Err(missing)) => return Ok(Err(missing)),
                    Err(error) => return Ok(Err(error.to_string())),
                }
            }
            Ok(Ok(()))
        });
        match waiting.await {
            Ok(()) => Ok(()),
            Err(DemoError::TooLong { missing, .. }) => {
                println!("Given up waiting: {missing}.");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn target(
        &self,
        name: &str,
        received: &Received,
        published: &Published,
        waited: u64,
        before: Owner,
    ) -> Result<TargetOutcome, DemoError> {
        let ledger = self.living().api.ledger(name).await?.unwrap_or_default();
        let delivered = published.acknowledged.keys().filter(|name| received.messages.contains_key(*name)).count();
        Ok(TargetOutcome {
            connector: name.to_owned(),
            delivered: delivered as u64,
            duplicates: received.duplicates(),
            waited,
            pending: ledger.pending,
            lost: (published.acknowledged.len() - delivered) as u64,
            balances: ledger.balances() && ledger.queued > 0,
            before,
            after: self.owner(name, None).await?,
        })
    }

    /// The owner, once there is one that is not `other_than`.
    async fn owner(&self, name: &str, other_than: Option<&str>) -> Result<Owner, DemoError> {
        until(&format!("an owner for {name}"), FAILOVER_LIMIT, async || {
            // While a leader is elected the list may be refused: that is a "not yet".
            Ok(match self.living().api.owner(name).await {
                Ok(Ok(owner)) if Some(owner.node.as_str()) == other_than => {
                    Err(format!("{} owns it still", owner.node))
                }
                Ok(found) => found,
                Err(error) => Err(error.to_string()),
            })
        })
        .await
    }

    fn received(&self) -> Result<[Received; 2], DemoError> {
        Ok([self.file.received()?, self.webhook.received()])
    }

    /// A node to ask.
    fn living(&self) -> &Node {
        self.nodes.iter().find(|node| node.is_running()).unwrap_or(&self.nodes[0])
    }
}

fn too_long(what: &str, missing: &str) -> DemoError {
    DemoError::TooLong { what: what.to_owned(), limit: TRAFFIC_LIMIT, missing: missing.to_owned() }
}
