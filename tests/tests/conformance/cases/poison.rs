//! Records that the target refuses end alone, each as the strategy says; every other record is delivered, once and in
//! order.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::round_trip;
use crate::adapter::{Adapter, Way};
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::shapes::Message;
use crate::stage::{Connected, Ending, RETRIES, Stage};

const STRATEGIES: [&str; 3] = ["discard", "discard_after_retry", "dead_message_queue"];

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let one = mixed(stage, "one", stage.counts.poison, |number, count| number == count / 2 + 17).await?;
    let half = mixed(stage, "half", stage.counts.half_poison, |number, _| number % 2 == 1).await?;
    let note =
        format!("1 in {}, 1 in 2; at most {} requests for one connector", stage.counts.poison, one.1.max(half.1));
    Ok(Verdict::Passed(Measured { records: one.0 + half.0, note, ..Measured::default() }))
}

/// All strategies for one mixture; gives the number of records, and of requests for the most expensive strategy.
async fn mixed<A: Adapter>(
    stage: &mut Stage<A>,
    mixture: &str,
    count: usize,
    is_poison: impl Fn(usize, usize) -> bool,
) -> Result<(u64, u64)> {
    let filter = format!("c/{mixture}/#");
    let mut connectors = Vec::new();
    for name in STRATEGIES {
        let destination = stage.destination(&format!("{mixture}_{}", short(name)), true).await?;
        let config = stage.adapter.config(&destination, Way::default());
        let strategy = strategy(name, &destination.name);
        connectors.push((name, stage.connect_to(&destination, &filter, config, strategy).await?));
    }
    let topic = format!("c/{mixture}");
    let message = |number| {
        let name = format!("n{number}");
        let payload =
            if is_poison(number, count) { stage.adapter.poison(&name) } else { crate::shapes::message_of(&name) };
        Message { payload, topic: topic.clone(), ..Message::plain(mixture, &name) }
    };
    let messages: Vec<Message> = (0..count).map(message).collect();
    let sent = stage.publish(&messages).await?;
    let poisoned: Vec<String> =
        (0..count).filter(|number| is_poison(*number, count)).map(|n| format!("n{n}")).collect();
    ensure!(!poisoned.is_empty() && poisoned.len() < count, "nothing to find");
    let mut requests = 0;
    for (strategy, connected) in &connectors {
        check(stage, strategy, connected, &sent, &poisoned).await?;
        requests = requests.max(affordable(stage, connected, count as u64, poisoned.len() as u64).await?);
    }
    Ok((count as u64, requests))
}

fn short(strategy: &str) -> &str {
    match strategy {
        "discard_after_retry" => "retry",
        "dead_message_queue" => "letters",
        other => other,
    }
}

fn strategy(name: &str, connector: &str) -> Value {
    let mut strategy = Ending::Waits.strategy(connector);
    strategy["strategy"] = name.into();
    if name == "discard" {
        return json!({ "strategy": name, "on_target_down": "wait" });
    }
    if name != "dead_message_queue"
        && let Some(fields) = strategy.as_object_mut()
    {
        fields.remove("topic_name");
    }
    strategy
}

async fn check<A: Adapter>(
    stage: &Stage<A>,
    strategy: &str,
    connected: &Connected,
    sent: &Sent,
    poisoned: &[String],
) -> Result<()> {
    let settled = stage.settle(connected, sent).await?;
    let bad = poisoned.len() as u64;
    let letters = if strategy == "dead_message_queue" { bad } else { 0 };
    let ends = (settled.ledger.sent, settled.ledger.discarded, settled.ledger.dead_lettered);
    ensure!(ends == (sent.len() as u64 - bad, bad - letters, letters), "{}: {:?}", connected.name, settled.ledger);
    settled.nothing_is_missing()?;
    settled.each_once()?;
    let arrived = poisoned.iter().find(|name| settled.times.contains_key(*name));
    ensure!(arrived.is_none(), "{}: {arrived:?} is poisoned and arrived", connected.name);
    if stage.facts.shows_order {
        round_trip::in_promised_order(stage.order, &settled, sent)?;
    }
    for name in poisoned.iter().filter(|_| letters > 0) {
        round_trip::ended(&settled, name, &stage.facts.poison)?;
    }
    let detail = stage.cluster.api(stage.asked).detail(&connected.name).await?;
    let retries = if strategy == "discard" || stage.facts.poison.offline { 0 } else { RETRIES * bad };
    ensure!(detail["retry_total"] == retries && detail["send_fail_total"] == bad, "{}: {detail}", connected.name);
    Ok(())
}

/// The search is no dearer than halving every batch, where the target tells what it was asked.
async fn affordable<A: Adapter>(stage: &Stage<A>, connected: &Connected, count: u64, bad: u64) -> Result<u64> {
    let Some(requests) = stage.adapter.requests(&connected.destination).await? else { return Ok(0) };
    let halving = (2 * count - 1).min(2 * bad * u64::from(count.next_power_of_two().ilog2()) + 1);
    // Batches that were sealed before they were full are requests too, and so are retries.
    let batches = count.div_ceil(stage.facts.batch_records) + count / 10;
    let most = halving + bad * RETRIES + batches;
    ensure!(requests <= most, "{}: {requests} requests for {bad} in {count}, at most {most}", connected.name);
    Ok(requests)
}
