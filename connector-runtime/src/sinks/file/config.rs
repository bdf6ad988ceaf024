//! Configuration of the file sink.

use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{Field, Literal, PATH_CHARS_MAX, choice, config_fields, formatted, integer};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::{Schema, fits};

/// 10 GB: the most the seed allows.
const SIZE_BYTES_MAX: u64 = 10_000_000_000;

config_fields! {
    /// Where and how a file connector writes.
    pub struct Config { FIELDS;
        /// Absolute path of the file, under one of the node's `connectors.file_roots`. Folders that are missing are made.
        pub local_file_path: String = formatted(1, PATH_CHARS_MAX, TextFormat::FilePath).required();
        /// When a new file is begun: never, above a size, or at the turn of an hour or day (UTC). The full file is
        /// renamed and never written over.
        pub rotation_strategy: Rotation = choice(&["none", "size", "hourly", "daily"]).default_text("none");
        /// Size in GB (10^9 bytes) above which `size` rotates.
        pub max_size_gb: u64 = integer(1, 10).default_integer(1).used_when("rotation_strategy", &[Literal::Text("size")]);
        /// The same in bytes, for finer steps; it rules when both are set.
        pub max_size_bytes: Option<u64> = integer(1_024, SIZE_BYTES_MAX)
            .used_when("rotation_strategy", &[Literal::Text("size")])
            .added();
        /// What one line holds: the envelope as JSON, or the payload's bytes as they are. With `raw`, a payload that
        /// contains a line break is a fault of that record.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rotation {
    None,
    Size,
    Hourly,
    Daily,
}

impl Config {
    /// The size above which `Rotation::Size` rotates.
    pub fn size_bytes_max(&self) -> u64 {
        self.max_size_bytes.unwrap_or(self.max_size_gb * 1_000_000_000)
    }
}

const BATCH: &[Field] = &[batch_records(5_000, 10_000), batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(1)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES],
    rules: &[],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
