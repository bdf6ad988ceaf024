//! What kinds have in common whose records are envelopes: one JSON object each.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::adapter::{Carried, Parts, Seen};
use crate::shapes::{Message, Payload, Shape};

/// An envelope brings everything.
pub const PARTS: Parts = Parts { id: true, topic: true, client_id: true, user_properties: true };

#[derive(Deserialize)]
struct Envelope<'a> {
    id: String,
    topic: String,
    client_id: String,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
    #[serde(default)]
    user_properties: Vec<(String, String)>,
}

/// Reads one envelope; a payload that is JSON comes back as its very bytes.
pub fn seen(text: &str) -> Result<Seen> {
    let envelope: Envelope<'_> = serde_json::from_str(text).with_context(|| format!("no envelope: {text}"))?;
    let payload = match (envelope.payload, envelope.payload_base64) {
        (None, Some(base64)) => STANDARD.decode(base64)?,
        (Some(value), None) => match serde_json::from_str::<String>(value.get()) {
            Ok(text) => text.into_bytes(),
            Err(_) => value.get().as_bytes().to_vec(),
        },
        // `null` is a payload as well, and reads as none.
        (None, None) if text.contains(r#""payload":null"#) => b"null".to_vec(),
        (Some(_), Some(_)) | (None, None) => anyhow::bail!("one of payload and payload_base64: {text}"),
    };
    Ok(Seen {
        id: Some(envelope.id),
        topic: Some(envelope.topic),
        client_id: Some(envelope.client_id),
        payload,
        user_properties: Some(envelope.user_properties),
    })
}

/// Equal, but for what JSON cannot hold as it came.
pub fn carries(shape: Shape) -> Carried {
    match shape {
        Shape::Payload(Payload::JsonText) => Carried::As {
            documented: "a payload that is a JSON text is that text, as one without quotes is",
            payload: |message| text_of(message).into_bytes(),
        },
        Shape::Payload(Payload::JsonSpread) => Carried::As {
            documented: "JSON that stands on several lines is written on one: the same value",
            payload: on_one_line,
        },
        Shape::Payload(_) | Shape::Topic(_) | Shape::ClientId(_) | Shape::UserProperty(_) => Carried::Equal,
    }
}

pub fn text_of(message: &Message) -> String {
    serde_json::from_slice(&message.payload).unwrap_or_default()
}

pub fn on_one_line(message: &Message) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    value.to_string().into_bytes()
}
