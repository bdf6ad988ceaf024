//! Facts that hold for every field of every kind, read from the tables themselves.

use connector_runtime::config::field::{Presence, Shape};
use connector_runtime::config::{json_schema, mask, validate};
use connector_runtime::registry::{KINDS, KindEntry, kind};
use connector_runtime::secrets::SecretFences;
use serde_json::{Map, Value, json};

/// Fields that the pipeline reads, whatever the kind.
const OF_THE_PIPELINE: [&str; 6] =
    ["batch_records", "batch_bytes", "linger_ms", "max_in_flight", "max_records_per_second", "max_bytes_per_second"];

#[test]
fn names_are_unique_and_conditions_name_fields() {
    for entry in KINDS {
        let names: Vec<&str> = entry.schema.fields().map(|field| field.name).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{}.{name} stands there twice", entry.name);
        }
        let records = entry.schema.field(entry.schema.records_field).expect("the field that bounds a batch's records");
        assert!(matches!(records.spec.shape, Shape::Integer { .. }), "{}", entry.name);
        for field in entry.schema.fields() {
            if let Some(condition) = field.spec.used_when {
                assert!(names.contains(&condition.field), "{}.{}", entry.name, field.name);
            }
            if field.spec.secret {
                assert!(!matches!(field.spec.shape, Shape::Boolean | Shape::Integer { .. } | Shape::Choice(_)));
            }
        }
    }
}

#[test]
fn every_field_is_read_by_the_typed_configuration_or_the_pipeline() {
    for entry in KINDS {
        let effective = every_field(entry);
        assert_eq!((entry.schema.fits_type)(&effective), Ok(()), "{}", entry.name);
        for field in entry.schema.fields() {
            let mut broken = effective.clone();
            // No field of any kind has this type, so whoever reads the field must stumble.
            broken.insert(field.name.to_owned(), json!([[[]]]));
            let read = (entry.schema.fits_type)(&broken).is_err();
            assert!(
                read || OF_THE_PIPELINE.contains(&field.name),
                "{}.{} is declared but not read",
                entry.name,
                field.name
            );
        }
    }
}

/// A value for every field, also those that exclude each other.
fn every_field(entry: &KindEntry) -> Map<String, Value> {
    let value = |shape: Shape| match shape {
        Shape::Boolean => json!(true),
        Shape::Integer { min, .. } => json!(min),
        Shape::Choice(values) => json!(values[0]),
        Shape::Text { .. } => json!("text"),
        Shape::TextList { .. } | Shape::Columns { .. } => json!(["text"]),
        Shape::TextMap { .. } => json!({"name": "text"}),
    };
    entry.schema.fields().map(|field| (field.name.to_owned(), value(field.spec.shape))).collect()
}

#[test]
fn defaults_are_valid_values() {
    for entry in KINDS {
        for field in entry.schema.fields() {
            let Presence::Default(literal) = field.spec.presence else {
                continue;
            };
            let config = Map::from_iter([(field.name.to_owned(), literal.to_value())]);
            let problems = validate(entry, &config, &SecretFences::default()).expect_err("others are missing");
            let path = format!("config.{}", field.name);
            assert!(problems.iter().all(|problem| problem.field != path), "{}: {problems:?}", entry.name);
        }
    }
}

#[test]
fn the_apis_list_of_secrets_is_masked() {
    let listed = [
        "password",
        "basic_password",
        "token",
        "oauth",
        "api_key",
        "bearer_token",
        "secret_access_key",
        "session_token",
        "sasl_password",
        "sentinel_password",
        "hmac_secret",
        "hmac_secret_previous",
        "client_key",
    ];
    for entry in KINDS {
        for field in entry.schema.fields() {
            let secret = listed.contains(&field.name) || field.name == "headers";
            assert_eq!(field.spec.secret, secret, "{}.{}", entry.name, field.name);
        }
        let masked = mask(entry, &every_field(entry));
        assert_eq!(masked.keys().collect::<Vec<_>>(), every_field(entry).keys().collect::<Vec<_>>());
        for field in entry.schema.fields().filter(|field| field.spec.secret) {
            let expect = if field.name == "headers" { json!({"name": "******"}) } else { json!("******") };
            assert_eq!(masked[field.name], expect, "{}.{}", entry.name, field.name);
        }
        for field in entry.schema.fields().filter(|field| !field.spec.secret) {
            assert_eq!(masked[field.name], every_field(entry)[field.name], "{}.{}", entry.name, field.name);
        }
    }
}

