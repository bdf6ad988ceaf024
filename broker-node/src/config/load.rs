//! Collects values from all sources, then all problems.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use api_types::secret::Secret;

use super::check::{self, Checks};
use super::setting::{Raw, Setting};
use super::{Config, DefaultValue, KEYS, LATER};

const ENV_PREFIX: &str = "SLUICE__";
/// A secret file is one line; more than this is a mistake.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Stands for a required key without a good value, so that the checks of the others still run.
const STAND_IN: &str = "unset";
/// A name this similar to a known one is probably a slip of the finger.
const SIMILAR_MIN: f64 = 0.7;

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// The process environment, or in tests a part of it.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, the last one wins.
    pub sets: Vec<String>,
    /// One voter on loopback, data in `./sluice-data`: defaults below every other source.
    pub dev: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the source when it has no key.
    pub path: String,
    pub text: String,
}

/// Everything that is wrong, in one message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "the configuration has {count} problem{}", if count == 1 { "" } else { "s" })?;
        for problem in &self.problems {
            write!(f, "\n  {}: {}", problem.path, problem.text)?;
        }
        Ok(())
    }
}

struct Given {
    raw: Raw,
    /// Named in problems, so that people know where to look.
    origin: String,
}

/// Values by path, and what was found wrong so far.
#[derive(Default)]
pub(super) struct Values {
    given: BTreeMap<String, Given>,
    problems: Vec<Problem>,
    /// Keys without a good value: their stand-ins prove nothing.
    failed: BTreeSet<String>,
    /// The file could not be read: which keys are missing is not known.
    unread: bool,
}

impl Config {
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut values = Values::default();
        if sources.dev {
            values.add_dev_defaults();
        }
        if let Some(path) = &sources.file {
            values.add_file(path);
        }
        values.add_environment(&sources.environment);
        values.add_sets(&sources.sets);
        values.refuse_unknown_and_later();
        let config = Self::read(&mut values);
        let mut checks = Checks { problems: values.problems, failed: values.failed, unread: values.unread };
        // Every default and stand-in can be read, so there always is a configuration to check.
        let Some(mut config) = config else { return Err(ConfigError { problems: checks.problems }) };
        complete(&mut config, sources.dev, &mut checks);
        check::check(&config, &mut checks);
        if checks.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: checks.problems }) }
    }
}

/// Fills in what one key takes from another.
fn complete(config: &mut Config, dev: bool, checks: &mut Checks) {
    if dev && config.cluster.initial_voters.is_empty() && config.cluster.join.is_empty() {
        let voter = super::Voter { name: config.node.name.clone(), address: config.rpc_address() };
        config.cluster.initial_voters.push(voter);
    }
    for root in &mut config.connectors.file_roots {
        if let Ok(rest) = root.strip_prefix("<data_dir>") {
            *root = config.node.data_dir.join(rest);
        }
    }
    // The node reads the users itself when it starts; here only whether it will be able to.
    if let Some(path) = &config.mqtt.password_file
        && let Err(error) = crate::mqtt::PasswordFile::load(path)
    {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        checks.wrong("mqtt.auth.password_file", format!("{error}{cause}"));
    }
    if let Some(path) = &config.cluster.secret_file {
        if config.cluster.secret.is_some() {
            let text = "set cluster.secret or cluster.secret_file, not both";
            checks.contradiction("cluster.secret_file", &["cluster.secret"], text);
            return;
        }
        match read_secret(path) {
            Ok(secret) => config.cluster.secret = Some(secret),
            Err(text) => checks.wrong("cluster.secret_file", text),
        }
    }
}

fn read_secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    if length > SECRET_FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than {SECRET_FILE_BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    match text.trim() {
        "" => Err(format!("{shown} is empty")),
        secret => Ok(Secret::new(secret)),
    }
}

impl Problem {
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }
}

impl Values {
    fn add(&mut self, path: String, raw: Raw, origin: impl Into<String>) {
        self.given.insert(path, Given { raw, origin: origin.into() });
    }

