//! Names of objects: made from the sealed batch alone, so that a batch that comes again has the same one.

use api_types::{ClusterId, Incarnation, Record};
use chrono::DateTime;

use super::config::{Compression, Config, prefix_problem, prefixes_problem};

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
    problem: String,
}

impl Keys {
    /// What a reference stood for was not seen when the connector was created.
    pub(super) fn new(config: &Config, cluster: ClusterId, incarnation: Incarnation) -> Result<Self, UnusablePrefix> {
        let mut folder = String::new();
        for (field, prefix) in [("root", &config.root), ("object_key_prefix", &config.object_key_prefix)] {
            if let Some(problem) = prefix_problem(prefix) {
                return Err(UnusablePrefix { field, problem: problem.to_owned() });
            }
            let prefix = prefix.trim_matches('/');
            if !prefix.is_empty() {
                folder.push_str(prefix);
                folder.push('/');
            }
        }
        if let Some(problem) = prefixes_problem(config.root.len() + config.object_key_prefix.len()) {
            return Err(UnusablePrefix { field: "object_key_prefix", problem });
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
    use api_types::{RaftId, RecordId, Sequence};
    use serde_json::json;

    use super::*;
    use crate::sinks::opened::record;

    fn made(root: &str, prefix: &str, compression: &str) -> Result<Keys, UnusablePrefix> {
        // As they are when what a reference stands for is known.
        let mut config = Config::with(&json!({"compression": compression}));
        (config.root, config.object_key_prefix) = (root.to_owned(), prefix.to_owned());
        Keys::new(&config, ClusterId(7), Incarnation(7))
    }

    fn keys(root: &str, prefix: &str, compression: &str) -> Keys {
        made(root, prefix, compression).expect("can be made")
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
            Keys { cluster: ClusterId(8), ..keys("", "mqtt", "none") },
            Keys { incarnation: Incarnation(8), ..keys("", "mqtt", "none") },
            keys("", "other", "none"),
            keys("", "mqtt/deep", "none"),
        ];
        for keys in theirs {
            assert!(!keys.is_own(&own), "{own}");
        }
        for key in ["mqtt/2023-11-14/backup.json", "mqtt/x", "mqtt/", ""] {
            assert!(!keys("", "mqtt", "none").is_own(key), "{key}");
        }
    }

    #[test]
    fn nothing_leads_out_of_the_bucket() {
        for (root, prefix) in [("..", ""), ("a/../../b", ""), ("", "a//b"), ("", "./a"), (" a", ""), ("a/ b", "")] {
            assert!(made(root, prefix, "none").is_err(), "{root} {prefix}");
        }
    }

    #[test]
    fn the_longest_key_fits_whatever_a_reference_stood_for() {
        assert!(made(&"r".repeat(700), &"p".repeat(69), "none").is_err());
        let mut last = record(1, "");
        let most = u64::MAX;
        last.id = RecordId { raft_id: RaftId(most), incarnation: Incarnation(most), sequence: Sequence(most) };
        let mut keys = keys(&"r".repeat(700), &"p".repeat(68), "zstd");
        keys.cluster = ClusterId(u128::MAX);
        keys.extension = format!("{}.zst", "e".repeat(16));
        let key = keys.of(&last, &last);
        assert!(key.len() <= 1_024, "{} bytes", key.len());
    }
}
