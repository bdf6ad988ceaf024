//! A disk that fills up: who publishes is told, what was acknowledged is delivered, and all goes on by itself once
//! there is room. The disk is a real one, small, filled from outside.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};
use tests::mqtt_session::{Session, Signal, Version};
use tests::nginx::Nginx;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::wait;

use crate::{LIMIT, all_arrived};

const DISK_BYTES: u64 = 768 << 20;
/// Room for what the databases write while they give space back: tables of memtables, a log, a compaction.
const RESERVE_BYTES: u64 = 192 << 20;
/// Between a refused publish and its DISCONNECT.
const REFUSED_PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);
/// The free space is looked at so often.
const SAMPLE: Duration = Duration::from_secs(1);
/// With so much free the metadata is opened.
const META_ROOM_BYTES: u64 = 65 << 20;
/// `EX_IOERR`.
const EXIT_META_WRITE: i32 = 74;

#[tokio::test]
async fn below_the_reserve_publishers_are_refused_and_commits_go_on() -> Result<()> {
    let mut cluster = one_node(&[&format!("queue.disk_reserve={RESERVE_BYTES}B")]).await?;
    let mut nginx = Nginx::start().await?;
    cluster.create_running(0, &webhook_connector("kept", "full/#", &nginx.url())).await?;
    nginx.kill()?;
    let port = cluster.nodes[0].mqtt_port;
    let mut published = publisher::publish(PublisherOptions::new("before", "full/a", &[port], 500), LIMIT).await?;

    cluster.nodes[0].disk()?.leave(RESERVE_BYTES / 2)?;
    wait::measured(SAMPLE, "the full disk makes the node not ready", || async {
        let parts = parts(&cluster, 503).await?;
        ensure!(text(&parts, "queue_disk").contains("queue.disk_reserve"), "{parts}");
        Ok(())
    })
    .await?;
    for version in [Version::V4, Version::V5] {
        let (error, pause) = refused(version, port, "full/a").await?;
        ensure!(pause >= *REFUSED_PAUSE.start(), "{version:?}: closed after {pause:?}");
        wait::within(*REFUSED_PAUSE.end(), &format!("{version:?}: refused publish to close"), pause)?;
        ensure!(version == Version::V4 || error.contains("QuotaExceeded"), "{version:?}: {error}");
    }
    let refusals = cluster.api(0).metric("sluice_mqtt_publish_refused_total", &["reason=\"disk_full\""]).await?;
    ensure!(refusals == 2.0, "{refusals} refusals counted");

    // What was queued before is delivered and committed on the full disk.
    let waiting = Publisher::start(PublisherOptions::new("after", "full/a", &[port], 500));
    nginx.restart().await?;
    all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    let ledger = cluster.drained(0, "kept", LIMIT).await?;
    ensure!(ledger.sent == 500, "{ledger:?}");
    ensure!(waiting.acknowledged() == 0, "{} acknowledged on the full disk", waiting.acknowledged());

    cluster.nodes[0].disk()?.relieve()?;
    let goes_on = wait::measured(SAMPLE + *REFUSED_PAUSE.end(), "room to the first acknowledgement", || async {
        ensure!(waiting.acknowledged() > 0, "none yet");
        Ok(())
    });
    goes_on.await?;
    published.merge(waiting.finish(LIMIT).await?);
    cluster.nodes[0].ready().await?;
    let arrived = all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    ensure!(arrived.messages.len() == 1000 && arrived.repeated() == 0, "{} arrived", arrived.messages.len());
    cluster.drained(0, "kept", LIMIT).await?;
    nginx.finish();
    cluster.finish().await
}

