//! Configuration of the influxdb sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, Literal, boolean, choice, config_fields, formatted, http_url, integer, name, secret,
    text,
};
use crate::config::format::TextFormat;
use crate::config::integers::{Integers, integers};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

const V1: &[Literal] = &[Literal::Text("v1")];
const V2: &[Literal] = &[Literal::Text("v2")];

config_fields! {
    /// Where and how an influxdb connector writes.
    pub struct Config { FIELDS;
        /// Server, `http://` or `https://`.
        pub server: String = http_url().required();
        /// Measurement of every point.
        pub measurement: String = text(1, 1_024).required().template(TemplateKind::Text);
        /// `v1` writes to `/write`, `v2` to `/api/v2/write`.
        pub version: Version = choice(&["v1", "v2"]).default_text("v2");
        /// Token of v2.
        pub token: Option<Secret> =
            formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::HeaderValue).masked().required_when("version", V2);
        /// Organisation of v2.
        pub org: Option<String> = name().required_when("version", V2);
        /// Bucket of v2.
        pub bucket: Option<String> = name().required_when("version", V2);
        /// Database of v1.
        pub database: Option<String> = name().required_when("version", V1);
        /// User of v1.
        pub username: Option<String> = name().used_when("version", V1);
        /// Password of v1.
        pub password: Option<Secret> = secret().used_when("version", V1);
        /// Resolution to which times are cut.
        pub precision: Precision = choice(&["ns", "us", "ms", "s"]).default_text("ms");
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(15);
        /// Make times unique below the resolution, so that two records of the same moment stay two points and a record
        /// that comes twice stays one.
        pub unique_time: bool = boolean().default_boolean(true).added();
        /// Type of JSON numbers without fraction and exponent. `float`: all numbers are floats, so that a field keeps its
        /// type whether a device writes `21` or `21.5`; a whole number that a float would round is that record's own
        /// fault. `integer`: they are integers of 64 bits, exactly.
        pub integers: Integers = integers();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Precision {
    #[serde(rename = "ns")]
    Nanoseconds,
    #[serde(rename = "us")]
    Microseconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
}

const BATCH: &[Field] = &[batch_records(5_000, 10_000), batch_bytes(4 << 20), linger_ms(100, 60_000), max_in_flight(1)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
