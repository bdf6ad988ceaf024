//! Configuration of the kafka sink.

use std::collections::BTreeMap;

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, max_in_flight};
use crate::config::field::{
    ADDRESS_CHARS_MAX, Field, Literal, boolean, choice, config_fields, formatted, integer, name, secret, text, text_map,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, GivesUp, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

/// Longest topic name Kafka itself takes.
const TOPIC_CHARS_MAX: usize = 249;
const HEADERS_MAX: usize = 64;
const SASL: &[Literal] = &[Literal::Text("plain"), Literal::Text("scram_sha_256"), Literal::Text("scram_sha_512")];

config_fields! {
    /// Where and how a kafka connector writes.
    pub struct Config { FIELDS;
        /// Brokers to begin with, `host1:port1,host2:port2`. Host names work.
        pub bootstrap_servers: String = formatted(1, ADDRESS_CHARS_MAX, TextFormat::Addresses).required();
        /// Name of the Kafka topic.
        pub topic: String = text(1, TOPIC_CHARS_MAX).required();
        /// Message key, which chooses the partition. Empty: the record's key (client id, else topic).
        pub key: String = text(0, 256).default_text("").template(TemplateKind::Text);
        /// Compression of message batches.
        pub compression_type: Compression = choice(&["none", "gzip", "snappy", "lz4", "zstd"]).default_text("none");
        /// Most bytes of one message batch for one partition. (Records per batch: `batch_records`.)
        pub batch_size: u64 = integer(1, 1_048_576).default_integer(16_384);
        /// How long a batch that is not full waits.
        pub linger_ms: u64 = integer(0, 60_000).default_integer(5);
        /// Whose confirmation counts: nobody's (`0`), the partition leader's (`1`), all in-sync replicas' (`all`).
        pub acks: Acks = choice(&["0", "1", "all"]).default_text("1");
        /// Retries of the client inside one attempt. With `acks` `all` and retries the producer is idempotent.
        pub retries: u64 = integer(0, 100).default_integer(3);
        /// How long a message may take until it is confirmed, retries included.
        pub message_timeout_ms: u64 = integer(1_000, 300_000).default_integer(30_000);
        /// How long closing waits for what is under way; 0 does not wait.
        pub cleanup_timeout_secs: u64 = integer(0, 300).default_integer(10);
        /// Which hash of the key chooses the partition: `crc32` as librdkafka and what is built on it, `murmur2` as
        /// Kafka's own clients, for consumers that join topics.
        pub partitioner: Partitioner = choice(&["crc32", "murmur2"]).default_text("crc32").added();
        /// What the value of a message is: the payload's bytes, or the envelope as JSON.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        /// More headers of every message, from name to template.
        pub headers: BTreeMap<String, String> = text_map(HEADERS_MAX, TextFormat::Any)
            .default(Literal::EmptyMap)
            .template(TemplateKind::Text)
            .masked()
            .added();
        /// Speak TLS to the brokers.
        pub enable_tls: bool = boolean().default_boolean(false).added();
        /// How the client authenticates.
        pub sasl_mechanism: SaslMechanism =
            choice(&["none", "plain", "scram_sha_256", "scram_sha_512"]).default_text("none").added();
        /// User of SASL.
        pub sasl_username: Option<String> = name().required_when("sasl_mechanism", SASL).added();
        /// Password of SASL.
        pub sasl_password: Option<Secret> = secret().required_when("sasl_mechanism", SASL).added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    Crc32,
    Murmur2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Acks {
    #[serde(rename = "0")]
    None,
    #[serde(rename = "1")]
    Leader,
    #[serde(rename = "all")]
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaslMechanism {
    None,
    Plain,
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl Config {
    /// The broker drops what it has already taken; possible only when all replicas confirm and the client retries.
    pub fn idempotent(&self) -> bool {
        self.acks == Acks::All && self.retries > 0
    }
}

const BATCH: &[Field] = &[batch_records(1_000, 10_000), batch_bytes(4 << 20), max_in_flight(4)];

const RULES: &[Rule] = &[
    // librdkafka refuses a producer whose messages expire before their batch is sent.
    Rule::Below { field: "linger_ms", bound: "message_timeout_ms" },
    Rule::Check {
        says: "`tls_server_name` is refused: each broker is verified by the host name that it advertises",
        check: no_server_name,
    },
    Rule::Check {
        says: "`sasl_mechanism` `plain` without `enable_tls` is accepted and named in `warnings`",
        check: readable_password,
    },
];

fn no_server_name(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("tls_server_name") {
        let says = "cannot be used with kafka: each broker is verified by the host name that it advertises \
                    (advertised.listeners); leave it out";
        report.problem("tls_server_name", says);
    }
}

fn readable_password(checked: &Checked<'_>, report: &mut Report) {
    if checked.text("sasl_mechanism") == "plain" && !checked.is_true("enable_tls") {
        report.warning("config.sasl_mechanism is plain without config.enable_tls: the password travels readably");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: Some(GivesUp { field: "acks", value: Literal::Text("0") }),
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
