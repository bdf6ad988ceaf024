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
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::template::{Template, TemplateContext, TemplateKind};

/// Longest name of an index.
pub const NAME_BYTES_MAX: usize = 255;
/// A template may be longer than what it becomes.
const INDEX_CHARS_MAX: usize = 1_024;

config_fields! {
    /// Where and how an elasticsearch connector writes.
    pub struct Config { FIELDS;
        /// Server, `http://` or `https://`.
        pub url: String = http_url().required();
        /// Index, alias or data stream of every document. It begins with text of its own; values are put in in lower case,
        /// with `_` for every character that no index name may have.
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
        /// Times that something is asked again inside one attempt of the pipeline: the request after a lost connection;
        /// after a pause, the documents that the server had no room for (429), alone.
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

const RULES: &[Rule] = &[
    Rule::Check {
        says: "`index` begins with text that is no placeholder, so that no publisher chooses where it writes",
        check: index_begins_with_text,
    },
    Rule::Check {
        says: "the text of `index` beside its placeholders has at most 255 bytes, none of the characters \
               `\\ / * ? \" < > | , # :`, no white space, and does not begin with `_`, `-` or `+`",
        check: index_can_be_a_name,
    },
];

/// No index, alias or data stream may have this character in its name.
pub fn is_forbidden(character: char) -> bool {
    matches!(character, '\\' | '/' | '*' | '?' | '"' | '<' | '>' | '|' | ',' | '#' | ':')
        || character.is_whitespace()
        || character.is_control()
}

/// What is no template has been reported already.
fn index_template(checked: &Checked<'_>) -> Option<Template> {
    Template::parse(checked.text("index"), TemplateContext::Plain).ok().filter(|template| !template.is_empty())
}

fn index_begins_with_text(checked: &Checked<'_>, report: &mut Report) {
    if index_template(checked).is_some_and(|template| template.prefix().is_empty()) {
        report.problem("index", "must begin with text that is no placeholder, such as mqtt-${topic[0]}");
    }
}

fn index_can_be_a_name(checked: &Checked<'_>, report: &mut Report) {
    let Some(template) = index_template(checked) else { return };
    let texts: String = template.literals().collect();
    if let Some(bad) = texts.chars().find(|character| is_forbidden(*character)) {
        let hint = if bad == '<' { "; for a date write ${date:%Y.%m.%d}" } else { "" };
        report.problem("index", format!("has {bad:?}, which no index name may have{hint}"));
    }
    if template.prefix().starts_with(['_', '-', '+']) || (template.is_literal() && matches!(&*texts, "." | "..")) {
        report.problem("index", "must not begin with _, - or +, nor be . or ..");
    }
    if texts.len() > NAME_BYTES_MAX {
        report.problem("index", format!("has more than the {NAME_BYTES_MAX} bytes of an index name"));
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS_WITH_SEED_CA],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: false,
    one_by_one: None,
    fits_type: fits::<Config>,
};
