//! The nodes that are measured: as a user would configure them, one or three, with nothing left over from before.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, ClusterOptions};
use tests::wait;

/// Everything that was queued is delivered within this.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// Far above what a run queues: no bound is measured here.
const QUEUE_BYTES_MAX: u64 = 64 << 30;

/// One fresh node.
pub async fn single() -> Result<Cluster> {
    Cluster::with(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await
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