#[tokio::test]
async fn what_may_be_dropped_makes_room_for_others_at_once() -> Result<()> {
    // 160 MiB of records of 16 KiB, which fill several tables; a part of what one of them holds is to go.
    const BULK: u64 = 10_000;
    const SHORT_BYTES: u64 = 24 << 20;
    let reserve = format!("queue.disk_reserve={RESERVE_BYTES}B");
    let mut cluster = one_node(&[&reserve, "connectors.kinds=file,webhook"]).await?;
    let nginx = Nginx::start().await?;
    cluster.create_running(0, &webhook_connector("kept", "full/#", &nginx.url())).await?;
    let answer = cluster.api(0).create(&not_offered("idle", "bulk/#")).await?;
    ensure!(answer.warnings().iter().any(|warning| warning.contains("drops its oldest records")), "{answer:?}");
    answer.data()?;

    let port = cluster.nodes[0].mqtt_port;
    let mut bulk = PublisherOptions::new("bulk", "bulk/a", &[port], BULK);
    bulk.padding = 16 << 10;
    publisher::publish(bulk, LIMIT).await?;
    let held = || cluster.api(0).metric("sluice_connector_queue_records", &["connector=\"idle\""]);
    ensure!(held().await? == BULK as f64, "{} records held", held().await?);

    let mut steady = PublisherOptions::new("steady", "full/a", &[port], 1_000_000);
    steady.per_second = Some(500);
    let steady = Publisher::start(steady);
    cluster.nodes[0].disk()?.leave(RESERVE_BYTES - SHORT_BYTES)?;
    let labels = ["connector=\"idle\"", "reason=\"full\""];
    let dropped = || cluster.api(0).metric("sluice_queue_dropped_total", &labels);
    let space_is_back = wait::measured(SAMPLE, "records are dropped and their space is back", || async {
        let (dropped, free) = (dropped().await?, cluster.nodes[0].disk()?.free_bytes()?);
        ensure!(free >= RESERVE_BYTES, "{dropped} dropped, {free} bytes free");
        Ok(())
    });
    space_is_back.await?;
    ensure!(cluster.api(0).get("/health/ready").await?.status == 200, "not ready although records may be dropped");
    let published = steady.stop(LIMIT).await?;
    ensure!(published.connections == 1, "{} connections: somebody was refused", published.connections);
    let (dropped, left) = (dropped().await?, held().await?);
    println!("{dropped} of {BULK} records dropped for {SHORT_BYTES} bytes");
    ensure!(dropped > 0.0 && left > 0.0 && dropped + left == BULK as f64, "{dropped} dropped, {left} left");
    let log = std::fs::read_to_string(cluster.nodes[0].log_path())?;
    ensure!(log.contains("records dropped") && log.contains("connector=idle"), "the log does not name it");
    all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    let ledger = cluster.drained(0, "kept", LIMIT).await?;
    ensure!(ledger.sent == published.acknowledged.len() as u64, "{ledger:?}");
    nginx.finish();
    cluster.finish().await
}

