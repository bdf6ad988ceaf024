//! Where a case plays: a node or three, the kind's server, and what both say about a record.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use api_types::status::Ledger;
use connector_runtime::registry::{self, OrderClass};
use serde_json::{Value, json};
use tests::certificates::Certificates;
use tests::cluster::{Cluster, ClusterOptions};
use tests::publisher::{Publisher, PublisherOptions};
use tests::scratch::Scratch;
use tests::{ports, records, wait};

use crate::adapter::{Adapter, Destination, Facts, Repeats, Seen, Start, Way};
use crate::bare::Bare;
use crate::counts::Counts;
use crate::outage::Gaps;
use crate::publishing::{self, Sent};
use crate::settled::Settled;
use crate::shapes::{CELSIUS, Message};

/// Of a publisher that only has to go on.
const SLOWLY_PER_SECOND: u64 = 100;
/// So that what waits in memory shows.
pub const MEMORY_BYTES_MAX: u64 = 16 << 20;
/// Of every strategy here.
pub const RETRIES: u64 = 1;
const RETRY_WAIT_MS: u64 = 10;
/// What a target has lost does not come; everything else is there long before.
const LOSS_LIMIT: Duration = Duration::from_secs(3);
const LETTERS: &str = "letters";

pub struct Stage<A: Adapter> {
    pub cluster: Cluster,
    pub adapter: A,
    pub facts: Facts,
    pub order: OrderClass,
    pub counts: Counts,
    pub proxy_port: u16,
    pub certificates: Certificates,
    /// The node that is asked: one that lives.
    pub asked: usize,
    server_runs: bool,
    connectors: Vec<String>,
    letters: PathBuf,
    scratch: Scratch,
}

/// A connector of a case and what it writes to.
#[derive(Clone, Debug)]
pub struct Connected {
    pub name: String,
    pub destination: Destination,
}

/// Which end a record has that the target does not take; its letter tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A target that is down is waited for.
    Waits,
    /// A target that is down is one more failed attempt.
    Ends,
}

impl Ending {
    pub fn strategy(self, connector: &str) -> Value {
        let on_target_down = match self {
            Self::Waits => "wait",
            Self::Ends => "strategy",
        };
        json!({ "strategy": "dead_message_queue", "topic_name": format!("{LETTERS}/{connector}"),
                "retry_total_times": RETRIES, "wait_time_ms": RETRY_WAIT_MS, "on_target_down": on_target_down })
    }
}

impl<A: Adapter> Stage<A> {
    pub async fn open(counts: Counts, nodes: usize) -> Result<Self> {
        let scratch = Scratch::new(&format!("conformance-{}", A::KIND))?;
        let start = Start { folder: scratch.path().join("server"), proxy_port: ports::free()? };
        std::fs::create_dir(&start.folder)?;
        let certificates = readable_certificates(&scratch)?;
        let cluster = Cluster::with(options(&scratch, nodes));
        let (adapter, cluster) = tokio::try_join!(A::start(&start), cluster)?;
        let mut stage = Self {
            cluster,
            facts: adapter.facts(),
            adapter,
            order: registry::kind(A::KIND)?.order,
            counts,
            proxy_port: start.proxy_port,
            certificates,
            asked: 0,
            server_runs: true,
            connectors: Vec::new(),
            letters: PathBuf::new(),
            scratch,
        };
        stage.keep_letters(nodes).await?;
        Ok(stage)
    }

    /// The same server, and a cluster of so many nodes in the place of the one before.
    pub async fn with_nodes(self, nodes: usize) -> Result<Self> {
        self.cluster.finish().await?;
        let cluster = Cluster::with(options(&self.scratch, nodes)).await?;
        let mut stage = Self { cluster, ..self };
        stage.keep_letters(nodes).await?;
        Ok(stage)
    }

    pub async fn finish(mut self) -> Result<()> {
        self.cluster.finish().await?;
        self.adapter.finish();
        self.scratch.passed();
        Ok(())
    }

    /// After a case, however it ended: its connectors go, and the server is as it was.
    pub async fn clear(&mut self) -> Result<()> {
        // One that was killed and not started again cannot be continued.
        if self.server_runs {
            self.adapter.resume()?;
        } else {
            self.start_server().await?;
        }
        for node in &mut self.cluster.nodes {
            if !node.is_running() {
                node.start()?;
            }
        }
        for index in 0..self.cluster.nodes.len() {
            self.cluster.nodes[index].ready().await?;
        }
        self.asked = 0;
        for name in std::mem::take(&mut self.connectors) {
            self.cluster.api(0).delete(&name).await?.data()?;
        }
        Ok(())
    }

    pub async fn kill_server(&mut self) -> Result<()> {
        self.server_runs = false;
        self.adapter.kill().await
    }

    pub async fn start_server(&mut self) -> Result<()> {
        self.adapter.start_again().await?;
        self.server_runs = true;
        Ok(())
    }

