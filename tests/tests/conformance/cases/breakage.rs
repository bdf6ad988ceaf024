//! Wrong password, missing destination, missing right: who waits loses nothing, sees why in the target's words, and
//! goes on without being touched once it is mended; who does not wait ends each record as the strategy says.

use anyhow::{Result, ensure};

use super::round_trip;
use crate::adapter::{Adapter, Breakage, Refused, Way};
use crate::report::{Measured, Verdict};
use crate::shapes::Message;
use crate::stage::{Ending, Stage};

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let breakages = stage.facts.breakages;
    if let (true, Some(why)) = (breakages.is_empty(), stage.adapter.unbroken()) {
        return Ok(Verdict::NotApplicable(why.to_owned()));
    }
    ensure!(!breakages.is_empty(), "every target can be broken");
    let has_login = breakages.iter().any(|breakage| breakage.health_reason == "TARGET_AUTH");
    ensure!(has_login == stage.facts.has_login, "a login can be wrong");
    let mut measured = Measured::default();
    for (number, breakage) in breakages.iter().enumerate() {
        let case = format!("broken{number}");
        one(stage, breakage, &case, &mut measured).await?;
    }
    measured.note = breakages.iter().map(|breakage| breakage.name).collect::<Vec<_>>().join(", ");
    Ok(Verdict::Passed(measured))
}

async fn one<A: Adapter>(stage: &mut Stage<A>, breakage: &Breakage, case: &str, measured: &mut Measured) -> Result<()> {
    let mut connectors = Vec::new();
    let mut destinations = Vec::new();
    for suffix in ["waits", "ends"] {
        destinations.push(stage.destination(&format!("{case}_{suffix}"), false).await?);
    }
    for destination in &destinations {
        stage.adapter.break_by(breakage, destination).await?;
    }
    for (destination, ending) in destinations.iter().zip([Ending::Waits, Ending::Ends]) {
        let config = stage.adapter.config(destination, Way::default());
        let strategy = ending.strategy(&destination.name);
        connectors.push(stage.connect_to(destination, &format!("c/{case}/#"), config, strategy).await?);
    }
    let (waits, ends) = (connectors[0].clone(), connectors[1].clone());
    let count = stage.counts.breakage;
    let broken = stage.publish(&messages(case, 0..count)).await?;
    stage.health(&waits.name, breakage.health_reason, breakage.words).await?;
    let ledger = stage.cluster.drained(stage.asked, &ends.name, stage.counts.limit).await?;
    ensure!(ledger.dead_lettered == count as u64 && ledger.sent == 0, "{}: {ledger:?}", breakage.name);
    let ledger = stage.ledger(&waits.name).await?;
    ensure!(ledger.pending == count as u64 && ledger.sent == 0, "{}: {ledger:?}", breakage.name);

    for destination in &destinations {
        stage.adapter.mend(breakage, destination).await?;
    }
    let settled = stage.settle(&waits, &broken).await?;
    ensure!(settled.ledger.sent == count as u64, "{:?}", settled.ledger);
    settled.nothing_is_missing()?;
    settled.each_once()?;
    let mended = stage.publish(&messages(case, count..2 * count)).await?;
    let mut all = broken.clone();
    all.places.extend(mended.places);
    let settled = stage.settle(&ends, &all).await?;
    ensure!(settled.ledger.sent == count as u64, "{:?}", settled.ledger);
    settled.nothing_is_missing()?;
    settled.each_once()?;
    let end = Refused { class: breakage.class, words: breakage.words, offline: false };
    broken.names().try_for_each(|name| round_trip::ended(&settled, name, &end))?;
    measured.records += 2 * count as u64;
    measured.ended += count as u64;
    Ok(())
}

fn messages(case: &str, numbers: std::ops::Range<usize>) -> Vec<Message> {
    numbers.map(|number| Message::plain(case, &format!("n{number}"))).collect()
}
