//! The JSON Schema of a kind's configuration as a table.

use serde_json::Value;

use super::table::{cell, table};

/// Text as long as this is as good as without a bound.
const LENGTH_TOLD_MAX: u64 = 1024;

pub fn fields_text(schema: &Value) -> String {
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    let fields = schema["properties"].as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = fields
        .map(|(name, field)| {
            let needed = if required.iter().any(|each| each == name.as_str()) { "yes" } else { "" };
            let about = cell(&field["description"]);
            vec![name.clone(), needed.to_owned(), allowed(field), cell(&field["default"]), about]
        })
        .collect();
    table(&["FIELD", "REQUIRED", "VALUE", "DEFAULT", "ABOUT"], &rows)
}

/// What may be written. That a field may be left out stands in another column, so `null` is not told.
fn allowed(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let words: Vec<String> = values.iter().filter(|value| !value.is_null()).map(cell).collect();
        return words.join("|");
    }
    if let Some(forms) = field["anyOf"].as_array() {
        let forms: Vec<String> = forms.iter().map(allowed).collect();
        return forms.join(" or ");
    }
    let text = match type_of(field) {
        "boolean" => "true|false".to_owned(),
        "integer" => bounds("", &field["minimum"], &field["maximum"], u64::MAX).unwrap_or_else(|| "integer".to_owned()),
        "string" => {
            told("text", bounds("of ", &field["minLength"], &field["maxLength"], LENGTH_TOLD_MAX), " characters")
        }
        "array" => told("list", bounds("of ", &field["minItems"], &field["maxItems"], LENGTH_TOLD_MAX), " texts"),
        "object" => told("map", bounds("of ", &Value::Null, &field["maxProperties"], LENGTH_TOLD_MAX), " texts"),
        _ => cell(&field["type"]),
    };
    if field["writeOnly"] == true { format!("secret {text}") } else { text }
}

/// The type beside `null`.
fn type_of(field: &Value) -> &str {
    match &field["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or_default(),
        other => other.as_str().unwrap_or_default(),
    }
}

/// `1–500`, `up to 64`, or nothing when no bound is worth a word.
fn bounds(before: &str, min: &Value, max: &Value, told_max: u64) -> Option<String> {
    let max = max.as_u64().filter(|max| *max <= told_max)?;
    match min.as_u64() {
        Some(min) if min == max => Some(format!("{before}{max}")),
        Some(min) => Some(format!("{before}{min}–{max}")),
        None => Some(format!("{before}up to {max}")),
    }
}

fn told(name: &str, bounds: Option<String>, of: &str) -> String {
    bounds.map_or_else(|| name.to_owned(), |bounds| format!("{name} {bounds}{of}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_told_with_their_range_or_their_choices() {
        for (field, expect) in [
            (json!({"type": ["integer", "null"], "minimum": 1, "maximum": 500}), "1–500"),
            (json!({"type": ["boolean", "null"]}), "true|false"),
            (json!({"enum": ["none", "lz4", null]}), "none|lz4"),
            (json!({"type": "string", "minLength": 1, "maxLength": 256}), "text of 1–256 characters"),
            (json!({"type": "string", "minLength": 1, "maxLength": 65536}), "text"),
            (
                json!({"type": ["string", "null"], "maxLength": 512, "writeOnly": true}),
                "secret text of up to 512 characters",
            ),
            (json!({"type": ["array", "null"], "minItems": 1, "maxItems": 16}), "list of 1–16 texts"),
            (json!({"type": ["object", "null"], "maxProperties": 64}), "map of up to 64 texts"),
            (
                json!({"anyOf": [{"type": ["string", "null"]}, {"type": "array", "maxItems": 4}]}),
                "text or list of up to 4 texts",
            ),
        ] {
            assert_eq!(allowed(&field), expect, "{field}");
        }
    }

    #[test]
    fn every_field_of_every_kind_is_told() {
        for entry in connector_runtime::registry::KINDS {
            let schema = connector_runtime::config::json_schema(entry);
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let text = allowed(field);
                assert!(!text.is_empty() && text != "-" && !text.contains("null"), "{}.{name}: {text}", entry.name);
            }
        }
    }
}
