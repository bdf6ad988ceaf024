//! A record as data points: its payload is an object, or an array of objects, one for each point.

use api_types::Record;
use serde_json::{Map, Value, json};

use super::config::Config;
use crate::config::read_unique;
use crate::sink::RecordFault;

/// OpenTSDB takes no point without a tag.
const DEFAULT_TAG: (&str, &str) = ("source", "mqtt");
/// Times in milliseconds have at most thirteen digits there.
const TIMESTAMP_MS_MAX: u64 = 9_999_999_999_999;

/// One data point, as it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    /// One JSON object.
    pub(super) text: String,
    pub(super) metric: String,
    /// The digits of the value.
    pub(super) value: String,
    pub(super) timestamp_ms: u64,
    pub(super) tags: Map<String, Value>,
}

/// Which fields of a payload say what.
#[derive(Clone, Debug)]
pub(super) struct PointFormat {
    metric_field: String,
    value_field: String,
    tags_fields: Vec<String>,
}

impl PointFormat {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            metric_field: config.metric_field.clone(),
            value_field: config.value_field.clone(),
            tags_fields: config.tags_fields.clone(),
        }
    }

    /// Never empty.
    pub(super) fn points(&self, record: &Record) -> Result<Vec<Point>, RecordFault> {
        let message = &record.message;
        let not_a_point = |says: String| RecordFault::offline("not_a_point", says);
        let read =
            read_unique(&message.payload).map_err(|error| not_a_point(format!("the payload is not JSON ({error})")))?;
        if let Some(twice) = read.twice.first() {
            return Err(not_a_point(format!("the payload has more than one value for {twice}")));
        }
        if message.timestamp_ms == 0 || message.timestamp_ms > TIMESTAMP_MS_MAX {
            let says =
                format!("{} ms since the Unix epoch is not between 1 and {TIMESTAMP_MS_MAX}", message.timestamp_ms);
            return Err(RecordFault::offline("time_out_of_range", says));
        }
        let points: Vec<Point> = match &read.value {
            Value::Object(fields) => vec![self.point(fields, message.timestamp_ms)?],
            Value::Array(items) => {
                let point = |item: &Value| match item {
                    Value::Object(fields) => self.point(fields, message.timestamp_ms),
                    _ => Err(not_a_point("the payload is an array with something else than objects".to_owned())),
                };
                items.iter().map(point).collect::<Result<_, _>>()?
            }
            _ => return Err(not_a_point("the payload is neither an object nor an array of objects".to_owned())),
        };
        if points.is_empty() {
            return Err(not_a_point("the payload is an empty array".to_owned()));
        }
        Ok(points)
    }

    fn point(&self, fields: &Map<String, Value>, timestamp_ms: u64) -> Result<Point, RecordFault> {
        let metric = match fields.get(&self.metric_field) {
            Some(Value::String(metric)) if !metric.is_empty() => metric.clone(),
            found => return Err(wrong(&self.metric_field, found, "a text that names the metric", "no_metric")),
        };
        let value = match fields.get(&self.value_field) {
            Some(Value::Number(number)) => digits(&number.to_string()),
            Some(Value::String(text)) => digits(text.trim()),
            Some(_) | None => None,
        };
        let value = value.ok_or_else(|| {
            let expects = "a number, or a text of its digits, that fits into 64 bits";
            wrong(&self.value_field, fields.get(&self.value_field), expects, "not_a_number")
        })?;
        let mut tags = Map::new();
        for name in &self.tags_fields {
            let text = match fields.get(name) {
                // A tag without a value is none.
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) if text.is_empty() => continue,
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
                found @ Some(Value::Array(_) | Value::Object(_)) => {
                    return Err(wrong(
                        name,
                        found,
                        "a text, a number or a boolean, because it is a tag",
                        "unwritable_tag",
                    ));
                }
            };
            tags.insert(name.clone(), Value::from(text));
        }
        if tags.is_empty() {
            let (name, value) = DEFAULT_TAG;
            tags.insert(name.to_owned(), Value::from(value));
        }
        let names = json!({"metric": metric, "timestamp": timestamp_ms, "tags": tags}).to_string();
        // The digits as they came: a number of our own would round them.
        let text = format!("{},\"value\":{value}}}", names.strip_suffix('}').unwrap_or(&names));
        Ok(Point { text, metric, value, timestamp_ms, tags })
    }
}

