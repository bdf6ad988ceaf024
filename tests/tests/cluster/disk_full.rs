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

/// Twice of what the databases of a node keep for their logs.
const DISK_BYTES: u64 = 512 << 20;
const RESERVE_BYTES: u64 = 64 << 20;
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
        let answer = cluster.api(0).get("/health/ready").await?;
        let part = answer.body["data"]["parts"]["queue_disk"].as_str().unwrap_or_default();
        ensure!(answer.status == 503 && part.contains("queue.disk_reserve"), "{}", answer.body);
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

/// Records of a connector that does not run: 96 MiB.
const BULK: u64 = 6000;

#[tokio::test]
async fn what_may_be_dropped_makes_room_for_others_at_once() -> Result<()> {
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
    let idle = |name: &'static str| cluster.api(0).metric(name, &["connector=\"idle\""]);
    let held = idle("sluice_connector_queue_bytes").await?;
    let short = 24 << 20;
    ensure!(idle("sluice_connector_queue_records").await? == BULK as f64, "{held} bytes held");

    cluster.nodes[0].disk()?.leave(RESERVE_BYTES - short)?;
    // Seen by the node before anybody publishes: else it would not be short of anything yet.
    wait::until(LIMIT, "the node sees the full disk", || async {
        let free = cluster.api(0).metric("sluice_queue_disk_free_bytes", &[]).await?;
        ensure!(free < RESERVE_BYTES as f64, "{free} bytes free");
        Ok(())
    })
    .await?;
    ensure!(cluster.api(0).get("/health/ready").await?.status == 200, "not ready although records may be dropped");
    let published = publisher::publish(PublisherOptions::new("kept", "full/a", &[port], 500), LIMIT).await?;
    ensure!(published.connections == 1, "{} connections: somebody was refused", published.connections);
    wait::measured(SAMPLE, "the space is back", || async {
        let free = cluster.nodes[0].disk()?.free_bytes()?;
        ensure!(free >= RESERVE_BYTES, "{free} bytes free");
        Ok(())
    })
    .await?;
    let dropped =
        cluster.api(0).metric("sluice_queue_dropped_total", &["connector=\"idle\"", "reason=\"full\""]).await?;
    let left = idle("sluice_connector_queue_records").await?;
    println!("dropped {dropped} of {BULK} records of {held} bytes for {short} bytes");
    ensure!(dropped > 0.0 && dropped + left == BULK as f64, "{dropped} dropped, {left} left");
    ensure!(left > 0.0, "everything was dropped for a quarter of it");
    all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    let ledger = cluster.drained(0, "kept", LIMIT).await?;
    ensure!(ledger.sent == 500, "{ledger:?}");
    nginx.finish();
    cluster.finish().await
}

#[tokio::test]
async fn a_disk_filled_to_the_last_byte_loses_nothing_acknowledged() -> Result<()> {
    // Without a reserve the publishers themselves run into the end of the disk.
    let mut cluster = one_node(&["queue.disk_reserve=1B"]).await?;
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
    published.merge(publisher.stop(LIMIT).await?);
    println!("{} messages acknowledged up to the end of the disk", published.acknowledged.len());

    cluster.nodes[0].disk()?.fill()?;
    let ended = end_by_raft_write(&mut cluster).await?;
    ensure!(ended == Some(EXIT_META_WRITE), "exit code {ended:?}");

    cluster.nodes[0].start()?;
    wait::until(LIMIT, "the node waits for room", || async {
        let answer = cluster.api(0).get("/health/ready").await?;
        let part = answer.body["data"]["parts"]["replica"].as_str().unwrap_or_default();
        ensure!(answer.status == 503 && part.contains("waiting for room on the disk"), "{}", answer.body);
        Ok(())
    })
    .await?;
    ensure!(cluster.api(0).get("/health/live").await?.status == 200, "not alive");

    // Room for the metadata, and hardly more.
    cluster.nodes[0].disk()?.release(META_ROOM_BYTES)?;
    wait::until(LIMIT, "the metadata is opened", || async {
        let answer = cluster.api(0).get("/health/ready").await?;
        let part = |name: &str| answer.body["data"]["parts"][name].as_str().unwrap_or_default();
        let opened = !part("replica").contains("waiting for room");
        ensure!(opened && (answer.status == 200 || part("queue_disk").contains("bytes free")), "{}", answer.body);
        Ok(())
    })
    .await?;
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
    const BYTES_MAX: u64 = 64 << 10;
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
        .map(|index| Publisher::start(PublisherOptions::new(&format!("tight-{index}"), "tight/a", &[port], 1000)))
        .collect();
    wait::until(LIMIT, "the blocking queue refuses and is named", || async {
        let refused = cluster.api(0).metric("sluice_mqtt_publish_refused_total", &["reason=\"queue_full\""]).await?;
        let detail = cluster.api(0).detail("blocks").await?;
        ensure!(refused >= 3.0 && detail["health_reason"] == "QUEUE_FULL", "{refused} refused, {detail}");
        Ok(())
    })
    .await?;
    let acknowledged = || tight.iter().map(Publisher::acknowledged).sum::<u64>();
    let stuck_at = acknowledged();
    let beside = speed(PublisherOptions::new("beside", "free/a", &[port], count)).await?;
    println!("{count} publishes took {alone:?} alone and {beside:?} beside those that are held back");
    ensure!(beside < alone * 10 + Duration::from_secs(1), "starved: {beside:?} instead of {alone:?}");
    ensure!(acknowledged() == stuck_at && stuck_at < 3000, "{stuck_at}, then {}", acknowledged());

    nginx.restart().await?;
    let published = publisher::finish_all(tight, LIMIT).await?;
    let arrived = all_arrived("blocks", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    ensure!(arrived.messages.len() == 3000 && arrived.repeated() == 0, "{} arrived", arrived.messages.len());
    let ledger = cluster.drained(0, "blocks", LIMIT).await?;
    ensure!(ledger.sent == 3000, "{ledger:?}");
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

/// A connector of a kind that no node offers.
fn not_offered(name: &str, topic: &str) -> Value {
    let mut connector = webhook_connector(name, topic, "");
    connector["connector_type"] = json!("kafka");
    connector["config"] = json!(r#"{"bootstrap_servers":"localhost:9092","topic":"t"}"#);
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

/// The node ends as soon as something is to be written to its metadata; gives its exit code.
async fn end_by_raft_write(cluster: &mut Cluster) -> Result<Option<i32>> {
    let api = cluster.api(0).clone();
    // Whether this is answered, and how, depends on how far it comes.
    let create =
        tokio::spawn(async move { api.create(&webhook_connector("late", "late", "http://127.0.0.1:9/")).await });
    let status = cluster.nodes[0].ended(LIMIT).await.context("the node goes on with a full disk")?;
    create.abort();
    Ok(status.code())
}
