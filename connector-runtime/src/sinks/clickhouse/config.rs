//! Configuration of the clickhouse sink.

use api_types::secret::Secret;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{Field, choice, config_fields, http_url, integer, name, secret, text};
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
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
        /// User; where it is empty and a password is not, `default`.
        pub username: String = text(0, 255).default_text("");
        /// Password.
        pub password: Secret = secret().default_text("");
        /// Most requests at the same time, each on a connection of its own, and most connections that are kept for later
        /// ones.
        pub pool_size: u64 = integer(1, 64).default_integer(8);
        /// How long one request may take, and how long it may wait for a connection.
        pub timeout_secs: u64 = integer(1, 300).default_integer(15);
        /// What column `payload` gets: the payload's bytes as they are, or the envelope as JSON, with the user properties
        /// and everything else that has no column of its own.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        /// After this time the table's columns are read again, so that one that was added is filled. After a refused
        /// insert they are in any case.
        pub columns_refresh_secs: u64 = integer(1, 3_600).default_integer(60).added();
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
