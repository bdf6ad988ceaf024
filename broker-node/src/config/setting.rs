//! One trait per type of value: what is allowed, how it is read from TOML or from text, how it is shown.

use std::path::PathBuf;
use std::time::Duration;

use api_types::secret::{MASK, Secret};

use super::units::{HostPort, Size, parse_duration, parse_size, show_duration};

/// A value as a source gave it.
#[derive(Clone, Debug)]
pub enum Raw {
    Toml(toml::Value),
    /// From the environment, from `--set`, or a default.
    Text(String),
}

impl Raw {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(toml::Value::String(text)) | Self::Text(text) => Some(text),
            Self::Toml(_) => None,
        }
    }

    /// A TOML array, a JSON array in text, or a comma list in text.
    fn list(&self) -> Option<Vec<Raw>> {
        match self {
            Self::Toml(toml::Value::Array(items)) => Some(items.iter().cloned().map(Raw::Toml).collect()),
            Self::Toml(_) => None,
            Self::Text(text) if text.trim_start().starts_with('[') => {
                let items: Vec<String> = serde_json::from_str(text).ok()?;
                Some(items.into_iter().map(Raw::Text).collect())
            }
            Self::Text(text) => Some(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Raw::Text(item.into()))
                    .collect(),
            ),
        }
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// What may be written, for the message that refuses something else and for the documentation.
    fn allowed() -> String;
    fn read(raw: &Raw) -> Option<Self>;
    /// As TOML text; `None` when unset.
    fn show(&self) -> Option<String>;
    /// What a key without a value means; only optional types have one.
    fn unset() -> Option<Self> {
        None
    }
}

/// A type with a closed list of words.
pub trait Word: Copy + 'static {
    const WORDS: &'static [(&'static str, Self)];
}

/// Wraps a [`Word`], so that every closed list gets the same reading and showing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneOf<T>(pub T);

impl<T: Word + PartialEq> Setting for OneOf<T> {
    fn allowed() -> String {
        let words: Vec<String> = T::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        words.join(" or ")
    }

    fn read(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| Self(*value))
    }

    fn show(&self) -> Option<String> {
        T::WORDS.iter().find(|(_, value)| *value == self.0).map(|(word, _)| quoted(word))
    }
}

/// A text with at least one character.
impl Setting for String {
    fn allowed() -> String {
        "a text that is not empty".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Setting for Secret {
    fn allowed() -> String {
        "a text that is not empty".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        String::read(raw).map(Secret::new)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(MASK))
    }
}

impl Setting for PathBuf {
    fn allowed() -> String {
        "a path".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        String::read(raw).map(PathBuf::from)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Setting for bool {
    fn allowed() -> String {
        "true or false".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Toml(toml::Value::Boolean(value)) => Some(*value),
            Raw::Toml(_) => None,
            Raw::Text(text) => text.parse().ok(),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A whole number from 1 on.
impl Setting for u32 {
    fn allowed() -> String {
        "a whole number from 1 to 4294967295".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let number = match raw {
            Raw::Toml(toml::Value::Integer(number)) => u32::try_from(*number).ok(),
            Raw::Toml(_) => None,
            Raw::Text(text) => text.parse().ok(),
        };
        number.filter(|number| *number > 0)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for Duration {
    fn allowed() -> String {
        "a duration with a unit (ms, s, m, h, d, w), such as \"500ms\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().and_then(parse_duration).filter(|duration| !duration.is_zero())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&show_duration(*self)))
    }
}

impl Setting for Size {
    fn allowed() -> String {
        "a size with a unit (B, KiB, MiB, GiB, TiB, KB, MB, GB, TB), such as \"64MiB\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().and_then(parse_size).filter(|size| size.0 > 0)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Setting for HostPort {
    fn allowed() -> String {
        "host:port".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.text().and_then(HostPort::parse)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// One of `cluster.initial_voters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    pub name: String,
    pub address: HostPort,
}

impl Setting for Voter {
    fn allowed() -> String {
        "name=host:port".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let (name, address) = raw.text()?.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then_some(())?;
        Some(Self { name: name.to_owned(), address: HostPort::parse(address)? })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&format!("{}={}", self.name, self.address)))
    }
}

/// An IP network such as `10.0.0.0/8`; a bare address is a network of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network(pub String);

impl Setting for Network {
    fn allowed() -> String {
        "an IP network such as \"10.0.0.0/8\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let bits_max = if address.parse::<std::net::IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
        prefix.is_none_or(|prefix| prefix <= bits_max).then(|| Self(text.to_owned()))
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

impl<T: Setting> Setting for Option<T> {
    fn allowed() -> String {
        T::allowed()
    }

    fn read(raw: &Raw) -> Option<Self> {
        T::read(raw).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }

    fn unset() -> Option<Self> {
        Some(None)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn allowed() -> String {
        format!("a list of {}", T::allowed())
    }

    fn read(raw: &Raw) -> Option<Self> {
        raw.list()?.iter().map(T::read).collect()
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(T::show).collect();
        Some(format!("[{}]", items.join(", ")))
    }

    fn unset() -> Option<Self> {
        Some(Vec::new())
    }
}

/// A TOML basic string; JSON's escapes are a subset of TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
