//! The JSON object that targets without headers get: everything Sluice knows of a record.

use base64::Engine;
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
        let id = RecordId { raft_id: RaftId(1), incarnation: Incarnation(2), sequence: Sequence(3) };
        let message = Message { payload: payload.into(), ..Message::default() };
        let value = envelope(&Record { id, message });
        assert_eq!(value["id"], "1-2-3");
        let got = value.get("payload").or(value.get("payload_base64"));
        assert_eq!(got, Some(&expect));
    }

    #[test]
    fn payload_is_json_text_or_base64() {
        check(br#"{"t":21.5}"#, json!({"t": 21.5}));
        check(b"42", json!(42));
        check(b"warm", json!("warm"));
        check(b"\xff\x00", json!("/wA="));
        check(b"", json!(""));
    }
}
