//! The node that runs the connector is killed in the middle: the next one goes on with the same batches. Nothing is
//! lost, and nothing stands twice where the target knows a repeat; elsewhere at most the batches under way.

use anyhow::{Result, ensure};
use tests::publisher::Publisher;

use super::round_trip;
use crate::adapter::Adapter;
use crate::outage::Outage;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::stage::{Ending, Stage};

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let connected = stage.connect("owner_killed", "c/owner/#", Ending::Waits).await?;
    let owner = stage.cluster.owner(&connected.name).await?;
    stage.asked = stage.cluster.other_than(&[owner])?;
    let count = stage.counts.killed;
    // Each node has a queue for the connector; nobody publishes to the one that dies while it does, so every repeat is
    // the connector's.
    let early = stage.publisher("early", "c/owner", count / 4, stage.cluster.nodes[owner].mqtt_port);
    let early = early.finish(stage.counts.limit).await?;
    stage.sent_at_least(&connected.name, count / 4).await?;
    let others: Vec<usize> = (0..stage.cluster.nodes.len()).filter(|index| *index != owner).collect();
    let share = count * 3 / 8;
    let publishers: Vec<_> = others
        .iter()
        .map(|index| {
            let port = stage.cluster.nodes[*index].mqtt_port;
            stage.publisher_without_end(&format!("other{index}"), "c/owner", share, port)
        })
        .collect();
    let acknowledged = || publishers.iter().map(Publisher::acknowledged).sum::<u64>();
    // By what the publishers know: the ledger tells it a second later, when everything may be published.
    tests::wait::until(stage.counts.limit, "a part is published", async || {
        ensure!(acknowledged() >= count / 8, "{} are acknowledged", acknowledged());
        Ok(())
    })
    .await?;
    let gaps = stage.gaps(&connected);
    stage.cluster.nodes[owner].kill()?;
    tests::wait::until(stage.counts.limit, "another node goes on", async || {
        let now = stage.cluster.owner_seen_by(stage.asked, &connected.name).await?;
        ensure!(now != owner, "still on the killed node");
        Ok(())
    })
    .await?;
    stage.cluster.nodes[owner].start()?;
    stage.cluster.nodes[owner].ready().await?;
    let mut published = early;
    for publisher in publishers {
        published.merge(publisher.stop_after(share, stage.counts.limit).await?);
    }
    let sent = Sent::of_published(&published)?;
    ensure!(sent.sent_again == 0, "{} were published again", sent.sent_again);
    let settled = stage.settle(&connected, &sent).await?;
    let gap = gaps.longest();
    ensure!(settled.ledger.dead_lettered == 0, "{:?}", settled.ledger);
    settled.nothing_is_missing()?;
    round_trip::in_order_whatever_failed(stage, &settled, &sent)?;
    let repeated = settled.repeated();
    let most = stage.repeats_of_new_owner_at_most(stage.cluster.nodes.len() as u64);
    ensure!(repeated <= most, "{repeated} came again, at most {most} were in flight");
    let note = format!("at most {most} may come again");
    let records = sent.len() as u64;
    let outages = vec![Outage { fault: "its node killed".into(), records, lost: 0, repeated, gap }];
    Ok(Verdict::Passed(Measured { records, repeated, note, outages, ..Measured::default() }))
}
