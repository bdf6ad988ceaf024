//! Configuration of the clickhouse sink.

use api_types::secret::Secret;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{Field, config_fields, http_url, integer, name, secret, text};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

config_fields! {
    /// Where and how a clickhouse connector writes.
    pub struct Config { FIELDS;
        /// HTTP interface, `http://` or `https://`.
        pub url: String = http_url().required();
        /// Database.
        pub database: String = name().required();
        /// Table. The columns `id`, `topic`, `client_id`, `qos`, `retain`, `timestamp`, `payload` and `key` are filled
        /// where the table has them.
        pub table: String = name().required();
        /// User.
        pub username: String = text(0, 255).default_text("");
        /// Password.
        pub password: Secret = secret().default_text("");
        /// Most connections.
        pub pool_size: u64 = integer(1, 64).default_integer(8);
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(15);
        flatten tls: TlsOptions;
    }
}

pub const DDL: &str = "\
CREATE TABLE messages (
  id        String,
  topic     LowCardinality(String),
  client_id String,
  qos       UInt8,
  retain    Bool,
  timestamp DateTime64(3),
  payload   String,
  key       String
) ENGINE = MergeTree ORDER BY (topic, timestamp)
  SETTINGS non_replicated_deduplication_window = 10000;  -- Replicated engines have their own window
";

/// Every insert makes a part, and parts are merged later: few large inserts.
const BATCH: &[Field] =
    &[batch_records(10_000, 100_000), batch_bytes(16 << 20), linger_ms(1_000, 60_000), max_in_flight(4)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: true,
    one_by_one: None,
    fits_type: fits::<Config>,
};
