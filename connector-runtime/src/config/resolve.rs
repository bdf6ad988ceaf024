//! From the effective configuration to the typed one that a sink is opened with, on the node that runs the task.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::field::{Field, Shape};
use super::format::TextFormat;
use super::validate::fill_defaults;
use crate::registry::KindEntry;
use crate::secrets::{SecretError, SecretFences, has_reference};

#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("config.{field}")]
    Secret {
        field: String,
        #[source]
        source: SecretError,
    },
    /// What a reference stands for does not fit where it stands. The text is not shown: it is a secret.
    #[error("config.{field} must be {must_be} once its references are resolved")]
    Form { field: String, must_be: String },
    /// The stored configuration is not one that this version understands.
    #[error("the configuration does not fit this version")]
    Type(#[source] serde_json::Error),
}

/// A configuration with its secrets in it. Never shown, never stored.
pub struct Resolved(Map<String, Value>);

impl Resolved {
    pub fn typed<T: DeserializeOwned>(self) -> Result<T, ResolveError> {
        serde_json::from_value(Value::Object(self.0)).map_err(ResolveError::Type)
    }
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolved").finish_non_exhaustive()
    }
}

/// Fills in defaults that are newer than the stored configuration, and replaces every reference. Reads files: call it
/// where a few small reads may block.
pub fn resolve(
    entry: &KindEntry,
    effective: &Map<String, Value>,
    fences: &SecretFences,
) -> Result<Resolved, ResolveError> {
    let mut resolved = effective.clone();
    fill_defaults(entry, &mut resolved);
    for field in entry.schema.fields().filter(|field| field.spec.takes_reference()) {
        let Some(value) = resolved.get_mut(field.name) else {
            continue;
        };
        let format = match field.spec.shape {
            Shape::Text { format, .. } | Shape::TextList { format, .. } | Shape::TextMap { format, .. } => format,
            Shape::Boolean | Shape::Integer { .. } | Shape::Choice(_) | Shape::Columns { .. } => continue,
        };
        resolve_texts(field, format, value, fences)?;
    }
    Ok(Resolved(resolved))
}

