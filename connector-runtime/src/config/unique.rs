//! JSON whose objects have each key once. The usual reading keeps the last of two values and says nothing, so that a
//! user who wrote a key twice gets one of them without knowing which.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// More are not named: whoever has so many does not read on.
const NAMED_MAX: usize = 16;
/// Characters of a key in a path.
const KEY_SHOWN_MAX: usize = 100;

/// A value, and the paths (`config.url`, `items[2].id`) of the keys that an object of it has more than once.
#[derive(Clone, Debug, PartialEq)]
pub struct Unique {
    pub value: Value,
    pub twice: Vec<String>,
}

/// As `serde_json::from_slice`, and looks for keys that stand twice, at every level.
pub fn read_unique(bytes: &[u8]) -> Result<Unique, serde_json::Error> {
    let mut twice = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { path: &Path::Root, twice: &mut twice }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(Unique { value, twice })
}

/// Where a value stands; only put into words for a key that stands twice.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Item(parent, at) => write!(f, "{parent}[{at}]"),
            Self::Key(parent, key) => {
                let dot = if matches!(parent, Self::Root) { "" } else { "." };
                match key.char_indices().nth(KEY_SHOWN_MAX) {
                    Some((end, _)) => write!(f, "{parent}{dot}{}…", &key[..end]),
                    None => write!(f, "{parent}{dot}{key}"),
                }
            }
        }
    }
}

struct Node<'a> {
    path: &'a Path<'a>,
    twice: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Path::Item(self.path, list.len());
            match items.next_element_seed(Node { path: &path, twice: &mut *self.twice })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = Path::Key(self.path, &key);
            if map.contains_key(&key) && self.twice.len() < NAMED_MAX {
                let named = path.to_string();
                if !self.twice.contains(&named) {
                    self.twice.push(named);
                }
            }
            let value = entries.next_value_seed(Node { path: &path, twice: &mut *self.twice })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_usual_reading_reads() {
        for text in [
            r#"{"b":1,"a":[null,true,-3,1.5,18446744073709551615,"\u00e4\"",{"b":{}}],"":{}}"#,
            "null",
            "[]",
            " \"x\" ",
            "1e300",
        ] {
            let read = read_unique(text.as_bytes()).expect(text);
            let usual: Value = serde_json::from_str(text).expect(text);
            assert_eq!((read.value.to_string(), read.twice), (usual.to_string(), Vec::new()), "{text}");
        }
        let deep = "[".repeat(100_000);
        for text in ["", "{", "{} x", "[1,]", "{\"a\":1,}", "1e999", "nul", &deep] {
            let usual = serde_json::from_str::<Value>(text).expect_err(text).to_string();
            assert_eq!(read_unique(text.as_bytes()).expect_err(text).to_string(), usual, "{text}");
        }
    }

    #[test]
    fn keys_that_stand_twice_are_named_at_every_level() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(read_unique(text.as_bytes()).expect(text).twice, expect, "{text}");
        };
        check(r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}"#, &[]);
        check(r#"{"a":1,"a":1}"#, &["a"]);
        check(r#"{"a":1,"\u0061":2,"a":null}"#, &["a"]);
        check(r#"{"x":{"y":1,"y":2},"l":[0,{"z":{},"z":[]}],"x":3}"#, &["x.y", "l[1].z", "x"]);
        let long = "k".repeat(5000);
        let named = read_unique(format!("{{\"{long}\":1,\"{long}\":2}}").as_bytes()).expect("an object").twice;
        assert_eq!(named[0].chars().count(), KEY_SHOWN_MAX + 1);
        let many: Vec<String> = (0..100).map(|at| format!("\"k{at}\":1,\"k{at}\":2")).collect();
        let named = read_unique(format!("{{{}}}", many.join(",")).as_bytes()).expect("an object").twice;
        assert_eq!(named.len(), NAMED_MAX);
    }
}
