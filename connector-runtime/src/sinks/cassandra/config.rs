//! Configuration of the cassandra sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    Field, Literal, boolean, choice, config_fields, integer, name, port, secret, text, text_list,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

/// Nodes to begin with; the driver finds the others.
const NODES_MAX: usize = 64;
/// As Cassandra has it: 20 years.
const TTL_SECS_MAX: u64 = 630_720_000;

config_fields! {
    /// Where and how a cassandra connector writes.
    pub struct Config { FIELDS;
        /// Nodes to begin with, each `host` or `host:port`.
        pub nodes: Vec<String> = text_list(1, NODES_MAX, TextFormat::HostMaybePort).required();
        /// Port of the nodes that name none.
        pub port: u16 = port(9_042);
        /// Keyspace. Its name is quoted as an identifier, so capitals count.
        pub keyspace: String = name().required();
        /// Table, named in the same way.
        pub table: String = name().required();
        /// User; empty where the nodes ask for no login.
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
        /// How many replicas must have a row before it counts as delivered. With one replica all levels are the same but
        /// `two` and `three`, which it cannot reach.
        pub consistency: Level = choice(LEVELS).default_text("local_quorum").added();
        /// Write through nodes of this data centre only. Absent: through any node.
        pub datacenter: Option<String> = name().added();
        /// Rows go after so many seconds (`USING TTL`). Absent: the table's own `default_time_to_live`.
        pub ttl_secs: Option<u32> = integer(1, TTL_SECS_MAX).added();
        /// What column `payload` gets: the payload's bytes as they are, or the envelope as JSON, with the user properties
        /// and everything else that has no column of its own.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        /// Most inserts that are on their way at the same time, over all batches.
        pub max_inserts_in_flight: usize = integer(1, 4_096).default_integer(256).added();
        /// Speak TLS to the nodes.
        pub enable_tls: bool = boolean().default_boolean(false).added();
        flatten tls: TlsOptions;
    }
}

/// How many replicas must have confirmed a write. Without `any`, which counts a hint as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    One,
    Two,
    Three,
    Quorum,
    All,
    LocalQuorum,
    EachQuorum,
    LocalOne,
}

const LEVELS: &[&str] = &["one", "two", "three", "quorum", "all", "local_quorum", "each_quorum", "local_one"];

pub const DDL: &str = "\
CREATE KEYSPACE mqtt WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 3};
CREATE TABLE mqtt.messages (
  msgid   text PRIMARY KEY,
  topic   text,
  qos     int,
  payload blob,       -- text works for payloads that are UTF-8
  arrived timestamp
);
-- Columns that are filled where they are there:
ALTER TABLE mqtt.messages ADD (client_id text, retain boolean);
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
