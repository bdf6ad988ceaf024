//! The JSON object that targets without headers get: everything Sluice knows of a record.

use std::fmt;
use std::io::Write;

use base64::Engine;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::Serialize;
use serde_json::{Map, Value, json};

use crate::record::{Message, Record};

/// `{"id","topic","client_id","qos","retain","timestamp","payload",…}`. `payload` is nested JSON when the bytes are
/// JSON and a string when they are UTF-8; other bytes stand in `payload_base64`. Absent properties are left out.
pub fn envelope(record: &Record) -> Value {
    let message = &record.message;
    let mut fields = Map::new();
    fields.insert("id".into(), Value::String(record.id.to_string()));
    fields.insert("topic".into(), json!(message.topic));
    fields.insert("client_id".into(), json!(message.client_id));
    fields.insert("qos".into(), json!(message.qos));
    fields.insert("retain".into(), json!(message.retain));
    fields.insert("timestamp".into(), json!(message.timestamp_ms));
    let (name, payload) = payload(message);
    fields.insert(name.into(), payload);
    if let Some(content_type) = &message.content_type {
        fields.insert("content_type".into(), json!(content_type));
    }
    if let Some(response_topic) = &message.response_topic {
        fields.insert("response_topic".into(), json!(response_topic));
    }
    if let Some(data) = &message.correlation_data {
        fields.insert("correlation_data".into(), json!(base64::engine::general_purpose::STANDARD.encode(data)));
    }
    if !message.user_properties.is_empty() {
        // An array of pairs: MQTT 5 allows a name more than once, and the order counts.
        fields.insert("user_properties".into(), json!(message.user_properties));
    }
    Value::Object(fields)
}

/// Appends the envelope as JSON text on one line: the same value as [`envelope`] gives, without building it.
pub fn write_envelope(record: &Record, text: &mut Vec<u8>) {
    let message = &record.message;
    put_name(text, b'{', "id");
    // Digits and dashes; and writing to memory cannot fail, here and below.
    drop(write!(text, "\"{}\"", record.id));
    put(text, "topic", &message.topic);
    put(text, "client_id", &message.client_id);
    put(text, "qos", &message.qos);
    put(text, "retain", &message.retain);
    put(text, "timestamp", &message.timestamp_ms);
    if is_json_of_one_line(&message.payload) {
        put_name(text, b',', "payload");
        text.extend_from_slice(&message.payload);
    } else {
        let (name, payload) = payload(message);
        put(text, name, &payload);
    }
    if let Some(content_type) = &message.content_type {
        put(text, "content_type", content_type);
    }
    if let Some(response_topic) = &message.response_topic {
        put(text, "response_topic", response_topic);
    }
    if let Some(data) = &message.correlation_data {
        put(text, "correlation_data", &base64::engine::general_purpose::STANDARD.encode(data));
    }
    if !message.user_properties.is_empty() {
        put(text, "user_properties", &message.user_properties);
    }
    text.push(b'}');
}

fn put<T: Serialize + ?Sized>(text: &mut Vec<u8>, name: &str, value: &T) {
    put_name(text, b',', name);
    drop(serde_json::to_writer(text, value));
}

fn put_name(text: &mut Vec<u8>, before: u8, name: &str) {
    text.extend_from_slice(&[before, b'"']);
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(b"\":");
}

/// Whether the bytes can stand in a line of JSON as they are. Judged by the parser that makes values of them elsewhere,
/// so that both agree on what is JSON; a line break is white space there, and must not come into a line.
pub fn is_json_of_one_line(payload: &[u8]) -> bool {
    !payload.iter().any(|byte| matches!(byte, b'\n' | b'\r')) && serde_json::from_slice::<Skipped>(payload).is_ok()
}

/// Any JSON value, read and forgotten.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

fn payload(message: &Message) -> (&'static str, Value) {
    if let Ok(value) = serde_json::from_slice::<Value>(&message.payload) {
        return ("payload", value);
    }
    match std::str::from_utf8(&message.payload) {
        Ok(text) => ("payload", json!(text)),
        Err(_) => ("payload_base64", json!(base64::engine::general_purpose::STANDARD.encode(&message.payload))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Incarnation, RaftId, RecordId, Sequence};

    fn check(payload: &'static [u8], expect: Value) {
        let value = envelope(&message(payload));
        assert_eq!(value["id"], "1-2-3");
        let got = value.get("payload").or(value.get("payload_base64"));
        assert_eq!(got, Some(&expect));
        let text = text(&message(payload));
        assert!(!text.contains(['\n', '\r']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value);
    }

    fn message(payload: &'static [u8]) -> Record {
        let id = RecordId { raft_id: RaftId(1), incarnation: Incarnation(2), sequence: Sequence(3) };
        Record { id, message: Message { payload: payload.into(), ..Message::default() } }
    }

    fn text(record: &Record) -> String {
        let mut text = Vec::new();
        write_envelope(record, &mut text);
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn payload_is_json_text_or_base64() {
        check(br#"{"t":21.5}"#, json!({"t": 21.5}));
        check(b"42", json!(42));
        check(b"warm", json!("warm"));
        check(b"\xff\x00", json!("/wA="));
        check(b"", json!(""));
    }

    #[test]
    fn what_is_no_json_of_one_line_is_written_as_its_value() {
        let deep: &'static [u8] = "[".repeat(200).leak().as_bytes();
        let closed: &'static [u8] = format!("{}{}", "[".repeat(200), "]".repeat(200)).leak().as_bytes();
        check(b"{\"a\":\r\n [1, 2]}", json!({"a": [1, 2]}));
        check(b"two\nlines", json!("two\nlines"));
        check(b"1e999", json!("1e999"));
        check(b"\"\xff\"", json!("Iv8i"));
        check(b"{\"a\":1}x", json!("{\"a\":1}x"));
        check(deep, json!(std::str::from_utf8(deep).expect("ASCII")));
        check(closed, json!(std::str::from_utf8(closed).expect("ASCII")));
    }

    #[test]
    fn the_text_holds_what_the_value_holds() {
        let mut record = message(b" {\"a\": 1.50, \"a\": 2, \"\\u00e9\": [null, true, -7, 18446744073709551616]} ");
        let value = envelope(&record);
        assert_eq!(serde_json::from_str::<Value>(&text(&record)).expect("JSON"), value);
        assert!(text(&record).contains("1.50"), "bytes that are JSON stay as they are");
        record.message.topic = "a/\"b\"\n".to_owned();
        record.message.content_type = Some("text/plain".to_owned());
        record.message.response_topic = Some("answers".to_owned());
        record.message.correlation_data = Some(b"\xff"[..].into());
        record.message.user_properties = vec![("k".to_owned(), "1".to_owned()), ("k".to_owned(), "2".to_owned())];
        assert_eq!(serde_json::from_str::<Value>(&text(&record)).expect("JSON"), envelope(&record));
    }
}
