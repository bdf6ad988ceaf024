//! Power back after all nodes lost it at once, and a node that comes late.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};
use tests::nginx::Nginx;
use tests::publisher::{self, PublisherOptions};
use tests::{records, wait};

use crate::{LIMIT, all_arrived, connect, publish_one};

#[tokio::test]
async fn all_nodes_killed_at_once_keep_connectors_and_records() -> Result<()> {
    let set = vec!["connectors.kinds=webhook".to_owned()];
    let mut cluster = Cluster::with(ClusterOptions { set, ..ClusterOptions::default() }).await?;
    let mut nginx = Nginx::start().await?;
    cluster.create_running(0, &webhook_connector("kept", "kept/#", &nginx.url())).await?;
    let mut idle = webhook_connector("kept_idle", "kept/#", "");
    idle["connector_type"] = json!("cassandra");
    idle["config"] = json!(r#"{"nodes":["localhost"],"keyspace":"k","table":"t"}"#);
    cluster.api(1).create(&idle).await?.data()?;
    nginx.kill()?;
    let mut published = publisher::Published::default();
    for (index, port) in cluster.mqtt_ports().into_iter().enumerate() {
        let options = PublisherOptions::new(&format!("kept-{index}"), "kept/a", &[port], 200);
        published.merge(publisher::publish(options, LIMIT).await?);
    }
    let before = lasting_rows(&cluster, 0).await?;

    for node in &mut cluster.nodes {
        node.kill()?;
    }
    cluster.start_all().await?;
    for index in 0..cluster.nodes.len() {
        ensure!(lasting_rows(&cluster, index).await? == before, "node {index} tells another story");
        let ledger = cluster.api(index).ledger("kept_idle").await;
        // A connector that does not run has no detail; its records are told by the metrics of each node.
        ensure!(ledger.is_err(), "an idle connector has a running detail");
        let held = cluster.api(index).metric("sluice_connector_queue_records", &["connector=\"kept_idle\""]).await?;
        ensure!(held == 200.0, "node {index} holds {held} records for the idle connector");
    }
    nginx.restart().await?;
    all_arrived("kept", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    let ledger = cluster.drained(2, "kept", LIMIT).await?;
    ensure!(ledger.queued == 600 && ledger.sent == 600, "{ledger:?}");
    nginx.finish();
    cluster.finish().await
}

/// What of the list must survive: everything but where and under which epoch a task runs now.
async fn lasting_rows(cluster: &Cluster, index: usize) -> Result<Vec<Value>> {
    let data = cluster.api(index).get("/api/mqtt/connector/list").await?.data()?;
    let mut rows = data["data"].as_array().context("rows")?.clone();
    for row in &mut rows {
        let row = row.as_object_mut().context("a row")?;
        for passing in ["broker_id", "broker_name", "epoch", "status", "state_reason", "health", "health_reason"] {
            row.remove(passing);
        }
    }
    Ok(rows)
}

#[tokio::test]
async fn a_late_node_joins_as_a_learner() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (file, path) = cluster.file_connector("late", "late/#");
    cluster.create_running(0, &file).await?;
    let late = cluster.add_node("sluice-late", |_| {})?;
    cluster.nodes[late].start()?;
    cluster.nodes[late].ready().await?;

    ensure!(cluster.api(late).names().await? == ["late"]);
    for index in 0..cluster.nodes.len() {
        wait::until(LIMIT, "the late node is listed as a learner", || async {
            let status = cluster.api(index).get("/api/cluster/node/list").await?.data()?;
            let text = status.to_string();
            ensure!(text.contains("sluice-late") && text.contains("learner"), "{text}");
            Ok(())
        })
        .await?;
    }
    // It takes messages, and answers writes like any other.
    let mut session = connect("late-device", cluster.nodes[late].mqtt_port).await?;
    publish_one(&mut session, "late/a", "from-late").await?;
    all_arrived("late", LIMIT, [&"from-late".to_owned()], || records::of_file(&path)).await?;
    cluster.api(late).create(&webhook_connector("made_late", "x", "http://127.0.0.1:9/")).await?.data()?;
    ensure!(cluster.api(0).names().await? == ["late", "made_late"]);

    // And it comes back as what it was.
    cluster.nodes[late].kill()?;
    cluster.nodes[late].start()?;
    cluster.nodes[late].ready().await?;
    ensure!(cluster.api(late).names().await? == ["late", "made_late"]);
    cluster.finish().await
}
