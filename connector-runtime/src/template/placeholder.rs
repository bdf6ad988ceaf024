//! The placeholders, and the value of each for a record.

use std::borrow::Cow;
use std::fmt::Write;

use api_types::Record;
use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::parse::TemplateError;
use crate::config::nearest;

/// As the documentation and error messages name them.
pub const KNOWN: [&str; 13] = [
    "${id}",
    "${topic}",
    "${topic[0]}",
    "${client_id}",
    "${key}",
    "${payload}",
    "${payload.a.b}",
    "${timestamp}",
    "${timestamp_s}",
    "${date:%Y/%m/%d}",
    "${qos}",
    "${retain}",
    "${user.name}",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placeholder {
    Id,
    Topic,
    /// One level of the topic; the first is 0.
    TopicLevel(usize),
    ClientId,
    Key,
    Payload,
    /// A value inside the payload, read as JSON.
    PayloadPath(Vec<PathStep>),
    /// Milliseconds since the Unix epoch.
    TimestampMs,
    TimestampSeconds,
    /// The time of the record in UTC, in the form of `strftime`.
    Date(String),
    Qos,
    Retain,
    /// The first MQTT 5 user property of this name.
    User(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathStep {
    Name(String),
    Index(usize),
}

/// A record has no value for a placeholder. It is that record's own failure; asking again does not change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record has no value for {placeholder}: {why}")]
pub struct MissingValue {
    pub placeholder: String,
    pub why: &'static str,
}

impl Placeholder {
    /// `inside` is what stands between `${` and `}`.
    pub fn parse(inside: &str) -> Result<Self, TemplateError> {
        let wrong =
            |problem: &str| TemplateError::Placeholder { found: inside.to_owned(), problem: problem.to_owned() };
        match inside {
            "id" => return Ok(Self::Id),
            "topic" => return Ok(Self::Topic),
            "client_id" => return Ok(Self::ClientId),
            "key" => return Ok(Self::Key),
            "payload" => return Ok(Self::Payload),
            "timestamp" => return Ok(Self::TimestampMs),
            "timestamp_s" => return Ok(Self::TimestampSeconds),
            "qos" => return Ok(Self::Qos),
            "retain" => return Ok(Self::Retain),
            _ => {}
        }
        if let Some(index) = inside.strip_prefix("topic[") {
            let level = index.strip_suffix(']').and_then(parse_index);
            return level.map(Self::TopicLevel).ok_or_else(|| wrong("a level is a number from 0, as in ${topic[0]}"));
        }
        if let Some(path) = inside.strip_prefix("payload.") {
            return parse_path(path).map(Self::PayloadPath).ok_or_else(|| wrong("a path has the form a.b or a[0].b"));
        }
        if inside.starts_with("payload[") {
            let steps = parse_path(inside).ok_or_else(|| wrong("a path has the form a.b or a[0].b"))?;
            return Ok(Self::PayloadPath(steps.into_iter().skip(1).collect()));
        }
        if let Some(format) = inside.strip_prefix("date:") {
            check_date_format(format).map_err(wrong)?;
            return Ok(Self::Date(format.to_owned()));
        }
        if let Some(name) = inside.strip_prefix("user.") {
            let named = (!name.is_empty()).then(|| Self::User(name.to_owned()));
            return named.ok_or_else(|| wrong("the name of the user property is missing"));
        }
        if inside.starts_with("env:") || inside.starts_with("file:") {
            return Err(TemplateError::Reference { found: inside.to_owned() });
        }
        Err(unknown(inside))
    }

    pub fn value<'r>(&self, record: &'r Record) -> Result<Cow<'r, [u8]>, MissingValue> {
        let message = &record.message;
        let owned = |text: String| Cow::Owned(text.into_bytes());
        Ok(match self {
            Self::Id => owned(record.id.to_string()),
            Self::Topic => Cow::Borrowed(message.topic.as_bytes()),
            Self::TopicLevel(level) => {
                let level = message.topic.split('/').nth(*level);
                Cow::Borrowed(level.ok_or_else(|| self.missing("the topic has fewer levels"))?.as_bytes())
            }
            Self::ClientId if message.client_id.is_empty() => return Err(self.missing("no client published it")),
            Self::ClientId => Cow::Borrowed(message.client_id.as_bytes()),
            Self::Key => Cow::Borrowed(message.key().as_bytes()),
            Self::Payload => Cow::Borrowed(&message.payload),
            Self::PayloadPath(path) => {
                let value = self.json_value(path, &message.payload)?;
                owned(value_text(&value))
            }
            Self::TimestampMs => owned(message.timestamp_ms.to_string()),
            Self::TimestampSeconds => owned((message.timestamp_ms / 1000).to_string()),
            Self::Date(format) => owned(self.date(format, message.timestamp_ms)?),
            Self::Qos => owned(message.qos.to_string()),
            Self::Retain => owned(message.retain.to_string()),
            Self::User(name) => {
                let property = message.user_properties.iter().find(|(known, _)| known == name);
                Cow::Borrowed(property.ok_or_else(|| self.missing("it has no such user property"))?.1.as_bytes())
            }
        })
    }

    /// The value with its JSON type: numbers stay numbers, a JSON payload stays what it is.
    pub fn json(&self, record: &Record) -> Result<Value, MissingValue> {
        let message = &record.message;
        match self {
            Self::PayloadPath(path) => self.json_value(path, &message.payload),
            Self::Payload => match serde_json::from_slice(&message.payload) {
                Ok(value) => Ok(value),
                Err(_) => self.text_value(record),
            },
            Self::TimestampMs => Ok(Value::from(message.timestamp_ms)),
            Self::TimestampSeconds => Ok(Value::from(message.timestamp_ms / 1000)),
            Self::Qos => Ok(Value::from(message.qos)),
            Self::Retain => Ok(Value::from(message.retain)),
            Self::Id
            | Self::Topic
            | Self::TopicLevel(_)
            | Self::ClientId
            | Self::Key
            | Self::Date(_)
            | Self::User(_) => self.text_value(record),
        }
    }

    pub(super) fn not_text(&self) -> MissingValue {
        self.missing("it is not UTF-8")
    }

    fn text_value(&self, record: &Record) -> Result<Value, MissingValue> {
        let value = self.value(record)?;
        let text = std::str::from_utf8(&value).map_err(|_| self.not_text())?;
        Ok(Value::from(text))
    }

    fn json_value(&self, path: &[PathStep], payload: &[u8]) -> Result<Value, MissingValue> {
        let mut value: Value = serde_json::from_slice(payload).map_err(|_| self.missing("its payload is not JSON"))?;
        for step in path {
            let next = match (step, &mut value) {
                (PathStep::Name(name), Value::Object(fields)) => fields.get_mut(name),
                (PathStep::Index(index), Value::Array(items)) => items.get_mut(*index),
                (PathStep::Name(_) | PathStep::Index(_), _) => None,
            };
            value = next.map(Value::take).ok_or_else(|| self.missing("its payload has no such field"))?;
        }
        if value.is_null() { Err(self.missing("it is null in the payload")) } else { Ok(value) }
    }

    fn date(&self, format: &str, timestamp_ms: u64) -> Result<String, MissingValue> {
        let out_of_range = || self.missing("its time is out of range");
        let milliseconds = i64::try_from(timestamp_ms).map_err(|_| out_of_range())?;
        let time = DateTime::<Utc>::from_timestamp_millis(milliseconds).ok_or_else(out_of_range)?;
        let mut text = String::new();
        // The format was checked when the template was compiled; what is left to fail is a year too large for it.
        write!(text, "{}", time.format(format)).map_err(|_| out_of_range())?;
        Ok(text)
    }

    fn missing(&self, why: &'static str) -> MissingValue {
        MissingValue { placeholder: self.to_string(), why }
    }
}

impl std::fmt::Display for Placeholder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id => f.write_str("${id}"),
            Self::Topic => f.write_str("${topic}"),
            Self::TopicLevel(level) => write!(f, "${{topic[{level}]}}"),
            Self::ClientId => f.write_str("${client_id}"),
            Self::Key => f.write_str("${key}"),
            Self::Payload => f.write_str("${payload}"),
            Self::PayloadPath(path) => {
                f.write_str("${payload")?;
                for step in path {
                    match step {
                        PathStep::Name(name) => write!(f, ".{name}")?,
                        PathStep::Index(index) => write!(f, "[{index}]")?,
                    }
                }
                f.write_str("}")
            }
            Self::TimestampMs => f.write_str("${timestamp}"),
            Self::TimestampSeconds => f.write_str("${timestamp_s}"),
            Self::Date(format) => write!(f, "${{date:{format}}}"),
            Self::Qos => f.write_str("${qos}"),
            Self::Retain => f.write_str("${retain}"),
            Self::User(name) => write!(f, "${{user.{name}}}"),
        }
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn unknown(inside: &str) -> TemplateError {
    let bare: Vec<&str> = KNOWN.iter().map(|known| &known[2..known.len() - 1]).collect();
    let suggestion = nearest(inside, &bare).map_or_else(String::new, |near| format!(" (did you mean ${{{near}}}?)"));
    TemplateError::Unknown { found: inside.to_owned(), suggestion, known: KNOWN.join(" ") }
}

fn parse_index(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// `a.b[0].c`
fn parse_path(text: &str) -> Option<Vec<PathStep>> {
    let mut steps = Vec::new();
    for segment in text.split('.') {
        let (name, indexes) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
        if name.is_empty() {
            return None;
        }
        steps.push(PathStep::Name(name.to_owned()));
        let mut rest = indexes;
        while !rest.is_empty() {
            let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(PathStep::Index(parse_index(index)?));
            rest = after;
        }
    }
    Some(steps)
}

fn check_date_format(format: &str) -> Result<(), &'static str> {
    if format.is_empty() {
        return Err("the form of the date is missing, as in ${date:%Y/%m/%d}");
    }
    let wrong = StrftimeItems::new(format).any(|item| matches!(item, Item::Error));
    if wrong { Err("the form of the date is not one of strftime") } else { Ok(()) }
}
