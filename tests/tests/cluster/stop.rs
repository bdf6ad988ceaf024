//! SIGTERM: a node hands over what it has and leaves.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, webhook_connector};
use tests::nginx::Nginx;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::{records, wait};

use crate::{LIMIT, all_arrived};

const STOP_BOUND: Duration = Duration::from_secs(10);
const MESSAGES: u64 = 2_000;

#[tokio::test]
async fn a_stopped_node_loses_and_duplicates_nothing() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nginx = Nginx::start().await?;
    let (file, path) = cluster.file_connector("stop_file", "stop/#");
    let owner = cluster.create_running(0, &file).await?;
    cluster.create_running(1, &webhook_connector("stop_webhook", "stop/#", &nginx.url())).await?;

    let publishers: Vec<Publisher> = (0..3).map(|index| start_publisher(&cluster, index)).collect();
    wait::until(LIMIT, "publishers publish", || async {
        let acknowledged: u64 = publishers.iter().map(Publisher::acknowledged).sum();
        ensure!(acknowledged > MESSAGES / 2, "{acknowledged}");
        Ok(())
    })
    .await?;

    let (status, took) = cluster.nodes[owner].terminate(STOP_BOUND * 10).await?;
    wait::within(STOP_BOUND, "stop by SIGTERM", took)?;
    ensure!(status.code() == Some(0), "exit status {status}");
    let asked = cluster.other_than(&[owner])?;
    for connector in ["stop_file", "stop_webhook"] {
        wait::measured(Duration::from_secs(1), &format!("{connector} runs elsewhere after the stop"), || async {
            let now = cluster.owner_seen_by(asked, connector).await?;
            ensure!(now != owner, "still on the stopped node");
            Ok(())
        })
        .await?;
    }

    let published = publisher::finish_all(publishers, LIMIT).await?;
    cluster.start_all().await?;
    let file = all_arrived("file", LIMIT, published.acknowledged.keys(), || records::of_file(&path)).await?;
    let webhook = all_arrived("webhook", LIMIT, published.acknowledged.keys(), || nginx.arrived()).await?;
    ensure!(file.redelivered() == 0, "{} records twice in the file", file.redelivered());
    ensure!(webhook.redelivered() == 0, "{} records twice at the webhook", webhook.redelivered());
    for connector in ["stop_file", "stop_webhook"] {
        cluster.drained(asked, connector, LIMIT).await?;
    }
    nginx.finish();
    cluster.finish().await
}

#[tokio::test]
async fn all_nodes_stop_one_after_the_other() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    for index in 0..cluster.nodes.len() {
        let (status, took) = cluster.nodes[index].terminate(STOP_BOUND * 10).await?;
        wait::within(STOP_BOUND, &format!("stop of node {index}, {} left", 2 - index), took)?;
        ensure!(status.code() == Some(0), "node {index}: exit status {status}");
    }
    cluster.start_all().await?;
    cluster.finish().await
}

fn start_publisher(cluster: &Cluster, index: usize) -> Publisher {
    let mut ports = cluster.mqtt_ports();
    ports.rotate_left(index);
    let mut options = PublisherOptions::new(&format!("stop-{index}"), "stop/load", &ports, MESSAGES);
    options.per_second = Some(200);
    Publisher::start(options)
}
