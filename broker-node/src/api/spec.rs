//! From the body of `create` to a specification: everything that is wrong with it at once, and what deserves a warning.
//! Pure: opens no connection and asks no node.

use std::collections::BTreeMap;

use api_types::connector::{ConnectorSpec, Delivery, Desired, Placement, QueueOptions, WhenFull};
use api_types::failure::FailurePolicy;
use api_types::topic::TopicFilter;
use api_types::{ApiError, ConnectorName, FieldProblem};
use connector_runtime::config::{ParseSentError, parse_sent, validate};
use connector_runtime::registry::{self, KindEntry};
use connector_runtime::secrets::SecretFences;
use serde_json::{Map, Value};

use super::failure_strategy;
use super::fields::Fields;
use super::request::TWICE;
use super::words::{shortened, type_name};
use crate::config::{parse_duration, parse_size};

pub const KEYS: [&str; 10] = [
    "connector_name",
    "connector_type",
    "config",
    "topic_name",
    "failure_strategy",
    "queue",
    "placement",
    "desired",
    "labels",
    "description",
];

pub const NAME_LENGTH_MAX: usize = 128;
const TYPE_LENGTH_MAX: usize = 50;
const CONFIG_TEXT_LENGTH_MAX: usize = 4096;
const CONFIG_OBJECT_BYTES_MAX: usize = 65_536;
const TOPIC_LENGTH_MAX: usize = 256;
const LABELS_MAX: usize = 16;
const LABEL_NAME_LENGTH_MAX: usize = 63;
const LABEL_VALUE_LENGTH_MAX: usize = 256;
const DESCRIPTION_LENGTH_MAX: usize = 1024;
const PLACEMENT_ITEMS_MAX: usize = 256;

/// A specification without problems.
#[derive(Clone, Debug)]
pub struct ParsedSpec {
    pub spec: ConnectorSpec,
    pub warnings: Vec<String>,
}

/// What the kind made of the configuration.
struct ParsedConfig {
    kind: String,
    sent: String,
    effective: String,
    delivery: Delivery,
}

pub fn parse(body: &Map<String, Value>, fences: &SecretFences) -> Result<ParsedSpec, ApiError> {
    let mut problems = Vec::new();
    let mut warnings = Vec::new();
    let name = connector_name(body, &mut problems);
    let config = kind_and_config(body, fences, &mut problems, &mut warnings);
    let mut fields = Fields::new("", body, &KEYS, &mut problems);
    let filter = topic_filter(&mut fields);
    let labels = labels(&mut fields);
    let description = description(&mut fields);
    let desired =
        fields.word("desired", &[("running", Desired::Running), ("stopped", Desired::Stopped)]).unwrap_or_default();
    let failure = match fields.object("failure_strategy") {
        Some(map) => failure_strategy::parse(map, &mut problems, &mut warnings),
        None => FailurePolicy::default(),
    };
    let queue = queue(body, &mut problems);
    let placement = placement(body, &mut problems);
    match (name, config, filter) {
        (Some(name), Some(config), Some(filter)) if problems.is_empty() => {
            let ParsedConfig { kind, sent, effective, delivery } = config;
            let spec = ConnectorSpec {
                name,
                kind,
                config_sent: sent,
                config_effective: effective,
                filter,
                failure,
                queue,
                placement,
                desired,
                labels,
                description,
                delivery,
            };
            Ok(ParsedSpec { spec, warnings })
        }
        (_, _, _) => Err(ApiError::invalid_fields(problems)),
    }
}

fn connector_name(body: &Map<String, Value>, problems: &mut Vec<FieldProblem>) -> Option<ConnectorName> {
    // Unknown keys are found once, by the caller's `Fields`.
    let mut fields = Fields::trusting("", body, problems);
    let text = fields.required_text("connector_name", NAME_LENGTH_MAX)?;
    match name_problem(text) {
        None => Some(ConnectorName::from(text)),
        Some(problem) => {
            fields.problem("connector_name", problem);
            None
        }
    }
}

/// The rules of names, for those who look a connector up, too.
pub fn name_problem(text: &str) -> Option<String> {
    let length = text.chars().count();
    if length == 0 || length > NAME_LENGTH_MAX {
        return Some(format!("must have 1 to {NAME_LENGTH_MAX} characters, not {length}"));
    }
    if text.chars().any(char::is_control) {
        return Some("must not contain control characters".to_owned());
    }
    (text.trim() != text).then(|| "must not begin or end with white space".to_owned())
}

fn kind_and_config(
    body: &Map<String, Value>,
    fences: &SecretFences,
    problems: &mut Vec<FieldProblem>,
    warnings: &mut Vec<String>,
) -> Option<ParsedConfig> {
    let mut fields = Fields::trusting("", body, problems);
    let entry = kind(&mut fields);
    let config = config_map(&mut fields);
    let (entry, config) = (entry?, config?);
    match validate(entry, &config, fences) {
        Ok(valid) => {
            warnings.extend(valid.warnings);
            let effective = Value::Object(valid.effective).to_string();
            Some(ParsedConfig { kind: entry.name.to_owned(), sent: valid.sent, effective, delivery: valid.delivery })
        }
        Err(found) => {
            problems.extend(found);
            None
        }
    }
}

fn kind(fields: &mut Fields<'_, '_>) -> Option<&'static KindEntry> {
    let text = fields.required_text("connector_type", TYPE_LENGTH_MAX)?;
    match registry::kind(text) {
        Ok(entry) => Some(entry),
        Err(unknown) => {
            fields.problem("connector_type", unknown.to_string());
            None
        }
    }
}

