//! The bridge to another broker: Mosquitto and NATS as its targets, and the cluster itself.

use std::cell::Cell;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::mosquitto::{Broker, BrokerOptions};
use tests::mqtt_session::{Login, Version};
use tests::nats::{self, Nats};
use tests::publisher::{self, Published, Publisher, PublisherOptions};
use tests::reader::Reader;
use tests::wait;

use crate::LIMIT;

const MESSAGES: u64 = 10_000;

fn bridge(name: &str, topic: &str, config: Value) -> Value {
    json!({ "connector_name": name, "connector_type": "mqtt", "config": config.to_string(), "topic_name": topic })
}

/// A broker that keeps sessions and messages over a SIGTERM.
async fn persistent_broker() -> Result<Broker> {
    Broker::with(BrokerOptions { persistence: true, ..BrokerOptions::default() }).await
}

/// One publisher for each node, half of them with MQTT 3.1.1.
fn start_publishers(cluster: &Cluster, name: &str, count: u64, per_second: Option<u64>) -> Vec<Publisher> {
    let ports = cluster.mqtt_ports();
    let share = count / ports.len() as u64;
    let mut publishers = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let extra = if index == 0 { count % ports.len() as u64 } else { 0 };
        let options = PublisherOptions::new(&format!("{name}-{index}"), "in/a", &[*port], share + extra);
        let version = if index % 2 == 0 { Version::V5 } else { Version::V4 };
        publishers.push(Publisher::start(PublisherOptions { version, per_second, ..options }));
    }
    publishers
}

async fn all_heard(what: &str, reader: &Reader, published: &Published) -> Result<()> {
    wait::until(LIMIT, &format!("{what} hears everything"), || async {
        let missing = reader.missing(published.acknowledged.keys());
        ensure!(missing.is_empty(), "{} are missing, such as {:?}", missing.len(), missing.first());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_brokers_get_everything_once() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (mosquitto, nats) = (persistent_broker().await?, Nats::start().await?);
    let server = |port: u16| format!("mqtt://127.0.0.1:{port}");
    let to_mosquitto =
        bridge("to_mosquitto", "in/#", json!({ "server": server(mosquitto.port()), "topic_prefix": "site/" }));
    let to_nats = bridge(
        "to_nats",
        "in/#",
        json!({ "server": server(nats.port()), "protocol_version": "v4", "username": nats::USER,
                "password": nats::PASSWORD }),
    );
    cluster.create_running(0, &to_mosquitto).await?;
    cluster.create_running(1, &to_nats).await?;
    let login = Login { user: nats::USER.to_owned(), password: nats::PASSWORD.to_owned() };
    let of_mosquitto = Reader::start("of-mosquitto", mosquitto.port(), None, "#").await?;
    let of_nats = Reader::start("of-nats", nats.port(), Some(&login), "in/#").await?;

    let began = std::time::Instant::now();
    let published = publisher::finish_all(start_publishers(&cluster, "pub", MESSAGES, None), LIMIT).await?;
    ensure!(published.acknowledged.len() as u64 == MESSAGES && published.sent_again == 0);
    all_heard("mosquitto's reader", &of_mosquitto, &published).await?;
    all_heard("nats's reader", &of_nats, &published).await?;
    println!("measured: {MESSAGES} messages through two bridges in {:?}", began.elapsed());
    for (name, reader, topic) in [("to_mosquitto", &of_mosquitto, "site/in/a"), ("to_nats", &of_nats, "in/a")] {
        let ledger = cluster.drained(2, name, LIMIT).await?;
        ensure!(ledger.sent == MESSAGES && ledger.queued == MESSAGES, "{name}: {ledger:?}");
        ensure!(reader.repeated() == 0, "{name}: {} arrived again", reader.repeated());
        ensure!(reader.topics().into_iter().eq([(topic.to_owned(), MESSAGES)]), "{name}: {:?}", reader.topics());
    }
    mosquitto.finish();
    nats.finish();
    cluster.finish().await
}

#[tokio::test]
async fn a_broker_that_restarts_in_the_middle_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut broker = persistent_broker().await?;
    let reader = Reader::start("reader", broker.port(), None, "#").await?;
    let config = json!({ "server": format!("mqtt://127.0.0.1:{}", broker.port()) });
    cluster.create_running(0, &bridge("bridge", "in/#", config)).await?;
    let publishers = start_publishers(&cluster, "pub", MESSAGES, Some(1_000));
    wait::until(LIMIT, "a part has arrived", || async {
        ensure!(reader.messages().len() > 1_000, "{}", reader.messages().len());
        Ok(())
    })
    .await?;
    broker.terminate().await?;
    health_reason(&cluster, "bridge", "TARGET_UNREACHABLE").await?;
    broker.start_again().await?;
    let published = publisher::finish_all(publishers, LIMIT).await?;
    all_heard("the reader", &reader, &published).await?;
    let ledger = cluster.drained(1, "bridge", LIMIT).await?;
    ensure!(ledger.sent == ledger.queued && ledger.discarded == 0, "{ledger:?}");
    println!("measured: {} of {MESSAGES} arrived again over a restart", reader.repeated());
    broker.finish();
    cluster.finish().await
}

/// Mosquitto acknowledges what it holds in memory only. A SIGKILL takes that with it, and nothing else may be missing.
#[tokio::test]
async fn a_broker_that_is_killed_loses_what_it_confirmed_and_nothing_else() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut broker = persistent_broker().await?;
    let reader = Reader::start("reader", broker.port(), None, "#").await?;
    broker.save("reader").await?;
    let config = json!({ "server": format!("mqtt://127.0.0.1:{}", broker.port()) });
    cluster.create_running(0, &bridge("bridge", "in/#", config)).await?;
    let publishers = start_publishers(&cluster, "pub", MESSAGES, Some(1_000));
    wait::until(LIMIT, "a part has arrived", || async {
        ensure!(reader.messages().len() > 1_000, "{}", reader.messages().len());
        Ok(())
    })
    .await?;
    // What comes from here on waits for the reader, in the broker's memory.
    let heard = reader.messages();
    drop(reader);
    wait::until(LIMIT, "some more is confirmed", || async {
        let confirmed = sent(&cluster, "bridge").await?;
        ensure!(confirmed > heard.len() as u64 + 500, "{confirmed}");
        Ok(())
    })
    .await?;
    broker.kill()?;
    health_reason(&cluster, "bridge", "TARGET_UNREACHABLE").await?;
    let confirmed = sent_at_last(&cluster, "bridge").await?;
    broker.start_again().await?;
    let reader = Reader::start("reader", broker.port(), None, "#").await?;
    let published = publisher::finish_all(publishers, LIMIT).await?;
    let ledger = cluster.drained(1, "bridge", LIMIT).await?;
    ensure!(ledger.sent == ledger.queued && ledger.discarded == 0, "{ledger:?}");
    let missing = wait::until(LIMIT, "everything else arrives", || async {
        let missing = reader.missing(published.acknowledged.keys().filter(|name| !heard.contains_key(*name))).len();
        // What was read before its confirmation came was sent again.
        let again = reader.messages().keys().filter(|name| heard.contains_key(*name)).count();
        let lost_at_most = confirmed as usize + again - heard.len();
        ensure!(missing <= lost_at_most, "{missing} are missing, {lost_at_most} were confirmed and not read");
        Ok(missing)
    })
    .await?;
    println!(
        "measured: {confirmed} confirmed before the SIGKILL, {} of them read, {missing} lost by the broker",
        heard.len()
    );
    ensure!(missing > 0, "the broker was to lose something");
    broker.finish();
    cluster.finish().await
}

