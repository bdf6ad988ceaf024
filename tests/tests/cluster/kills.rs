//! SIGKILL for everybody in turn, then for all at once, under load, with a target of every kind: nothing acknowledged is
//! lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::cluster::Cluster;
use tests::publisher::{self, Published, Publisher, PublisherOptions};
use tests::records::Arrived;
use tests::wait;

use crate::LIMIT;
use crate::targets::Target;

/// Acknowledged at the least, by three publishers together: 60 seconds of publishing, through all rounds.
const MESSAGES: u64 = 36_000;
/// Of one publisher, which is stopped long before.
const MESSAGES_MAX: u64 = 200_000;
const PER_SECOND: u64 = 200;
const FAILOVER: Duration = Duration::from_secs(5);
/// Everything that was held back arrives within this.
const CATCH_UP: Duration = Duration::from_secs(180);
/// Owners of four targets, leader, follower, and all at once.
const KILLS: u64 = 7;
/// Under way at a kill: of each connector, from each of three queues, four batches of a thousand records at the most.
const IN_FLIGHT_MAX: u64 = 3 * 4 * 1_000;

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
    kill_all(&mut cluster, &publishers).await?;
    progress(&publishers, MESSAGES.saturating_sub(acknowledged(&publishers))).await?;
    let mut published = Published::default();
    for publisher in publishers {
        published.merge(publisher.stop(CATCH_UP).await?);
    }

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
        let bound = if target.keeps_each_once() { 0 } else { KILLS * IN_FLIGHT_MAX };
        ensure!(arrived.redelivered() <= bound, "{}: {} redelivered", target.name(), arrived.redelivered());
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
        let mut options = PublisherOptions::new(&format!("load-{index}"), "kill/load", &ports, MESSAGES_MAX);
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

/// The owner of each target, the leader and a follower, each started again before the next dies.
async fn kill_one_after_the_other(cluster: &mut Cluster, publishers: &[Publisher], targets: &[Target]) -> Result<()> {
    let owners = targets.iter().map(|target| (format!("owner of {}", target.name()), Some(target.name())));
    let others = ["leader", "follower"].map(|role| (role.to_owned(), None));
    for (role, of) in owners.chain(others) {
        progress(publishers, 200).await?;
        let leader = cluster.leader().await?;
        let victim = match of {
            Some(connector) => cluster.owner(connector).await?,
            None if role == "leader" => leader,
            None => cluster.other_than(&[leader])?,
        };
        let asked = cluster.other_than(&[victim])?;
        let killed = Instant::now();
        cluster.nodes[victim].kill()?;
        for target in targets {
            let what = format!("{} runs elsewhere after the {role} was killed", target.name());
            wait::until(FAILOVER * 10, &what, || async {
                let now = cluster.owner_seen_by(asked, target.name()).await?;
                ensure!(now != victim, "still on {}", cluster.nodes[now].name);
                Ok(())
            })
            .await?;
        }
        wait::within(FAILOVER, &format!("all run elsewhere after the {role} was killed"), killed.elapsed())?;
        progress(publishers, 200).await?;
        cluster.nodes[victim].start()?;
        cluster.nodes[victim].ready().await?;
    }
    Ok(())
}

async fn kill_all(cluster: &mut Cluster, publishers: &[Publisher]) -> Result<()> {
    progress(publishers, 200).await?;
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    let began = Instant::now();
    cluster.start_all().await?;
    println!("measured: all nodes ready again after all were killed: {:.3} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn acknowledged(publishers: &[Publisher]) -> u64 {
    publishers.iter().map(Publisher::acknowledged).sum()
}

/// The publishers get this many acknowledgements more.
async fn progress(publishers: &[Publisher], more: u64) -> Result<()> {
    let goal = acknowledged(publishers) + more;
    wait::until(CATCH_UP, "publishers go on", || async {
        let acknowledged = acknowledged(publishers);
        ensure!(acknowledged >= goal, "{acknowledged} of {goal}");
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
