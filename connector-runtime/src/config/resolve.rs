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
        | TextFormat::HttpHeaders
        | TextFormat::Names => fences.resolve(text).map_err(failed)?.reveal().to_owned(),
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
