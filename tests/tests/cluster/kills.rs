//! SIGKILL for everybody in turn, then for all at once, under load, with a target of every kind: nothing acknowledged is
//! lost.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::Cluster;
use tests::publisher::{self, Publisher, PublisherOptions};
use tests::records::Arrived;
use tests::wait;

use crate::LIMIT;
use crate::targets::Target;

/// Per publisher: 60 seconds of publishing, through all rounds.
const MESSAGES: u64 = 12_000;
const PER_SECOND: u64 = 200;
const FAILOVER: Duration = Duration::from_secs(5);
/// Everything that was held back arrives within this.
const CATCH_UP: Duration = Duration::from_secs(180);
/// The one whose owner is killed; the others run on the same nodes.
const FIRST: &str = "kill_file";

#[tokio::test]
async fn nothing_acknowledged_is_lost_through_kills() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let targets = Target::all(&cluster, "kill", "kill/#").await?;
    for (index, target) in targets.iter().enumerate() {
        cluster.create_running(index % cluster.nodes.len(), &target.connector).await?;
    }
    calm_phase(&cluster, "before", &targets).await?;
    for target in &targets {
        let redelivered = target.arrived().await?.redelivered();
        ensure!(redelivered == 0, "{}: {redelivered} duplicates before any kill", target.name());
    }

    let publishers = start_publishers(&cluster);
    kill_one_after_the_other(&mut cluster, &publishers, &targets).await?;
    kill_all(&mut cluster).await?;
    let published = publisher::finish_all(publishers, CATCH_UP).await?;
    ensure!(published.acknowledged.len() as u64 == 3 * MESSAGES, "{}", published.acknowledged.len());

    for target in &targets {
        let arrived = all_arrived(target, published.acknowledged.keys()).await?;
        println!(
            "{}: {} acknowledged, {} sent again by publishers, {} records, {} redelivered",
            target.name(),
            published.acknowledged.len(),
            published.sent_again,
            arrived.records.len(),
            arrived.redelivered()
        );
        ensure!(!target.keeps_each_once() || arrived.redelivered() == 0, "{} holds a record twice", target.name());
    }
    calm_phase(&cluster, "after", &targets).await?;
    check_ledgers(&cluster, &targets).await?;
    targets.into_iter().for_each(Target::finish);
    cluster.finish().await
}

/// Waits until every one of `acknowledged` has arrived.
async fn all_arrived<'a>(
    target: &Target,
    acknowledged: impl IntoIterator<Item = &'a String> + Clone,
) -> Result<Arrived> {
    wait::until(CATCH_UP, &format!("everything acknowledged arrives at {}", target.name()), || async {
        let arrived = target.arrived().await?;
        let missing = arrived.missing(acknowledged.clone());
        ensure!(missing.is_empty(), "{} are missing, such as {:?}", missing.len(), missing.first());
        Ok(arrived)
    })
    .await
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
async fn calm_phase(cluster: &Cluster, name: &str, targets: &[Target]) -> Result<()> {
    let options = PublisherOptions::new(&format!("calm-{name}"), "kill/calm", &cluster.mqtt_ports(), 500);
    let published = publisher::publish(options, LIMIT).await?;
    for target in targets {
        let arrived = all_arrived(target, published.acknowledged.keys()).await?;
        let twice = published.acknowledged.keys().find(|message| arrived.messages[*message] != 1);
        ensure!(twice.is_none(), "{name}: {twice:?} arrived at {} twice although nobody died", target.name());
    }
    Ok(())
}

async fn kill_one_after_the_other(cluster: &mut Cluster, publishers: &[Publisher], targets: &[Target]) -> Result<()> {
    for role in ["owner", "leader", "follower"] {
        progress(publishers, 300).await?;
        let leader = cluster.leader().await?;
        let owner = cluster.owner(FIRST).await?;
        let victim = match role {
            "owner" => owner,
            "leader" => leader,
            _ => cluster.other_than(&[leader])?,
        };
        let asked = cluster.other_than(&[victim])?;
        cluster.nodes[victim].kill()?;
        for target in targets {
            let what = format!("{} runs elsewhere after its {role} node was killed", target.name());
            let moved = wait::measured(FAILOVER, &what, || async {
                let now = cluster.owner_seen_by(asked, target.name()).await?;
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
async fn check_ledgers(cluster: &Cluster, targets: &[Target]) -> Result<()> {
    for node in 0..cluster.nodes.len() {
        for target in targets {
            let ledger = cluster.drained(node, target.name(), CATCH_UP).await?;
            let arrived = target.arrived().await?.records.len() as u64;
            ensure!(
                ledger.sent == ledger.queued && ledger.queued == arrived,
                "{}: {ledger:?}, {arrived} records arrived",
                target.name()
            );
        }
    }
    Ok(())
}
