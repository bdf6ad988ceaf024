//! SIGSTOP: an owner that stands still is replaced, and when it goes on it has nothing more to say.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};
use tests::nginx::{Nginx, Request};
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::records::{self, Arrived};
use tests::wait;

use crate::{LIMIT, all_arrived};

const PAUSE: Duration = Duration::from_secs(10);
/// From the last sign of life to the first delivery by somebody else.
const FAILOVER: Duration = Duration::from_secs(5);
const REJOIN: Duration = Duration::from_secs(3);
const PER_SECOND: u64 = 100;
/// More than they send; they are stopped.
const MESSAGES: u64 = 1_000_000;
const BATCH_RECORDS: usize = 50;
/// One batch of each of three queues: `max_in_flight` is 1.
const IN_FLIGHT_BATCHES: usize = 3;

#[tokio::test]
async fn an_owner_that_stood_still_for_ten_seconds_delivers_nothing_more() -> Result<()> {
    let options =
        ClusterOptions { set: vec![r#"connectors.file_roots=["<data_dir>/files"]"#.into()], ..Default::default() };
    let mut cluster = Cluster::with(options).await?;
    let nginx = Nginx::start().await?;
    let (victim, file) = create_both_on_one_node(&mut cluster, &nginx).await?;
    let asked = cluster.other_than(&[victim])?;
    let publishers: Vec<Publisher> = (0..3).map(|index| start_publisher(&cluster, index)).collect();
    let old = wait::until(LIMIT, "both targets get records", || async {
        ensure!(written_by(&cluster, file, |index| index == victim)?.records.len() > 100, "the file has too few lines");
        let requests = nginx.requests()?;
        ensure!(requests.len() > 10, "{} requests", requests.len());
        requests.iter().map(|request| request.epoch).max().context("no request")
    })
    .await?;
    ensure!(old > 0, "requests without an epoch");

    cluster.nodes[victim].pause()?;
    let paused = Instant::now();
    let new = wait::measured(FAILOVER, "webhook delivered by another after SIGSTOP of its owner", || async {
        nginx.requests()?.iter().map(|request| request.epoch).find(|epoch| *epoch > old).context("no higher epoch")
    });
    let (new, _) = new.await?;
    let what = "file written by another after SIGSTOP of its owner";
    wait::until(LIMIT, what, || async {
        let others = written_by(&cluster, file, |index| index != victim)?.records.len();
        ensure!(others > 0, "no line");
        Ok(())
    })
    .await?;
    wait::within(FAILOVER, what, paused.elapsed())?;
    wait::until(PAUSE * 2, "the pause is over", || async {
        ensure!(paused.elapsed() >= PAUSE, "{:?}", paused.elapsed());
        Ok(())
    })
    .await?;

    cluster.nodes[victim].resume()?;
    rejoins(&cluster, victim, asked).await?;
    let mut published = publisher::Published::default();
    for publisher in publishers {
        published.merge(publisher.stop(LIMIT).await?);
    }
    let written = all_arrived("file", LIMIT, published.acknowledged.keys(), || written_by(&cluster, file, |_| true));
    let written = written.await?;
    let webhook = all_arrived("webhook", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    check_latecomers(&nginx.requests()?, old, new)?;
    let twice = [
        redelivered_by_others(
            &written_by(&cluster, file, |index| index == victim)?,
            &written_by(&cluster, file, |index| index != victim)?,
        ),
        redelivered_by_others(&posted(&nginx, |epoch| epoch <= old)?, &posted(&nginx, |epoch| epoch > old)?),
    ];
    for ((connector, arrived), twice) in [(file, written), ("pause_webhook", webhook)].into_iter().zip(twice) {
        let records = arrived.records.len();
        println!("{connector}: {records} records, {} redelivered, {twice} of them by another", arrived.redelivered());
        let most = IN_FLIGHT_BATCHES * BATCH_RECORDS;
        ensure!(twice <= most, "{connector}: {twice} redelivered, {most} in flight");
        let ledger = cluster.drained(asked, connector, LIMIT).await?;
        let records = records as u64;
        ensure!(ledger.queued == records && ledger.sent == records, "{connector}: {ledger:?}, {records} arrived");
    }
    nginx.finish();
    cluster.finish().await
}

/// Files come first, one for each node, so the webhook comes to stand beside one of them: returns that node and that
/// file's connector.
async fn create_both_on_one_node(cluster: &mut Cluster, nginx: &Nginx) -> Result<(usize, &'static str)> {
    let mut files = Vec::new();
    for name in ["pause_file_a", "pause_file_b", "pause_file_c"] {
        // One path, which leads each node to a file of its own, as on machines of their own.
        let path = format!("/proc/self/cwd/data/files/{name}.log");
        let config = json!({ "local_file_path": path, "batch_records": BATCH_RECORDS }).to_string();
        let connector =
            json!({ "connector_name": name, "connector_type": "file", "config": config, "topic_name": "pause/#" });
        files.push((cluster.create_running(0, &connector).await?, name));
    }
    let mut webhook = webhook_connector("pause_webhook", "pause/#", "");
    webhook["config"] = json!({ "url": nginx.url(), "batch_records": BATCH_RECORDS }).to_string().into();
    let owner = cluster.create_running(1, &webhook).await?;
    files.into_iter().find(|(node, _)| *node == owner).with_context(|| format!("no file on node {owner}"))
}

fn start_publisher(cluster: &Cluster, index: usize) -> Publisher {
    let mut ports = cluster.mqtt_ports();
    ports.rotate_left(index);
    let mut options = PublisherOptions::new(&format!("pause-{index}"), "pause/load", &ports, MESSAGES);
    options.per_second = Some(PER_SECOND);
    Publisher::start(options)
}

/// What the chosen nodes wrote.
fn written_by(cluster: &Cluster, file: &str, chosen: impl Fn(usize) -> bool) -> Result<Arrived> {
    let mut all = Arrived::default();
    for (index, node) in cluster.nodes.iter().enumerate().filter(|(index, _)| chosen(*index)) {
        let path = node.data_dir().join("files").join(format!("{file}.log"));
        let arrived = records::of_file(&path).with_context(|| format!("file of node {index}"))?;
        arrived.envelopes.into_iter().try_for_each(|envelope| all.add(envelope))?;
    }
    Ok(all)
}

/// What the webhook took from owners of the chosen epochs.
fn posted(nginx: &Nginx, chosen: impl Fn(u64) -> bool) -> Result<Arrived> {
    let mut all = Arrived::default();
    let accepted = |request: &&Request| request.status == 200 && chosen(request.epoch);
    nginx.requests()?.iter().filter(accepted).try_for_each(|request| records::of_body(&request.body, &mut all))?;
    Ok(all)
}

/// Records of the owner that stood still which another delivered as well. What one owner sends twice itself, because an
/// answer was slow to come, is not the pause's doing.
fn redelivered_by_others(by_old: &Arrived, by_others: &Arrived) -> usize {
    by_old.records.keys().filter(|id| by_others.records.contains_key(*id)).count()
}

/// By itself: the node has its lease again, is ready for tasks, and everybody says so.
async fn rejoins(cluster: &Cluster, victim: usize, asked: usize) -> Result<()> {
    wait::measured(REJOIN, "the owner is a member again after SIGCONT", || async {
        let ready = cluster.api(victim).get("/health/ready?for=tasks").await?;
        ensure!(ready.status == 200, "{}", ready.body);
        let row = cluster.api(asked).get("/api/cluster/node/list").await?.data()?;
        let name = &cluster.nodes[victim].name;
        let node = row["data"].as_array().and_then(|rows| rows.iter().find(|row| row["broker_name"] == **name));
        ensure!(node.is_some_and(|node| node["state"] == "Up"), "{row}");
        Ok(())
    })
    .await
    .map(drop)
}

/// After the new owner's first request only what was under way at the old one comes late, once, and without a commit:
/// the new owner delivers it again.
fn check_latecomers(requests: &[Request], old: u64, new: u64) -> Result<()> {
    let first = requests.iter().position(|request| request.epoch == new).context("no request of the new owner")?;
    let late: Vec<&Request> = requests[first..].iter().filter(|request| request.epoch <= old).collect();
    let statuses: Vec<u16> = late.iter().map(|request| request.status).collect();
    println!("webhook: {} requests of the old owner after the first of the new one, answered {statuses:?}", late.len());
    ensure!(late.len() <= IN_FLIGHT_BATCHES, "{} requests with epoch {old} after {new}", late.len());
    let keys: std::collections::BTreeSet<&str> = late.iter().map(|request| request.idempotency_key.as_str()).collect();
    ensure!(keys.len() == late.len(), "a batch came late twice: {keys:?}");
    let mut by_new = Arrived::default();
    let accepted = |request: &&Request| request.status == 200;
    for request in requests.iter().filter(accepted).filter(|request| request.epoch > old) {
        records::of_body(&request.body, &mut by_new)?;
    }
    let mut by_old = Arrived::default();
    for request in late.into_iter().filter(accepted) {
        records::of_body(&request.body, &mut by_old)?;
    }
    let committed: Vec<&String> = by_old.records.keys().filter(|id| !by_new.records.contains_key(*id)).collect();
    ensure!(committed.is_empty(), "the old owner delivered late and committed {committed:?}");
    Ok(())
}