/// ```text
///   one of three disks full ─► publishers refused ─► room ─► they go on ─► full again, a Raft entry: the node ends
///   started: waits for room ─► room for the metadata only ─► room for all ─► ready, everything arrives
/// ```
#[tokio::test]
async fn a_disk_filled_to_the_last_byte_loses_nothing_acknowledged() -> Result<()> {
    // Without a reserve the publishers themselves run into the end of the disk.
    let set = vec!["queue.disk_reserve=1B".to_owned()];
    let mut cluster = Cluster::configured(ClusterOptions { set, ..ClusterOptions::default() }).await?;
    cluster.nodes[0].mount_disk(DISK_BYTES)?;
    cluster.start_all().await?;
    let mut nginx = Nginx::start().await?;
    cluster.create_running(0, &webhook_connector("kept", "full/#", &nginx.url())).await?;
    nginx.kill()?;
    let port = cluster.nodes[0].mqtt_port;
    let mut published = publisher::publish(PublisherOptions::new("before", "full/a", &[port], 500), LIMIT).await?;

    cluster.nodes[0].disk()?.leave(32 << 20)?;
    let mut large = PublisherOptions::new("large", "full/a", &[port], 1_000_000);
    (large.padding, large.window) = (64 << 10, 10);
    let publisher = Publisher::start(large);
    wait::until(LIMIT, "publishes are refused", || async {
        let refused = cluster.api(0).metric("sluice_mqtt_publish_refused_total", &["reason=\"disk_full\""]).await?;
        ensure!(refused >= 1.0, "{refused} refused, {} acknowledged", publisher.acknowledged());
        Ok(())
    })
    .await?;
    let stuck_at = publisher.acknowledged();
    cluster.nodes[0].disk()?.relieve()?;
    wait::until(LIMIT, "ingest goes on by itself", || async {
        ensure!(publisher.acknowledged() > stuck_at, "stuck at {stuck_at}");
        Ok(())
    })
    .await?;
    published.merge(publisher.stop(LIMIT).await?);
    println!("{stuck_at} large messages up to the end of the disk, {} in all", published.acknowledged.len());

    cluster.nodes[0].disk()?.fill()?;
    let late = webhook_connector("late", "late", &nginx.url());
    cluster.api(1).create(&late).await?.data().context("the others have room")?;
    let status = cluster.nodes[0].ended(LIMIT).await.context("the node goes on with a full disk")?;
    ensure!(status.code() == Some(EXIT_META_WRITE), "{status}");

    // A database that closes gives space back.
    cluster.nodes[0].disk()?.fill()?;
    cluster.nodes[0].start()?;
    let not_ready = wait::until(LIMIT, "the node waits for room", || async {
        let parts = parts(&cluster, 503).await?;
        ensure!(text(&parts, "replica").contains("waiting for room on the disk"), "{parts}");
        Ok(parts)
    });
    println!("without room: {}", not_ready.await?);
    ensure!(cluster.api(0).get("/health/live").await?.status == 200, "not alive");

    cluster.nodes[0].disk()?.release(META_ROOM_BYTES)?;
    let opened = wait::until(LIMIT, "the metadata is opened, the queues too or they wait for room", || async {
        let answer = cluster.api(0).get("/health/ready").await?;
        let parts = answer.body["data"]["parts"].clone();
        let queues = text(&parts, "queue_disk");
        ensure!(!text(&parts, "replica").contains("room"), "{parts}");
        ensure!(queues == "ok" || queues.contains("bytes free"), "{parts}");
        Ok(parts)
    });
    println!("with room for the metadata: {}", opened.await?);
    cluster.nodes[0].check_sound()?;

    cluster.nodes[0].disk()?.relieve()?;
    cluster.nodes[0].ready().await?;
    nginx.restart().await?;
    all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    cluster.drained(0, "kept", LIMIT).await?;
    nginx.finish();
    cluster.finish().await
}