    /// A destination of this name, made.
    pub async fn destination(&mut self, name: &str, guarded: bool) -> Result<Destination> {
        let destination = Destination { name: name.to_owned(), guarded };
        self.adapter.make(&destination).await.with_context(|| format!("make {name}"))?;
        Ok(destination)
    }

    /// A new destination, and a connector of the same name into it, which runs.
    pub async fn connect(&mut self, name: &str, filter: &str, ending: Ending) -> Result<Connected> {
        let destination = self.destination(name, false).await?;
        let config = self.adapter.config(&destination, Way::default());
        self.connect_to(&destination, filter, config, ending.strategy(name)).await
    }

    pub async fn connect_to(
        &mut self,
        destination: &Destination,
        filter: &str,
        config: Value,
        strategy: Value,
    ) -> Result<Connected> {
        let name = destination.name.clone();
        let connector = json!({ "connector_name": name, "connector_type": A::KIND, "config": config.to_string(),
                                "topic_name": filter, "failure_strategy": strategy });
        self.cluster.create_running(self.asked, &connector).await?;
        self.connectors.push(name.clone());
        Ok(Connected { name, destination: destination.clone() })
    }

    /// A case that deletes a connector itself says so.
    pub fn deleted(&mut self, connector: &str) {
        self.connectors.retain(|name| name != connector);
    }

    /// Publishes to the first node, each record once.
    pub async fn publish(&self, messages: &[Message]) -> Result<Sent> {
        publishing::publish(messages, self.cluster.nodes[0].mqtt_port, self.counts.limit).await
    }

    /// The target's own client at work in a destination of its own, where the target may lose what it confirmed.
    pub async fn bare(&mut self, destination: &Destination) -> Result<Option<Bare>> {
        self.adapter.make(destination).await?;
        let client = self.adapter.bare(destination).await?;
        client.map(|client| Bare::start(client, self.counts.per_second)).transpose()
    }

    /// What the target has lost of what it had confirmed to that client, in words.
    pub async fn loss_of(&self, destination: &Destination, confirmed: BTreeSet<String>) -> Result<String> {
        let missing = async || {
            let seen = self.adapter.read(destination).await?;
            let names: BTreeSet<String> = seen.iter().filter_map(Seen::name).collect();
            anyhow::Ok(confirmed.difference(&names).count())
        };
        let all_there = wait::until(LOSS_LIMIT, "everything of the bare client is seen", async || {
            let missing = missing().await?;
            ensure!(missing == 0, "{missing} are missing");
            Ok(())
        });
        let lost = if all_there.await.is_ok() { 0 } else { missing().await? };
        Ok(format!("beside, a bare client had {} confirmed, lost {lost} by the target itself", confirmed.len()))
    }

    /// Publishes plain messages on one topic, at the rate of the counts.
    pub fn publisher(&self, name: &str, topic: &str, count: u64, port: u16) -> Publisher {
        Publisher::start(self.publishing(name, topic, count, port))
    }

    /// After `count` it goes on slowly, until it is stopped: whatever is broken meanwhile is broken in the middle, however
    /// long that takes on a busy machine.
    pub fn publisher_without_end(&self, name: &str, topic: &str, count: u64, port: u16) -> Publisher {
        let options = self.publishing(name, topic, count, port);
        Publisher::start(PublisherOptions { then_per_second: Some(SLOWLY_PER_SECOND), ..options })
    }

    fn publishing(&self, name: &str, topic: &str, count: u64, port: u16) -> PublisherOptions {
        let options = PublisherOptions::new(name, topic, &[port], count);
        PublisherOptions { per_second: Some(self.counts.per_second), celsius: Some(CELSIUS), ..options }
    }

    pub async fn ledger(&self, connector: &str) -> Result<Ledger> {
        self.cluster.api(self.asked).ledger(connector).await
    }

    /// Looks for times in which the connector delivers nothing, from now on.
    pub fn gaps(&self, connected: &Connected) -> Gaps {
        Gaps::of(self.cluster.api(self.asked), &connected.name)
    }

    /// So many records of a connector have been sent.
    pub async fn sent_at_least(&self, connector: &str, count: u64) -> Result<()> {
        wait::until(self.counts.limit, &format!("{connector} has sent {count}"), async || {
            let ledger = self.ledger(connector).await?;
            ensure!(ledger.sent + ledger.dead_lettered >= count, "{ledger:?}");
            Ok(())
        })
        .await
    }

    /// The connector's health says so, in these words.
    pub async fn health(&self, connector: &str, reason: &str, words: &str) -> Result<()> {
        wait::until(self.counts.limit, &format!("{connector}: {reason}"), async || {
            let detail = self.cluster.api(self.asked).detail(connector).await?;
            let error = detail["last_error"].as_str().unwrap_or_default();
            ensure!(detail["health_reason"] == reason, "{} {}: {error}", detail["health"], detail["health_reason"]);
            ensure!(error.contains(words), "the error says {error:?}, not {words:?}");
            Ok(())
        })
        .await
    }

    /// Waits until nothing is pending, and everything that was sent can be seen; says what became of it.
    pub async fn settle(&self, connected: &Connected, sent: &Sent) -> Result<Settled> {
        self.settle_within(connected, sent, self.counts.limit).await
    }

