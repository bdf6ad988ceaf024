//! A queue at its bound: publishers are held back, nothing acknowledged is lost, and everybody is told which connector
//! it is.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::cluster::{Cluster, webhook_connector};
use tests::nginx::Nginx;
use tests::{mosquitto, wait};

use crate::{LIMIT, all_arrived};

const BYTES_MAX: u64 = 16 << 10;
/// More than fit into the bound, whatever a record's overhead.
const TRIES: usize = 60;

#[tokio::test]
async fn a_full_queue_holds_publishers_back_and_is_named() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let mut nginx = Nginx::start().await?;
    nginx.kill()?;
    let mut connector = webhook_connector("tight", "tight/#", &nginx.url());
    connector["queue"] = json!({ "bytes_max": BYTES_MAX, "when_full": "block" });
    cluster.create_running(0, &connector).await?;

    let port = cluster.nodes[1].mqtt_port;
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    while refused == 0 {
        ensure!(acknowledged.len() < TRIES, "{TRIES} messages went into {BYTES_MAX} bytes");
        let name = format!("m-{}", acknowledged.len());
        let message = json!({ "message": name, "padding": "x".repeat(1000) }).to_string();
        let arguments = ["-V", "mqttv5", "-q", "1", "-t", "tight/a", "-m", &message];
        match mosquitto::publish(port, &arguments).await?.success() {
            Ok(_) => acknowledged.push(name),
            Err(_) => refused += 1,
        }
    }
    for index in 0..cluster.nodes.len() {
        wait::until(LIMIT, "the full queue is named", || async {
            let row: Value = cluster.api(index).row("tight").await?;
            ensure!(row["health_reason"] == "QUEUE_FULL", "{row}");
            let detail = cluster.api(index).detail("tight").await?;
            ensure!(detail["health_reason"] == "QUEUE_FULL", "{detail}");
            Ok(())
        })
        .await?;
    }
    let count = cluster.api(1).metric("sluice_mqtt_publish_refused_total", &["reason=\"queue_full\""]).await?;
    ensure!(count >= 1.0, "{count} refusals counted");

    nginx.restart().await?;
    all_arrived("tight", LIMIT, &acknowledged, || nginx.arrived()).await?;
    wait::until(LIMIT, "the queue has room again", || async {
        let row = cluster.api(2).row("tight").await?;
        ensure!(row["health"] == "ok" && row["health_reason"].is_null(), "{row}");
        Ok(())
    })
    .await?;
    nginx.finish();
    cluster.finish().await
}