#[tokio::test]
async fn a_bridge_into_its_own_cluster_does_not_feed_itself() -> Result<()> {
    const COUNT: u64 = 100;
    let mut cluster = Cluster::start().await?;
    let ports = cluster.mqtt_ports();
    let mut connector = bridge("circle", "loop/#", json!({ "server": format!("mqtt://127.0.0.1:{}", ports[1]) }));
    connector["failure_strategy"] = json!({ "strategy": "discard" });
    cluster.create_running(0, &connector).await?;
    let options = PublisherOptions::new("device", "loop/a", &ports[..1], COUNT);
    publisher::publish(options, LIMIT).await?;
    // Each goes out once, comes back once, and ends there.
    let ledger = wait::until(LIMIT, "every message has gone round once", || async {
        let ledger = cluster.api(2).ledger("circle").await?;
        ensure!((ledger.sent, ledger.discarded) == (COUNT, COUNT), "{ledger:?}");
        Ok(ledger)
    })
    .await?;
    ensure!(ledger.queued == 2 * COUNT && ledger.pending == 0, "{ledger:?}");
    let detail = cluster.api(0).detail("circle").await?;
    let error = detail["last_error"].as_str().with_context(|| format!("no last_error: {detail}"))?;
    ensure!(error.contains("has passed this bridge before"), "{error}");
    ensure!(detail["health"] == "ok", "a loop says nothing of the target: {detail}");
    cluster.finish().await
}

async fn health_reason(cluster: &Cluster, connector: &str, reason: &str) -> Result<()> {
    wait::until(LIMIT, &format!("{connector} shows {reason}"), || async {
        let detail = cluster.api(0).detail(connector).await?;
        ensure!(detail["health_reason"] == reason, "{}", detail["health_reason"]);
        Ok(())
    })
    .await
}

/// Records delivered so far.
async fn sent(cluster: &Cluster, connector: &str) -> Result<u64> {
    cluster.api(0).detail(connector).await?["send_success_total"].as_u64().context("send_success_total")
}

/// The same, once two looks agree: the target is away.
async fn sent_at_last(cluster: &Cluster, connector: &str) -> Result<u64> {
    let last = Cell::new(None);
    wait::until(LIMIT, "the counter stands still", || async {
        let now = sent(cluster, connector).await?;
        ensure!(last.replace(Some(now)) == Some(now), "{now} and rising");
        Ok(now)
    })
    .await
}
