//! SIGKILL for everybody in turn, then for all at once, under load: nothing acknowledged is lost.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, webhook_connector};
use tests::nginx::Nginx;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::records::{self, Arrived};
use tests::wait;

use crate::{LIMIT, all_arrived};

/// Per publisher: 60 seconds of publishing, through all rounds.
const MESSAGES: u64 = 12_000;
const PER_SECOND: u64 = 200;
const FAILOVER: Duration = Duration::from_secs(5);
/// Everything that was held back arrives within this.
const CATCH_UP: Duration = Duration::from_secs(180);

#[tokio::test]
async fn nothing_acknowledged_is_lost_through_kills() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let nginx = Nginx::start().await?;
    let (file, path) = cluster.file_connector("kill_file", "kill/#");
    cluster.create_running(0, &file).await?;
    cluster.create_running(1, &webhook_connector("kill_webhook", "kill/#", &nginx.url())).await?;

    let calm = calm_phase(&cluster, "before", &path, &nginx).await?;
    ensure!(calm.redelivered() == 0, "{} duplicates before any kill", calm.redelivered());

    let publishers = start_publishers(&cluster);
    kill_one_after_the_other(&mut cluster, &publishers).await?;
    kill_all(&mut cluster).await?;
    let published = publisher::finish_all(publishers, CATCH_UP).await?;
    ensure!(published.acknowledged.len() as u64 == 3 * MESSAGES, "{}", published.acknowledged.len());

    for (connector, arrived) in [
        ("kill_file", all_arrived("file", CATCH_UP, published.acknowledged.keys(), || records::of_file(&path)).await?),
        ("kill_webhook", all_arrived("webhook", CATCH_UP, published.acknowledged.keys(), || nginx.arrived()).await?),
    ] {
        println!(
            "{connector}: {} acknowledged, {} sent again by publishers, {} records, {} redelivered",
            published.acknowledged.len(),
            published.sent_again,
            arrived.records.len(),
            arrived.redelivered()
        );
    }
    calm_phase(&cluster, "after", &path, &nginx).await?;
    check_ledgers(&cluster, &path, &nginx).await?;
    nginx.finish();
    cluster.finish().await
}

/// Three publishers that begin at different nodes and go on at the next when theirs dies.
fn start_publishers(cluster: &Cluster) -> Vec<Publisher> {
    let start = |index: usize| {
        let mut ports = cluster.mqtt_ports();
        ports.rotate_left(index);
        let mut options = PublisherOptions::new(&format!("load-{index}"), "kill/load", &ports, MESSAGES);
        options.per_second = Some(PER_SECOND);
        Publisher::start(options)
    };
    (0..3).map(start).collect()
}

/// Publishes while nobody dies: what it sends arrives exactly once.
async fn calm_phase(cluster: &Cluster, name: &str, path: &Path, nginx: &Nginx) -> Result<Arrived> {
    let options = PublisherOptions::new(&format!("calm-{name}"), "kill/calm", &cluster.mqtt_ports(), 500);
    let published = publisher::publish(options, LIMIT).await?;
    let file = all_arrived("file", CATCH_UP, published.acknowledged.keys(), || records::of_file(path)).await?;
    let webhook = all_arrived("webhook", CATCH_UP, published.acknowledged.keys(), || nginx.arrived()).await?;
    for arrived in [&file, &webhook] {
        let twice = published.acknowledged.keys().find(|message| arrived.messages[*message] != 1);
        ensure!(twice.is_none(), "{name}: {twice:?} arrived more than once although nobody died");
    }
    Ok(file)
}

async fn kill_one_after_the_other(cluster: &mut Cluster, publishers: &[Publisher]) -> Result<()> {
    for role in ["owner", "leader", "follower"] {
        progress(publishers, 300).await?;
        let leader = cluster.leader().await?;
        let owner = cluster.owner("kill_file").await?;
        let victim = match role {
            "owner" => owner,
            "leader" => leader,
            _ => cluster.other_than(&[leader])?,
        };
        let asked = cluster.other_than(&[victim])?;
        cluster.nodes[victim].kill()?;
        for connector in ["kill_file", "kill_webhook"] {
            let what = format!("{connector} runs elsewhere after its {role} node was killed");
            let moved = wait::measured(FAILOVER, &what, || async {
                let now = cluster.owner_seen_by(asked, connector).await?;
                ensure!(now != victim, "still on {}", cluster.nodes[now].name);
                Ok(())
            });
            moved.await?;
        }
        progress(publishers, 300).await?;
        cluster.nodes[victim].start()?;
        cluster.nodes[victim].ready().await?;
    }
    Ok(())
}

async fn kill_all(cluster: &mut Cluster) -> Result<()> {
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    let began = std::time::Instant::now();
    cluster.start_all().await?;
    println!("measured: all nodes ready again after all were killed: {:.3} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// The publishers get this many acknowledgements more, or are done.
async fn progress(publishers: &[Publisher], more: u64) -> Result<()> {
    let acknowledged = || publishers.iter().map(Publisher::acknowledged).sum::<u64>();
    let goal = (acknowledged() + more).min(3 * MESSAGES);
    wait::until(LIMIT, "publishers go on", || async {
        ensure!(acknowledged() >= goal, "{} of {goal}", acknowledged());
        Ok(())
    })
    .await
}

/// The ledger balances, and counts exactly the records that arrived.
async fn check_ledgers(cluster: &Cluster, path: &Path, nginx: &Nginx) -> Result<()> {
    for node in 0..cluster.nodes.len() {
        for connector in ["kill_file", "kill_webhook"] {
            let ledger = cluster.drained(node, connector, CATCH_UP).await?;
            let arrived = if connector == "kill_file" { records::of_file(path)? } else { nginx.arrived()? };
            ensure!(
                ledger.sent == ledger.queued && ledger.queued == arrived.records.len() as u64,
                "{connector}: {ledger:?}, {} records arrived",
                arrived.records.len()
            );
        }
    }
    Ok(())
}
