//! What a record becomes: two lines of a `_bulk` request, what to do and the document.

use std::borrow::Cow;
use std::fmt;

use api_types::envelope::write_envelope;
use api_types::{ClusterId, Record};
use chrono::{DateTime, SecondsFormat};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::name::IndexName;
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::sinks::shared::global_id::GlobalId;
use crate::template::TemplateError;

/// When the record was received. Data streams want a field of this name.
const TIMESTAMP: &str = "@timestamp";

#[derive(Clone, Debug)]
pub(super) struct DocumentFormat {
    index: IndexName,
    payload: PayloadFormat,
    cluster: ClusterId,
}

/// The line before a document. `create` leaves a document alone that is there already.
#[derive(Serialize)]
struct Action<'a> {
    create: Create<'a>,
}

#[derive(Serialize)]
struct Create<'a> {
    #[serde(rename = "_index", skip_serializing_if = "Option::is_none")]
    index: Option<&'a str>,
    #[serde(rename = "_id")]
    id: &'a str,
}

impl DocumentFormat {
    pub(super) fn new(config: &Config, cluster: ClusterId) -> Result<Self, TemplateError> {
        Ok(Self { index: IndexName::new(&config.index)?, payload: config.payload_format, cluster })
    }

    /// Where all records go to the same index: it stands in the path of the request then, and not in its lines.
    pub(super) fn index_of_all(&self) -> Option<String> {
        self.index.of_all()
    }

    /// Both lines, each with its end.
    pub(super) fn lines(&self, record: &Record) -> Result<Vec<u8>, RecordFault> {
        let own_index = match self.index.of_all() {
            Some(_) => None,
            None => Some(self.index.of(record)?),
        };
        let id = GlobalId { cluster: self.cluster, record: record.id }.to_string();
        let action = Action { create: Create { index: own_index.as_deref(), id: &id } };
        let mut lines = Vec::with_capacity(record.message.payload.len() + 512);
        // Writing to memory cannot fail.
        drop(serde_json::to_writer(&mut lines, &action));
        lines.push(b'\n');
        let time = time_of(record)?;
        match self.payload {
            PayloadFormat::Envelope => {
                let mut envelope = Vec::with_capacity(record.message.payload.len() + 256);
                write_envelope(record, &mut envelope);
                put_with_time(&mut lines, &time, &envelope, false);
            }
            PayloadFormat::Raw => {
                let fields = Fields::of(&record.message.payload)?;
                if fields.has_time {
                    lines.extend(fields.on_one_line());
                } else {
                    put_with_time(&mut lines, &time, &fields.on_one_line(), fields.is_empty);
                }
            }
        }
        lines.push(b'\n');
        Ok(lines)
    }
}

fn time_of(record: &Record) -> Result<String, RecordFault> {
    let milliseconds = i64::try_from(record.message.timestamp_ms).ok();
    let time = milliseconds.and_then(DateTime::from_timestamp_millis);
    let time = time.ok_or_else(|| RecordFault::offline("time_out_of_range", "the record's time is out of range"))?;
    Ok(time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Appends a JSON object with the time before its other fields.
fn put_with_time(lines: &mut Vec<u8>, time: &str, object: &[u8], is_empty: bool) {
    let comma = if is_empty { "" } else { "," };
    lines.extend_from_slice(format!("{{\"{TIMESTAMP}\":\"{time}\"{comma}").as_bytes());
    lines.extend_from_slice(&object[1..]);
}

/// A payload that is a JSON object.
struct Fields<'p> {
    text: &'p str,
    is_empty: bool,
    has_time: bool,
}

impl<'p> Fields<'p> {
    fn of(payload: &'p [u8]) -> Result<Self, RecordFault> {
        let refused =
            || RecordFault::offline("not_an_object", "the payload is no JSON object, and is to be the document");
        let text = std::str::from_utf8(payload).map_err(|_| refused())?;
        let names: Names = serde_json::from_str(text).map_err(|_| refused())?;
        let text = text.trim_matches(|character: char| character.is_ascii_whitespace());
        Ok(Self { text, is_empty: names.is_empty, has_time: names.has_time })
    }

    /// From brace to brace. A line break in JSON stands between its tokens only.
    fn on_one_line(&self) -> Vec<u8> {
        self.text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }).collect()
    }
}

