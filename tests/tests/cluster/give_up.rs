//! Each kind of target, away, under each strategy that gives up: how often a record is tried, how far apart, and how it
//! ends.
//!
//! ```text
//!   all there ─► UP arrive ─► all away ─► one record, its retries timed ─► MORE, counted ─► all back ─► BACK arrive
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use serde_json::{Value, json};
use tests::api::sum_of_metric;
use tests::cluster::Cluster;
use tests::publisher::{self, PublisherOptions};
use tests::{records, wait};

use crate::LIMIT;
use crate::targets::Target;

const UP: u64 = 5;
/// Published while the targets are away: one first, whose retries are timed, and then so many.
const MORE: u64 = 20;
const AWAY: u64 = 1 + MORE;
const BACK: u64 = 5;
/// No attempt at a target that is away may take so much longer than its wait.
const SLACK: u32 = 10;

#[derive(Clone, Copy)]
struct Strategy {
    name: &'static str,
    retries: u64,
    wait: Duration,
}

const STRATEGIES: [Strategy; 3] = [
    Strategy { name: "discard", retries: 0, wait: Duration::ZERO },
    Strategy { name: "discard_after_retry", retries: 3, wait: Duration::from_millis(200) },
    Strategy { name: LETTERS, retries: 2, wait: Duration::from_millis(150) },
];
const LETTERS: &str = "dead_message_queue";

impl Strategy {
    fn json(self) -> Value {
        match self.retries {
            0 => json!({ "strategy": self.name }),
            retries => {
                json!({ "strategy": self.name, "retry_total_times": retries, "wait_time_ms": self.wait.as_millis() as u64 })
            }
        }
    }

    /// Discarded and dead-lettered, of so many that ended.
    fn ends(self, records: u64) -> (u64, u64) {
        if self.name == LETTERS { (0, records) } else { (records, 0) }
    }
}

/// One connector of the table.
struct Row {
    name: String,
    strategy: Strategy,
    owner: usize,
    retries: Vec<Seen>,
    /// When its owner was asked before the last answer.
    asked: Instant,
}

/// A retry was counted between these.
struct Seen {
    after: Instant,
    before: Instant,
}

#[tokio::test]
async fn records_for_each_kind_of_target_that_is_away_end_after_exactly_the_retries() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (letters, letters_path) = cluster.file_connector("letters", "dead_letter_queue");
    cluster.create_running(0, &letters).await?;
    let mut targets = Target::all(&cluster, "away", "away/#").await?;
    let mut rows = create_all(&mut cluster, &targets).await?;

    publish(&cluster, "up", UP).await?;
    for row in &rows {
        let ledger = cluster.drained(1, &row.name, LIMIT).await?;
        ensure!((ledger.sent, ledger.queued) == (UP, UP), "{}: {ledger:?}", row.name);
    }
    for target in &mut targets {
        target.take_away().await?;
    }
    let published = Instant::now();
    publish(&cluster, "first", 1).await?;
    see_retries(&cluster, &mut rows).await?;
    for row in &rows {
        row.check_spacing(published)?;
    }
    publish(&cluster, "more", MORE).await?;
    for row in &rows {
        row.check_ends(&cluster).await?;
    }
    check_letters(&letters_path, &rows).await?;

    for target in &mut targets {
        target.bring_back().await?;
    }
    publish(&cluster, "back", BACK).await?;
    for target in &targets {
        check_arrived(&cluster, target).await?;
    }
    targets.into_iter().for_each(Target::finish);
    cluster.finish().await
}

/// Of each strategy one into each target.
async fn create_all(cluster: &mut Cluster, targets: &[Target]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        for strategy in STRATEGIES {
            let name = name_of(target, strategy);
            let mut connector = target.another(&name);
            connector["failure_strategy"] = strategy.json();
            let owner = cluster.create_running(index % 3, &connector).await?;
            rows.push(Row { name, strategy, owner, retries: Vec::new(), asked: Instant::now() });
        }
    }
    Ok(rows)
}

fn name_of(target: &Target, strategy: Strategy) -> String {
    format!("{}_{}", target.name(), strategy.name)
}

async fn publish(cluster: &Cluster, name: &str, count: u64) -> Result<()> {
    let ports = [cluster.nodes[0].mqtt_port];
    publisher::publish(PublisherOptions::new(name, "away/a", &ports, count), LIMIT).await.map(drop)
}

/// Looks at the counters of every node, again and again, until each row has all its retries of one record.
async fn see_retries(cluster: &Cluster, rows: &mut [Row]) -> Result<()> {
    wait::until(LIMIT, "all retries of one record", async || {
        for (index, node) in cluster.nodes.iter().enumerate() {
            let asked = Instant::now();
            let page = node.api().text("/metrics").await?;
            for row in rows.iter_mut().filter(|row| row.owner == index) {
                row.see(&page, asked);
            }
        }
        let waiting: Vec<&str> = rows.iter().filter(|row| !row.is_complete()).map(|row| row.name.as_str()).collect();
        ensure!(waiting.is_empty(), "not yet: {waiting:?}");
        Ok(())
    })
    .await
}

