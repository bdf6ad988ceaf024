//! What a target gets of a record: everything, or the publisher's bytes.

use serde::Deserialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadFormat {
    /// One JSON object with everything Sluice knows of the record (`api_types::envelope`).
    Envelope,
    /// The payload's bytes, untouched.
    Raw,
}

/// The values of every `payload_format` field.
pub const PAYLOAD_FORMATS: &[&str] = &["envelope", "raw"];
