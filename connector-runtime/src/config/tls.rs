//! TLS towards a target: the same seven fields for every kind that can speak it.

use api_types::secret::Secret;
use serde_json::Value;

use super::field::{CREDENTIAL_CHARS_MAX, Field, NAME_CHARS_MAX, PATH_CHARS_MAX, boolean, config_fields, formatted};
use super::format::TextFormat;
use super::rules::{Checked, Report, Rule};

/// PEM text of a bundle of CA certificates; the whole configuration is bounded at 65,536 bytes.
const PEM_CHARS_MAX: usize = 32_768;

config_fields! {
    /// Chain and host name are always verified unless `tls_verify` is false.
    pub struct TlsOptions { FIELDS;
        /// PEM file with the CA certificates to trust instead of the system's.
        pub ca_cert_path: Option<String> = formatted(1, PATH_CHARS_MAX, TextFormat::FilePath).added();
        /// The same as PEM text.
        pub ca_cert: Option<String> = formatted(1, PEM_CHARS_MAX, TextFormat::Pem).added();
        /// PEM file with the client's certificate chain, for targets that ask for one.
        pub client_cert_path: Option<String> = formatted(1, PATH_CHARS_MAX, TextFormat::FilePath).added();
        /// The same as PEM text.
        pub client_cert: Option<String> = formatted(1, PEM_CHARS_MAX, TextFormat::Pem).added();
        /// PEM file with the key of the client's certificate.
        pub client_key_path: Option<String> = formatted(1, PATH_CHARS_MAX, TextFormat::FilePath).added();
        /// The same as PEM text.
        pub client_key: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX * 2, TextFormat::Pem).masked().added();
        /// Name that the target's certificate must carry, where it is not the host name of the address.
        pub tls_server_name: Option<String> = formatted(1, NAME_CHARS_MAX, TextFormat::Host).added();
        /// `false` accepts any certificate: whoever is on the way can then read and change everything.
        pub tls_verify: bool = boolean().default_boolean(true).added();
    }
}

impl TlsOptions {
    /// Nothing was configured.
    pub fn of_this_machine() -> Self {
        Self {
            ca_cert_path: None,
            ca_cert: None,
            client_cert_path: None,
            client_cert: None,
            client_key_path: None,
            client_key: None,
            tls_server_name: None,
            tls_verify: true,
        }
    }
}

pub const RULES: &[Rule] = &[
    Rule::OnlyOneOf(&["ca_cert_path", "ca_cert"]),
    Rule::OnlyOneOf(&["client_cert_path", "client_cert"]),
    Rule::OnlyOneOf(&["client_key_path", "client_key"]),
    Rule::Check {
        says: "a client certificate (`client_cert_path` or `client_cert`) and its key (`client_key_path` or \
               `client_key`) come together",
        check: certificate_and_key,
    },
    Rule::Check { says: "`tls_verify` false is accepted and named in `warnings`", check: verification_given_up },
    Rule::Check { says: "TLS fields without TLS are accepted and named in `warnings`", check: unused_without_tls },
];

/// For the one kind whose `ca_cert_path` is the seed's.
pub const FIELDS_WITH_SEED_CA: &[Field] = &{
    let [mut ca_cert_path, ca_cert, cert_path, cert, key_path, key, server_name, verify] = FIELDS_ARRAY;
    ca_cert_path.spec.added = false;
    [ca_cert_path, ca_cert, cert_path, cert, key_path, key, server_name, verify]
};

const FIELDS_ARRAY: [Field; 8] = match FIELDS.first_chunk() {
    Some(fields) => *fields,
    None => panic!("eight fields are declared above"),
};

/// Fields in which a target's address stands, whatever the kind.
const ADDRESS_FIELDS: [&str; 5] = ["url", "server", "server_addr", "endpoint", "bootstrap_servers"];
const TLS_SCHEMES: [&str; 3] = ["https://", "mqtts://", "pulsar+ssl://"];

fn certificate_and_key(checked: &Checked<'_>, report: &mut Report) {
    let has = |fields: [&str; 2]| fields.iter().any(|field| checked.has(field));
    match (has(["client_cert_path", "client_cert"]), has(["client_key_path", "client_key"])) {
        (true, false) => report.problem("client_key_path", "is required with a client certificate (or client_key)"),
        (false, true) => report.problem("client_cert_path", "is required with a client key (or client_cert)"),
        (true, true) | (false, false) => {}
    }
}

fn verification_given_up(checked: &Checked<'_>, report: &mut Report) {
    if checked.value("tls_verify") == Some(&Value::Bool(false)) {
        report.warning("config.tls_verify is false: the target's certificate is not checked");
    }
}

fn unused_without_tls(checked: &Checked<'_>, report: &mut Report) {
    let switched_on = checked.is_true("enable_tls") || checked.is_true("tls_enabled");
    let address = ADDRESS_FIELDS.iter().map(|field| checked.text(field)).find(|text| !text.is_empty());
    let by_scheme = match address {
        // What a reference stands for is not known here.
        Some(text) if text.starts_with("${") => true,
        Some(text) => TLS_SCHEMES.iter().any(|scheme| text.to_ascii_lowercase().starts_with(scheme)),
        // AWS without an endpoint of one's own is always https; a kind with a host has a switch.
        None => !checked.has("enable_tls"),
    };
    if switched_on || by_scheme {
        return;
    }
    for field in FIELDS.iter().filter(|field| checked.was_sent(field.name)) {
        report.warning(format!("config.{} has no effect without TLS", field.name));
    }
}
