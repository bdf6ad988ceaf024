//! A configuration as sent, judged as a whole.

use std::fmt;

use api_types::FieldProblem;
use api_types::connector::Delivery;
use serde_json::{Map, Value};

use super::check::{suggestion, value_problems};
use super::field::{Field, Presence, plain};
use super::rules::{Checked, Report};
use crate::registry::KindEntry;
use crate::secrets::SecretFences;

/// A configuration without problems. It holds what the user sent, secrets and all.
#[derive(Clone, PartialEq)]
pub struct ValidConfig {
    /// JSON text with the keys in the order they were sent.
    pub sent: String,
    /// With the defaults filled in and without nulls, in the order of the tables.
    pub effective: Map<String, Value>,
    pub delivery: Delivery,
    /// What the user gave up, and what has no effect.
    pub warnings: Vec<String>,
}

impl fmt::Debug for ValidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidConfig")
            .field("keys", &self.effective.keys().collect::<Vec<_>>())
            .field("delivery", &self.delivery)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// Finds every problem at once. Pure: opens nothing and reads no reference.
pub fn validate(
    entry: &KindEntry,
    config: &Map<String, Value>,
    fences: &SecretFences,
) -> Result<ValidConfig, Vec<FieldProblem>> {
    let sent = without_nulls(config);
    let mut report = Report::default();
    unknown_keys(entry, &sent, &mut report);
    let mut effective = Map::new();
    for field in entry.schema.fields() {
        check_field(field, &sent, &mut effective, fences, &mut report);
    }
    fill_computed(entry, &sent, &mut effective);
    let checked = Checked { effective: &effective, sent: &sent };
    for field in entry.schema.fields() {
        check_conditions(field, &checked, &mut report);
    }
    for rule in entry.schema.rules() {
        rule.apply(&checked, &mut report);
    }
    if !report.problems.is_empty() {
        return Err(report.problems);
    }
    debug_assert_eq!((entry.schema.fits_type)(&effective), Ok(()), "the table and the struct of {} differ", entry.name);
    let mut delivery = Delivery::AtLeastOnce;
    if let Some(gives_up) = entry.schema.gives_up.filter(|gives_up| gives_up.applies(&effective)) {
        delivery = Delivery::AtMostOnce;
        report.warning(gives_up.warning());
    }
    let sent = Value::Object(config.clone()).to_string();
    Ok(ValidConfig { sent, effective, delivery, warnings: report.warnings })
}

/// Defaults for what is absent: at create, and again before a task opens its sink, because the cluster may have stored
/// the configuration with an older version.
pub(super) fn fill_defaults(entry: &KindEntry, effective: &mut Map<String, Value>) {
    for field in entry.schema.fields() {
        if let Presence::Default(literal) = field.spec.presence
            && !effective.contains_key(field.name)
        {
            effective.insert(field.name.to_owned(), literal.to_value());
        }
    }
    fill_computed(entry, &Map::new(), effective);
}

/// `null` means absent, at every level.
fn without_nulls(config: &Map<String, Value>) -> Map<String, Value> {
    let kept = config.iter().filter(|(_, value)| !value.is_null());
    kept.map(|(name, value)| (name.clone(), strip(value))).collect()
}

fn strip(value: &Value) -> Value {
    match value {
        Value::Object(entries) => Value::Object(without_nulls(entries)),
        Value::Array(items) => Value::Array(items.iter().filter(|item| !item.is_null()).map(strip).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn unknown_keys(entry: &KindEntry, sent: &Map<String, Value>, report: &mut Report) {
    let known: Vec<&str> = entry.schema.fields().map(|field| field.name).collect();
    for key in sent.keys().filter(|key| !known.contains(&key.as_str())) {
        let near = suggestion(key, &known);
        report.problem(key, format!("is not a key of {}{near}; known keys: {}", entry.name, known.join(", ")));
    }
}

fn check_field(
    field: &Field,
    sent: &Map<String, Value>,
    effective: &mut Map<String, Value>,
    fences: &SecretFences,
    report: &mut Report,
) {
    if let Some(value) = sent.get(field.name) {
        let problems = value_problems(field, value, fences);
        if problems.is_empty() {
            effective.insert(field.name.to_owned(), value.clone());
        }
        for problem in problems {
            report.problem(&format!("{}{}", field.name, problem.below), problem.says);
        }
        return;
    }
    match field.spec.presence {
        Presence::Required => {
            report.problem(field.name, format!("is required: {}", field.spec.shape.says()));
        }
        Presence::Default(literal) => {
            effective.insert(field.name.to_owned(), literal.to_value());
        }
        Presence::RequiredWhen(_) | Presence::Optional | Presence::Computed { .. } => {}
    }
}

fn fill_computed(entry: &KindEntry, sent: &Map<String, Value>, effective: &mut Map<String, Value>) {
    for field in entry.schema.fields() {
        if let Presence::Computed { value, .. } = field.spec.presence
            && !sent.contains_key(field.name)
            && !effective.contains_key(field.name)
        {
            let value = value(effective);
            effective.insert(field.name.to_owned(), value);
        }
    }
}

fn check_conditions(field: &Field, checked: &Checked<'_>, report: &mut Report) {
    if let Presence::RequiredWhen(condition) = field.spec.presence
        && condition.holds(checked.effective)
        && !checked.was_sent(field.name)
    {
        let says = format!("is required when {}: {}", condition.says().replace('`', ""), field.spec.shape.says());
        report.problem(field.name, says);
    }
    if let Some(condition) = field.spec.used_when
        && checked.was_sent(field.name)
        && let Some(value) = checked.value(condition.field)
        && !condition.holds(checked.effective)
    {
        report.warning(format!("config.{} has no effect while {} is {}", field.name, condition.field, plain(value)));
    }
}
