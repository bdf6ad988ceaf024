//! What became of everything that was acknowledged: seen at the target, ended by the strategy, or lost.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use api_types::dead_letter::DeadLetterRecord;
use api_types::status::Ledger;

use crate::adapter::Seen;
use crate::publishing::Sent;

pub struct Settled {
    pub ledger: Ledger,
    /// In the target's order, repeats included.
    pub seen: Vec<Seen>,
    /// Name → how often it was seen.
    pub times: BTreeMap<String, u64>,
    pub letters: BTreeMap<String, DeadLetterRecord>,
    /// Acknowledged, and neither seen nor a letter.
    pub missing: Vec<String>,
}

impl Settled {
    /// Fails where the ledger and what can be seen contradict each other, whatever was broken in between.
    pub fn of(sent: &Sent, ledger: Ledger, seen: Vec<Seen>, letters: Vec<DeadLetterRecord>) -> Result<Self> {
        ensure!(ledger.balances() && ledger.pending == 0, "{ledger:?}");
        let queued = sent.len() as u64;
        ensure!(ledger.queued >= queued, "{queued} were acknowledged: {ledger:?}");
        ensure!(ledger.queued <= queued + sent.sent_again, "{queued} + {} were sent: {ledger:?}", sent.sent_again);
        ensure!(ledger.dropped == 0, "{ledger:?}");
        ensure!(letters.len() as u64 == ledger.dead_lettered, "{} letters: {ledger:?}", letters.len());
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for one in &seen {
            *times.entry(known(sent, one)?).or_default() += 1;
        }
        let mut by_name = BTreeMap::new();
        for letter in letters {
            by_name.insert(known(sent, &as_seen(&letter))?, letter);
        }
        let is_missing = |name: &&String| !times.contains_key(*name) && !by_name.contains_key(*name);
        let missing = sent.names().filter(is_missing).cloned().collect();
        Ok(Self { ledger, seen, times, letters: by_name, missing })
    }

    /// Nothing is lost, but for what was discarded.
    pub fn nothing_is_missing(&self) -> Result<()> {
        let some: Vec<&String> = self.missing.iter().take(5).collect();
        ensure!(
            self.missing.len() as u64 == self.ledger.discarded,
            "{} are missing, such as {some:?}: {:?}",
            self.missing.len(),
            self.ledger
        );
        Ok(())
    }

    /// Records that stand at the target more than once, each further time counted.
    pub fn repeated(&self) -> u64 {
        self.times.values().map(|times| times - 1).sum()
    }

    /// Each record that the ledger calls sent is there, once.
    pub fn each_once(&self) -> Result<()> {
        self.each_once_but_for(0)
    }

    /// Each record that the ledger calls sent is there, and at most so many further times in all.
    pub fn each_once_but_for(&self, most: u64) -> Result<()> {
        let twice: Vec<&String> = self.times.iter().filter(|(_, times)| **times > 1).map(|(name, _)| name).collect();
        ensure!(self.repeated() <= most, "{} came more than once, such as {:?}", twice.len(), twice.first());
        ensure!(self.times.len() as u64 == self.ledger.sent, "{} were seen: {:?}", self.times.len(), self.ledger);
        let both = self.letters.keys().find(|name| self.times.contains_key(*name));
        ensure!(both.is_none(), "{both:?} was delivered and ended as a letter");
        Ok(())
    }

    /// First arrivals, publisher by publisher and topic by topic, came in the order in which they were sent.
    pub fn in_order(&self, sent: &Sent) -> Result<()> {
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        let mut met = std::collections::BTreeSet::new();
        for one in &self.seen {
            let name = known(sent, one)?;
            let place = &sent.places[&name];
            if !met.insert(name.clone()) {
                continue;
            }
            if let Some(before) = last.insert(&place.stream, place.number) {
                ensure!(before < place.number, "{name} came after number {before} of {:?}", place.stream);
            }
        }
        Ok(())
    }
}

/// The name of something that was sent.
fn known(sent: &Sent, seen: &Seen) -> Result<String> {
    let name = seen.name().with_context(|| format!("nobody knows what this is: {seen:?}"))?;
    ensure!(sent.places.contains_key(&name), "{name} was not sent: {seen:?}");
    Ok(name)
}

/// A letter has the message as the publisher sent it.
pub fn as_seen(letter: &DeadLetterRecord) -> Seen {
    Seen {
        id: Some(letter.record_id.clone()),
        topic: Some(letter.original_topic.clone()),
        client_id: letter.original_key.clone(),
        payload: letter.original_data.clone(),
        user_properties: Some(letter.user_properties.clone()),
    }
}
