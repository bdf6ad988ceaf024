//! Create: seen everywhere at once, won by one, and answered truthfully when the leader dies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use serde_json::json;
use tests::cluster::{Cluster, webhook_connector};
use tests::{records, wait};

use crate::{LIMIT, all_arrived, connect, publish_one};

#[tokio::test]
async fn a_connector_is_seen_and_matched_everywhere_once_it_is_created() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut sessions = Vec::new();
    for (index, port) in cluster.mqtt_ports().into_iter().enumerate() {
        sessions.push(connect(&format!("device-{index}"), port).await?);
    }
    for round in 0..9 {
        let (here, there, elsewhere) = (round % 3, (round + 1) % 3, (round + 2) % 3);
        let name = format!("instant_{round}");
        let topic = format!("instant/{round}");
        let (connector, path) = cluster.file_connector(&name, &topic);
        let answer = cluster.api(here).create(&connector).await?;
        ensure!(answer.warnings().is_empty(), "warnings: {:?}", answer.warnings());
        answer.data()?;
        // No waiting from here on: the promise begins with the answer.
        let message = format!("message-{round}");
        publish_one(&mut sessions[elsewhere], &topic, &message).await?;
        ensure!(cluster.api(there).row(&name).await?["topic_name"] == topic.as_str());
        all_arrived(&name, LIMIT, [&message], || records::of_file(&path)).await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn of_two_concurrent_creates_one_wins() -> Result<()> {
    let cluster = Cluster::start().await?;
    for round in 0..10 {
        let name = format!("contested_{round}");
        let one = webhook_connector(&name, "one", "http://127.0.0.1:9/");
        let two = webhook_connector(&name, "two", "http://127.0.0.1:9/");
        let (first, second) = (round % 3, (round + 1) % 3);
        let answers = try_join_all([cluster.api(first).create(&one), cluster.api(second).create(&two)]).await?;
        let won = answers.iter().position(|answer| answer.status == 200).context("nobody won")?;
        let message = answers[1 - won].failure(409, "CONNECTOR_EXISTS")?;
        ensure!(message == format!("Connector {name} already exists."), "{message}");
        for node in &cluster.nodes {
            let row = node.api().row(&name).await?;
            ensure!(row["topic_name"] == ["one", "two"][won], "{}: {row}", node.name);
        }
    }
    cluster.finish().await
}

/// ```text
///   create ─▶ follower ─▶ leader ─▶ committed … the barrier waits for the third node, which stands still …
///                         leader is killed ─▶ new leader: the same request id gets the first reply
/// ```
#[tokio::test]
async fn the_winner_is_told_success_when_the_leader_dies_between_commit_and_answer() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    for round in 0..3 {
        let leader = cluster.leader().await?;
        let asked = cluster.other_than(&[leader])?;
        let still = cluster.other_than(&[leader, asked])?;
        let name = format!("orphan_{round}");
        let connector = webhook_connector(&name, "orphan/#", "http://127.0.0.1:9/");

        cluster.nodes[still].pause()?;
        let api = cluster.api(asked).clone();
        let create = tokio::spawn({
            let connector = connector.clone();
            async move { api.create(&connector).await }
        });
        let label = format!("connector=\"{name}\"");
        let committed = wait::until(Duration::from_secs(3), "the create is committed", || async {
            cluster.api(asked).metric("sluice_connector_status", &[&label]).await.map(drop)
        });
        let committed = committed.await;
        let early = create.is_finished();
        cluster.nodes[leader].kill()?;
        cluster.nodes[still].resume()?;
        committed?;
        ensure!(!early, "answered before the barrier was reached: this test shows nothing");

        let (answer, _) = tokio::time::timeout(LIMIT, async {
            let began = std::time::Instant::now();
            let answer = create.await??;
            wait::within(Duration::from_secs(5), "create answered after its leader died", began.elapsed())?;
            anyhow::Ok((answer, ()))
        })
        .await??;
        ensure!(answer.status == 200, "round {round}: {:?}", answer);
        let again = cluster.api(asked).create(&connector).await?;
        again.failure(409, "CONNECTOR_EXISTS")?;
        cluster.start_all().await?;
        for node in &cluster.nodes {
            ensure!(node.api().row(&name).await?["topic_name"] == json!("orphan/#"));
        }
    }
    cluster.finish().await
}