impl Row {
    fn see(&mut self, page: &str, asked: Instant) {
        let label = format!("connector=\"{}\"", self.name);
        let counted = sum_of_metric(page, "sluice_connector_retry_total", &[&label]).unwrap_or_default();
        let before = Instant::now();
        while (self.retries.len() as f64) < counted {
            self.retries.push(Seen { after: self.asked, before });
        }
        self.asked = asked;
    }

    fn is_complete(&self) -> bool {
        self.retries.len() as u64 >= self.strategy.retries
    }

    /// Each retry not sooner than the wait after the attempt before. The counter is looked at from time to time only, so
    /// what is known of each distance is two bounds.
    fn check_spacing(&self, published: Instant) -> Result<()> {
        let (name, wait) = (&self.name, self.strategy.wait);
        if let Some(first) = self.retries.first() {
            let most = first.before.duration_since(published);
            ensure!(most >= wait, "{name}: first retry {most:?} after the publish");
        }
        for pair in self.retries.windows(2) {
            let least = pair[1].after.saturating_duration_since(pair[0].before);
            let most = pair[1].before.duration_since(pair[0].after);
            println!("measured: {name}: retries {least:?} to {most:?} apart (promised {wait:?})");
            ensure!(most >= wait, "{name}: at most {most:?} after the retry before");
            ensure!(least <= wait * SLACK, "{name}: at least {least:?} after the retry before");
        }
        Ok(())
    }

    async fn check_ends(&self, cluster: &Cluster) -> Result<()> {
        let name = &self.name;
        let ledger = cluster.drained(0, name, LIMIT).await?;
        let ended = (ledger.discarded, ledger.dead_lettered);
        ensure!(ended == self.strategy.ends(AWAY) && ledger.sent == UP, "{name}: {ledger:?}");
        let detail = cluster.api(2).detail(name).await?;
        ensure!(detail["retry_total"] == AWAY * self.strategy.retries, "{name}: {detail}");
        ensure!(detail["send_fail_total"] == AWAY, "{name}: {detail}");
        ensure!(detail["health_reason"] == "TARGET_UNREACHABLE", "{name}: {detail}");
        Ok(())
    }
}

/// One letter for each record of each connector that makes some.
async fn check_letters(path: &std::path::Path, rows: &[Row]) -> Result<()> {
    let makers: Vec<&Row> = rows.iter().filter(|row| row.strategy.name == LETTERS).collect();
    let letters = wait::until(LIMIT, "all dead letters", async || {
        let arrived = records::of_file(path)?;
        let letters = arrived.payloads().map(|payload| serde_json::from_value(payload.clone()).context("a letter"));
        let letters = letters.collect::<Result<Vec<DeadLetterRecord>>>()?;
        ensure!(letters.len() as u64 == AWAY * makers.len() as u64, "{} letters", letters.len());
        Ok(letters)
    })
    .await?;
    let mut of_each: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for letter in &letters {
        let data = String::from_utf8(letter.original_data.clone())?;
        ensure!(of_each.entry(&letter.connector_name).or_default().insert(data), "twice: {letter:?}");
        let maker = makers.iter().find(|row| row.name == letter.connector_name).context("a letter of nobody")?;
        ensure!(u64::from(letter.retry_times) == maker.strategy.retries, "{letter:?}");
        ensure!(letter.source_topic == "away/#" && letter.original_topic == "away/a", "{letter:?}");
        ensure!(letter.error_class == "target_unreachable", "{letter:?}");
    }
    let expected: BTreeSet<String> = away().map(|message| json!({ "message": message }).to_string()).collect();
    for row in makers {
        let found = of_each.get(row.name.as_str());
        ensure!(found == Some(&expected), "{}: letters of {found:?}", row.name);
    }
    Ok(())
}

fn away() -> impl Iterator<Item = String> {
    (0..1).map(|number| format!("first-{number}")).chain((0..MORE).map(|number| format!("more-{number}")))
}

/// What was given up never comes, everything before and after does.
async fn check_arrived(cluster: &Cluster, target: &Target) -> Result<()> {
    let mut sent = 0;
    for strategy in STRATEGIES {
        let name = name_of(target, strategy);
        let ledger = cluster.drained(1, &name, LIMIT).await?;
        // A single attempt may meet what is left of a connection from before.
        ensure!(ledger.sent == UP + BACK || strategy.retries == 0, "{name}: {ledger:?}");
        sent += ledger.sent;
    }
    let arrived = wait::until(LIMIT, &format!("everything sent is at {}", target.name()), async || {
        let arrived = target.arrived().await?;
        ensure!(arrived.records.len() as u64 == sent, "{} of {sent}", arrived.records.len());
        Ok(arrived)
    })
    .await?;
    let name = target.name();
    ensure!(arrived.redelivered() == 0, "{name}: {} came twice", arrived.redelivered());
    let ghosts: Vec<String> = away().filter(|message| arrived.messages.contains_key(message)).collect();
    ensure!(ghosts.is_empty(), "{name}: given up and delivered: {ghosts:?}");
    Ok(())
}
