//! `GET list`: filter, then sort, then page.

use std::cmp::Ordering;
use std::sync::Arc;

use api_types::{ApiError, Connector, FieldProblem, Reason};
use serde_json::{Value, json};

use super::answer::{Answer, Failure, Outcome};
use super::control::View;
use super::request::{Given, Input};
use super::row::{FIELDS, Row};
use super::words::{shortened, type_name};

const KEYS: [&str; 8] =
    ["connector_name", "limit", "page", "sort_field", "sort_by", "filter_field", "filter_values", "exact_match"];
const LIMIT_DEFAULT: u64 = 20;
const LIMIT_MAX: u64 = 10_000;

/// A checked query.
#[derive(Debug, PartialEq)]
struct Query {
    connector_name: Option<String>,
    limit: usize,
    page: usize,
    sort_field: &'static str,
    descending: bool,
    filter: Option<Filter>,
}

#[derive(Debug, PartialEq)]
struct Filter {
    field: &'static str,
    /// In lower case.
    values: Vec<String>,
    exact: bool,
}

pub fn list(view: &View, input: &Input) -> Outcome {
    let mut warnings = input.unknown_keys(&KEYS, true);
    let query = parse(input, &mut warnings)?;
    let mut found = matching(view, &query);
    sort(view, &mut found, &query);
    let total_count = found.len();
    let skipped = query.limit.saturating_mul(query.page - 1);
    let rows: Vec<Value> = found
        .into_iter()
        .skip(skipped)
        .take(query.limit)
        .map(|connector| Value::Object(Row::new(&view.state, connector).to_json(&view.observed)))
        .collect();
    Ok(Answer::new(json!({ "data": rows, "total_count": total_count })).with_warnings(warnings))
}

fn matching<'a>(view: &'a View, query: &Query) -> Vec<&'a Arc<Connector>> {
    let wanted = |connector: &&Arc<Connector>| {
        let named = query.connector_name.as_deref().is_none_or(|name| connector.spec.name.as_str() == name);
        let row = Row::new(&view.state, connector);
        named && query.filter.as_ref().is_none_or(|filter| filter.accepts(&row))
    };
    // In the order of the names, which is the order of ties.
    view.state.names.values().filter_map(|incarnation| view.state.connectors.get(incarnation)).filter(wanted).collect()
}

impl Filter {
    fn accepts(&self, row: &Row<'_>) -> bool {
        let text = text_of(&row.field(self.field).unwrap_or_default()).to_lowercase();
        self.values.iter().any(|value| if self.exact { text == *value } else { text.contains(value) })
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Number(u64),
    Text(String),
}

fn sort(view: &View, found: &mut [&Arc<Connector>], query: &Query) {
    if query.sort_field == "connector_name" && !query.descending {
        return;
    }
    // The sort is stable and the input is in the order of names: ties stay so in both directions.
    let key = |connector: &&Arc<Connector>| {
        let value = Row::new(&view.state, connector).field(query.sort_field).unwrap_or_default();
        let number = value.as_u64().or_else(|| {
            (query.sort_field == "broker_id").then(|| value.as_str().and_then(|text| text.parse().ok())).flatten()
        });
        number.map_or_else(|| SortKey::Text(text_of(&value)), SortKey::Number)
    };
    let mut keyed: Vec<(SortKey, &Arc<Connector>)> =
        found.iter().map(|connector| (key(connector), *connector)).collect();
    let direction = |order: Ordering| if query.descending { order.reverse() } else { order };
    keyed.sort_by(|(a, _), (b, _)| direction(a.cmp(b)));
    for (place, (_, connector)) in found.iter_mut().zip(keyed) {
        *place = connector;
    }
}

/// Values of one query, with everything that is wrong with them.
struct Reader<'a> {
    input: &'a Input,
    problems: Vec<FieldProblem>,
}

