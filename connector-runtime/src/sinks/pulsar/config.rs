//! Configuration of the pulsar sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, choice, config_fields, formatted, integer, name, secret, text, url,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};

config_fields! {
    /// Where and how a pulsar connector writes.
    pub struct Config { FIELDS;
        /// Broker, `pulsar://host:port` or `pulsar+ssl://host:port`.
        pub server: String = url(&["pulsar", "pulsar+ssl"]).required();
        /// Name of the Pulsar topic.
        pub topic: String = text(1, 1_024).required();
        /// Authenticate by this token.
        pub token: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::Line).masked();
        /// Authenticate by OAuth2: JSON text with `issuer_url` and either `client_id` and `client_secret` or
        /// `credentials_url`; `audience` and `scope` are optional.
        pub oauth: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::OAuth).masked();
        /// User of basic authentication.
        pub basic_name: Option<String> = name();
        /// Password of basic authentication.
        pub basic_password: Option<Secret> = secret();
        /// How long connecting may take.
        pub connection_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// How long looking up a topic or making a producer may take.
        pub operation_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// How long a message may take until it is confirmed.
        pub send_timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// Most records in one batch.
        pub batch_size: u64 = integer(1, 10_000).default_integer(100);
        /// Most messages that wait for their confirmation.
        pub max_pending_messages: u64 = integer(1, 100_000).default_integer(1_000);
        /// Compression of message batches.
        pub compression: Compression = choice(&["none", "lz4", "zlib", "zstd", "snappy"]).default_text("none");
        /// What the value of a message is: the payload's bytes, or the envelope as JSON.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("raw").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Lz4,
    Zlib,
    Zstd,
    Snappy,
}

const BATCH: &[Field] = &[batch_bytes(4 << 20), linger_ms(5, 60_000), max_in_flight(1)];

const RULES: &[Rule] = &[
    Rule::Together(&["basic_name", "basic_password"]),
    Rule::Check {
        says: "at most one way to authenticate: `token`, `oauth`, or `basic_name` with `basic_password`",
        check: one_authentication,
    },
    Rule::Check { says: "`basic_name` has no colon, which ends it on its way to the broker", check: no_colon },
];

fn one_authentication(checked: &Checked<'_>, report: &mut Report) {
    let basic = if checked.was_sent("basic_name") { "basic_name" } else { "basic_password" };
    let sent: Vec<&str> = ["token", "oauth", basic].into_iter().filter(|field| checked.was_sent(field)).collect();
    if let [first, others @ ..] = sent.as_slice() {
        for other in others {
            report.problem(other, format!("cannot stand beside {first}: use one way to authenticate"));
        }
    }
}

fn no_colon(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("basic_name") && checked.text("basic_name").contains(':') {
        report.problem("basic_name", "must have no colon: the broker would take what follows for the password");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_size",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
