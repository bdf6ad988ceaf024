//! The target is killed in the middle and started again: who waits loses nothing that the target had not confirmed, and
//! repeats no more than the batches under way; who does not wait ends exactly what could not be sent. Where the target
//! confirms before it stores, its own client beside them shows how much of that it loses.

use anyhow::{Context, Result, ensure};

use super::round_trip;
use crate::adapter::{Adapter, Destination, Safety, Way};
use crate::outage::Outage;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::settled::Settled;
use crate::stage::{Connected, Ending, Stage};

const FILTER: &str = "c/killed/#";

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    if stage.adapter.upstream().is_none() {
        return Ok(Verdict::NotApplicable("there is no server".to_owned()));
    }
    let waits = stage.connect("killed_waits", FILTER, Ending::Waits).await?;
    let ends = stage.connect("killed_ends", FILTER, Ending::Ends).await?;
    let by_default = with_defaults(stage).await?;
    let bare_at = Destination { name: "killed_bare".to_owned(), guarded: false };
    let bare = match stage.facts.loses_when_killed {
        Some(_) => Some(stage.bare(&bare_at).await?.context("a bare client, where the target loses something")?),
        None => None,
    };

    let count = stage.counts.killed;
    let publisher = stage.publisher_without_end("killed", "c/killed", count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&waits.name, count / 4).await?;
    let gaps = stage.gaps(&waits);
    stage.kill_server().await?;
    let confirmed = match bare {
        Some(bare) => Some(bare.stop().await?),
        None => None,
    };
    let acknowledged_before = publisher.acknowledged();
    stage.health(&waits.name, "TARGET_UNREACHABLE", "").await?;
    stage.sent_at_least(&ends.name, acknowledged_before).await?;
    stage.start_server().await?;
    let sent = Sent::of_published(&publisher.stop_after(count, stage.counts.limit).await?)?;

    let waiting = stage.settle_after_loss(&waits, &sent).await?;
    ensure!(waiting.ledger.dead_lettered == 0, "who waits ends nothing: {:?}", waiting.ledger);
    let gap = gaps.longest();
    let lost = loss(stage, &waiting, &sent, acknowledged_before)?;
    round_trip::in_order_whatever_failed(stage, &waiting, &sent)?;
    let repeated = waiting.repeated();
    let most = stage.repeats_at_most(1);
    ensure!(repeated <= most, "{repeated} came again, at most {most} were in flight");

    let ending = stage.settle_after_loss(&ends, &sent).await?;
    ensure!(ending.ledger.dead_lettered > 0, "nothing ended while the target was away: {:?}", ending.ledger);
    loss(stage, &ending, &sent, acknowledged_before)?;
    let known = stage.adapter.ends_while_down();
    let other = ending.letters.values().find(|letter| !known.contains(&letter.error_class.as_str()));
    ensure!(other.is_none(), "{other:?}");

    let mut notes: Vec<String> = stage.facts.loses_when_killed.map(str::to_owned).into_iter().collect();
    notes.extend(reported(stage, by_default.as_ref(), &sent).await?);
    if let Some(confirmed) = confirmed {
        notes.push(stage.loss_of(&bare_at, confirmed).await?);
    }
    let note = notes.join("; ");
    Ok(Verdict::Passed(Measured {
        records: sent.len() as u64,
        ended: ending.ledger.dead_lettered,
        lost,
        repeated,
        note,
        outages: vec![Outage {
            fault: "killed, started again".into(),
            records: sent.len() as u64,
            lost,
            repeated,
            gap,
        }],
    }))
}

/// With full counts also a connector as the seed would configure it: what the target loses then is its own.
async fn with_defaults<A: Adapter>(stage: &mut Stage<A>) -> Result<Option<Connected>> {
    if stage.counts.name != "full" {
        return Ok(None);
    }
    let destination = stage.destination("killed_defaults", false).await?;
    let config = stage.adapter.config(&destination, Way { safety: Safety::SeedDefaults, ..Way::default() });
    let strategy = Ending::Waits.strategy(&destination.name);
    stage.connect_to(&destination, FILTER, config, strategy).await.map(Some)
}

async fn reported<A: Adapter>(stage: &Stage<A>, by_default: Option<&Connected>, sent: &Sent) -> Result<Option<String>> {
    let Some(connected) = by_default else { return Ok(None) };
    let settled = stage.settle_after_loss(connected, sent).await?;
    ensure!(settled.ledger.sent == settled.ledger.queued, "{:?}", settled.ledger);
    let (lost, again) = (settled.missing.len(), settled.repeated());
    Ok(Some(format!("with the seed's defaults the target lost {lost}, {again} came again")))
}

/// What the target lost; nothing, where it keeps what it confirms.
fn loss<A: Adapter>(stage: &Stage<A>, settled: &Settled, sent: &Sent, acknowledged_before: u64) -> Result<u64> {
    if stage.facts.loses_when_killed.is_none() {
        settled.nothing_is_missing()?;
        return Ok(0);
    }
    // Only what had been published before can have been confirmed before; a window of it was on its way to us.
    let mut numbers: Vec<u64> = settled.missing.iter().map(|name| sent.places[name].number).collect();
    numbers.sort_unstable();
    if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
        ensure!(
            *last < acknowledged_before + 100,
            "{} are missing, numbers {first} to {last}; {acknowledged_before} were acknowledged before the kill",
            numbers.len()
        );
    }
    Ok(settled.missing.len() as u64)
}
