//! What arrived at a target, counted per message. A message is named by the publisher, in its payload
//! (`{"message":"pub-1-17"}`), and by Sluice, in the envelope's `id`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arrived {
    /// Publisher's name of the message → how often it arrived.
    pub messages: BTreeMap<String, u32>,
    /// Sluice's record id → how often it arrived.
    pub records: BTreeMap<String, u32>,
    /// In order of arrival.
    pub envelopes: Vec<Value>,
}

impl Arrived {
    /// Adds one envelope.
    pub fn add(&mut self, envelope: Value) -> Result<()> {
        let id = envelope["id"].as_str().with_context(|| format!("envelope without id: {envelope}"))?;
        *self.records.entry(id.to_owned()).or_default() += 1;
        if let Some(message) = envelope["payload"]["message"].as_str() {
            *self.messages.entry(message.to_owned()).or_default() += 1;
        }
        self.envelopes.push(envelope);
        Ok(())
    }

    /// Times a record was delivered again under the same record id: what Sluice duplicated.
    pub fn redelivered(&self) -> u64 {
        self.records.values().map(|times| u64::from(times - 1)).sum()
    }

    /// Times a message arrived again, whoever sent it twice (a publisher repeats what was not acknowledged).
    pub fn repeated(&self) -> u64 {
        self.messages.values().map(|times| u64::from(times - 1)).sum()
    }

    /// Those of `acknowledged` that did not arrive.
    pub fn missing<'a>(&self, acknowledged: impl IntoIterator<Item = &'a String>) -> BTreeSet<&'a String> {
        acknowledged.into_iter().filter(|message| !self.messages.contains_key(*message)).collect()
    }

    pub fn payloads(&self) -> impl Iterator<Item = &Value> {
        self.envelopes.iter().map(|envelope| &envelope["payload"])
    }
}

/// Reads a file that the file connector writes: one envelope per line. A last line without its end is not counted,
/// it may be under way; half a line anywhere else is a failure.
pub fn of_file(path: &Path) -> Result<Arrived> {
    let mut arrived = Arrived::default();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(arrived),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    for (number, line) in complete_lines(&text).enumerate() {
        let envelope = serde_json::from_str(line)
            .with_context(|| format!("{}:{}: not a JSON line: {line}", path.display(), number + 1))?;
        arrived.add(envelope)?;
    }
    Ok(arrived)
}

/// The envelopes of one webhook request: an array, or one alone.
pub fn of_body(body: &str, arrived: &mut Arrived) -> Result<()> {
    match serde_json::from_str(body).with_context(|| format!("body is not JSON: {body}"))? {
        Value::Array(envelopes) => envelopes.into_iter().try_for_each(|envelope| arrived.add(envelope)),
        envelope @ Value::Object(_) => arrived.add(envelope),
        other => bail!("neither an array nor an object: {other}"),
    }
}

pub(crate) fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text[..end].lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Arrived> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.log");
        std::fs::write(&path, text).unwrap();
        of_file(&path)
    }

    #[test]
    fn lines_are_counted_per_message_and_record() {
        let line = |id: &str, name: &str| format!("{{\"id\":\"{id}\",\"payload\":{{\"message\":\"{name}\"}}}}\n");
        let arrived = file(&[line("1-2-3", "a-0"), line("1-2-3", "a-0"), line("2-2-3", "a-0")].concat()).unwrap();
        assert_eq!((arrived.redelivered(), arrived.repeated()), (1, 2));
        let acknowledged = ["a-0".to_owned(), "a-1".to_owned()];
        assert_eq!(arrived.missing(&acknowledged), BTreeSet::from([&acknowledged[1]]));
    }

    #[test]
    fn a_torn_line_counts_only_at_the_end() {
        assert_eq!(file("{\"id\":\"1-1-1\"}\n{\"id\":").unwrap().envelopes.len(), 1);
        assert!(file("{\"id\":\"1-1\n{\"id\":\"1-1-2\"}\n").is_err());
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_empty() {
        assert_eq!(of_file(Path::new("/nonexistent/out.log")).unwrap(), Arrived::default());
    }
}
