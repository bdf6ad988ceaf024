//! From the text of `config` to a map. How long the text may be is the API's to say.

use serde_json::{Map, Value};

#[derive(Debug, thiserror::Error)]
pub enum ParseSentError {
    #[error("must be the JSON text of an object ({0})")]
    NotJson(#[source] serde_json::Error),
    #[error("must be the JSON text of an object, not of {0}")]
    NotAnObject(&'static str),
}

/// The keys keep the order in which they stand in the text.
pub fn parse_sent(text: &str) -> Result<Map<String, Value>, ParseSentError> {
    match serde_json::from_str::<Value>(text).map_err(ParseSentError::NotJson)? {
        Value::Object(map) => Ok(map),
        other => Err(ParseSentError::NotAnObject(super::check::json_type(&other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_are_configurations() {
        let map = parse_sent(r#"{"b":1,"a":null}"#).expect("an object");
        assert_eq!(map.keys().collect::<Vec<_>>(), ["b", "a"]);
        for (text, says) in [("[]", "not of an array"), ("3", "not of a number"), ("{", "EOF"), ("", "EOF")] {
            let error = parse_sent(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
