//! Configuration of the mqtt sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    Field, Literal, boolean, choice, config_fields, formatted, integer, name, secret, text, url,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, GivesUp, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

/// Longest client id of MQTT 3.1 is 23 characters; 11 of them keep the id unique.
pub const V3_PREFIX_CHARS_MAX: usize = 12;
const PREFIX_CHARS_MAX: usize = 64;

config_fields! {
    /// Where and how an mqtt connector publishes.
    pub struct Config { FIELDS;
        /// The other broker, `mqtt://host:port` or `mqtts://host:port`.
        pub server: String = url(&["mqtt", "mqtts"]).required();
        /// Beginning of the client id, `sluice` when absent; the eleven characters that follow are the connector's for ever.
        pub client_id_prefix: Option<String> = text(0, PREFIX_CHARS_MAX);
        /// User.
        pub username: Option<String> = name();
        /// Password.
        pub password: Option<Secret> = secret();
        /// `v3` is MQTT 3.1, `v4` is MQTT 3.1.1, `v5` is MQTT 5.0.
        pub protocol_version: ProtocolVersion = choice(&["v3", "v4", "v5"]).default_text("v5");
        /// Keep alive.
        pub keepalive_secs: u16 = integer(1, 65_535).default_integer(60);
        /// How long connecting may take.
        pub connect_timeout_secs: u64 = integer(1, 300).default_integer(10);
        /// Speak TLS also where `server` begins with `mqtt://`.
        pub enable_tls: bool = boolean().default_boolean(false);
        /// Put before the original topic. No wildcards.
        pub topic_prefix: Option<String> = formatted(0, 1_024, TextFormat::Line);
        /// QoS of what is published. 0 gives up the other broker's confirmation.
        pub qos: u8 = integer(0, 2).default_integer(1);
        /// Publish as retained messages.
        pub retain: bool = boolean().default_boolean(false);
        /// Attempts to send a message again after a lost connection, inside one attempt of the pipeline.
        pub max_retries: u64 = integer(0, 10).default_integer(3);
        /// What is published: the payload's bytes, or the envelope as JSON.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolVersion {
    V3,
    V4,
    V5,
}

impl ProtocolVersion {
    pub fn name(self) -> &'static str {
        match self {
            Self::V3 => "MQTT 3.1",
            Self::V4 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5",
        }
    }
}

const BATCH: &[Field] = &[batch_records(1_000, 10_000), batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(4)];

const RULES: &[Rule] = &[
    Rule::Check {
        says: "`server` names one host, without user information: `username` and `password` are for that",
        check: one_host,
    },
    Rule::Check { says: "`topic_prefix` has no wildcards (`+`, `#`)", check: prefix_is_a_topic },
    Rule::Check {
        says: "MQTT 3.1 (`v3`) and 3.1.1 (`v4`) carry no password without a user: `password` needs `username`",
        check: password_needs_user,
    },
    Rule::Check {
        says: "with `v3` only the first 12 characters of `client_id_prefix` are used (MQTT 3.1 allows 23 in all)",
        check: v3_client_id,
    },
];

fn one_host(checked: &Checked<'_>, report: &mut Report) {
    // What a reference stands for is not known here.
    let server = checked.text("server");
    let authority = server.split_once("://").map_or("", |(_, rest)| rest).split('/').next().unwrap_or_default();
    if authority.contains([',', '@']) && !server.contains("${") {
        report.problem("server", "must be one host, without user information (username and password are fields)");
    }
}

fn prefix_is_a_topic(checked: &Checked<'_>, report: &mut Report) {
    if checked.text("topic_prefix").contains(['+', '#']) {
        report.problem("topic_prefix", "must not contain a wildcard (+ or #)");
    }
}

fn password_needs_user(checked: &Checked<'_>, report: &mut Report) {
    let old = matches!(checked.text("protocol_version"), "v3" | "v4");
    if old && checked.was_sent("password") && !checked.was_sent("username") {
        report.problem("username", "is required with password: before MQTT 5 there is no password without a user");
    }
}

fn v3_client_id(checked: &Checked<'_>, report: &mut Report) {
    let too_long = checked.text("client_id_prefix").chars().count() > V3_PREFIX_CHARS_MAX;
    if checked.text("protocol_version") == "v3" && too_long {
        report.warning(format!(
            "config.client_id_prefix: MQTT 3.1 allows 23 characters in a client id, so only the first \
             {V3_PREFIX_CHARS_MAX} of the prefix are used"
        ));
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: Some(GivesUp { field: "qos", value: Literal::Integer(0) }),
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
