//! The server that takes writes is killed and another one takes its place, while the killed one comes back: whoever asks
//! for the confirmation of replicas loses nothing. What the set loses of what it confirms without, is its own: a bare
//! client beside the connectors shows it, and so does a connector with the seed's defaults.

use anyhow::{Context, Result, ensure};

use super::round_trip;
use crate::adapter::{Adapter, Destination, Safety, Way};
use crate::outage::Outage;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::stage::{Ending, Stage};

const FILTER: &str = "c/over/#";

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let names = ["over_waits", "over_defaults", "over_bare"];
    let destinations = names.map(|name| Destination { name: name.to_owned(), guarded: false });
    if !stage.adapter.replicate(&destinations).await? {
        return Ok(Verdict::NotApplicable("the suite has one server of this kind".to_owned()));
    }
    let mut connectors = Vec::new();
    for (destination, safety) in destinations.iter().zip([Safety::Confirmed, Safety::SeedDefaults]) {
        stage.adapter.make(destination).await?;
        let config = stage.adapter.config(destination, Way { safety, ..Way::default() });
        let strategy = Ending::Waits.strategy(&destination.name);
        connectors.push(stage.connect_to(destination, FILTER, config, strategy).await?);
    }
    let [waits, by_default] = &connectors[..] else { unreachable!("two were made") };
    let bare = stage.bare(&destinations[2]).await?.context("a bare client")?;

    let count = stage.counts.killed;
    let publisher = stage.publisher_without_end("over", "c/over", count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&waits.name, count / 4).await?;
    stage.sent_at_least(&by_default.name, count / 4).await?;
    let gaps = stage.gaps(waits);
    let over = stage.adapter.fail_over().await;
    let confirmed = bare.stop().await?;
    over?;
    let sent = Sent::of_published(&publisher.stop_after(count, stage.counts.limit).await?)?;

    let safe = stage.settle(waits, &sent).await?;
    let gap = gaps.longest();
    ensure!(safe.ledger.dead_lettered == 0, "who waits ends nothing: {:?}", safe.ledger);
    safe.nothing_is_missing()?;
    round_trip::in_order_whatever_failed(stage, &safe, &sent)?;
    let most = stage.repeats_of_retries_at_most(waits).await?;
    ensure!(safe.repeated() <= most, "{} came again, at most {most} can have", safe.repeated());
    let risky = stage.settle_after_loss(by_default, &sent).await?;
    ensure!(risky.ledger.sent == risky.ledger.queued, "{:?}", risky.ledger);
    let note = format!(
        "with the seed's defaults the target lost {}, {} came again; {}",
        risky.missing.len(),
        risky.repeated(),
        stage.loss_of(&destinations[2], confirmed).await?
    );
    let (records, repeated) = (sent.len() as u64, safe.repeated());
    let outages = vec![Outage { fault: "fails over".into(), records, lost: 0, repeated, gap }];
    Ok(Verdict::Passed(Measured { records, repeated, note, outages, ..Measured::default() }))
}
