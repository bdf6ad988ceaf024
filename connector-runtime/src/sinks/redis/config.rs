//! Configuration of the redis sink.

use api_types::secret::Secret;
use serde::Deserialize;

use super::forbidden;
use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    ADDRESS_CHARS_MAX, Field, Literal, boolean, choice, config_fields, formatted, integer, name, secret,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;
use crate::template::command::CommandTemplate;

/// More replicas than any Redis deployment has.
const WAIT_REPLICAS_MAX: u64 = 16;

config_fields! {
    /// Where and how a redis connector writes.
    pub struct Config { FIELDS;
        /// Server, `host:port`; with `cluster` and `sentinel` several with commas between them.
        pub server: String = formatted(1, ADDRESS_CHARS_MAX, TextFormat::Addresses).required();
        /// Command for each record. It is cut into arguments at white space (quotes hold an argument together) before
        /// values are put in, so a value never becomes two arguments. `{payload}` and `${payload}` are the payload.
        pub command_template: String =
            formatted(1, 4_096, TextFormat::Any).required().template(TemplateKind::RedisCommand);
        /// How the servers stand together.
        pub mode: Mode = choice(&["single", "cluster", "sentinel"]).default_text("single");
        /// Number of the database; a cluster has only 0.
        pub database: u64 = integer(0, 15).default_integer(0);
        /// User (Redis 6 and later).
        pub username: Option<String> = name();
        /// Password.
        pub password: Option<Secret> = secret();
        /// Name under which the sentinels know the master.
        pub sentinel_master_name: Option<String> = name().required_when("mode", &[Literal::Text("sentinel")]);
        /// User at the sentinels themselves.
        pub sentinel_username: Option<String> = name().added();
        /// Password at the sentinels themselves. Absent: none, and `password` where a sentinel wants one.
        pub sentinel_password: Option<Secret> = secret().added();
        /// Speak TLS to the servers.
        pub tls_enabled: bool = boolean().default_boolean(false);
        /// How long connecting may take.
        pub connect_timeout_ms: u64 = integer(1, 300_000).default_integer(5_000);
        /// How long the next reply may take, while commands are under way.
        pub answer_timeout_ms: u64 = integer(100, 300_000).default_integer(30_000).added();
        /// Most connections to the server; with `cluster`, to each master. Records of one publisher and topic always use
        /// the same.
        pub pool_size: u64 = integer(1, 100).default_integer(10);
        /// Times a command is sent again after a lost connection, inside one attempt of the pipeline.
        pub max_retries: u64 = integer(0, 100).default_integer(3);
        /// Pause between those.
        pub retry_interval_ms: u64 = integer(1, 60_000).default_integer(1_000);
        /// Replicas that must have the batch before it counts as delivered (`WAIT`); 0 does not ask.
        pub wait_replicas: u64 = integer(0, WAIT_REPLICAS_MAX).default_integer(0).added();
        /// What `{payload}` and `${payload}` stand for: the payload's bytes, or the envelope as JSON.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Single,
    Cluster,
    Sentinel,
}

const BATCH: &[Field] = &[batch_records(500, 10_000), batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(4)];

const RULES: &[Rule] = &[
    Rule::Check { says: "`database` is 0 with `cluster`: a cluster has no other", check: cluster_has_one_database },
    Rule::Check { says: "`server` is a single address with `single`", check: single_has_one_server },
    Rule::Check {
        says: "`username` needs `password`, `sentinel_username` needs `sentinel_password`",
        check: user_needs_password,
    },
    Rule::Check {
        says: "`command_template` names no command that changes the connection or its replies (`SELECT`, `MULTI`, \
               `SUBSCRIBE`, …), that waits (`BLPOP`, `WAIT`, …), or that ends or empties the target (`SHUTDOWN`, \
               `FLUSHALL`, …)",
        check: command_leaves_the_connection_alone,
    },
];

fn cluster_has_one_database(checked: &Checked<'_>, report: &mut Report) {
    let database = checked.integer("database").unwrap_or(0);
    if checked.text("mode") == "cluster" && database != 0 {
        report.problem("database", format!("must be 0 with mode cluster, not {database}: a cluster has no other"));
    }
}

fn single_has_one_server(checked: &Checked<'_>, report: &mut Report) {
    if checked.text("mode") == "single" && checked.text("server").contains(',') {
        report.problem("server", "must be one host:port with mode single; several need cluster or sentinel");
    }
}

fn user_needs_password(checked: &Checked<'_>, report: &mut Report) {
    for (username, password) in [("username", "password"), ("sentinel_username", "sentinel_password")] {
        if checked.was_sent(username) && !checked.was_sent(password) {
            report.problem(password, format!("is required together with {username}"));
        }
    }
}

fn command_leaves_the_connection_alone(checked: &Checked<'_>, report: &mut Report) {
    let template = CommandTemplate::parse(checked.text("command_template"));
    if let Some(problem) = template.ok().and_then(|template| forbidden::problem(&template)) {
        report.problem("command_template", problem);
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