    /// As [`Self::settle`] where the target may have lost what it had confirmed.
    pub async fn settle_after_loss(&self, connected: &Connected, sent: &Sent) -> Result<Settled> {
        self.settle_within(connected, sent, LOSS_LIMIT).await
    }

    async fn settle_within(&self, connected: &Connected, sent: &Sent, limit: Duration) -> Result<Settled> {
        let name = &connected.name;
        let ledger = self.cluster.drained(self.asked, name, self.counts.limit).await?;
        let letters = self.letters_of(name, ledger.dead_lettered).await?;
        let what = format!("everything of {name} is seen");
        let seen = wait::until(limit, &what, async || {
            let seen = self.adapter.read(&connected.destination).await?;
            let names: BTreeSet<_> = seen.iter().filter_map(Seen::name).collect();
            let ended = (ledger.discarded + ledger.dead_lettered) as usize;
            ensure!(names.len() + ended >= sent.len(), "{} seen, {ended} ended of {}", names.len(), sent.len());
            Ok(seen)
        });
        let seen = match seen.await {
            Ok(seen) => seen,
            // What is missing is named below, where it is wrong that it is.
            Err(_) => self.adapter.read(&connected.destination).await?,
        };
        Settled::of(sent, ledger, seen, letters).with_context(|| name.clone())
    }

    /// The letters of a connector, once so many have been published.
    pub async fn letters_of(&self, connector: &str, count: u64) -> Result<Vec<DeadLetterRecord>> {
        wait::until(self.counts.limit, &format!("{count} letters of {connector}"), async || {
            let arrived = records::of_file(&self.letters)?;
            // A letter may be published twice; it is one letter all the same.
            let mut letters = std::collections::BTreeMap::new();
            for payload in arrived.payloads().filter(|letter| letter["connector_name"] == connector) {
                let letter: DeadLetterRecord = serde_json::from_value(payload.clone())?;
                letters.insert(letter.record_id.clone(), letter);
            }
            ensure!(letters.len() as u64 >= count, "{}", letters.len());
            Ok(letters.into_values().collect())
        })
        .await
    }

    /// How many records may come again when something breaks so many times.
    pub fn repeats_at_most(&self, interruptions: u64) -> u64 {
        match self.facts.repeats {
            Repeats::Never | Repeats::AfterChangeOfOwner => 0,
            Repeats::InFlight => interruptions * self.in_flight(),
        }
    }

    /// How many may come again by what the connector says it tried: each attempt may have reached the target without an
    /// answer, and the last one is not yet counted as a retry.
    pub async fn repeats_of_retries_at_most(&self, connected: &Connected) -> Result<u64> {
        if self.facts.repeats != Repeats::InFlight {
            return Ok(0);
        }
        let detail = self.cluster.api(self.asked).detail(&connected.name).await?;
        let retried = detail["retry_total"].as_u64().context("no retry_total")?;
        Ok(retried + self.in_flight())
    }

    /// How many records may come again when another node goes on with so many queues.
    pub fn repeats_of_new_owner_at_most(&self, queues: u64) -> u64 {
        match self.facts.repeats {
            Repeats::Never => 0,
            Repeats::AfterChangeOfOwner | Repeats::InFlight => queues * self.in_flight(),
        }
    }

    /// Records of one queue that may be under way.
    pub fn in_flight(&self) -> u64 {
        self.facts.batch_records * self.facts.batches_in_flight
    }

    async fn keep_letters(&mut self, nodes: usize) -> Result<()> {
        let path = self.scratch.path().join("files").join(format!("{LETTERS}-{nodes}.log"));
        let connector = json!({ "connector_name": LETTERS, "connector_type": "file", "topic_name": format!("{LETTERS}/#"),
                                "config": json!({ "local_file_path": path }).to_string() });
        self.letters = path;
        self.cluster.create_running(0, &connector).await.map(drop)
    }
}

/// Lets so much time pass: where it is the length of a failure, there is no condition to wait for.
pub async fn pass(time: Duration) {
    tokio::time::timeout(time, std::future::pending::<()>()).await.unwrap_or_default();
}

fn options(scratch: &Scratch, nodes: usize) -> ClusterOptions {
    let root = scratch.path().display();
    ClusterOptions {
        nodes,
        extra: format!("memory_bytes_max = \"{MEMORY_BYTES_MAX}B\"\n"),
        set: vec![format!("connectors.file_roots=[\"{root}\"]")],
        shares_turn: nodes == 1,
    }
}

/// For the names that servers here are called by; each server runs as somebody else.
fn readable_certificates(scratch: &Scratch) -> Result<Certificates> {
    use std::os::unix::fs::PermissionsExt;
    let folder = scratch.path().join("certificates");
    std::fs::create_dir(&folder)?;
    let certificates = Certificates::make(&folder, "DNS:localhost,IP:127.0.0.1", "sluice")?;
    for file in std::fs::read_dir(&folder)? {
        std::fs::set_permissions(file?.path(), std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(certificates)
}