/// A JSON string as in the seed, or an object.
fn config_map(fields: &mut Fields<'_, '_>) -> Option<Map<String, Value>> {
    match fields.value("config") {
        None => {
            let text = format!("is required: a JSON string of 1 to {CONFIG_TEXT_LENGTH_MAX} characters, or an object");
            fields.problem("config", text);
            None
        }
        Some(Value::String(text)) => {
            let text = fields.in_length("config", text, CONFIG_TEXT_LENGTH_MAX)?;
            match parse_sent(text) {
                Ok(map) => Some(map),
                Err(ParseSentError::Twice(keys)) => {
                    keys.iter().for_each(|key| fields.problem(&format!("config.{key}"), TWICE));
                    None
                }
                Err(error @ (ParseSentError::NotJson(_) | ParseSentError::NotAnObject(_))) => {
                    fields.problem("config", error.to_string());
                    None
                }
            }
        }
        Some(value @ Value::Object(map)) => {
            let length = value.to_string().len();
            if length > CONFIG_OBJECT_BYTES_MAX {
                let text = format!("must have at most {CONFIG_OBJECT_BYTES_MAX} bytes, not {length}");
                fields.problem("config", text);
                return None;
            }
            Some(map.clone())
        }
        Some(value) => {
            fields.problem("config", format!("must be a JSON string or an object, not {}", type_name(value)));
            None
        }
    }
}

fn topic_filter(fields: &mut Fields<'_, '_>) -> Option<TopicFilter> {
    let text = fields.required_text("topic_name", TOPIC_LENGTH_MAX)?;
    match TopicFilter::parse(text) {
        Ok(filter) => Some(filter),
        Err(error) => {
            fields.problem("topic_name", error.to_string());
            None
        }
    }
}

fn labels(fields: &mut Fields<'_, '_>) -> BTreeMap<String, String> {
    let Some(map) = fields.object("labels") else { return BTreeMap::new() };
    let given: Vec<(&String, &Value)> = map.iter().filter(|(_, value)| !value.is_null()).collect();
    if given.len() > LABELS_MAX {
        fields.problem("labels", format!("must have at most {LABELS_MAX} entries, not {}", given.len()));
        return BTreeMap::new();
    }
    let mut labels = BTreeMap::new();
    for (name, value) in given {
        let path = format!("labels.{}", shortened(name));
        if name.is_empty() || name.chars().count() > LABEL_NAME_LENGTH_MAX || name.chars().any(char::is_control) {
            let text =
                format!("the name of a label must have 1 to {LABEL_NAME_LENGTH_MAX} characters, no control ones");
            fields.problem(&path, text);
        }
        match value.as_str() {
            Some(text) if text.chars().count() <= LABEL_VALUE_LENGTH_MAX => {
                labels.insert(name.clone(), text.to_owned());
            }
            Some(_) => fields.problem(&path, format!("must have at most {LABEL_VALUE_LENGTH_MAX} characters")),
            None => fields.problem(&path, format!("must be a string, not {}", type_name(value))),
        }
    }
    labels
}

fn description(fields: &mut Fields<'_, '_>) -> String {
    let text = fields.text("description").unwrap_or_default();
    let length = text.chars().count();
    if length > DESCRIPTION_LENGTH_MAX {
        let text = format!("must have at most {DESCRIPTION_LENGTH_MAX} characters, not {length}");
        fields.problem("description", text);
    }
    text.to_owned()
}

fn queue(body: &Map<String, Value>, problems: &mut Vec<FieldProblem>) -> QueueOptions {
    let Some(map) = Fields::trusting("", body, problems).object("queue") else { return QueueOptions::default() };
    let mut fields = Fields::new("queue", map, &["bytes_max", "age_max", "when_full"], problems);
    let when_full = [("block", WhenFull::Block), ("drop_oldest", WhenFull::DropOldest)];
    QueueOptions {
        bytes_max: bytes_max(&mut fields),
        age_max_ms: age_max_ms(&mut fields),
        when_full: fields.word("when_full", &when_full),
    }
}

fn bytes_max(fields: &mut Fields<'_, '_>) -> Option<u64> {
    let value = fields.value("bytes_max")?;
    let bytes = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => parse_size(text).map(|size| size.0),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let bytes = bytes.filter(|bytes| (1..=i64::MAX as u64).contains(bytes));
    if bytes.is_none() {
        fields.problem("bytes_max", "must be a number of bytes > 0, or a size with a unit such as \"64MiB\"");
    }
    bytes
}

fn age_max_ms(fields: &mut Fields<'_, '_>) -> Option<u64> {
    let text = fields.text("age_max")?;
    let millis = parse_duration(text).and_then(|age| u64::try_from(age.as_millis()).ok()).filter(|millis| *millis > 0);
    if millis.is_none() {
        fields.problem("age_max", "must be a duration with a unit (ms, s, m, h, d, w), such as \"24h\"");
    }
    millis
}

fn placement(body: &Map<String, Value>, problems: &mut Vec<FieldProblem>) -> Placement {
    let Some(map) = Fields::trusting("", body, problems).object("placement") else { return Placement::default() };
    let mut fields = Fields::new("placement", map, &["nodes", "zones"], problems);
    Placement {
        nodes: fields.texts("nodes", PLACEMENT_ITEMS_MAX, NAME_LENGTH_MAX),
        zones: fields.texts("zones", PLACEMENT_ITEMS_MAX, NAME_LENGTH_MAX),
    }
}
