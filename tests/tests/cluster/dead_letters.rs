//! Records that a target refuses: stored, published on every node, counted, and never in a circle.

use anyhow::{Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use serde_json::json;
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};
use tests::mosquitto::Subscriber;
use tests::nginx::Nginx;
use tests::publisher::{self, PublisherOptions};
use tests::{records, wait};

use crate::LIMIT;

const LETTERS: usize = 5;
/// The probes, which the connector that takes everything also gets, have this topic.
const PROBE: &str = "probe/known";

#[tokio::test]
async fn refused_records_become_dead_letters_that_every_node_publishes() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nginx = Nginx::start().await?;
    let mut refused = webhook_connector("refused", "sensor/+", &nginx.refusing_url());
    refused["failure_strategy"] =
        json!({ "strategy": "dead_message_queue", "retry_total_times": 2, "wait_time_ms": 50 });
    cluster.create_running(0, &refused).await?;
    // A connector that takes everything gets the letters too, but never those that it made itself.
    let (all, path) = cluster.file_connector("everything", "#");
    cluster.create_running(1, &all).await?;
    let mut subscribers = Vec::new();
    for port in cluster.mqtt_ports() {
        subscribers.push(Subscriber::start(port, "dead_letter_queue").await?);
    }
    subscriptions_are_known(&cluster).await?;

    let options = PublisherOptions::new("sensor-001", "sensor/a", &cluster.mqtt_ports(), LETTERS as u64);
    let published = publisher::publish(options, LIMIT).await?;
    for (index, subscriber) in subscribers.iter_mut().enumerate() {
        let mut heard = Vec::new();
        while heard.len() < LETTERS {
            let letter: DeadLetterRecord = serde_json::from_str(&subscriber.next(LIMIT).await?)?;
            check_letter(&letter)?;
            heard.push(serde_json::from_slice::<serde_json::Value>(&letter.original_data)?["message"].clone());
        }
        heard.sort_by_key(ToString::to_string);
        let expected: Vec<_> = published.acknowledged.keys().map(|message| json!(message)).collect();
        ensure!(heard == expected, "node {index} heard of {heard:?}");
    }
    for subscriber in subscribers {
        subscriber.stop().await?;
    }

    let ledger = cluster.drained(2, "refused", LIMIT).await?;
    ensure!(ledger.dead_lettered == LETTERS as u64 && ledger.sent == 0, "{ledger:?}");
    let detail = cluster.api(2).detail("refused").await?;
    ensure!(detail["send_fail_total"] == LETTERS && detail["dead_letter_total"] == LETTERS, "{detail}");
    wait::until(LIMIT, "letters in the file", || async {
        let arrived = records::of_file(&path)?;
        let on = |topic: &str| arrived.envelopes.iter().filter(|one| one["topic"] == topic).count();
        let (letters, originals) = (on("dead_letter_queue"), on("sensor/a"));
        ensure!((letters, originals) == (LETTERS, LETTERS), "{letters} letters, {originals} originals");
        ensure!(arrived.envelopes.iter().filter(|one| one["topic"] != PROBE).count() == 2 * LETTERS, "others");
        Ok(())
    })
    .await?;
    nginx.finish();
    cluster.finish().await
}

#[tokio::test]
async fn two_connectors_that_dead_letter_into_each_other_stop() -> Result<()> {
    let mut cluster = Cluster::with(ClusterOptions { nodes: 1, ..Default::default() }).await?;
    let nginx = Nginx::start().await?;
    for (name, topic, letters) in [("to_b", "loop/a", "loop/b"), ("to_a", "loop/b", "loop/a")] {
        let mut connector = webhook_connector(name, topic, &nginx.refusing_url());
        connector["failure_strategy"] = json!({ "strategy": "dead_message_queue", "topic_name": letters,
                                                "retry_total_times": 1, "wait_time_ms": 10 });
        cluster.create_running(0, &connector).await?;
    }
    let count = LETTERS as u64;
    let options = PublisherOptions::new("looper", "loop/a", &cluster.mqtt_ports(), count);
    publisher::publish(options, LIMIT).await?;

    // Each record becomes a letter of one, and ends at the other.
    let discarded = wait::until(LIMIT, "the letters end", || async {
        let ledger = cluster.api(0).ledger("to_a").await?;
        ensure!(ledger.discarded == count, "{ledger:?}");
        Ok(ledger)
    })
    .await?;
    ensure!((discarded.queued, discarded.dead_lettered, discarded.sent) == (count, 0, 0), "{discarded:?}");
    let labels = ["connector=\"to_a\"", "reason=\"dead_letter_loop\""];
    let counted = cluster.api(0).metric("sluice_connector_discarded_total", &labels).await?;
    ensure!(counted == count as f64, "{counted} counted");
    let first = cluster.drained(0, "to_b", LIMIT).await?;
    ensure!((first.queued, first.dead_lettered, first.discarded) == (count, count, 0), "{first:?}");
    nginx.finish();
    cluster.finish().await
}

/// The eight fields of the seed, and what we add.
fn check_letter(letter: &DeadLetterRecord) -> Result<()> {
    ensure!(letter.connector_name == "refused" && letter.source_topic == "sensor/+", "{letter:?}");
    ensure!(letter.retry_times == 2 && letter.error_message.contains("400"), "{letter:?}");
    ensure!(letter.original_key.as_deref() == Some("sensor-001"), "{letter:?}");
    ensure!(letter.original_topic == "sensor/a" && letter.connectors == ["refused"], "{letter:?}");
    ensure!(letter.original_timestamp > 1_700_000_000 && letter.original_timestamp < 100_000_000_000, "{letter:?}");
    ensure!(letter.dead_letter_timestamp >= letter.original_timestamp, "{letter:?}");
    Ok(())
}

/// Every node knows of the subscribers on the others once a probe from each is heard by all; letters are published
/// only once to live subscribers.
async fn subscriptions_are_known(cluster: &Cluster) -> Result<()> {
    let topic = PROBE;
    let mut probes = Vec::new();
    for port in cluster.mqtt_ports() {
        probes.push(Subscriber::start(port, topic).await?);
    }
    for port in cluster.mqtt_ports() {
        for probe in &mut probes {
            wait::until(LIMIT, "a probe is heard", async || {
                tests::mosquitto::publish(port, &["-q", "1", "-t", topic, "-m", "probe"]).await?.success()?;
                probe.next(std::time::Duration::from_secs(1)).await
            })
            .await?;
        }
    }
    Ok(())
}
