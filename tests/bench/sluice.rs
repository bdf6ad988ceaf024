//! The nodes that are measured: as a user would configure them, one or three, with nothing left over from before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, ClusterOptions};
use tests::wait;

/// Everything that was queued is delivered within this.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
const OFFER_LIMIT: Duration = Duration::from_secs(20);
/// Far above what a run queues: no bound is measured here.
const QUEUE_BYTES_MAX: u64 = 64 << 30;

/// One fresh node.
pub async fn single() -> Result<Cluster> {
    single_with(Vec::new()).await
}

/// One that is configured by these arguments of `--set` as well.
pub async fn single_with(set: Vec<String>) -> Result<Cluster> {
    Cluster::with(ClusterOptions { nodes: 1, set, ..ClusterOptions::default() }).await
}

/// Whether the program that is measured has this kind in it.
pub async fn offers(kind: &str) -> Result<bool> {
    let cluster = single().await?;
    let offered = async |kind: &str| {
        let path = format!("/api/mqtt/connector/types?connector_type={kind}");
        let types = cluster.api(0).get(&path).await?.data()?;
        let nodes = types["data"][0]["offered_by"].as_array().with_context(|| types.to_string())?;
        anyhow::Ok(!nodes.is_empty())
    };
    // A node says what it offers in one piece, and every node offers this one.
    wait::until(OFFER_LIMIT, "the node has said what it offers", async || {
        ensure!(offered("file").await?, "not yet");
        Ok(())
    })
    .await?;
    let is_offered = offered(kind).await?;
    cluster.finish().await?;
    Ok(is_offered)
}

/// A connector that only queues: it is stopped.
pub fn queue_only(topic: &str) -> Value {
    let mut stopped = connector("queue_only", "webhook", topic, json!({ "url": "http://127.0.0.1:9" }));
    stopped["desired"] = "stopped".into();
    stopped
}

pub fn connector(name: &str, kind: &str, topic: &str, config: Value) -> Value {
    json!({
        "connector_name": name,
        "connector_type": kind,
        "config": config,
        "topic_name": topic,
        "queue": { "bytes_max": QUEUE_BYTES_MAX },
    })
}

pub fn pids(cluster: &Cluster) -> Result<Vec<u32>> {
    cluster.nodes.iter().map(|node| Ok(node.process()?.pid())).collect()
}

/// Waits until a connector has sent so many records.
pub async fn sent(cluster: &Cluster, connector: &str, records: u64) -> Result<()> {
    wait::until(DRAIN_LIMIT, &format!("{connector} has sent {records}"), || async {
        let ledger = cluster.api(0).ledger(connector).await?;
        ensure!(ledger.sent >= records, "{ledger:?}");
        Ok(())
    })
    .await
}

/// When a connector's first records had been sent, and how many those were.
pub async fn first_sent(cluster: &Cluster, connector: &str) -> Result<(Instant, u64)> {
    wait::until(DRAIN_LIMIT, &format!("{connector} sends"), || async {
        let ledger = cluster.api(0).ledger(connector).await?;
        ensure!(ledger.sent > 0, "{ledger:?}");
        Ok((Instant::now(), ledger.sent))
    })
    .await
}
