//! Configuration of the greptime sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    ADDRESS_CHARS_MAX, Field, boolean, choice, config_fields, formatted, integer, name, secret, text,
};
use crate::config::format::TextFormat;
use crate::config::integers::{Integers, integers};
use crate::config::rules::Rule;
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

config_fields! {
    /// Where and how a greptime connector writes.
    pub struct Config { FIELDS;
        /// HTTP interface, `host:port`; a URL with `http://` or `https://` works too.
        pub server_addr: String = formatted(1, ADDRESS_CHARS_MAX, TextFormat::AddressOrHttpUrl).required();
        /// Database.
        pub database: String = name().required();
        /// User.
        pub user: Option<String> = name();
        /// Password.
        pub password: Option<Secret> = secret();
        /// Resolution to which times are cut.
        pub precision: Precision =
            choice(&["Second", "Millisecond", "Microsecond", "Nanosecond"]).default_text("Second");
        /// Table of a point. Slashes in values, such as of `${topic}`, become underscores.
        pub table: String = text(1, 1_024).default_text("${topic}").template(TemplateKind::Text).added();
        /// Make times unique below the resolution, so that two records of the same moment stay two points and a record
        /// that comes twice stays one.
        pub unique_time: bool = boolean().default_boolean(true).added();
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(15).added();
        /// Speak TLS also where `server_addr` has no scheme or `http://`.
        pub enable_tls: bool = boolean().default_boolean(false).added();
        /// Type of JSON numbers without fraction and exponent. `float`: all numbers are floats, so that a field keeps its
        /// type whether a device writes `21` or `21.5`; a whole number that a float would round is that record's own
        /// fault. `integer`: they are integers of 64 bits, exactly.
        pub integers: Integers = integers();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Precision {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

const BATCH: &[Field] = &[batch_records(1_000, 10_000), batch_bytes(4 << 20), linger_ms(100, 60_000), max_in_flight(1)];

const RULES: &[Rule] = &[Rule::Together(&["user", "password"])];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
