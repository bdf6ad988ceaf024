//! Memory is bounded: what waits for a target that is down waits on the disk.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::cluster::{Cluster, ClusterOptions, webhook_connector};
use tests::flood::{FloodOptions, flood};
use tests::{ports, wait};

use crate::LIMIT;

const MESSAGES: u64 = 1_000_000;
const CONNECTIONS: u64 = 4;
const RESIDENT_BYTES_MAX: u64 = 600 << 20;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// It takes about half a minute here, beside other work.
const FLOOD_LIMIT: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_million_messages_for_a_target_that_is_down_stay_on_the_disk() -> Result<()> {
    let mut cluster = Cluster::with(ClusterOptions { nodes: 1, ..Default::default() }).await?;
    let closed = format!("http://127.0.0.1:{}/", ports::free()?);
    let mut connector = webhook_connector("waits", "flood/#", &closed);
    connector["failure_strategy"] = json!({ "strategy": "discard", "on_target_down": "wait" });
    cluster.create_running(0, &connector).await?;
    let process = cluster.nodes[0].process()?;
    let before = process.resident_bytes()?;

    let began = Instant::now();
    let mut most = before;
    let floods = (0..CONNECTIONS).map(|number| {
        let options = FloodOptions {
            client_id: format!("flood-{number}"),
            port: cluster.nodes[0].mqtt_port,
            topic: format!("flood/{number}"),
            count: MESSAGES / CONNECTIONS,
            payload_bytes: 64,
        };
        async move { flood(&options, FLOOD_LIMIT).await }
    });
    let floods = futures::future::try_join_all(floods);
    tokio::pin!(floods);
    let mut samples = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            done = &mut floods => {
                done?;
                break;
            }
            _ = samples.tick() => most = most.max(process.resident_bytes()?),
        }
    }
    let took = began.elapsed();
    most = most.max(process.resident_bytes()?);
    println!(
        "measured: {MESSAGES} messages in {:.1} s ({:.0} per second), resident {} MiB before, at most {} MiB",
        took.as_secs_f64(),
        MESSAGES as f64 / took.as_secs_f64(),
        before >> 20,
        most >> 20
    );
    ensure!(most < RESIDENT_BYTES_MAX, "{most} bytes resident");

    wait::until(LIMIT, "all are queued", || async {
        let ledger = cluster.api(0).ledger("waits").await?;
        ensure!(ledger.queued == MESSAGES && ledger.pending == MESSAGES && ledger.balances(), "{ledger:?}");
        let row = cluster.api(0).row("waits").await?;
        ensure!(row["health"] == "retrying", "{row}");
        row["health_reason"].as_str().filter(|reason| *reason == "TARGET_UNREACHABLE").context("another reason")?;
        Ok(())
    })
    .await?;
    cluster.finish().await
}