fn wrong(field: &str, found: Option<&Value>, expects: &str, class: &str) -> RecordFault {
    let found = found.map_or_else(|| "is not there".to_owned(), |value| format!("is {value}"));
    RecordFault::offline(class, format!("field {field:?} of the payload {found}; it has to be {expects}"))
}

/// The text, when it is a JSON number that the server can hold: whole numbers in 64 bits, others as floats.
fn digits(text: &str) -> Option<String> {
    let number: serde_json::Number = serde_json::from_str(text).ok()?;
    let whole = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    let fits = if whole { text.parse::<i64>().is_ok() } else { number.as_f64().is_some_and(f64::is_finite) };
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::opened::record;

    fn format() -> PointFormat {
        PointFormat {
            metric_field: "metric".to_owned(),
            value_field: "value".to_owned(),
            tags_fields: vec!["site".to_owned(), "room".to_owned()],
        }
    }

    fn check(payload: &str, expect: &[&str]) {
        let points = format().points(&record(7, payload)).expect(payload);
        let texts: Vec<&str> = points.iter().map(|point| point.text.as_str()).collect();
        assert_eq!(texts, expect, "{payload}");
        for text in texts {
            serde_json::from_str::<Value>(text).expect("is JSON");
        }
    }

    fn refused(payload: &str, class: &str) {
        let fault = format().points(&record(7, payload)).expect_err(payload);
        assert_eq!((&*fault.class, fault.offline), (class, true), "{payload}: {}", fault.message);
    }

    #[test]
    fn objects_and_arrays_of_objects_are_points() {
        check(
            r#"{"metric":"t","value":21.50,"site":"n","room":3,"more":{}}"#,
            &[r#"{"metric":"t","timestamp":1700000000007,"tags":{"site":"n","room":"3"},"value":21.5}"#],
        );
        check(
            r#"[{"metric":"a","value":"9007199254740993","site":true},{"metric":"b","value":"-1e-3","site":null}]"#,
            &[
                r#"{"metric":"a","timestamp":1700000000007,"tags":{"site":"true"},"value":9007199254740993}"#,
                r#"{"metric":"b","timestamp":1700000000007,"tags":{"source":"mqtt"},"value":-1e-3}"#,
            ],
        );
        check(
            r#"{"metric":"t\"x","value":9223372036854775807,"site":""}"#,
            &[r#"{"metric":"t\"x","timestamp":1700000000007,"tags":{"source":"mqtt"},"value":9223372036854775807}"#],
        );
    }

    #[test]
    fn what_is_no_point_is_the_records_own_fault() {
        for payload in ["off", "21.5", "[]", "[1]", "\"x\"", "null", r#"{"metric":"t","metric":"u","value":1}"#] {
            refused(payload, "not_a_point");
        }
        for payload in [r#"{"value":1}"#, r#"{"metric":"","value":1}"#, r#"{"metric":5,"value":1}"#] {
            refused(payload, "no_metric");
        }
        for value in [
            "\"\"",
            "\"hot\"",
            "\"NaN\"",
            "\"Infinity\"",
            "true",
            "null",
            "[1]",
            "9223372036854775808",
            "\"1 2\"",
            "\"1e400\"",
            "\"0x10\"",
            "\"+1\"",
        ] {
            refused(&format!(r#"{{"metric":"t","value":{value}}}"#), "not_a_number");
        }
        refused(r#"{"metric":"t"}"#, "not_a_number");
        refused(r#"[{"metric":"t","value":1},{"metric":"t"}]"#, "not_a_number");
        refused(r#"{"metric":"t","value":1,"site":[1]}"#, "unwritable_tag");
        let mut record = record(7, r#"{"metric":"t","value":1}"#);
        for time in [0, TIMESTAMP_MS_MAX + 1] {
            record.message.timestamp_ms = time;
            assert_eq!(&*format().points(&record).expect_err("no time").class, "time_out_of_range");
        }
    }
}
