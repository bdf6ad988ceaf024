//! Configuration of the mysql sink.

use api_types::secret::Secret;

use crate::config::batch::{RATES, batch_bytes, linger_ms, max_in_flight};
use crate::config::columns::Columns;
use crate::config::field::{
    Field, Literal, boolean, choice, columns, config_fields, formatted, host, integer, name, port, secret,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::pool::{self, MIN_POOL_SIZE_SAYS, min_pool_size};
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

const SQL_CHARS_MAX: usize = 16_384;
/// Most columns a MySQL key can have.
const CONFLICT_COLUMNS_MAX: usize = 16;

config_fields! {
    /// Where and how a mysql connector writes.
    pub struct Config { FIELDS;
        /// Host of the server.
        pub host: String = host().required();
        /// Port of the server.
        pub port: u16 = port(3_306);
        /// Database.
        pub database: String = name().required();
        /// User.
        pub username: String = name().required();
        /// Password.
        pub password: Secret = secret().required();
        /// Table. Its name is quoted as an identifier.
        pub table: String = name().required();
        /// Most connections.
        pub pool_size: u32 = integer(1, 1_000).default_integer(10);
        /// Connections that are kept open.
        pub min_pool_size: u32 = integer(0, 1_000).computed(MIN_POOL_SIZE_SAYS, min_pool_size);
        /// How long connecting may take.
        pub connect_timeout_secs: u64 = integer(1, 300).default_integer(10);
        /// How long waiting for a free connection may take.
        pub acquire_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// A connection idle for longer is closed; 0 keeps it.
        pub idle_timeout_secs: u64 = integer(0, 3_600).default_integer(600);
        /// A connection older than this is closed; 0 keeps it.
        pub max_lifetime_secs: u64 = integer(0, 7_200).default_integer(1_800);
        /// Most records in one batch, which is one transaction.
        pub batch_size: u64 = integer(1, 10_000).default_integer(100);
        /// One statement with many rows instead of one statement for each record.
        pub enable_batch_insert: bool = boolean().default_boolean(false);
        /// `ON DUPLICATE KEY UPDATE`: a row with the same key is replaced.
        pub enable_upsert: bool = boolean().default_boolean(false);
        /// Columns of the key by which rows are the same.
        pub conflict_columns: Option<Columns> =
            columns(CONFLICT_COLUMNS_MAX).required_when("enable_upsert", &[Literal::Boolean(true)]);
        /// Statement of your own, with three `?` (record key, payload, timestamp) or with named placeholders, which are
        /// bound as parameters.
        pub sql_template: Option<String> =
            formatted(1, SQL_CHARS_MAX, TextFormat::Any).template(TemplateKind::MysqlStatement);
        /// Column with a unique index that gets the record's id, so that a record that comes twice stands there once.
        pub id_column: Option<String> = name().added();
        /// What the payload column gets: the envelope as JSON, or the payload's bytes.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        /// Speak TLS to the server.
        pub enable_tls: bool = boolean().default_boolean(false).added();
        flatten tls: TlsOptions;
    }
}

pub const DDL: &str = "\
CREATE TABLE mqtt_messages (
  record_key VARCHAR(512)  NOT NULL,
  payload    LONGTEXT      NOT NULL,  -- LONGBLOB with payload_format raw
  timestamp  BIGINT        NOT NULL   -- milliseconds since the Unix epoch; DATETIME(3) and TIMESTAMP(3) work too
);
-- with id_column \"id\":
ALTER TABLE mqtt_messages ADD COLUMN id VARCHAR(96) CHARACTER SET ascii NOT NULL UNIQUE;
";

const BATCH: &[Field] = &[batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(1)];

const RULES: &[Rule] = &[
    Rule::Check {
        says: "`sql_template` replaces the whole statement, so `enable_upsert` and `id_column` do not go with it",
        check: own_statement,
    },
    Rule::OnlyOneOf(&["conflict_columns", "id_column"]),
];

/// Shared with postgres: a statement of one's own says itself what happens on a conflict.
pub(crate) fn own_statement(checked: &Checked<'_>, report: &mut Report) {
    if !checked.was_sent("sql_template") {
        return;
    }
    if checked.is_true("enable_upsert") {
        report.problem(
            "enable_upsert",
            "cannot be true beside sql_template: write the conflict clause into the statement",
        );
    }
    if checked.was_sent("id_column") {
        report.problem("id_column", "cannot stand beside sql_template: use ${id} in the statement");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, pool::RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_size",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
