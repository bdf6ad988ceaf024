//! Configuration of the webhook sink.

use std::collections::BTreeMap;

use api_types::secret::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, Literal, choice, config_fields, formatted, http_url, integer, name, secret, text_map,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, OneByOne, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::secrets::has_reference;
use crate::template::TemplateKind;

const HEADERS_MAX: usize = 64;
/// Longest `body` template.
const BODY_CHARS_MAX: usize = 16_384;
/// A shorter key would be weaker than the hash; longer ones gain nothing.
const HMAC_SECRET_CHARS_MIN: usize = 16;

config_fields! {
    /// Where and how a webhook connector sends.
    pub struct Config { FIELDS;
        /// Target of every request, `http://` or `https://`.
        pub url: String = http_url().required();
        /// HTTP method.
        pub method: Method = choice(&["post", "put"]).default_text("post");
        /// Headers of every request. Values are masked in all answers.
        pub headers: BTreeMap<String, Secret> = text_map(HEADERS_MAX, TextFormat::HeaderValue)
            .default(Literal::EmptyMap)
            .masked();
        /// How long one request may take, from connecting to the last byte of the answer.
        pub timeout_ms: u64 = integer(1, 60_000).default_integer(5_000);
        /// How requests are authenticated.
        pub auth_type: AuthType = choice(&["none", "basic", "bearer"]).default_text("none");
        /// User of `basic`.
        pub username: Option<String> = name().required_when("auth_type", &[Literal::Text("basic")]);
        /// Password of `basic`.
        pub password: Option<Secret> = secret().required_when("auth_type", &[Literal::Text("basic")]);
        /// Token of `bearer`.
        pub bearer_token: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::HeaderValue)
            .masked()
            .required_when("auth_type", &[Literal::Text("bearer")]);
        /// `array`: one request for each batch, always a JSON array; `ndjson`: one request for each batch, one JSON
        /// value per line; `single`: one request for each record.
        pub mode: Mode = choice(&["array", "ndjson", "single"]).default_text("array").added();
        /// What a record becomes: the envelope as JSON, or the payload alone. In `array` and `ndjson` a payload that is
        /// not JSON becomes a JSON text; in `single` the body is the payload's bytes.
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        /// JSON that a record becomes instead of the envelope. A placeholder inside a text is escaped as JSON; one that
        /// stands alone becomes a JSON value.
        pub body: Option<String> = formatted(1, BODY_CHARS_MAX, TextFormat::Any).template(TemplateKind::JsonBody).added();
        /// Key of an HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, sent as `webhook-signature: v1,{base64}`.
        /// A key that begins with `whsec_` goes on in base64.
        pub hmac_secret: Option<Secret> = formatted(HMAC_SECRET_CHARS_MIN, CREDENTIAL_CHARS_MAX, TextFormat::Any)
            .masked()
            .added();
        /// A second key while receivers change over: its signature follows the first one's after a space.
        pub hmac_secret_previous: Option<Secret> =
            formatted(HMAC_SECRET_CHARS_MIN, CREDENTIAL_CHARS_MAX, TextFormat::Any).masked().added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    Post,
    Put,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthType {
    None,
    Basic,
    Bearer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Array,
    Ndjson,
    Single,
}

const BATCH: &[Field] = &[batch_records(100, 10_000), batch_bytes(1 << 20), linger_ms(5, 60_000), max_in_flight(1)];

const RULES: &[Rule] = &[
    Rule::Check {
        says: "`headers` cannot set `Authorization` while `auth_type` is `basic` or `bearer`",
        check: one_authorization,
    },
    Rule::Check { says: "`body` and `payload_format` `raw` cannot stand together", check: one_body },
    Rule::Check { says: "a HMAC key that begins with `whsec_` goes on in base64", check: keys_are_base64 },
    Rule::Check { says: "`hmac_secret_previous` needs `hmac_secret`", check: previous_needs_current },
];

fn one_authorization(checked: &Checked<'_>, report: &mut Report) {
    let headers = checked.value("headers").and_then(|headers| headers.as_object());
    let own = headers.is_some_and(|headers| headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")));
    if own && matches!(checked.text("auth_type"), "basic" | "bearer") {
        report.problem("headers", format!("cannot set Authorization while auth_type is {}", checked.text("auth_type")));
    }
}

fn one_body(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("body") && checked.text("payload_format") == "raw" {
        report.problem("body", "cannot stand beside payload_format raw: the body says what is sent");
    }
}

/// The way in which tools of Standard Webhooks print keys. What a reference stands for shows when it is read.
pub const KEY_PREFIX: &str = "whsec_";

fn keys_are_base64(checked: &Checked<'_>, report: &mut Report) {
    for field in ["hmac_secret", "hmac_secret_previous"] {
        if let Some(encoded) = checked.text(field).strip_prefix(KEY_PREFIX)
            && !has_reference(encoded)
            && STANDARD.decode(encoded).is_err()
        {
            report.problem(field, format!("begins with {KEY_PREFIX}, so the rest must be base64"));
        }
    }
}

fn previous_needs_current(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("hmac_secret_previous") && !checked.was_sent("hmac_secret") {
        report.problem("hmac_secret", "is required with hmac_secret_previous");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: true,
    one_by_one: Some(OneByOne { field: "mode", value: Literal::Text("single") }),
    fits_type: fits::<Config>,
};
