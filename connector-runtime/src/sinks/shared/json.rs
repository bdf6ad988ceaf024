//! Payloads among other JSON.

use api_types::envelope::is_json_of_one_line;
use serde_json::Value;

use crate::sink::RecordFault;

/// JSON as it is, on one line; other text as a JSON text.
pub(crate) fn payload_as_json(payload: &[u8]) -> Result<Vec<u8>, RecordFault> {
    if is_json_of_one_line(payload) {
        return Ok(payload.to_vec());
    }
    let value = match serde_json::from_slice::<Value>(payload) {
        Ok(value) => value,
        Err(_) => match std::str::from_utf8(payload) {
            Ok(text) => Value::from(text),
            Err(_) => return Err(RecordFault::offline("not_text", "the payload is neither JSON nor UTF-8 text")),
        },
    };
    Ok(value.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(payload: &[u8], expect: Option<&str>) {
        let text = payload_as_json(payload).ok().map(|json| String::from_utf8(json).expect("UTF-8"));
        assert_eq!(text.as_deref(), expect);
    }

    #[test]
    fn json_stays_as_it_is_and_text_becomes_json() {
        check(b"{\"a\": 1.50, \"a\": 123456789012345678901}", Some("{\"a\": 1.50, \"a\": 123456789012345678901}"));
        check(b"{\"a\":\n1}", Some("{\"a\":1}"));
        check(b"warm", Some("\"warm\""));
        check(b"two\nlines", Some("\"two\\nlines\""));
        check(b"", Some("\"\""));
        check(b"\xff", None);
    }
}
