//! Configuration of the mongodb sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, linger_ms};
use crate::config::field::{
    ADDRESS_CHARS_MAX, Field, Literal, boolean, choice, config_fields, formatted, integer, name, port, secret,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, GivesUp, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

config_fields! {
    /// Where and how a mongodb connector writes.
    pub struct Config { FIELDS;
        /// Host of the server; with `replicaset` and `sharded` several with commas, each with a port or without.
        pub host: String = formatted(1, ADDRESS_CHARS_MAX, TextFormat::Hosts).required();
        /// Port of the hosts that name none.
        pub port: u16 = port(27_017);
        /// Database.
        pub database: String = name().required();
        /// Collection.
        pub collection: String = name().required();
        /// User.
        pub username: Option<String> = name();
        /// Password.
        pub password: Option<Secret> = secret();
        /// Database that knows the user.
        pub auth_source: String = name().default_text("admin");
        /// How the servers stand together.
        pub deployment_mode: DeploymentMode =
            choice(&["single", "replicaset", "sharded"]).default_text("single");
        /// Name of the replica set.
        pub replica_set_name: Option<String> = name().required_when("deployment_mode", &[Literal::Text("replicaset")]);
        /// Speak TLS to the servers.
        pub enable_tls: bool = boolean().default_boolean(false);
        /// Most connections to each server.
        pub max_pool_size: u32 = integer(1, 1_000).default_integer(10);
        /// Connections that are kept open.
        pub min_pool_size: u32 = integer(0, 1_000).default_integer(0);
        /// How long connecting may take.
        pub connect_timeout_secs: u64 = integer(1, 300).default_integer(10);
        /// How long finding a server that takes writes may take.
        pub server_selection_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// How long a request may take.
        pub socket_timeout_secs: u64 = integer(1, 600).default_integer(60);
        /// Most records in one batch.
        pub batch_size: u64 = integer(1, 10_000).default_integer(100);
        /// Insert in order, and stop at the first document that is refused. Slower, but keeps the queue's order.
        pub ordered_insert: bool = boolean().default_boolean(false);
        /// Write concern: nobody's confirmation (`0`), the primary's (`1`), or most members' (`majority`).
        pub w: WriteConcern = choice(&["0", "1", "majority"]).default_text("1");
        /// What a document is: the envelope, or the payload, which must then be a JSON object.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentMode {
    Single,
    Replicaset,
    Sharded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum WriteConcern {
    #[serde(rename = "0")]
    None,
    #[serde(rename = "1")]
    Primary,
    #[serde(rename = "majority")]
    Majority,
}

const BATCH: &[Field] = &[
    batch_bytes(8 << 20),
    linger_ms(5, 60_000),
    Field {
        name: "max_in_flight",
        doc: "Most batches of one queue that are on their way at the same time. Absent: 1 with `ordered_insert`, which \
              promises the queue's order, else 4.\n",
        spec: integer(1, crate::config::batch::MAX_IN_FLIGHT_MAX)
            .computed("1 with `ordered_insert`, else 4", default_in_flight)
            .added(),
    },
];

fn default_in_flight(effective: &serde_json::Map<String, serde_json::Value>) -> serde_json::Value {
    let ordered = effective.get("ordered_insert") == Some(&serde_json::Value::Bool(true));
    serde_json::Value::from(if ordered { 1 } else { 4 })
}

const RULES: &[Rule] = &[
    Rule::Together(&["username", "password"]),
    Rule::NotAbove { field: "min_pool_size", bound: "max_pool_size" },
    Rule::Check { says: "`host` is a single host with `single`", check: single_has_one_host },
];

fn single_has_one_host(checked: &Checked<'_>, report: &mut Report) {
    if checked.text("deployment_mode") == "single" && checked.text("host").contains(',') {
        report.problem("host", "must be one host with deployment_mode single; several need replicaset or sharded");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: Some(GivesUp { field: "w", value: Literal::Text("0") }),
    records_field: "batch_size",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