#[tokio::test]
async fn a_full_queue_stops_only_those_who_publish_to_it_and_only_if_it_blocks() -> Result<()> {
    const BYTES_MAX: u64 = 32 << 10;
    /// More than one of these messages takes in a queue.
    const RECORD_BYTES_MAX: u64 = 256;
    let mut cluster = Cluster::with(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await?;
    let mut nginx = Nginx::start().await?;
    let port = cluster.nodes[0].mqtt_port;
    let (file, path) = cluster.file_connector("free", "free/#");
    cluster.create_running(0, &file).await?;
    let mut blocks = webhook_connector("blocks", "tight/#", &nginx.url());
    blocks["queue"] = json!({ "bytes_max": BYTES_MAX, "when_full": "block" });
    cluster.create_running(0, &blocks).await?;
    nginx.kill()?;
    let mut stopped = webhook_connector("stopped", "#", &nginx.url());
    stopped["queue"] = json!({ "bytes_max": BYTES_MAX });
    stopped["desired"] = json!("stopped");
    cluster.api(0).create(&stopped).await?.data()?;

    let count = 5000;
    let alone = speed(PublisherOptions::new("alone", "free/a", &[port], count)).await?;
    let dropped =
        cluster.api(0).metric("sluice_queue_dropped_total", &["connector=\"stopped\"", "reason=\"full\""]).await?;
    ensure!(dropped > 0.0, "the stopped connector is not full");

    let tight: Vec<Publisher> = (0..3)
        .map(|index| Publisher::start(PublisherOptions::new(&format!("tight-{index}"), "tight/a", &[port], 300)))
        .collect();
    wait::until(LIMIT, "the blocking queue refuses and is named", || async {
        let refused = cluster.api(0).metric("sluice_mqtt_publish_refused_total", &["reason=\"queue_full\""]).await?;
        let detail = cluster.api(0).detail("blocks").await?;
        ensure!(refused >= 3.0 && detail["health_reason"] == "QUEUE_FULL", "{refused} refused, {detail}");
        Ok(())
    })
    .await?;
    let beside = speed(PublisherOptions::new("beside", "free/a", &[port], count)).await?;
    println!("{count} publishes took {alone:?} alone and {beside:?} beside those that are held back");
    ensure!(beside < alone * 10 + Duration::from_secs(1), "starved: {beside:?} instead of {alone:?}");
    // While there is room for one small record, somebody may still be let in.
    let acknowledged = tight.iter().map(Publisher::acknowledged).sum::<u64>();
    let held = cluster.api(0).metric("sluice_connector_queue_bytes", &["connector=\"blocks\""]).await?;
    println!("{acknowledged} of 900 acknowledged, {held} of {BYTES_MAX} bytes held");
    ensure!(acknowledged < 900, "all were let in");
    ensure!(held > 0.0 && held <= (BYTES_MAX + RECORD_BYTES_MAX) as f64, "{held} bytes held");

    nginx.restart().await?;
    let published = publisher::finish_all(tight, LIMIT).await?;
    let arrived = all_arrived("blocks", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    ensure!(arrived.messages.len() == 900 && arrived.repeated() == 0, "{} arrived", arrived.messages.len());
    let ledger = cluster.drained(0, "blocks", LIMIT).await?;
    ensure!(ledger.sent == 900, "{ledger:?}");
    let ledger = cluster.drained(0, "free", LIMIT).await?;
    ensure!(ledger.sent == 2 * count, "{ledger:?}");
    ensure!(tests::records::of_file(&path)?.repeated() == 0);
    nginx.finish();
    cluster.finish().await
}

/// A cluster of one, whose data lies on a small disk.
async fn one_node(set: &[&str]) -> Result<Cluster> {
    let set = set.iter().map(|one| (*one).to_owned()).collect();
    let mut cluster = Cluster::configured(ClusterOptions { nodes: 1, set, ..ClusterOptions::default() }).await?;
    cluster.nodes[0].mount_disk(DISK_BYTES)?;
    cluster.start_all().await?;
    Ok(cluster)
}

/// A connector of a kind that no node of these tests offers.
fn not_offered(name: &str, topic: &str) -> Value {
    let mut connector = webhook_connector(name, topic, "");
    connector["connector_type"] = json!("cassandra");
    connector["config"] = json!(r#"{"nodes":["127.0.0.1"],"keyspace":"mqtt","table":"messages"}"#);
    connector
}

/// Publishes one message that is to be refused; tells with which words the connection ended, and after how long.
async fn refused(version: Version, port: u16, topic: &str) -> Result<(String, Duration)> {
    let mut session = Session::open(version, "refused", port, 10, None);
    session.connected().await?;
    let sent = Instant::now();
    session.publish(topic, b"{}".to_vec())?;
    loop {
        match session.next().await {
            Signal::Connected | Signal::Sent(_) => {}
            Signal::Acknowledged(_) => bail!("{version:?}: acknowledged"),
            Signal::Refused(_) => bail!("{version:?}: a PUBACK that refuses"),
            Signal::Ended(error) => return Ok((format!("{error:?}"), sent.elapsed())),
        }
    }
}

/// How long a publisher takes; it must never be refused.
async fn speed(options: PublisherOptions) -> Result<Duration> {
    let began = Instant::now();
    let published = publisher::publish(options, LIMIT).await?;
    ensure!(published.connections == 1, "{} connections", published.connections);
    Ok(began.elapsed())
}

/// What `/health/ready` of the first node says of each part, if it answers with this status.
async fn parts(cluster: &Cluster, status: u16) -> Result<Value> {
    let answer = cluster.api(0).get("/health/ready").await?;
    ensure!(answer.status == status, "{}", answer.body);
    Ok(answer.body["data"]["parts"].clone())
}

fn text<'a>(parts: &'a Value, name: &str) -> &'a str {
    parts[name].as_str().unwrap_or_default()
}