    fn add_dev_defaults(&mut self) {
        self.add("node.name".into(), Raw::Text("dev".into()), "--dev");
        self.add("node.data_dir".into(), Raw::Text("./sluice-data".into()), "--dev");
    }

    fn add_file(&mut self, path: &Path) {
        let origin = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.unread = true;
                return self.problems.push(Problem::new(origin, format!("cannot be read: {error}")));
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table("", table, &origin),
            Err(error) => {
                self.unread = true;
                // Not the parser's own display: it prints the line, which may hold a secret.
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                self.problems.push(Problem::new(format!("{origin}, line {line}"), error.message()));
            }
        }
    }

    fn add_table(&mut self, prefix: &str, table: toml::Table, origin: &str) {
        for (key, value) in table {
            let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => self.add_table(&path, inner, origin),
                value => self.add(path, Raw::Toml(value), origin),
            }
        }
    }

    fn add_environment(&mut self, environment: &[(String, String)]) {
        for (name, value) in environment {
            if let Some(rest) = name.strip_prefix(ENV_PREFIX) {
                let path = rest.to_ascii_lowercase().replace("__", ".");
                self.add(path, Raw::Text(value.clone()), name);
            }
        }
    }

    fn add_sets(&mut self, sets: &[String]) {
        for set in sets {
            match set.split_once('=') {
                Some((path, value)) => self.add(path.trim().to_owned(), Raw::Text(value.to_owned()), "--set"),
                None => {
                    self.problems.push(Problem::new(format!("--set {set}"), "must have the form section.key=value"))
                }
            }
        }
    }

    fn refuse_unknown_and_later(&mut self) {
        for (path, given) in &self.given {
            if KEYS.iter().any(|key| key.path == path) {
                continue;
            }
            let origin = &given.origin;
            let text = if LATER.contains(&path.as_str()) {
                format!("not available in this version ({origin})")
            } else {
                match nearest(path) {
                    Some(known) => format!("unknown key ({origin}); did you mean {known}?"),
                    None => format!("unknown key ({origin}); known: {}", known_beside(path)),
                }
            };
            self.problems.push(Problem::new(path, text));
        }
    }

    /// The value of one key. Without a good one that is a problem, and its default stands in.
    pub(super) fn take<T: Setting>(&mut self, path: &'static str, default: DefaultValue) -> Option<T> {
        if let Some(given) = self.given.get(path) {
            if let Some(value) = T::read(&given.raw) {
                return Some(value);
            }
            self.problems.push(Problem::new(path, format!("must be {} ({})", T::allowed(), given.origin)));
            self.failed.insert(path.to_owned());
        } else if default == DefaultValue::Required {
            if !self.unread {
                self.problems.push(Problem::new(path, format!("is required: {}", T::allowed())));
            }
            self.failed.insert(path.to_owned());
        }
        match default {
            DefaultValue::Text(text) => T::read(&Raw::Text(text.into())),
            DefaultValue::Unset => T::unset(),
            DefaultValue::Required => T::read(&Raw::Text(STAND_IN.into())),
        }
    }
}

fn nearest(path: &str) -> Option<&'static str> {
    let known = KEYS.iter().map(|key| key.path).chain(LATER.iter().copied());
    let scored = known.map(|known| (strsim::jaro_winkler(path, known), known));
    // A common prefix is not enough: the last part must be similar too.
    let last = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let similar = scored.filter(|(_, known)| strsim::jaro_winkler(&last(path), &last(known)) >= SIMILAR_MIN);
    similar.filter(|(score, _)| *score >= SIMILAR_MIN).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// The keys of the same section, or the sections.
fn known_beside(path: &str) -> String {
    let section = path.split('.').next().unwrap_or_default();
    let of_section = |key: &&str| key.split('.').next() == Some(section);
    let keys: Vec<&str> = KEYS.iter().map(|key| key.path).filter(of_section).collect();
    if !keys.is_empty() {
        return keys.join(", ");
    }
    let mut sections: Vec<&str> = KEYS.iter().filter_map(|key| key.path.split('.').next()).collect();
    sections.dedup();
    format!("sections {}", sections.join(", "))
}
