//! The metrics page as promtool judges it and as a real Prometheus scrapes it.

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, webhook_connector};
use tests::nginx::Nginx;
use tests::prometheus::{self, Prometheus};
use tests::publisher::{self, PublisherOptions};
use tests::wait;

use crate::{LIMIT, all_arrived};

const MESSAGES: u64 = 300;

/// Names of the documentation; each stands on every node's page once records have flowed.
const NAMES: [&str; 22] = [
    "sluice_connector_status",
    "sluice_connector_queue_records",
    "sluice_connector_queue_bytes",
    "sluice_connector_oldest_record_age_seconds",
    "sluice_mqtt_connections",
    "sluice_mqtt_publish_received_total",
    "sluice_mqtt_publish_ack_seconds",
    "sluice_queue_sync_seconds",
    "sluice_queue_disk_free_bytes",
    "sluice_raft_is_leader",
    "sluice_raft_term",
    "sluice_raft_applied_index",
    "sluice_raft_propose_seconds",
    "sluice_node_lease_remaining_seconds",
    "sluice_build_info",
    "process_resident_memory_bytes",
    "sluice_connector_send_success_total",
    "sluice_connector_send_fail_total",
    "sluice_connector_bytes_total",
    "sluice_send_duration_seconds",
    "sluice_end_to_end_seconds",
    "sluice_batch_records",
];
/// The last of them stand only where a task runs.
const ONLY_ON_OWNER: usize = 6;

#[tokio::test]
async fn prometheus_scrapes_what_detail_tells() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nginx = Nginx::start().await?;
    let owner = cluster.create_running(0, &webhook_connector("measured", "measured/#", &nginx.url())).await?;
    let targets: Vec<String> = cluster.nodes.iter().map(|node| format!("127.0.0.1:{}", node.api_port)).collect();
    let prometheus = Prometheus::start(&targets).await?;
    for (index, port) in cluster.mqtt_ports().into_iter().enumerate() {
        let options = PublisherOptions::new(&format!("m-{index}"), "measured/a", &[port], MESSAGES / 3);
        let published = publisher::publish(options, LIMIT).await?;
        all_arrived("measured", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    }

    let query = "sum(sluice_connector_send_success_total{connector=\"measured\",type=\"webhook\"})";
    wait::until(LIMIT, query, || async {
        let (sum, series) = prometheus.query_sum(query).await?;
        ensure!(series == 1 && sum == MESSAGES as f64, "{sum} in {series} series");
        Ok(())
    })
    .await?;
    let detail = cluster.api(1).detail("measured").await?;
    ensure!(detail["send_success_total"] == MESSAGES, "{detail}");
    wait::until(LIMIT, "all nodes are scraped", || async {
        let (up, nodes) = prometheus.query_sum("up{job=\"sluice\"}").await?;
        ensure!(up == 3.0 && nodes == 3, "{up} of {nodes} nodes are up");
        Ok(())
    })
    .await?;
    let (leaders, _) = prometheus.query_sum("sluice_raft_is_leader").await?;
    ensure!(leaders == 1.0, "{leaders} leaders");

    for (index, node) in cluster.nodes.iter().enumerate() {
        let page = node.api().text("/metrics").await?;
        prometheus::check_metrics(&page).await?;
        let expected = if index == owner { NAMES.len() } else { NAMES.len() - ONLY_ON_OWNER };
        let missing: Vec<_> =
            NAMES[..expected].iter().filter(|name| !page.contains(&format!("# TYPE {name} "))).collect();
        ensure!(missing.is_empty(), "node {index} does not tell {missing:?}");
        let without_type = page.lines().find(|line| {
            line.starts_with("sluice_connector_") && !(line.contains("connector=\"") && line.contains("type=\""))
        });
        ensure!(without_type.is_none(), "a series without connector and type: {without_type:?}");
    }
    nginx.finish();
    prometheus.finish();
    cluster.finish().await
}
