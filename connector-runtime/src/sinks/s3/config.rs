//! Configuration of the s3 sink.

use api_types::secret::Secret;
use serde::Deserialize;

use crate::config::batch::{RATES, batch_bytes, batch_records, linger_ms, max_in_flight};
use crate::config::field::{
    CREDENTIAL_CHARS_MAX, Field, choice, config_fields, formatted, http_url, integer, name, text,
};
use crate::config::format::TextFormat;
use crate::config::payload::{PAYLOAD_FORMATS, PayloadFormat};
use crate::config::rules::{Checked, Report, Rule};
use crate::config::tls::{self, TlsOptions};
use crate::config::{Schema, fits};
use crate::secrets::has_reference;

const PREFIX_CHARS_MAX: usize = 512;
/// A key of S3 has at most 1,024 bytes; the parts of it that the sink makes need the rest.
const PREFIX_BYTES_MAX: usize = 768;
/// An object takes two parts of memory.
const OPEN_BYTES_MAX: u64 = 1 << 30;
/// S3 takes no smaller part, but for the last one of an object.
const PART_BYTES_MIN: u64 = 5 << 20;

config_fields! {
    /// Where and how an s3 connector writes.
    pub struct Config { FIELDS;
        /// Bucket.
        pub bucket: String = name().required();
        /// Region, for example `us-east-1`.
        pub region: String = text(1, 64).required();
        /// Store that speaks the protocol of S3 (path style). Absent: AWS.
        pub endpoint: Option<String> = http_url();
        /// Access key. Absent: what AWS clients find on the node (environment, web identity, container, instance role).
        pub access_key_id: Option<String> = name();
        /// Secret key.
        pub secret_access_key: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::Line).masked();
        /// Token of temporary credentials.
        pub session_token: Option<Secret> = formatted(1, CREDENTIAL_CHARS_MAX, TextFormat::Line).masked();
        /// First part of every key.
        pub root: String = text(0, PREFIX_CHARS_MAX).default_text("");
        /// Second part of every key.
        pub object_key_prefix: String = text(0, PREFIX_CHARS_MAX).default_text("mqtt");
        /// End of every key. The extension of a compression follows it.
        pub file_extension: String = formatted(1, 16, TextFormat::Alphanumeric).default_text("json");
        /// `json`: an object is one JSON array; `ndjson`: one JSON value per line.
        pub format: Format = choice(&["json", "ndjson"]).default_text("json").added();
        /// Compression of objects.
        pub compression: Compression = choice(&["none", "gzip", "zstd"]).default_text("none").added();
        /// What a record becomes: the envelope as JSON, or the payload alone (a payload that is not JSON becomes a JSON
        /// text).
        pub payload_format: PayloadFormat = choice(PAYLOAD_FORMATS).default_text("envelope").added();
        /// An object with more bytes than this is uploaded in parts of this size.
        pub part_bytes: u64 = integer(PART_BYTES_MIN, 64 << 20).default_integer(8 << 20).added();
        /// Most objects that are on their way at the same time, whichever queue their batches are from. Each takes two
        /// parts of memory at most, beside its records.
        pub max_open_objects: u64 = integer(1, 64).default_integer(4).added();
        /// `crc32c`: every request with data has its checksum, which the store compares; `none`: for stores that refuse it.
        pub checksum: Checksum = choice(&["crc32c", "none"]).default_text("crc32c").added();
        /// How long one request may take.
        pub timeout_secs: u64 = integer(1, 300).default_integer(30).added();
        flatten tls: TlsOptions;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Json,
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    Crc32c,
    None,
}

/// One object is one batch: these three bound its size.
const BATCH: &[Field] =
    &[batch_records(10_000, 100_000), batch_bytes(16 << 20), linger_ms(10_000, 600_000), max_in_flight(4)];

const RULES: &[Rule] = &[
    Rule::Together(&["access_key_id", "secret_access_key"]),
    Rule::Check { says: "`session_token` needs `access_key_id` and `secret_access_key`", check: token_needs_keys },
    Rule::Check {
        says: "`bucket` and `region` have only letters, digits and `.`, `-`, `_`, and do not begin with `.`",
        check: names_are_plain,
    },
    Rule::Check {
        says: "between the slashes of `root` and `object_key_prefix` stands something that is neither `.` nor `..` and has \
               no white space around it; both together have at most 768 bytes",
        check: key_can_be_made,
    },
    Rule::Check { says: "`max_open_objects` × `part_bytes` is at most 1073741824 (1 GiB)", check: parts_have_room },
];

/// What keeps a text from being a bucket's or a region's name: both become parts of addresses.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let plain = name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_'));
    let fits = plain && !name.is_empty() && !name.starts_with('.');
    (!fits).then_some("must have only letters, digits, dots, dashes and underscores, and not begin with a dot")
}

/// What keeps two texts from being the beginning of a key together.
pub fn prefixes_problem(bytes: usize) -> Option<String> {
    (bytes > PREFIX_BYTES_MAX)
        .then(|| format!("has, with root, {bytes} bytes, of which a key has room for {PREFIX_BYTES_MAX}"))
}

/// What keeps a text from being the beginning of a key. An HTTP client follows `..` before a store sees it.
pub fn prefix_problem(prefix: &str) -> Option<&'static str> {
    let prefix = prefix.trim_matches('/');
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.trim() != part;
    let odd = !prefix.is_empty() && prefix.split('/').any(is_odd);
    odd.then_some("must have something between its slashes that is neither . nor .. and has no white space around it")
}

