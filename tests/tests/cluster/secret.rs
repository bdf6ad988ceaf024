//! The cluster's secret: who does not know it gets nothing, and is counted.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use tests::cluster::{Cluster, SECRET};
use tests::{api, wait};

use crate::LIMIT;

const REFUSED: &str = "sluice_rpc_refused_total";

#[tokio::test]
async fn a_node_with_another_secret_stays_out() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let before = refused(&cluster).await;
    let stranger = cluster.add_node("stranger", |options| options.secret = "not-the-secret-of-this-cluster".into())?;
    cluster.nodes[stranger].start()?;
    wait::until(LIMIT, "the stranger is refused and counted", || async {
        let now = refused(&cluster).await;
        ensure!(now >= before + 3.0, "{now} refused, {before} before");
        Ok(())
    })
    .await?;
    let ready = cluster.nodes[stranger].api().get("/health/ready").await?;
    ensure!(ready.status == 503, "{ready:?}");
    let nodes = cluster.api(0).get("/api/cluster/node/list").await?.data()?;
    ensure!(!nodes.to_string().contains("stranger"), "{nodes}");
    let mut stranger = cluster.nodes.remove(stranger);
    stranger.kill()?;
    cluster.finish().await
}

#[tokio::test]
async fn rpc_without_the_secret_is_refused() -> Result<()> {
    let cluster = Cluster::start().await?;
    let http = api::http_client()?;
    let paths =
        ["/raft/append", "/raft/vote", "/raft/snapshot", "/meta/propose", "/queue/fetch", "/subscriptions/", "/"];
    let before = refused(&cluster).await;
    for path in paths {
        let url = format!("http://{}{path}", cluster.nodes[0].rpc_address());
        let without = http.post(&url).body("x").send().await?;
        ensure!(without.status() == StatusCode::UNAUTHORIZED, "{path} without a secret: {}", without.status());
        for wrong in ["", "wrong", &SECRET[1..], &format!("{SECRET}x")] {
            let answer = http.post(&url).bearer_auth(wrong).body("x").send().await?;
            ensure!(answer.status() == StatusCode::UNAUTHORIZED, "{path} with {wrong:?}: {}", answer.status());
        }
        let right = http.post(&url).bearer_auth(SECRET).body("x").send().await?;
        ensure!(right.status() != StatusCode::UNAUTHORIZED, "{path} with the secret: {}", right.status());
    }
    let counted = refused(&cluster).await - before;
    ensure!(counted >= (paths.len() * 5) as f64, "{counted} counted");
    let page = cluster.api(0).text("/metrics").await?;
    ensure!(!page.contains(SECRET), "the secret is on the metrics page");
    let log = std::fs::read_to_string(cluster.nodes[0].log_path())?;
    ensure!(!log.contains(SECRET), "the secret is in the log");
    cluster.finish().await
}

/// Refusals on the nodes of the cluster; none before the first.
async fn refused(cluster: &Cluster) -> f64 {
    let mut sum = 0.0;
    for node in cluster.nodes.iter().filter(|node| node.name.starts_with("sluice-")) {
        let asked = tokio::time::timeout(Duration::from_secs(5), node.api().metric(REFUSED, &[]));
        sum += asked.await.ok().and_then(Result::ok).unwrap_or_default();
    }
    sum
}
