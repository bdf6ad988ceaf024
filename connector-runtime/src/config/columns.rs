//! A list of column names, written as an array or as text with commas.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::check::split_columns;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(pub Vec<String>);

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        split_columns(&value).map(Self).ok_or_else(|| de::Error::custom("expected column names"))
    }
}
