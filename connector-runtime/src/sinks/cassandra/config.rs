//! Configuration of the cassandra sink.

use api_types::secret::Secret;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{Field, Literal, boolean, config_fields, integer, name, port, secret, text, text_list};
use crate::config::format::TextFormat;
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

/// Nodes to begin with; the driver finds the others.
const NODES_MAX: usize = 64;

config_fields! {
    /// Where and how a cassandra connector writes.
    pub struct Config { FIELDS;
        /// Nodes to begin with, each `host` or `host:port`.
        pub nodes: Vec<String> = text_list(1, NODES_MAX, TextFormat::HostMaybePort).required();
        /// Port of the nodes that name none.
        pub port: u16 = port(9_042);
        /// Keyspace.
        pub keyspace: String = name().required();
        /// Table.
        pub table: String = name().required();
        /// User.
        pub username: String = text(0, 255).default_text("");
        /// Password.
        pub password: Secret = secret().default_text("");
        /// Copies of every row in a keyspace that `create_if_missing` makes.
        pub replication_factor: u64 = integer(1, 32)
            .default_integer(1)
            .used_when("create_if_missing", &[Literal::Boolean(true)]);
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(15);
        /// Make the keyspace (with `replication_factor`) and the table when they are missing.
        pub create_if_missing: bool = boolean().default_boolean(false).added();
        /// Speak TLS to the nodes.
        pub enable_tls: bool = boolean().default_boolean(false).added();
        flatten tls: TlsOptions;
    }
}

pub const DDL: &str = "\
CREATE KEYSPACE mqtt WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1};
CREATE TABLE mqtt.messages (
  msgid   text PRIMARY KEY,
  topic   text,
  qos     int,
  payload blob,       -- text works for payloads that are UTF-8
  arrived timestamp
);
";

const BATCH: &[Field] = &[batch_records(500, 10_000), batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(4)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
