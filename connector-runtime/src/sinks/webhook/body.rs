//! What a record becomes in a request.

use api_types::Record;
use api_types::envelope::write_envelope;
use reqwest::header::HeaderValue;

use super::config::{Config, Mode};
use crate::config::payload::PayloadFormat;
use crate::sink::RecordFault;
use crate::sinks::shared::json::payload_as_json;
use crate::template::TemplateError;
use crate::template::body::BodyTemplate;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
const BYTES: &str = "application/octet-stream";

/// Names, digits and quotes of an envelope: enough for most, so that its memory is asked for once.
const AROUND_PAYLOAD_BYTES: usize = 192;

#[derive(Clone, Debug)]
pub(super) struct BodyFormat {
    mode: Mode,
    item: Item,
}

#[derive(Clone, Debug)]
enum Item {
    Envelope,
    /// The payload alone.
    Payload,
    Template(BodyTemplate),
}

impl BodyFormat {
    pub(super) fn new(config: &Config) -> Result<Self, TemplateError> {
        let item = match (&config.body, config.payload_format) {
            (Some(template), _) => Item::Template(BodyTemplate::parse(template)?),
            (None, PayloadFormat::Envelope) => Item::Envelope,
            (None, PayloadFormat::Raw) => Item::Payload,
        };
        Ok(Self { mode: config.mode, item })
    }

    pub(super) fn content_type<'r>(&self, record: &'r Record) -> &'r str {
        match (self.mode, &self.item) {
            (Mode::Array, _) => JSON,
            (Mode::Ndjson, _) => NDJSON,
            (Mode::Single, Item::Envelope | Item::Template(_)) => JSON,
            (Mode::Single, Item::Payload) => {
                // What a publisher calls its payload need not be something that a header can hold.
                let named = record.message.content_type.as_deref();
                named.filter(|name| HeaderValue::from_str(name).is_ok()).unwrap_or(BYTES)
            }
        }
    }

    /// The record's part of a request; fails with a fault of that record alone.
    pub(super) fn item(&self, record: &Record) -> Result<Vec<u8>, RecordFault> {
        match &self.item {
            Item::Envelope => {
                let mut text = Vec::with_capacity(record.message.size_bytes() + AROUND_PAYLOAD_BYTES);
                write_envelope(record, &mut text);
                Ok(text)
            }
            Item::Template(template) => template
                .render(record)
                .map(String::into_bytes)
                .map_err(|error| RecordFault::offline("missing_value", error.to_string())),
            Item::Payload => match self.mode {
                Mode::Single => Ok(record.message.payload.to_vec()),
                Mode::Array | Mode::Ndjson => payload_as_json(&record.message.payload),
            },
        }
    }

    /// One body of all items; `single` has one item per body.
    pub(super) fn join(&self, items: &[Vec<u8>]) -> Vec<u8> {
        match self.mode {
            Mode::Single => items.concat(),
            Mode::Array => [b"[".as_slice(), &items.join(&b","[..]), b"]"].concat(),
            Mode::Ndjson => {
                let mut body = items.join(&b"\n"[..]);
                body.push(b'\n');
                body
            }
        }
    }
}
