//! Reads the fields of a JSON object and collects everything that is wrong with them.

use api_types::FieldProblem;
use connector_runtime::config::nearest;
use serde_json::{Map, Value};

use super::words::{shortened, type_name};

/// One object of a request; `prefix` is its path, empty for the body itself.
pub struct Fields<'a, 'p> {
    prefix: &'a str,
    map: &'a Map<String, Value>,
    problems: &'p mut Vec<FieldProblem>,
}

impl<'a, 'p> Fields<'a, 'p> {
    /// Keys that are not in `known` are problems at once.
    pub fn new(
        prefix: &'a str,
        map: &'a Map<String, Value>,
        known: &[&str],
        problems: &'p mut Vec<FieldProblem>,
    ) -> Self {
        let mut fields = Self { prefix, map, problems };
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            fields.problem(&shortened(key), unknown_key(key, known));
        }
        fields
    }

    /// Without a look at the keys: for an object whose keys somebody else checks.
    pub fn trusting(prefix: &'a str, map: &'a Map<String, Value>, problems: &'p mut Vec<FieldProblem>) -> Self {
        Self { prefix, map, problems }
    }

    fn path(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    pub fn problem(&mut self, key: &str, text: impl Into<String>) {
        let path = self.path(key);
        self.problems.push(FieldProblem::new(path, text));
    }

    /// `null` is absent.
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong_type(&mut self, key: &str, expected: &str, value: &Value) {
        self.problem(key, format!("must be {expected}, not {}", type_name(value)));
    }

    pub fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        if value.as_str().is_none() {
            self.wrong_type(key, "a string", value);
        }
        value.as_str()
    }

    /// A text that must be there; its length is counted in characters, as in the seed.
    pub fn required_text(&mut self, key: &str, length_max: usize) -> Option<&'a str> {
        if self.value(key).is_none() {
            self.problem(key, format!("is required: a string of 1 to {length_max} characters"));
            return None;
        }
        let text = self.text(key)?;
        self.in_length(key, text, length_max)
    }

    pub fn in_length(&mut self, key: &str, text: &'a str, length_max: usize) -> Option<&'a str> {
        let length = text.chars().count();
        if length == 0 || length > length_max {
            self.problem(key, format!("must have 1 to {length_max} characters, not {length}"));
            return None;
        }
        Some(text)
    }

    /// A whole number within bounds.
    pub fn number(&mut self, key: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.value(key)?;
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            let shown = if value.is_number() { value.to_string() } else { type_name(value).to_owned() };
            self.problem(key, format!("must be a whole number from {min} to {max}, not {shown}"));
        }
        number
    }

    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        if value.as_bool().is_none() {
            self.wrong_type(key, "true or false", value);
        }
        value.as_bool()
    }

    pub fn object(&mut self, key: &str) -> Option<&'a Map<String, Value>> {
        let value = self.value(key)?;
        if value.as_object().is_none() {
            self.wrong_type(key, "an object", value);
        }
        value.as_object()
    }

    /// One of a closed list of words.
    pub fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.problem(key, format!("must be one of {}, not {}", names.join(", "), shortened(text)));
        }
        found
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str, items_max: usize, length_max: usize) -> Vec<String> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.wrong_type(key, "an array of strings", value);
            return Vec::new();
        };
        if items.len() > items_max {
            self.problem(key, format!("must have at most {items_max} items, not {}", items.len()));
            return Vec::new();
        }
        let mut texts = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let path = format!("{key}[{at}]");
            match item.as_str() {
                Some(text) => {
                    if let Some(text) = self.in_length(&path, text, length_max) {
                        texts.push(text.to_owned());
                    }
                }
                None => self.wrong_type(&path, "a string", item),
            }
        }
        texts
    }
}

/// Names the key, and the known one it resembles or all known ones.
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(name) => format!("unknown key; did you mean {name}?"),
        None => format!("unknown key; known: {}", known.join(", ")),
    }
}