fn resolve_texts(
    field: &Field,
    format: TextFormat,
    value: &mut Value,
    fences: &SecretFences,
) -> Result<(), ResolveError> {
    match value {
        Value::String(text) => *text = resolve_text(field, format, text, fences)?,
        Value::Array(items) => {
            for item in items {
                resolve_texts(field, format, item, fences)?;
            }
        }
        Value::Object(entries) => {
            for item in entries.values_mut() {
                resolve_texts(field, format, item, fences)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn resolve_text(field: &Field, format: TextFormat, text: &str, fences: &SecretFences) -> Result<String, ResolveError> {
    let failed = |source| ResolveError::Secret { field: field.name.to_owned(), source };
    let had_reference = has_reference(text);
    let resolved = match format {
        TextFormat::Url(_) | TextFormat::AddressOrHttpUrl => {
            let whole = text.to_owned();
            fences.resolve_with(text, |before, secret| encode_in_url(&whole, before, secret)).map_err(failed)?
        }
        TextFormat::OAuth => resolve_json(field, text, fences)?,
        TextFormat::Any
        | TextFormat::Line
        | TextFormat::Host
        | TextFormat::Address
        | TextFormat::Addresses
        | TextFormat::Hosts
        | TextFormat::HostMaybePort
        | TextFormat::FilePath
        | TextFormat::Alphanumeric
        | TextFormat::Pem
        | TextFormat::HeaderValue => fences.resolve(text).map_err(failed)?.reveal().to_owned(),
    };
    if had_reference && !format.accepts(&resolved) {
        return Err(ResolveError::Form { field: field.name.to_owned(), must_be: format.says() });
    }
    Ok(resolved)
}

/// Inside user info and query the secret is percent-encoded, so that it cannot end them; elsewhere it stands as it is.
fn encode_in_url(whole: &str, before: &str, secret: &str) -> String {
    let Some((_, after_scheme)) = before.split_once("://") else {
        return secret.to_owned();
    };
    let in_authority = !after_scheme.contains(['/', '?', '#']);
    // Credentials come first: an `@` that is still to come makes this user info.
    let at_follows = whole.matches('@').count() > after_scheme.matches('@').count();
    let in_query = after_scheme.contains('?');
    if in_query || (in_authority && at_follows) { percent_encode(secret) } else { secret.to_owned() }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// References in JSON text are replaced inside its texts, so that a quote in a secret stays a quote.
fn resolve_json(field: &Field, text: &str, fences: &SecretFences) -> Result<String, ResolveError> {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else {
        // The whole of it is behind a reference.
        let source = |source| ResolveError::Secret { field: field.name.to_owned(), source };
        return Ok(fences.resolve(text).map_err(source)?.reveal().to_owned());
    };
    resolve_texts(field, TextFormat::Any, &mut value, fences)?;
    Ok(value.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{PipelineOptions, validate};
    use crate::registry::kind;
    use crate::sinks::{file, pulsar, webhook};

    /// Fences around a fresh folder in which each name is a file with its text.
    fn fences(files: &[(&str, &str)]) -> (tempfile::TempDir, SecretFences) {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        let fences = SecretFences { secret_dirs: vec![dir.path().to_owned()], ..SecretFences::default() };
        (dir, fences)
    }

    fn resolved(name: &str, config: Value, fences: &SecretFences) -> Result<Resolved, ResolveError> {
        let entry = kind(name).expect("known");
        let Value::Object(config) = config else { panic!("not an object") };
        let valid = validate(entry, &config, fences).expect("valid");
        resolve(entry, &valid.effective, fences)
    }

    #[test]
    fn references_become_what_they_stand_for() {
        let (dir, fences) = fences(&[("password", "p@ss/w?rd\n"), ("token", "t\"k"), ("ca", "not pem")]);
        let at = |name: &str| format!("${{file:{}}}", dir.path().join(name).display());
        let config = serde_json::json!({
            "url": format!("https://user:{}@example.com/a?key={}", at("password"), at("token")),
            "auth_type": "bearer",
            "bearer_token": at("token"),
            "headers": {"X-Key": format!("k={}", at("password"))},
        });
        let typed: webhook::config::Config =
            resolved("webhook", config, &fences).expect("resolved").typed().expect("typed");
        assert_eq!(typed.url, "https://user:p%40ss%2Fw%3Frd@example.com/a?key=t%22k");
        assert_eq!(typed.bearer_token.as_ref().map(|token| token.reveal()), Some("t\"k"));
        let headers: BTreeMap<&str, &str> =
            typed.headers.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(headers, BTreeMap::from([("X-Key", "k=p@ss/w?rd")]));
        assert!(!format!("{typed:?}").contains("t\"k"), "secrets are not in debug output");
    }

    #[test]
    fn a_secret_in_json_text_cannot_end_its_text() {
        let (dir, fences) = fences(&[("secret", r#"a","issuer_url":"https://evil"#)]);
        let oauth = format!(
            r#"{{"issuer_url":"https://i","client_id":"c","client_secret":"${{file:{}}}"}}"#,
            dir.path().join("secret").display()
        );
        let config = serde_json::json!({"server": "pulsar://a:6650", "topic": "t", "oauth": oauth});
        let typed: pulsar::config::Config =
            resolved("pulsar", config, &fences).expect("resolved").typed().expect("typed");
        let oauth: Value = serde_json::from_str(typed.oauth.expect("set").reveal()).expect("JSON");
        assert_eq!(oauth["issuer_url"], "https://i");
        assert_eq!(oauth["client_secret"], r#"a","issuer_url":"https://evil"#);
    }

    #[test]
    fn a_secret_that_does_not_fit_its_place_is_named_without_its_text() {
        let (dir, fences) = fences(&[("host", "not a host"), ("token", "a\nb")]);
        let at = |name: &str| format!("${{file:{}}}", dir.path().join(name).display());
        let config = serde_json::json!({"url": format!("https://{}/a", at("host"))});
        let error = resolved("webhook", config, &fences).expect_err("no URL").to_string();
        assert!(error.contains("config.url must be a URL") && !error.contains("not a host"), "{error}");
        let config = serde_json::json!({"url": "https://a", "headers": {"X": at("token")}});
        let error = resolved("webhook", config, &fences).expect_err("no header").to_string();
        assert!(error.contains("config.headers"), "{error}");
        let config = serde_json::json!({"url": "https://a", "headers": {"X": at("absent")}});
        assert!(matches!(resolved("webhook", config, &fences), Err(ResolveError::Secret { .. })));
    }

    #[test]
    fn a_configuration_stored_by_an_older_version_gets_the_newer_defaults() {
        let entry = kind("file").expect("known");
        let stored = Map::from_iter([("local_file_path".to_owned(), Value::from("/tmp/a"))]);
        let typed: file::config::Config =
            resolve(entry, &stored, &SecretFences::default()).expect("resolved").typed().expect("typed");
        assert_eq!(typed.size_bytes_max(), 1_000_000_000);
        let options = PipelineOptions::read(entry, &stored);
        assert_eq!((options.limits.records_max, options.limits.bytes_max, options.max_in_flight), (5_000, 4 << 20, 1));
    }

    #[test]
    fn the_pipeline_reads_the_seeds_batch_size_where_there_is_one() {
        for (name, config, records, sync_bounds) in [
            ("rabbitmq", serde_json::json!({"batch_size": 7, "linger_ms": 9}), 7, false),
            ("kafka", serde_json::json!({"batch_size": 7, "batch_records": 8, "linger_ms": 9}), 8, false),
            ("s3", serde_json::json!({"batch_records": 9, "linger_ms": 9}), 9, true),
        ] {
            let Value::Object(config) = config else { panic!("not an object") };
            let options = PipelineOptions::read(kind(name).expect("known"), &config);
            assert_eq!(options.limits.records_max, records, "{name}");
            assert_eq!(options.limits.linger.as_millis(), 9, "{name}");
            assert_eq!(options.limits.sync_bounds, sync_bounds, "{name}");
            assert_eq!(options.max_in_flight, 4, "{name}");
        }
    }

    #[test]
    fn records_that_go_one_by_one_need_no_bounds() {
        for (name, mode, one_by_one, sync_bounds) in [
            ("webhook", "single", true, false),
            ("webhook", "array", false, true),
            ("webhook", "ndjson", false, true),
            ("redis", "single", false, false),
        ] {
            let effective = Map::from_iter([("mode".to_owned(), Value::from(mode))]);
            let options = PipelineOptions::read(kind(name).expect("known"), &effective);
            assert_eq!((options.one_by_one, options.limits.sync_bounds), (one_by_one, sync_bounds), "{name} {mode}");
        }
    }
}
