//! Values that try to leave their place arrive as values, and nothing else is made of them.

use anyhow::{Result, ensure};

use super::round_trip;
use crate::adapter::Adapter;
use crate::report::{Measured, Verdict};
use crate::shapes::{INJECTIONS, Message};
use crate::stage::{Ending, Stage};

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let connected = stage.connect("injection", "c/inject/#", Ending::Waits).await?;
    // A destination that such a value would go for.
    let neighbour = stage.destination("conformance", false).await?;
    let numbered = INJECTIONS.iter().enumerate();
    let messages: Vec<Message> =
        numbered.flat_map(|(number, injection)| injection.messages("inject", number)).collect();
    let sent = stage.publish(&messages).await?;
    let settled = stage.settle(&connected, &sent).await?;
    round_trip::as_declared(stage, &messages, &settled)?;
    let strangers = stage.adapter.strangers().await?;
    ensure!(strangers.is_empty(), "nobody was told to make {strangers:?}");
    let inside = stage.adapter.read(&neighbour).await?;
    ensure!(inside.is_empty(), "the neighbour has {inside:?}");
    let about: std::collections::BTreeSet<&str> = INJECTIONS.iter().map(|injection| injection.about).collect();
    let note = about.into_iter().collect::<Vec<_>>().join(", ");
    Ok(Verdict::Passed(Measured {
        records: sent.len() as u64,
        ended: settled.ledger.dead_lettered,
        note,
        ..Measured::default()
    }))
}