#[test]
fn masks_keep_keys_order_references_and_everything_that_is_not_secret() {
    let entry = kind("webhook").expect("known");
    let sent = json!({
        "timeout_ms": 10,
        "url": "https://user:pw@example.com/hook?key=abc",
        "headers": {"X-B": "b", "X-A": null, "X-C": "Bearer ${env:SLUICE_SECRET_C}"},
        "password": "${file:/etc/sluice/secrets/p}",
        "bearer_token": "",
        "username": "u",
    });
    let Value::Object(map) = sent else { unreachable!() };
    let expect = r#"{"timeout_ms":10,"url":"https://******@example.com/hook?key=******","headers":{"X-B":"******","X-A":null,"X-C":"******${env:SLUICE_SECRET_C}"},"password":"${file:/etc/sluice/secrets/p}","bearer_token":"","username":"u"}"#;
    assert_eq!(Value::Object(mask(entry, &map)).to_string(), expect);
    let kafka = kind("kafka").expect("known");
    let map =
        Map::from_iter([("headers".to_owned(), json!({"site": "${topic[0]}"})), ("unknown".to_owned(), json!("x"))]);
    assert_eq!(Value::Object(mask(kafka, &map)).to_string(), r#"{"headers":{"site":"******"},"unknown":"******"}"#);
}

#[test]
fn the_mask_is_no_secret() {
    for (name, field, value) in [
        ("mysql", "password", json!("******")),
        ("mysql", "password", json!("******${env:SLUICE_SECRET_A}")),
        ("mysql", "database", json!("******")),
        ("webhook", "headers", json!({"X": "******"})),
        ("webhook", "url", json!("https://******@a")),
    ] {
        let config = Map::from_iter([(field.to_owned(), value.clone())]);
        let entry = kind(name).expect("known");
        let problems = validate(entry, &config, &SecretFences::default()).expect_err("a mask");
        let found = problems.iter().any(|problem| {
            problem.field.starts_with(&format!("config.{field}")) && problem.problem.contains("mask of a secret")
        });
        assert!(found, "{name}.{field} {value}: {problems:?}");
    }
}

#[test]
fn problems_never_repeat_a_secret() {
    let secret = "hunter2\u{0}hunter2";
    for entry in KINDS {
        for field in entry.schema.fields().filter(|field| field.spec.secret) {
            let value = match field.spec.shape {
                Shape::TextMap { .. } => json!({"name": secret, "Host": secret}),
                _ => json!(secret),
            };
            let config = Map::from_iter([(field.name.to_owned(), value)]);
            let problems = validate(entry, &config, &SecretFences::default()).expect_err("invalid");
            assert!(!format!("{problems:?}").contains("hunter2"), "{}.{}: {problems:?}", entry.name, field.name);
        }
    }
}

#[test]
fn references_are_fenced_at_create_and_taken_in_free_text_only() {
    let fences = SecretFences::default();
    let problems = |name: &str, field: &str, text: &str| {
        let config = Map::from_iter([(field.to_owned(), json!(text))]);
        let problems = validate(kind(name).expect("known"), &config, &fences).err().unwrap_or_default();
        let path = format!("config.{field}");
        problems.into_iter().filter(|problem| problem.field == path).map(|problem| problem.problem).collect::<Vec<_>>()
    };
    for (name, field, text) in [
        ("mysql", "password", "${env:SLUICE_SECRET_P}"),
        ("mysql", "host", "${env:SLUICE_SECRET_HOST}"),
        ("webhook", "url", "https://u:${file:/etc/sluice/secrets/p}@a"),
        ("pulsar", "oauth", "${file:/etc/sluice/secrets/oauth.json}"),
    ] {
        assert_eq!(problems(name, field, text), Vec::<String>::new(), "{name}.{field} {text}");
    }
    for (name, field, text, says) in [
        ("mysql", "password", "${env:HOME}", "SLUICE_SECRET_"),
        ("mysql", "password", "${file:/etc/passwd}", "/etc/sluice/secrets"),
        ("mysql", "table", "${topic}", "not a template"),
        ("kafka", "key", "${env:SLUICE_SECRET_P}", "takes no references"),
        ("kafka", "acks", "${env:SLUICE_SECRET_P}", "one of 0, 1, all"),
    ] {
        let found = problems(name, field, text);
        assert!(found.len() == 1 && found[0].contains(says), "{name}.{field} {text}: {found:?}");
    }
}

#[test]
fn schemas_say_what_the_tables_say() {
    for entry in KINDS {
        let schema = json_schema(entry);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["additionalProperties"], false);
        let properties = schema["properties"].as_object().expect("an object");
        assert_eq!(properties.len(), entry.schema.fields().count(), "{}", entry.name);
        for field in entry.schema.fields() {
            let property = &properties[field.name];
            assert_eq!(property.get("writeOnly").is_some(), field.spec.secret, "{}.{}", entry.name, field.name);
            assert!(!property["description"].as_str().expect("text").is_empty());
        }
    }
    let port = &json_schema(kind("mysql").expect("known"))["properties"]["port"];
    assert_eq!((&port["minimum"], &port["maximum"], &port["default"]), (&json!(1), &json!(65_535), &json!(3_306)));
}