fn names_are_plain(checked: &Checked<'_>, report: &mut Report) {
    for field in ["bucket", "region"] {
        let name = checked.text(field);
        // What is missing has been reported, and what a reference stands for is known on the node that runs the task.
        if !name.is_empty()
            && !has_reference(name)
            && let Some(problem) = name_problem(name)
        {
            report.problem(field, problem);
        }
    }
}

fn key_can_be_made(checked: &Checked<'_>, report: &mut Report) {
    let fields = ["root", "object_key_prefix"];
    for field in fields {
        if let Some(problem) = prefix_problem(checked.text(field)) {
            report.problem(field, problem);
        }
    }
    let bytes: usize = fields.iter().map(|field| checked.text(field).len()).sum();
    if let Some(problem) = prefixes_problem(bytes) {
        report.problem("object_key_prefix", problem);
    }
}

fn parts_have_room(checked: &Checked<'_>, report: &mut Report) {
    if let (Some(objects), Some(bytes)) = (checked.integer("max_open_objects"), checked.integer("part_bytes"))
        && objects * bytes > OPEN_BYTES_MAX
    {
        let says = format!("is {objects}, which makes, with part_bytes, {} bytes of {OPEN_BYTES_MAX}", objects * bytes);
        report.problem("max_open_objects", says);
    }
}

fn token_needs_keys(checked: &Checked<'_>, report: &mut Report) {
    if checked.was_sent("session_token") && !checked.was_sent("access_key_id") && !checked.was_sent("secret_access_key")
    {
        report.problem("access_key_id", "is required together with session_token");
    }
}

pub const SCHEMA: Schema = Schema {
    groups: &[FIELDS, BATCH, RATES, tls::FIELDS],
    rules: &[RULES, tls::RULES],
    gives_up: None,
    records_field: "batch_records",
    sync_bounds: true,
    one_by_one: None,
    fits_type: fits::<Config>,
};

#[cfg(test)]
impl Config {
    /// With the defaults, but for these fields.
    pub(super) fn with(more: &serde_json::Value) -> Self {
        let mut config = serde_json::json!({"bucket": "b", "region": "r"});
        let (Some(sent), Some(more)) = (config.as_object_mut(), more.as_object()) else { panic!("objects") };
        sent.extend(more.clone());
        let kind = crate::registry::kind("s3").expect("known");
        let valid = crate::config::validate(kind, sent, &crate::secrets::SecretFences::default()).expect("is valid");
        serde_json::from_value(valid.effective.into()).expect("a configuration")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::validate;
    use crate::registry::kind;
    use crate::secrets::SecretFences;

    fn check(more: &Value, expect: &[&str]) {
        let mut config = json!({"bucket": "my-bucket", "region": "us-east-1"});
        let (Some(sent), Some(more)) = (config.as_object_mut(), more.as_object()) else { panic!("objects") };
        sent.extend(more.clone());
        let problems = validate(kind("s3").expect("known"), sent, &SecretFences::default()).err().unwrap_or_default();
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field.trim_start_matches("config.")).collect();
        assert_eq!(fields, expect, "{more:?}: {problems:?}");
    }

    #[test]
    fn keys_come_in_pairs() {
        check(&json!({}), &[]);
        check(&json!({"access_key_id": "a"}), &["secret_access_key"]);
        check(&json!({"secret_access_key": "s"}), &["access_key_id"]);
        check(&json!({"session_token": "t"}), &["access_key_id"]);
        check(&json!({"access_key_id": "a", "secret_access_key": "s", "session_token": "t"}), &[]);
    }

    #[test]
    fn no_name_and_no_prefix_changes_an_address() {
        check(&json!({"bucket": "a/b"}), &["bucket"]);
        check(&json!({"bucket": "a?b", "region": "x.org/#"}), &["bucket", "region"]);
        check(&json!({"bucket": ".."}), &["bucket"]);
        check(&json!({"bucket": "my.bucket_1", "region": "auto"}), &[]);
        check(&json!({"root": "..", "object_key_prefix": "a//b"}), &["root", "object_key_prefix"]);
        check(&json!({"root": "/a/./b/"}), &["root"]);
        check(&json!({"root": "/a b/ü/", "object_key_prefix": ""}), &[]);
        check(&json!({"file_extension": "tar.gz"}), &["file_extension"]);
    }

    #[test]
    fn the_parts_of_all_open_objects_have_a_bound() {
        check(&json!({"max_open_objects": 64, "part_bytes": 16 << 20}), &[]);
        check(&json!({"max_open_objects": 16, "part_bytes": 64 << 20}), &[]);
        check(&json!({"max_open_objects": 17, "part_bytes": 64 << 20}), &["max_open_objects"]);
    }

    #[test]
    fn a_key_has_room_for_what_the_sink_puts_behind() {
        check(&json!({"root": "r".repeat(512), "object_key_prefix": "p".repeat(256)}), &[]);
        check(&json!({"root": "r".repeat(512), "object_key_prefix": "p".repeat(257)}), &["object_key_prefix"]);
        check(&json!({"root": "ü".repeat(400)}), &["object_key_prefix"]);
    }
}
