//! The target stands still for a while, with all connections open: nothing is lost, and nothing comes again that an id
//! or token tells apart.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::round_trip;
use crate::adapter::Adapter;
use crate::outage::Outage;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::stage::{self, Ending, Stage};

/// An answer is waited for at least this long (see `Adapter::config`), so no more attempts than that fit into a pause.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    if stage.adapter.upstream().is_none() {
        return Ok(Verdict::NotApplicable("there is no server".to_owned()));
    }
    let waits = stage.connect("paused", "c/paused/#", Ending::Waits).await?;
    let count = stage.counts.killed;
    let publisher = stage.publisher_without_end("paused", "c/paused", count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&waits.name, count / 4).await?;
    let gaps = stage.gaps(&waits);
    stage.adapter.pause()?;
    let pause = stage.counts.pause;
    let before = stage.ledger(&waits.name).await?;
    stage::pass(pause).await;
    let after = stage.ledger(&waits.name).await?;
    // What was answered already may still be counted.
    ensure!(after.sent <= before.sent + stage.in_flight(), "sent while nobody answered: {before:?}, {after:?}");
    ensure!(after.pending > 0, "nothing waited: {after:?}");
    stage.adapter.resume()?;
    let sent = Sent::of_published(&publisher.stop_after(count, stage.counts.limit).await?)?;
    let settled = stage.settle(&waits, &sent).await?;
    let gap = gaps.longest();
    ensure!(settled.ledger.dead_lettered == 0, "{:?}", settled.ledger);
    settled.nothing_is_missing()?;
    round_trip::in_order_whatever_failed(stage, &settled, &sent)?;
    let repeated = settled.repeated();
    let attempts = 1 + pause.as_secs() / ANSWER_TIMEOUT.as_secs();
    let most = stage.repeats_at_most(attempts);
    ensure!(repeated <= most, "{repeated} came again, at most {most} were in flight");
    let note = format!("stood still for {} s", pause.as_secs());
    let records = sent.len() as u64;
    let outages = vec![Outage { fault: note.clone(), records, lost: 0, repeated, gap }];
    Ok(Verdict::Passed(Measured { records, repeated, note, outages, ..Measured::default() }))
}
