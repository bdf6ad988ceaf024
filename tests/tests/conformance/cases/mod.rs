//! What must hold, for whichever kind: each case in a file of its own.

mod breakage;
mod fail_over;
mod faults;
mod injection;
mod memory;
mod node_killed;
mod pause;
mod poison;
mod ranges;
mod removal;
mod restart;
mod round_trip;
mod tls;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::adapter::Adapter;
use crate::report::{Report, Verdict};
use crate::stage::Stage;

const NODE_KILLED: &str = "node_killed";
/// Names of the cases to run, apart by commas; absent: all.
const CHOICE: &str = "SLUICE_CONFORMANCE_CASES";

pub async fn on_one_node<A: Adapter>(stage: &mut Stage<A>, report: &mut Report) -> Result<()> {
    run(stage, report, "round_trip", round_trip::run).await?;
    run(stage, report, "injection", injection::run).await?;
    run(stage, report, "poison", poison::run).await?;
    run(stage, report, "breakage", breakage::run).await?;
    run(stage, report, "restart", restart::run).await?;
    run(stage, report, "fail_over", fail_over::run).await?;
    run(stage, report, "pause", pause::run).await?;
    run(stage, report, "faults", faults::run).await?;
    run(stage, report, "removal", removal::run).await?;
    run(stage, report, "tls", tls::run).await?;
    run(stage, report, "memory", memory::run).await?;
    run(stage, report, "ranges", ranges::run).await
}

pub async fn on_three_nodes<A: Adapter>(stage: &mut Stage<A>, report: &mut Report) -> Result<()> {
    run(stage, report, NODE_KILLED, node_killed::run).await
}

pub fn needs_three_nodes() -> bool {
    is_chosen(NODE_KILLED)
}

fn is_chosen(name: &str) -> bool {
    std::env::var(CHOICE).map_or(true, |chosen| chosen.split(',').any(|one| one == name))
}

/// A case that fails does not keep the others from running; a stage that cannot be cleared does.
async fn run<A: Adapter>(
    stage: &mut Stage<A>,
    report: &mut Report,
    name: &'static str,
    case: impl AsyncFnOnce(&mut Stage<A>) -> Result<Verdict>,
) -> Result<()> {
    if !is_chosen(name) {
        return Ok(());
    }
    let began = Instant::now();
    let outcome = case(stage).await;
    let took = began.elapsed();
    let failed = outcome.is_err();
    report.add(name, outcome, took);
    let cleared = stage.clear().await.with_context(|| format!("clear the stage after {name}"));
    if failed && cleared.is_err() {
        report.add("clear", cleared.map(|()| Verdict::LeftOut(String::new())), began.elapsed() - took);
        return Ok(());
    }
    cleared
}
