//! JSON Schema (draft 2020-12) of a kind's configuration.

use serde_json::{Map, Value, json};

use super::field::{Condition, Field, Presence, Shape};
use super::format::TextFormat;
use super::rules::Rule;
use crate::registry::KindEntry;

pub const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Accepts what `validate` accepts, and more: comparisons between fields and the inner form of some texts cannot be
/// said in JSON Schema. They stand in `description`.
pub fn json_schema(entry: &KindEntry) -> Value {
    let schema = entry.schema;
    let properties: Map<String, Value> =
        schema.fields().map(|field| (field.name.to_owned(), property(field))).collect();
    let required: Vec<&str> = schema
        .fields()
        .filter(|field| matches!(field.spec.presence, Presence::Required))
        .map(|field| field.name)
        .collect();
    let mut conditions: Vec<Value> = Vec::new();
    for field in schema.fields() {
        if let Presence::RequiredWhen(condition) = field.spec.presence {
            conditions.push(json!({ "if": holds(entry, &condition), "then": present(&[field.name]) }));
        }
    }
    conditions.extend(schema.rules().filter_map(rule));
    let mut root = json!({
        "$schema": DIALECT,
        "title": format!("{} connector", entry.title),
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    let says: Vec<String> = schema.rules().map(|rule| rule.says().replace('`', "")).collect();
    if !says.is_empty() {
        root["description"] = Value::from(format!("Rules between fields: {}.", says.join("; ")));
    }
    if !conditions.is_empty() {
        root["allOf"] = Value::Array(conditions);
    }
    root
}

fn property(field: &Field) -> Value {
    let mut schema = shape(field);
    let description = field.doc.split_whitespace().collect::<Vec<_>>().join(" ");
    schema.insert("description".to_owned(), Value::from(description));
    match field.spec.presence {
        Presence::Default(literal) => {
            schema.insert("default".to_owned(), literal.to_value());
        }
        Presence::Required | Presence::RequiredWhen(_) | Presence::Optional | Presence::Computed { .. } => {}
    }
    if field.spec.secret {
        schema.insert("writeOnly".to_owned(), Value::Bool(true));
    }
    if let Some(kind) = field.spec.template {
        schema.insert("x-template".to_owned(), Value::from(kind.says()));
    }
    if field.spec.takes_reference() {
        schema.insert("x-reference".to_owned(), Value::Bool(true));
    }
    Value::Object(schema)
}

/// `null` means absent, so every field but the required ones may be null.
fn shape(field: &Field) -> Map<String, Value> {
    let nullable = !matches!(field.spec.presence, Presence::Required);
    let types = |name: &str| if nullable { json!([name, "null"]) } else { json!(name) };
    let schema = match field.spec.shape {
        Shape::Boolean => json!({ "type": types("boolean") }),
        Shape::Integer { min, max } => json!({ "type": types("integer"), "minimum": min, "maximum": max }),
        Shape::Choice(values) => {
            let mut allowed: Vec<Value> = values.iter().map(|value| Value::from(*value)).collect();
            if nullable {
                allowed.push(Value::Null);
            }
            json!({ "enum": allowed })
        }
        Shape::Text { chars_min, chars_max, format } => {
            let mut schema = json!({ "type": types("string"), "minLength": chars_min, "maxLength": chars_max });
            if let Some(pattern) = pattern(format) {
                schema["pattern"] = Value::from(pattern);
            }
            schema
        }
        Shape::TextList { items_min, items_max, .. } => {
            let items = json!({ "type": ["string", "null"], "minLength": 1 });
            json!({ "type": types("array"), "items": items, "minItems": items_min, "maxItems": items_max })
        }
        Shape::Columns { items_max } => {
            let items = json!({ "type": ["string", "null"], "minLength": 1 });
            let array = json!({ "type": "array", "items": items, "minItems": 1, "maxItems": items_max });
            json!({ "anyOf": [{ "type": types("string"), "minLength": 1 }, array] })
        }
        Shape::TextMap { entries_max, .. } => {
            json!({ "type": types("object"), "additionalProperties": { "type": ["string", "null"] }, "maxProperties": entries_max })
        }
    };
    match schema {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// Only where the form can be said without doubt, and never for a text that may be a reference as a whole.
fn pattern(format: TextFormat) -> Option<&'static str> {
    match format {
        TextFormat::FilePath => Some("^(/|\\$\\{)"),
        TextFormat::Alphanumeric => Some("^([A-Za-z0-9]+|\\$\\{.+)$"),
        TextFormat::Any
        | TextFormat::Line
        | TextFormat::Host
        | TextFormat::Address
        | TextFormat::Addresses
        | TextFormat::Hosts
        | TextFormat::HostMaybePort
        | TextFormat::AddressOrHttpUrl
        | TextFormat::Url(_)
        | TextFormat::Pem
        | TextFormat::HeaderValue
        | TextFormat::OAuth => None,
    }
}

/// True for a document whose effective value of the condition's field is one of its values.
fn holds(entry: &KindEntry, condition: &Condition) -> Value {
    let wanted: Vec<Value> = condition.is.iter().map(|literal| literal.to_value()).collect();
    let default = entry.schema.field(condition.field).and_then(|field| match field.spec.presence {
        Presence::Default(literal) => Some(literal.to_value()),
        Presence::Required | Presence::RequiredWhen(_) | Presence::Optional | Presence::Computed { .. } => None,
    });
    let mut allowed = wanted.clone();
    let by_default = default.is_some_and(|default| wanted.contains(&default));
    if by_default {
        allowed.push(Value::Null);
    }
    let mut schema = json!({ "properties": { condition.field: { "enum": allowed } } });
    if !by_default {
        schema["required"] = json!([condition.field]);
    }
    schema
}

/// The fields are there and not null.
fn present(fields: &[&str]) -> Value {
    let not_null: Map<String, Value> =
        fields.iter().map(|field| ((*field).to_owned(), json!({ "not": { "type": "null" } }))).collect();
    json!({ "required": fields, "properties": not_null })
}

fn rule(rule: &Rule) -> Option<Value> {
    match rule {
        Rule::Together(fields) => {
            let any: Vec<Value> = fields.iter().map(|field| present(&[field])).collect();
            Some(json!({ "if": { "anyOf": any }, "then": present(fields) }))
        }
        Rule::OnlyOneOf(fields) => {
            let mut pairs = Vec::new();
            for (index, first) in fields.iter().enumerate() {
                for second in &fields[index + 1..] {
                    pairs.push(present(&[first, second]));
                }
            }
            Some(json!({ "not": { "anyOf": pairs } }))
        }
        Rule::NotAbove { .. } | Rule::Below { .. } | Rule::Check { .. } => None,
    }
}
