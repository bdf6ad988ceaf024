//! Configuration of the elasticsearch sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, Literal, boolean, choice, config_fields, formatted, http_url, integer, name, secret,
    text,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::TemplateKind;

/// Longest index name Elasticsearch takes is 255 bytes; a template may be longer than what it becomes.
const INDEX_CHARS_MAX: usize = 1_024;

config_fields! {
    /// Where and how an elasticsearch connector writes.
    pub struct Config { FIELDS;
        /// Server, `http://` or `https://`.
        pub url: String = http_url().required();
        /// Index of every document.
        pub index: String = text(1, INDEX_CHARS_MAX).required().template(TemplateKind::Text);
        /// How requests are authenticated.
        pub auth_type: AuthType = choice(&["none", "basic", "apikey"]).default_text("none");
        /// User of `basic`.
        pub username: Option<String> = name().required_when("auth_type", &[Literal::Text("basic")]);
        /// Password of `basic`.
        pub password: Option<Secret> = secret().required_when("auth_type", &[Literal::Text("basic")]);
        /// Key of `apikey`, encoded as the server shows it.
        pub api_key: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::HeaderValue)
            .masked()
            .required_when("auth_type", &[Literal::Text("apikey")]);
        /// Speak TLS also where `url` begins with `http://`.
        pub enable_tls: bool = boolean().default_boolean(false);
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(30);
        /// Times a request is sent again after a lost connection, inside one attempt of the pipeline.
        pub max_retries: u64 = integer(0, 10).default_integer(3);
        /// What a document is: the envelope, or the payload, which must then be a JSON object. Both get `@timestamp`.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthType {
    None,
    Basic,
    Apikey,
}

const BATCH: &[Field] = &[batch_records(1_000, 10_000), batch_bytes(8 << 20), linger_ms(100, 60_000), max_in_flight(4)];

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS_WITH_SEED_CA],
    rules: &[tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
