//! Names of objects: made from the sealed batch alone, so that a batch that comes again has the same one.

use api_types::{ClusterId, Incarnation, Record};
use chrono::DateTime;

use super::config::{Compression, Config, prefix_problem};

/// The keys of one connector.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Empty, or with a slash at its end.
    folder: String,
    cluster: ClusterId,
    incarnation: Incarnation,
    extension: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{field} {problem}")]
pub(super) struct UnusablePrefix {
    field: &'static str,
    problem: &'static str,
}

impl Keys {
    /// What a reference stood for was not seen when the connector was created.
    pub(super) fn new(config: &Config, cluster: ClusterId, incarnation: Incarnation) -> Result<Self, UnusablePrefix> {
        let mut folder = String::new();
        for (field, prefix) in [("root", &config.root), ("object_key_prefix", &config.object_key_prefix)] {
            if let Some(problem) = prefix_problem(prefix) {
                return Err(UnusablePrefix { field, problem });
            }
            let prefix = prefix.trim_matches('/');
            if !prefix.is_empty() {
                folder.push_str(prefix);
                folder.push('/');
            }
        }
        let compression = match config.compression {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        };
        let extension = format!("{}{compression}", config.file_extension);
        Ok(Self { folder, cluster, incarnation, extension })
    }

    /// What all of them begin with.
    pub(super) fn folder(&self) -> &str {
        &self.folder
    }

    /// Ids are unique within a cluster only, and clusters may share a bucket.
    pub(super) fn of(&self, first: &Record, last: &Record) -> String {
        let received = i64::try_from(first.message.timestamp_ms).ok().and_then(DateTime::from_timestamp_millis);
        let date = received.unwrap_or_default().format("%Y-%m-%d");
        let Self { folder, cluster, extension, .. } = self;
        format!("{folder}{date}/{cluster}-{}-{}.{extension}", first.id, last.id)
    }

    /// This connector, on whichever node, made the key, or could have.
    pub(super) fn is_own(&self, key: &str) -> bool {
        let cluster = self.cluster.to_string();
        let own = || {
            let (_date, name) = key.strip_prefix(&self.folder)?.split_once('/')?;
            let (_raft_id, rest) = name.strip_prefix(&cluster)?.strip_prefix('-')?.split_once('-')?;
            let (incarnation, _) = rest.split_once('-')?;
            incarnation.parse().ok()
        };
        own() == Some(self.incarnation.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sinks::opened::record;

    fn config(root: &str, prefix: &str, compression: &str) -> Config {
        let config = json!({
            "bucket": "b", "region": "r", "root": root, "object_key_prefix": prefix, "file_extension": "json",
            "format": "json", "compression": compression, "payload_format": "envelope", "part_bytes": 5 << 20,
            "max_open_objects": 4, "timeout_secs": 30, "tls_verify": true,
        });
        serde_json::from_value(config).expect("a configuration")
    }

    fn keys(root: &str, prefix: &str, compression: &str) -> Keys {
        Keys::new(&config(root, prefix, compression), ClusterId(7), Incarnation(7)).expect("can be made")
    }

    fn check(root: &str, prefix: &str, compression: &str, expect: &str) {
        let keys = keys(root, prefix, compression);
        let key = keys.of(&record(10, ""), &record(200, ""));
        assert_eq!(key, expect);
        assert!(keys.is_own(&key), "{key}");
    }

    #[test]
    fn a_key_is_made_of_the_prefixes_the_day_and_the_bounds_of_the_batch() {
        let name = format!("2023-11-14/{}-1-7-10-1-7-200.json", ClusterId(7));
        check("", "mqtt", "none", &format!("mqtt/{name}"));
        check("/lake/raw/", "/mqtt/", "gzip", &format!("lake/raw/mqtt/{name}.gz"));
        check("", "", "zstd", &format!("{name}.zst"));
        check("a b", "ü", "none", &format!("a b/ü/{name}"));
    }

    #[test]
    fn the_keys_of_others_are_not_its_own() {
        let own = keys("", "mqtt", "none").of(&record(10, ""), &record(200, ""));
        let theirs = [
            Keys::new(&config("", "mqtt", "none"), ClusterId(8), Incarnation(7)),
            Keys::new(&config("", "mqtt", "none"), ClusterId(7), Incarnation(8)),
            Keys::new(&config("", "other", "none"), ClusterId(7), Incarnation(7)),
            Keys::new(&config("", "mqtt/deep", "none"), ClusterId(7), Incarnation(7)),
        ];
        for keys in theirs {
            assert!(!keys.expect("can be made").is_own(&own), "{own}");
        }
        for key in ["mqtt/2023-11-14/backup.json", "mqtt/x", "mqtt/", ""] {
            assert!(!keys("", "mqtt", "none").is_own(key), "{key}");
        }
    }

    #[test]
    fn nothing_leads_out_of_the_bucket() {
        for (root, prefix) in [("..", ""), ("a/../../b", ""), ("", "a//b"), ("", "./a"), (" a", ""), ("a/ b", "")] {
            assert!(Keys::new(&config(root, prefix, "none"), ClusterId(7), Incarnation(7)).is_err(), "{root} {prefix}");
        }
    }
}
