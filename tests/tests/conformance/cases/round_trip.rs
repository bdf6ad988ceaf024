//! Records of all shapes arrive as they were, in the order that the kind promises, each once; what the target cannot
//! hold ends by the strategy, in the target's words, and never arrives changed.

use anyhow::{Context, Result, ensure};
use connector_runtime::registry::OrderClass;

use crate::adapter::{Adapter, Carried, Parts, Refused, Seen};
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::settled::Settled;
use crate::shapes::{Message, Shape};
use crate::stage::{Ending, RETRIES, Stage};

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let connected = stage.connect("round_trip", "c/round/#", Ending::Waits).await?;
    let messages = messages(stage.counts.round_trip, stage.counts.per_shape);
    let sent = stage.publish(&messages).await?;
    let settled = stage.settle(&connected, &sent).await?;
    let refused = as_declared(stage, &messages, &settled)?;
    if stage.facts.shows_order {
        in_promised_order(stage.order, &settled, &sent)?;
    }
    let note = format!("{} shapes carried, {refused} refused", Shape::all().len() - refused);
    Ok(Verdict::Passed(Measured {
        records: sent.len() as u64,
        ended: settled.ledger.dead_lettered,
        note,
        ..Measured::default()
    }))
}

/// Each shape so many times among plain ones of one publisher and topic.
fn messages(count: usize, per_shape: usize) -> Vec<Message> {
    let mut shapes = Shape::all().into_iter().cycle().take(Shape::all().len() * per_shape);
    let every = (count / (Shape::all().len() * per_shape)).max(1);
    let mut messages = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("n{number}");
        let shape = if number % every == 0 { shapes.next() } else { None };
        messages.push(match shape {
            Some(shape) => Message::shaped("round", &name, shape),
            None => Message { topic: "c/round".to_owned(), ..Message::plain("round", &name) },
        });
    }
    messages
}

/// Each record came as its adapter declares; gives how many shapes are refused.
pub fn as_declared<A: Adapter>(stage: &Stage<A>, messages: &[Message], settled: &Settled) -> Result<usize> {
    settled.nothing_is_missing()?;
    let interruptions =
        if stage.adapter.refusals_interrupt() { settled.ledger.dead_lettered * (1 + RETRIES) } else { 0 };
    settled.each_once_but_for(stage.repeats_at_most(interruptions))?;
    let mut ids = std::collections::BTreeMap::new();
    let mut seen = std::collections::BTreeMap::new();
    for one in &settled.seen {
        let name = one.name().context("no name")?;
        seen.insert(name.clone(), one);
        let other = one.id.as_ref().and_then(|id| ids.insert(id, name.clone()));
        ensure!(other.is_none_or(|other| other == name), "two records have the id {:?}", one.id);
    }
    let mut refused = std::collections::BTreeSet::new();
    for message in messages {
        let carried = message.shape.map_or(Carried::Equal, |shape| stage.adapter.carries(shape));
        let about = || format!("{} with {:?}", message.name, message.shape);
        match carried {
            Carried::Equal => equal(stage.facts.parts, message, &message.payload, seen.get(&message.name).copied())
                .with_context(about)?,
            Carried::As { documented, payload } => {
                let expected = payload(message);
                equal(stage.facts.parts, message, &expected, seen.get(&message.name).copied())
                    .with_context(|| format!("{}: {documented}", about()))?;
            }
            Carried::Refused(end) => {
                ensure!(!seen.contains_key(&message.name), "{} arrived", about());
                ended(settled, &message.name, &end).with_context(about)?;
                refused.insert(message.shape);
            }
        }
    }
    Ok(refused.len())
}

fn equal(parts: Parts, message: &Message, payload: &[u8], seen: Option<&Seen>) -> Result<()> {
    let seen = seen.context("did not arrive")?;
    ensure!(seen.id.is_some() == parts.id, "id {:?}", seen.id);
    ensure!(seen.payload == payload, "payload {}, sent {}", shown(&seen.payload), shown(payload));
    let topic = parts.topic.then_some(&message.topic);
    ensure!(seen.topic.as_ref() == topic, "topic {:?}, sent {topic:?}", seen.topic);
    let client_id = parts.client_id.then_some(&message.client_id);
    ensure!(seen.client_id.as_ref() == client_id, "client id {:?}, sent {client_id:?}", seen.client_id);
    let properties = parts.user_properties.then_some(&message.user_properties);
    ensure!(seen.user_properties.as_ref() == properties, "{:?}, sent {properties:?}", seen.user_properties);
    Ok(())
}

/// A letter tells of the end, as declared.
pub fn ended(settled: &Settled, name: &str, end: &Refused) -> Result<()> {
    let letter = settled.letters.get(name).context("has not ended as a letter")?;
    ensure!(letter.error_class == end.class, "class {}: {}", letter.error_class, letter.error_message);
    ensure!(letter.error_message.contains(end.words), "{:?} does not say {:?}", letter.error_message, end.words);
    let retries = if end.offline { 0 } else { RETRIES };
    ensure!(u64::from(letter.retry_times) == retries, "{} retries instead of {retries}", letter.retry_times);
    Ok(())
}

pub fn in_promised_order(order: OrderClass, settled: &Settled, sent: &Sent) -> Result<()> {
    match order {
        OrderClass::Queue | OrderClass::Lanes => settled.in_order(sent),
        OrderClass::None => Ok(()),
    }
}

/// What was under retry while the target failed held back what came after it in its queue. Of lanes, what was already
/// confirmed behind a failed record stays before it.
pub fn in_order_whatever_failed<A: Adapter>(stage: &Stage<A>, settled: &Settled, sent: &Sent) -> Result<()> {
    match stage.order {
        OrderClass::Queue if stage.facts.shows_order => settled.in_order(sent),
        OrderClass::Queue | OrderClass::Lanes | OrderClass::None => Ok(()),
    }
}

/// The beginning of a payload, readable.
fn shown(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload);
    format!("{:?} ({} bytes)", text.chars().take(200).collect::<String>(), payload.len())
}