fn parse(input: &Input, warnings: &mut Vec<String>) -> Result<Query, Failure> {
    let mut reader = Reader { input, problems: Vec::new() };
    let limit = reader.number("limit", LIMIT_MAX).unwrap_or(LIMIT_DEFAULT);
    let page = reader.number("page", u64::from(u32::MAX)).unwrap_or(1);
    let sort_field = reader.word("sort_field", &FIELDS).unwrap_or("connector_name");
    let descending = reader.word("sort_by", &["asc", "desc"]) == Some("desc");
    let field = reader.word("filter_field", &FIELDS);
    let values = reader.list("filter_values");
    let exact = reader.word("exact_match", &["true", "false"]) == Some("true");
    let connector_name = reader.text("connector_name");
    if !reader.problems.is_empty() {
        let joined = ApiError::invalid_fields(reader.problems);
        return Err(Failure(ApiError { reason: Reason::InvalidQuery, ..joined }));
    }
    let given = values.as_ref().is_some_and(|values| !values.is_empty());
    let filter = match (field, values) {
        (Some(field), Some(values)) if given => {
            Some(Filter { field, values: values.iter().map(|value| value.to_lowercase()).collect(), exact })
        }
        (Some(_), _) => {
            warnings.push("filter_field has no effect without filter_values".to_owned());
            None
        }
        (None, Some(_)) => {
            warnings.push("filter_values has no effect without filter_field".to_owned());
            None
        }
        (None, None) => None,
    };
    Ok(Query { connector_name, limit: limit as usize, page: page as usize, sort_field, descending, filter })
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        self.problems.push(FieldProblem::new(key, text));
    }

    /// One value as text; numbers and booleans of a body are texts of the same look.
    fn text(&mut self, key: &str) -> Option<String> {
        match self.input.get(key)? {
            Given::Text(values) => match values.as_slice() {
                [value] => Some(value.clone()),
                _ => {
                    self.problem(key, "must be given once");
                    None
                }
            },
            Given::Json(Value::String(text)) => Some(text),
            Given::Json(value @ (Value::Number(_) | Value::Bool(_))) => Some(value.to_string()),
            Given::Json(value) => {
                self.problem(key, format!("must be a string, not {}", type_name(&value)));
                None
            }
        }
    }

    fn number(&mut self, key: &str, max: u64) -> Option<u64> {
        let text = self.text(key)?;
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        if number.is_none() {
            self.problem(key, format!("must be a whole number from 1 to {max}, not {}", shortened(&text)));
        }
        number
    }

    fn word(&mut self, key: &str, allowed: &[&'static str]) -> Option<&'static str> {
        let text = self.text(key)?;
        let found = allowed.iter().find(|word| **word == text).copied();
        if found.is_none() {
            self.problem(key, format!("must be one of {}, not {}", allowed.join(", "), shortened(&text)));
        }
        found
    }

    /// Repeated keys, one comma list, or a JSON array.
    fn list(&mut self, key: &str) -> Option<Vec<String>> {
        let value = match self.input.get(key)? {
            Given::Text(values) if values.len() > 1 => return Some(values),
            Given::Text(values) => Value::String(values.into_iter().next().unwrap_or_default()),
            Given::Json(value) => value,
        };
        let items = match value {
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(Value::Array(items)) => items,
                Err(error) if text.trim_start().starts_with('[') => {
                    self.problem(key, format!("begins as a JSON array, but is none: {error}"));
                    return None;
                }
                Ok(_) | Err(_) => return Some(comma_list(&text)),
            },
            Value::Array(items) => items,
            Value::Number(_) | Value::Bool(_) => vec![value],
            Value::Null | Value::Object(_) => {
                self.problem(key, format!("must be an array of strings, not {}", type_name(&value)));
                return None;
            }
        };
        if let Some(bad) = items.iter().find(|item| item.is_array() || item.is_object()) {
            self.problem(key, format!("must be an array of strings, but one item is {}", type_name(bad)));
            return None;
        }
        Some(items.iter().filter(|item| !item.is_null()).map(text_of).collect())
    }
}

fn comma_list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
