//! Delete while records flow, with the owner alive and dead; and what a new connector of the same name begins with.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::cluster::Cluster;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::{records, wait};

use crate::{LIMIT, all_arrived};

/// `connectors.stop_timeout`, which also covers a lease that has to run out (2.8 s).
const DELETE_BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_connector_is_deleted_while_it_sends() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    delete_and_recreate(&mut cluster, false).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_connector_is_deleted_while_its_owner_is_dead() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    delete_and_recreate(&mut cluster, true).await?;
    cluster.finish().await
}

async fn delete_and_recreate(cluster: &mut Cluster, kill_owner: bool) -> Result<()> {
    let (first, first_path) = cluster.file_connector("again", "again/#");
    let owner = cluster.create_running(0, &first).await?;
    let ports = cluster.mqtt_ports();
    let publishers: Vec<Publisher> = (0..3)
        .map(|index| {
            let mut ports = ports.clone();
            ports.rotate_left(index);
            let mut options = PublisherOptions::new(&format!("old-{index}"), "again/old", &ports, 1_000_000);
            options.per_second = Some(500);
            Publisher::start(options)
        })
        .collect();
    wait::until(LIMIT, "records flow", || async {
        let arrived = records::of_file(&first_path)?.envelopes.len();
        ensure!(arrived > 200, "{arrived} arrived");
        Ok(())
    })
    .await?;

    if kill_owner {
        cluster.nodes[owner].kill()?;
    }
    let asked = cluster.other_than(&[owner])?;
    let began = Instant::now();
    cluster.api(asked).delete("again").await?.data()?;
    let what = if kill_owner { "delete, owner dead" } else { "delete, owner alive" };
    wait::within(DELETE_BOUND, what, began.elapsed())?;
    let delivered = records::of_file(&first_path)?.envelopes.len();
    ensure!(cluster.api(asked).row("again").await.is_err(), "the deleted connector is still listed");

    for publisher in publishers {
        publisher.stop(LIMIT).await?;
    }
    cluster.start_all().await?;
    check_fresh(cluster, asked).await?;
    ensure!(records::of_file(&first_path)?.envelopes.len() == delivered, "a deleted connector went on writing");
    Ok(())
}

/// The same name again, with another file: nothing of the old one comes over.
async fn check_fresh(cluster: &mut Cluster, asked: usize) -> Result<()> {
    let (mut second, _) = cluster.file_connector("again", "again/#");
    let path = cluster.files().join("second.log");
    second["config"] = serde_json::json!({ "local_file_path": path }).to_string().into();
    cluster.create_running(asked, &second).await?;
    let options = PublisherOptions::new("new", "again/new", &cluster.mqtt_ports(), 100);
    let published = publisher::publish(options, LIMIT).await?;
    let arrived = all_arrived("again", LIMIT, published.acknowledged.keys(), || records::of_file(&path)).await?;
    ensure!(arrived.envelopes.len() == 100, "{} records instead of 100", arrived.envelopes.len());
    let ledger = cluster.drained(asked, "again", LIMIT).await?;
    ensure!(ledger.queued == 100 && ledger.sent == 100, "{ledger:?}");
    Ok(())
}
