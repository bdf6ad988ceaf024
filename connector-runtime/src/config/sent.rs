//! From the text of `config` to a map. How long the text may be is the API's to say.

use serde_json::{Map, Value};

use super::unique::read_unique;

#[derive(Debug, thiserror::Error)]
pub enum ParseSentError {
    #[error("must be the JSON text of an object ({0})")]
    NotJson(#[source] serde_json::Error),
    #[error("must be the JSON text of an object, not of {0}")]
    NotAnObject(&'static str),
    /// Their paths in the object.
    #[error("has more than one value for {}", .0.join(", "))]
    Twice(Vec<String>),
}

/// The keys keep the order in which they stand in the text.
pub fn parse_sent(text: &str) -> Result<Map<String, Value>, ParseSentError> {
    let read = read_unique(text.as_bytes()).map_err(ParseSentError::NotJson)?;
    match read.value {
        Value::Object(_) if !read.twice.is_empty() => Err(ParseSentError::Twice(read.twice)),
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
        for (text, says) in [
            ("[]", "not of an array"),
            ("3", "not of a number"),
            ("{", "EOF"),
            ("", "EOF"),
            (r#"{"b":{"a":1,"a":1}}"#, "for b.a"),
        ] {
            let error = parse_sent(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
