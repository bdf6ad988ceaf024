//! Targets that go away in the middle of a run and come back: with `on_target_down: wait` nothing is lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::cluster::{Cluster, webhook_connector};
use tests::nginx::Nginx;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::{records, wait};

use crate::LIMIT;

const PUBLISHERS: u64 = 3;
const MESSAGES: u64 = 600;
const PER_SECOND: u64 = 200;
const BATCH_RECORDS: u64 = 50;
/// The pause between two attempts grows up to this.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn targets_that_come_back_get_everything() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut nginx = Nginx::start().await?;
    let folder = cluster.files().join("held");
    let path = folder.join("out.log");
    let file = json!({ "local_file_path": path, "batch_records": BATCH_RECORDS }).to_string();
    let file =
        json!({ "connector_name": "back_file", "connector_type": "file", "config": file, "topic_name": "back/#" });
    let mut webhook = webhook_connector("back_webhook", "back/#", "");
    webhook["config"] = json!({ "url": nginx.url(), "batch_records": BATCH_RECORDS }).to_string().into();
    cluster.create_running(0, &file).await?;
    cluster.create_running(1, &webhook).await?;

    let publishers: Vec<Publisher> = (0..PUBLISHERS).map(|index| start_publisher(&cluster, index)).collect();
    acknowledged(&publishers, 150).await?;
    nginx.kill()?;
    // The path leads to no folder any more.
    let aside = cluster.files().join("aside");
    std::fs::rename(&folder, &aside)?;
    std::fs::write(&folder, "in the way")?;
    for connector in ["back_file", "back_webhook"] {
        wait::until(LIMIT, &format!("{connector} says that its target is down"), || async {
            let row = cluster.api(2).row(connector).await?;
            ensure!(row["health"] == "retrying" || row["health"] == "blocked", "{row}");
            Ok(())
        })
        .await?;
    }
    acknowledged(&publishers, 300).await?;
    std::fs::remove_file(&folder)?;
    std::fs::rename(&aside, &folder)?;
    nginx.restart().await?;

    let published = publisher::finish_all(publishers, LIMIT).await?;
    let back = wait::measured(BACKOFF_MAX, "both targets have everything after they came back", || async {
        let (file, webhook) = (records::of_file(&path)?, nginx.arrived()?);
        let missing = |arrived: &records::Arrived| arrived.missing(published.acknowledged.keys()).len();
        ensure!((missing(&file), missing(&webhook)) == (0, 0), "{} and {}", missing(&file), missing(&webhook));
        Ok((file, webhook))
    });
    let ((file, webhook), _) = back.await?;
    println!("redelivered: file {}, webhook {}", file.redelivered(), webhook.redelivered());
    ensure!(file.redelivered() == 0, "what was not written whole was cut off, so nothing is there twice");
    // nginx may have logged a request whose answer it could not send any more: one for each queue.
    ensure!(webhook.redelivered() <= 3 * BATCH_RECORDS, "{} redelivered", webhook.redelivered());
    for connector in ["back_file", "back_webhook"] {
        let ledger = cluster.drained(2, connector, LIMIT).await?;
        ensure!(ledger.sent == PUBLISHERS * MESSAGES && ledger.queued == ledger.sent, "{connector}: {ledger:?}");
        let row = cluster.api(0).row(connector).await?;
        ensure!(row["health"] == "ok", "{row}");
    }
    nginx.finish();
    cluster.finish().await
}

fn start_publisher(cluster: &Cluster, index: u64) -> Publisher {
    let port = cluster.mqtt_ports()[index as usize];
    let mut options = PublisherOptions::new(&format!("back-{index}"), "back/load", &[port], MESSAGES);
    options.per_second = Some(PER_SECOND);
    Publisher::start(options)
}

/// So many acknowledgements more.
async fn acknowledged(publishers: &[Publisher], more: u64) -> Result<()> {
    let count = || publishers.iter().map(Publisher::acknowledged).sum::<u64>();
    let goal = count() + more;
    wait::until(LIMIT, "publishers go on", || async {
        ensure!(count() >= goal, "{} of {goal}", count());
        Ok(())
    })
    .await
}
