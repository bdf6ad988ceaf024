//! The type of whole numbers, for targets whose fields have one type each.

use serde::Deserialize;

use super::field::{FieldSpec, choice};

/// What becomes of JSON numbers without fraction and exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Integers {
    /// All numbers are floats: a device that writes `21` today and `21.5` tomorrow keeps its field's type.
    Float,
    Integer,
}

/// Of every `integers` field.
pub const fn integers() -> FieldSpec {
    choice(&["float", "integer"]).default_text("float").added()
}
