//! Configuration of the s3 sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, choice, config_fields, formatted, http_url, integer, name, text,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

/// A key of S3 has at most 1,024 bytes; the parts of it that the sink makes need the rest.
const PREFIX_CHARS_MAX: usize = 512;

config_fields! {
    /// Where and how an s3 connector writes.
    pub struct Config { FIELDS;
        /// Bucket.
        pub bucket: String = name().required();
        /// Region, for example `us-east-1`.
        pub region: String = text(1, 64).required();
        /// Store that speaks the protocol of S3 (path style). Absent: AWS.
        pub endpoint: Option<String> = http_url();
        /// Access key. Absent: what AWS clients find on the node (environment, web identity, container, instance role).
        pub access_key_id: Option<String> = name();
        /// Secret key.
        pub secret_access_key: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::Line).masked();
        /// Token of temporary credentials.
        pub session_token: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::Line).masked();
        /// First part of every key.
        pub root: String = text(0, PREFIX_CHARS_MAX).default_text("");
        /// Second part of every key.
        pub object_key_prefix: String = text(0, PREFIX_CHARS_MAX).default_text("mqtt");
        /// End of every key. The extension of a compression follows it.
        pub file_extension: String = formatted(1, 16, TextFormat::Alphanumeric).default_text("json");
        /// `json`: an object is one JSON array; `ndjson`: one JSON value per line.
        pub format: Format = choice(&["json", "ndjson"]).default_text("json").added();
        /// Compression of objects.
        pub compression: Compression = choice(&["none", "gzip", "zstd"]).default_text("none").added();
        /// What a record becomes: the envelope as JSON, or the payload alone (a payload that is not JSON becomes a JSON
        /// text).
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(30).added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// One object is one batch: these three bound its size.
const BATCH: &[Field] =
    &[batch_records(10_000, 100_000), batch_bytes(16 << 20), linger_ms(10_000, 600_000), max_in_flight(4)];

const RULES: &[Rule] = &[
    Rule::Together(&["access_key_id", "secret_access_key"]),
    Rule::Check { says: "`session_token` needs `access_key_id` and `secret_access_key`", check: token_needs_keys },
];

fn token_needs_keys(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("session_token") && !checked.was_sent("access_key_id") && !checked.was_sent("secret_access_key")
    {
        report.problem("access_key_id", "is required together with session_token");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: true,
    one_by_one: None,
    fits_type: fits::<Config>,
};