/// What is to be known of an object's names; its values are skipped.
struct Names {
    is_empty: bool,
    has_time: bool,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Names, A::Error> {
        let mut names = Names { is_empty: true, has_time: false };
        while let Some((name, IgnoredAny)) = fields.next_entry::<Cow<'de, str>, IgnoredAny>()? {
            names.is_empty = false;
            names.has_time |= name == TIMESTAMP;
        }
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sinks::opened::record;

    fn format(index: &str, payload: PayloadFormat) -> DocumentFormat {
        DocumentFormat { index: IndexName::new(index).expect("is a template"), payload, cluster: ClusterId(7) }
    }

    fn lines(format: &DocumentFormat, payload: &[u8]) -> Result<[String; 2], String> {
        let lines = format.lines(&record(3, payload)).map_err(|fault| fault.class.to_string())?;
        let text = String::from_utf8(lines).expect("is text");
        assert!(text.ends_with('\n') && text.matches('\n').count() == 2, "{text}");
        let (action, document) = text.trim_end_matches('\n').split_once('\n').expect("two lines");
        Ok([action.to_owned(), document.to_owned()])
    }

    #[test]
    fn a_record_is_created_under_its_own_id() {
        let id = format!("{}-1-7-3", ClusterId(7));
        let [action, _] = lines(&format("mqtt", PayloadFormat::Envelope), b"x").expect("fits");
        assert_eq!(action, format!(r#"{{"create":{{"_id":"{id}"}}}}"#));
        let [action, _] = lines(&format("mqtt-${topic}", PayloadFormat::Envelope), b"x").expect("fits");
        assert_eq!(action, format!(r#"{{"create":{{"_index":"mqtt-plant_one","_id":"{id}"}}}}"#));
    }

    #[test]
    fn an_envelope_has_its_time_beside_all_else() {
        for payload in [&b"warm"[..], b"{\"t\":1,\n\"t\":2}", b"\xff", b"null", b""] {
            let [_, document] = lines(&format("mqtt", PayloadFormat::Envelope), payload).expect("fits");
            let mut value: Value = serde_json::from_str(&document).expect("is JSON");
            let time = value.as_object_mut().and_then(|fields| fields.remove("@timestamp"));
            assert_eq!(time, Some(json!("2023-11-14T22:13:20.003Z")));
            assert_eq!(value, api_types::envelope::envelope(&record(3, payload)));
        }
    }

    #[test]
    fn a_raw_object_keeps_its_bytes_and_its_own_time() {
        let raw = |payload: &[u8]| lines(&format("mqtt", PayloadFormat::Raw), payload).map(|[_, document]| document);
        let time = r#""@timestamp":"2023-11-14T22:13:20.003Z""#;
        let check = |payload: &str, expect: String| assert_eq!(raw(payload.as_bytes()), Ok(expect), "{payload}");
        check(r#"{"t":21.50}"#, format!(r#"{{{time},"t":21.50}}"#));
        check(" {\r\n} ", format!("{{{time}  }}"));
        check("\n{\"a\":\r\n[1]}\n", format!(r#"{{{time},"a":  [1]}}"#));
        check(r#"{"a":1,"a":2}"#, format!(r#"{{{time},"a":1,"a":2}}"#));
        check(r#"{"in":{"@timestamp":1}}"#, format!(r#"{{{time},"in":{{"@timestamp":1}}}}"#));
        for own in [r#"{"@timestamp":"2020-01-01","a":1}"#, r#"{"a":1,"\u0040timestamp":5}"#] {
            check(own, own.to_owned());
        }
        for bad in
            [&b"warm"[..], b"21", b"[{}]", b"null", b"", b"{", b"{}x", b"\xff", b"{\"a\":\"\xff\"}", b"{\"a\":\"\n\"}"]
        {
            assert_eq!(raw(bad), Err("not_an_object".to_owned()), "{bad:?}");
        }
    }

    #[test]
    fn a_record_without_a_value_for_its_index_is_told() {
        assert_eq!(lines(&format("m-${user.site}", PayloadFormat::Raw), b"{}"), Err("missing_value".to_owned()));
    }
}
