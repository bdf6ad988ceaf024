//! The way to the target fails: connections are refused, reset in the middle of a batch, swallowed, slow. Nothing is
//! lost, and it goes on by itself when the way is good again.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::toxiproxy::{FAULTS, Fault, Toxiproxy};

use super::round_trip;
use crate::adapter::{Adapter, Way};
use crate::outage::Outage;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::stage::{self, Connected, Ending, Stage};

/// Of messages while the way is bad: the rest comes after it.
const SHARE_BEFORE: u64 = 4;

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let Some(upstream) = stage.adapter.upstream() else {
        return Ok(Verdict::NotApplicable("there is no server".to_owned()));
    };
    if !Toxiproxy::is_installed() {
        return Ok(Verdict::LeftOut(
            "Toxiproxy is not installed (scripts/setup builds it where there is Go)".to_owned(),
        ));
    }
    let proxy = Toxiproxy::between(stage.proxy_port, upstream).await?;
    let mut measured = Measured::default();
    let mut notes = Vec::new();
    for (number, fault) in FAULTS.into_iter().enumerate() {
        let destination = stage.destination(&format!("fault{number}"), false).await?;
        let config = stage.adapter.config(&destination, Way { port: Some(stage.proxy_port), ..Way::default() });
        let strategy = Ending::Waits.strategy(&destination.name);
        let connected = stage.connect_to(&destination, &format!("c/fault{number}/#"), config, strategy).await?;
        let began = Instant::now();
        let outage = one(stage, &proxy, fault, &connected).await.with_context(|| fault.name())?;
        println!("measured: {} under {}: {:.1} s", A::KIND, fault.name(), began.elapsed().as_secs_f64());
        measured.records += outage.records;
        measured.repeated += outage.repeated;
        notes.push(format!("{}: {}", outage.fault, outage.repeated));
        measured.outages.push(outage);
    }
    proxy.finish();
    measured.note = format!("repeated under {}", notes.join(", "));
    Ok(Verdict::Passed(measured))
}

async fn one<A: Adapter>(stage: &Stage<A>, proxy: &Toxiproxy, fault: Fault, connected: &Connected) -> Result<Outage> {
    let count = stage.counts.killed;
    let topic = format!("c/{}", connected.name);
    let publisher = stage.publisher_without_end(&connected.name, &topic, count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&connected.name, count / SHARE_BEFORE).await?;
    let gaps = stage.gaps(connected);
    proxy.inflict(fault).await?;
    let held = held_up(stage, fault, connected).await;
    proxy.heal(fault).await?;
    held?;
    let sent = Sent::of_published(&publisher.stop_after(count, stage.counts.limit).await?)?;
    let settled = stage.settle(connected, &sent).await?;
    let gap = gaps.longest();
    ensure!(settled.ledger.dead_lettered == 0, "who waits ends nothing: {:?}", settled.ledger);
    settled.nothing_is_missing()?;
    round_trip::in_order_whatever_failed(stage, &settled, &sent)?;
    let repeated = settled.repeated();
    let most = stage.repeats_of_retries_at_most(connected).await?;
    ensure!(repeated <= most, "{repeated} came again, at most {most} can have");
    Ok(Outage { fault: fault.name().to_owned(), records: sent.len() as u64, lost: 0, repeated, gap })
}

/// For as long as the counts say, and where nobody listens, until the connector has noticed: how long it waits for an
/// answer is the kind's own affair.
async fn held_up<A: Adapter>(stage: &Stage<A>, fault: Fault, connected: &Connected) -> Result<()> {
    stage::pass(stage.counts.fault).await;
    match fault {
        Fault::Refused => stage.health(&connected.name, "TARGET_UNREACHABLE", "").await,
        Fault::BlackHole | Fault::Reset | Fault::Latency | Fault::Slow => Ok(()),
    }
}
