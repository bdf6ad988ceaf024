//! The JSON Schemas against the validation: whatever is valid fits the schema, and the schema refuses what it can say.

use connector_runtime::config::field::{Field, Presence, Shape};
use connector_runtime::config::{json_schema, validate};
use connector_runtime::registry::{KINDS, KindEntry};
use connector_runtime::secrets::SecretFences;
use jsonschema::Validator;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

fn schema(entry: &KindEntry) -> Validator {
    let schema = json_schema(entry);
    jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("{}: {error}", entry.name));
    jsonschema::draft202012::new(&schema).unwrap_or_else(|error| panic!("{}: {error}", entry.name))
}

fn is_valid(entry: &KindEntry, config: &Map<String, Value>) -> bool {
    validate(entry, config, &SecretFences::default()).is_ok()
}

/// Values worth trying for a field: what fits, its ends, and what does not.
fn candidates(field: &Field) -> Vec<Value> {
    let mut values = vec![json!(null), json!("text"), json!(7), json!(true), json!([]), json!({})];
    match field.spec.shape {
        Shape::Boolean => values.push(json!(false)),
        Shape::Integer { min, max } => {
            let (min, max) = (i64::try_from(min).expect("small"), i64::try_from(max).expect("small"));
            values.extend([json!(min - 1), json!(min), json!(max), json!(max + 1), json!(1.5)]);
        }
        Shape::Choice(choices) => values.extend(choices.iter().map(|choice| json!(choice))),
        Shape::Text { chars_min, chars_max, .. } => {
            let lengths = [chars_min.saturating_sub(1), chars_min, chars_max, chars_max + 1];
            values.extend(lengths.map(|length| json!("a".repeat(length))));
            let forms =
                ["http://a:1", "pulsar://a", "mqtt://a", "a:1", "host", "/tmp/a", "SET a {payload}", "${topic}"];
            values.extend(forms.map(|form| json!(form)));
            values.extend(["${env:SLUICE_SECRET_A}", "-----BEGIN A-----\n-----END A-----"].map(|form| json!(form)));
        }
        Shape::TextList { .. } | Shape::Columns { .. } => {
            values.extend([json!("a,b"), json!(["a"]), json!(["a", "b"]), json!([""]), json!([1]), json!("")]);
        }
        Shape::TextMap { .. } => values.extend([json!({"X-A": "b"}), json!({"X-A": null}), json!({"X-A": 1})]),
    }
    values
}

/// The kind with what it requires, and a few fields set to any of their candidates.
fn configurations() -> impl Strategy<Value = (&'static KindEntry, Map<String, Value>)> {
    select(KINDS).prop_flat_map(|entry| {
        let fields: Vec<&'static Field> = entry.schema.fields().collect();
        let one = select(fields).prop_flat_map(|field| select(candidates(field)).prop_map(|value| (field.name, value)));
        prop::collection::vec(one, 0..5).prop_map(move |changes| {
            let mut config = required(KINDS.iter().find(|known| known.name == entry.name).expect("known"));
            for (name, value) in changes {
                config.insert(name.to_owned(), value);
            }
            (KINDS.iter().find(|known| known.name == entry.name).expect("known"), config)
        })
    })
}

/// A value that fits, for every field that is always required.
fn required(entry: &KindEntry) -> Map<String, Value> {
    let mut config = Map::new();
    for field in entry.schema.fields().filter(|field| matches!(field.spec.presence, Presence::Required)) {
        let fits = |value: &Value| {
            let one = Map::from_iter([(field.name.to_owned(), value.clone())]);
            let path = format!("config.{}", field.name);
            let problems = validate(entry, &one, &SecretFences::default()).err().unwrap_or_default();
            !value.is_null() && problems.iter().all(|problem| !problem.field.starts_with(&path))
        };
        let value = candidates(field).into_iter().find(fits).unwrap_or_else(|| panic!("{}.{}", entry.name, field.name));
        config.insert(field.name.to_owned(), value);
    }
    for (name, more) in [("influxdb", json!({"token": "t", "org": "o", "bucket": "b"}))] {
        if let (true, Value::Object(more)) = (entry.name == name, more) {
            config.extend(more);
        }
    }
    config
}

#[test]
fn what_is_required_is_enough_for_both() {
    for entry in KINDS {
        let config = required(entry);
        assert!(is_valid(entry, &config), "{}: {config:?}", entry.name);
        assert!(schema(entry).is_valid(&Value::Object(config)), "{}", entry.name);
    }
}

#[test]
fn the_schema_refuses_what_one_field_alone_gets_wrong() {
    for entry in KINDS {
        let validator = schema(entry);
        let refuses = |name: &str, value: Option<Value>| {
            let mut config = required(entry);
            config.shift_remove(name);
            config.extend(value.clone().map(|value| (name.to_owned(), value)));
            assert!(!is_valid(entry, &config), "validation takes {}.{name} {value:?}", entry.name);
            assert!(!validator.is_valid(&Value::Object(config)), "the schema takes {}.{name} {value:?}", entry.name);
        };
        refuses("nonsense", Some(json!(1)));
        for field in entry.schema.fields() {
            match field.spec.shape {
                Shape::Integer { min, max } => {
                    refuses(field.name, Some(json!(i64::try_from(min).expect("small") - 1)));
                    refuses(field.name, Some(json!(max + 1)));
                    refuses(field.name, Some(json!("1")));
                }
                Shape::Choice(_) => refuses(field.name, Some(json!("nonsense"))),
                Shape::Text { chars_max, .. } => {
                    refuses(field.name, Some(json!("a".repeat(chars_max + 1))));
                    refuses(field.name, Some(json!(1)));
                }
                Shape::Boolean => refuses(field.name, Some(json!("true"))),
                Shape::TextList { .. } | Shape::Columns { .. } => refuses(field.name, Some(json!([1]))),
                Shape::TextMap { .. } => refuses(field.name, Some(json!({"X-A": 1}))),
            }
            if matches!(field.spec.presence, Presence::Required) {
                refuses(field.name, None);
                refuses(field.name, Some(Value::Null));
            }
        }
    }
}

#[test]
fn the_schema_knows_what_modes_require() {
    for entry in KINDS {
        let validator = schema(entry);
        for field in entry.schema.fields() {
            let Presence::RequiredWhen(condition) = field.spec.presence else {
                continue;
            };
            for literal in condition.is {
                let mut config = required(entry);
                config.shift_remove(field.name);
                config.insert(condition.field.to_owned(), literal.to_value());
                assert!(!validator.is_valid(&Value::Object(config.clone())), "{}.{}", entry.name, field.name);
                assert!(!is_valid(entry, &config), "{}.{}", entry.name, field.name);
                let default = matches!(
                    entry.schema.field(condition.field).map(|field| field.spec.presence),
                    Some(Presence::Default(default)) if default == *literal
                );
                config.insert(condition.field.to_owned(), Value::Null);
                let takes_null = validator.is_valid(&Value::Object(config.clone()));
                assert_eq!(takes_null, !default, "{}.{} by default", entry.name, field.name);
                assert_eq!(is_valid(entry, &config), !default, "{}.{} by default", entry.name, field.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_valid_fits_its_schema((entry, config) in configurations()) {
        if is_valid(entry, &config) {
            let value = Value::Object(config);
            let errors: Vec<String> = schema(entry).iter_errors(&value).map(|error| error.to_string()).collect();
            prop_assert!(errors.is_empty(), "{}: {errors:?} in {value}", entry.name);
        }
    }
}
