//! References to secrets that stand outside the cluster: `${env:NAME}` and `${file:/path}`.
//!
//! ```text
//! create: SecretFences::check     form and fences only, reads nothing; on any node
//! run:    SecretFences::resolve   on the node that runs the task, at every (re)connect, so a rotated secret is seen
//! ```
//!
//! Environment variables must begin with `connectors.env_prefix`, and Sluice's own (`SLUICE__…`) can never be read. Files
//! must lie under one of `connectors.secret_dirs` after symbolic links were followed. `$${` writes `${`.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use api_types::secret::Secret;

/// Largest file a reference may name.
pub const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Variables of Sluice's own configuration; among them is `cluster.secret`.
const OWN_ENV_PREFIX: &str = "SLUICE__";

/// Where secrets may be read from. The same on every node by configuration, checked at create and again when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFences {
    pub env_prefix: String,
    pub secret_dirs: Vec<PathBuf>,
}

impl Default for SecretFences {
    fn default() -> Self {
        Self { env_prefix: "SLUICE_SECRET_".to_owned(), secret_dirs: vec![PathBuf::from("/etc/sluice/secrets")] }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{0}")]
    Refused(String),
    #[error("environment variable {0} is not set on this node")]
    EnvMissing(String),
    #[error("environment variable {0} is not UTF-8")]
    EnvNotText(String),
    #[error("cannot read secret file {path}")]
    FileUnreadable {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("secret file {path} lies outside connectors.secret_dirs once symbolic links are followed")]
    FileOutside { path: String },
    #[error("secret file {path} is not a regular file")]
    NotAFile { path: String },
    #[error("secret file {path} is larger than {SECRET_FILE_BYTES_MAX} bytes")]
    FileTooLarge { path: String },
    #[error("secret file {path} is not UTF-8")]
    FileNotText { path: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reference<'a> {
    Env(&'a str),
    File(&'a str),
}

/// A run of text, or one reference as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span<'a> {
    Literal(&'a str),
    /// `$${`, which stands for `${`.
    Escape,
    Reference(&'a str),
}

impl SecretFences {
    /// Form and fences, at create: nothing is read. Text without references is always fine.
    pub fn check(&self, text: &str) -> Result<(), String> {
        for span in spans(text)? {
            if let Span::Reference(reference) = span {
                self.check_fences(parse_reference(reference)?)?;
            }
        }
        Ok(())
    }

    /// Replaces every reference by its secret.
    pub fn resolve(&self, text: &str) -> Result<Secret, SecretError> {
        self.resolve_with(text, |_, secret| secret.to_owned()).map(Secret::new)
    }

    /// Like `resolve`; `encode` gets the text before the reference as well, and says how the secret is written there.
    pub(crate) fn resolve_with(
        &self,
        text: &str,
        mut encode: impl FnMut(&str, &str) -> String,
    ) -> Result<String, SecretError> {
        let mut resolved = String::new();
        for span in spans(text).map_err(SecretError::Refused)? {
            match span {
                Span::Literal(literal) => resolved.push_str(literal),
                Span::Escape => resolved.push_str("${"),
                Span::Reference(reference) => {
                    let secret = self.read(parse_reference(reference).map_err(SecretError::Refused)?)?;
                    let encoded = encode(&resolved, &secret);
                    resolved.push_str(&encoded);
                }
            }
        }
        Ok(resolved)
    }

    fn check_fences(&self, reference: Reference<'_>) -> Result<(), String> {
        match reference {
            Reference::Env(name) => {
                let form = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !form || !name.starts_with(&self.env_prefix) || name.starts_with(OWN_ENV_PREFIX) {
                    return Err(format!(
                        "may name only environment variables that begin with {} (connectors.env_prefix), and never \
                         {OWN_ENV_PREFIX}*",
                        self.env_prefix
                    ));
                }
                Ok(())
            }
            Reference::File(text) => {
                let path = Path::new(text);
                let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
                if plain && self.secret_dirs.iter().any(|dir| path.starts_with(dir) && path != dir.as_path()) {
                    return Ok(());
                }
                let dirs: Vec<String> = self.secret_dirs.iter().map(|dir| dir.display().to_string()).collect();
                Err(format!(
                    "may name only files under {} (connectors.secret_dirs), by an absolute path without \"..\"",
                    dirs.join(", ")
                ))
            }
        }
    }

    fn read(&self, reference: Reference<'_>) -> Result<String, SecretError> {
        self.check_fences(reference).map_err(SecretError::Refused)?;
        match reference {
            Reference::Env(name) => std::env::var(name).map_err(|error| match error {
                std::env::VarError::NotPresent => SecretError::EnvMissing(name.to_owned()),
                std::env::VarError::NotUnicode(_) => SecretError::EnvNotText(name.to_owned()),
            }),
            Reference::File(path) => self.read_file(path),
        }
    }

    fn read_file(&self, path: &str) -> Result<String, SecretError> {
        let named = || path.to_owned();
        let unreadable = |source| SecretError::FileUnreadable { path: named(), source };
        // Links are followed first: inside Kubernetes secret volumes every file is one.
        let real = fs::canonicalize(path).map_err(unreadable)?;
        let dirs = self.secret_dirs.iter().filter_map(|dir| fs::canonicalize(dir).ok());
        if !dirs.into_iter().any(|dir| real.starts_with(dir)) {
            return Err(SecretError::FileOutside { path: named() });
        }
        // Asked before it is opened: opening a pipe would wait for its writer.
        if !fs::metadata(&real).map_err(unreadable)?.is_file() {
            return Err(SecretError::NotAFile { path: named() });
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&real).map_err(unreadable)?;
        file.take(SECRET_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > SECRET_FILE_BYTES_MAX {
            return Err(SecretError::FileTooLarge { path: named() });
        }
        let mut text = String::from_utf8(bytes).map_err(|_| SecretError::FileNotText { path: named() })?;
        // Editors and `echo` end a file with a newline that is no part of the secret.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Ok(text)
    }
}

pub(crate) fn has_reference(text: &str) -> bool {
    spans(text).is_ok_and(|spans| spans.iter().any(|span| matches!(span, Span::Reference(_))))
}

/// Cuts text into literals and references. Says what is wrong with the first `${` that is neither closed nor escaped.
pub(crate) fn spans(text: &str) -> Result<Vec<Span<'_>>, String> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            push_literal(&mut spans, &rest[..at - 1]);
            spans.push(Span::Escape);
            rest = &rest[at + 2..];
            continue;
        }
        push_literal(&mut spans, &rest[..at]);
        let Some(length) = rest[at..].find('}') else {
            return Err("has a ${ without its }; write $${ for the two characters themselves".to_owned());
        };
        let reference = &rest[at..=at + length];
        parse_reference(reference)?;
        spans.push(Span::Reference(reference));
        rest = &rest[at + length + 1..];
    }
    push_literal(&mut spans, rest);
    Ok(spans)
}

fn push_literal<'a>(spans: &mut Vec<Span<'a>>, text: &'a str) {
    if !text.is_empty() {
        spans.push(Span::Literal(text));
    }
}

fn parse_reference(text: &str) -> Result<Reference<'_>, String> {
    let inner = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    match inner.split_once(':') {
        Some(("env", name)) => Ok(Reference::Env(name)),
        Some(("file", path)) => Ok(Reference::File(path)),
        Some(_) | None => {
            Err("takes references of the forms ${env:NAME} and ${file:/path} only (it is not a template); \
                               write $${ for the two characters themselves"
                .to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fences(prefix: &str, dir: &Path) -> SecretFences {
        SecretFences { env_prefix: prefix.to_owned(), secret_dirs: vec![dir.to_owned()] }
    }

    #[test]
    fn create_checks_form_and_fences_only() {
        let fences = SecretFences::default();
        let good = [
            "",
            "plain",
            "pa$$word",
            "a$${b",
            "$",
            "${env:SLUICE_SECRET_DB}",
            "Bearer ${env:SLUICE_SECRET_DB}",
            "${file:/etc/sluice/secrets/not-there}",
            "${file:/etc/sluice/secrets/a/b}-${env:SLUICE_SECRET_X}",
        ];
        for text in good {
            assert_eq!(fences.check(text), Ok(()), "{text}");
        }
        let bad = [
            "${env:HOME}",
            "${env:}",
            "${env:SLUICE__CLUSTER__SECRET}",
            "${env:SLUICE_SECRET_A=B}",
            "${file:/etc/passwd}",
            "${file:/etc/sluice/secrets}",
            "${file:/etc/sluice/secrets/../../passwd}",
            "${file:etc/sluice/secrets/a}",
            "${file:/etc/sluice/secretsx/a}",
            "${vault:a}",
            "${topic}",
            "${env:SLUICE_SECRET_A",
            "${",
        ];
        for text in bad {
            assert!(fences.check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn own_variables_stay_closed_whatever_the_prefix() {
        for prefix in ["", "SLUICE_", "SLUICE__"] {
            let fences = fences(prefix, Path::new("/none"));
            assert!(fences.check("${env:SLUICE__CLUSTER__SECRET}").is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn variables_are_read_when_resolved() {
        // Cargo sets these for every test; changing the environment of a running process is not sound.
        let fences = fences("CARGO_", Path::new("/none"));
        let secret = fences.resolve("<${env:CARGO_PKG_NAME}> $${x}").expect("set by cargo");
        assert_eq!(secret.reveal(), "<connector-runtime> ${x}");
        let missing = fences.resolve("${env:CARGO_SURELY_NOT_SET}").expect_err("not set");
        assert!(matches!(missing, SecretError::EnvMissing(_)), "{missing}");
        assert!(matches!(fences.resolve("${env:PATH}").expect_err("fenced"), SecretError::Refused(_)));
    }

    #[test]
    fn files_are_read_inside_the_fence_only() {
        let root = tempfile::tempdir().expect("a folder");
        let inside = root.path().join("secrets");
        fs::create_dir(&inside).expect("a folder");
        let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).expect("written");
        write(&inside.join("lf"), b"hunter2\n");
        write(&inside.join("crlf"), b"hunter2\r\n");
        write(&inside.join("two"), b"hunter2\n\n");
        write(&inside.join("binary"), b"\xff");
        write(&inside.join("full"), &vec![b'a'; SECRET_FILE_BYTES_MAX as usize]);
        write(&inside.join("large"), &vec![b'a'; SECRET_FILE_BYTES_MAX as usize + 1]);
        write(&root.path().join("outside"), b"no");
        symlink(inside.join("lf"), inside.join("link-in")).expect("linked");
        symlink(root.path().join("outside"), inside.join("link-out")).expect("linked");
        let fences = fences("SLUICE_SECRET_", &inside);
        let read = |name: &str| fences.resolve(&format!("${{file:{}}}", inside.join(name).display()));
        for (name, expect) in [("lf", "hunter2"), ("crlf", "hunter2"), ("two", "hunter2\n"), ("link-in", "hunter2")] {
            assert_eq!(read(name).expect(name).reveal(), expect, "{name}");
        }
        assert_eq!(read("full").expect("full").reveal().len() as u64, SECRET_FILE_BYTES_MAX);
        assert!(matches!(read("large").expect_err("large"), SecretError::FileTooLarge { .. }));
        assert!(matches!(read("binary").expect_err("binary"), SecretError::FileNotText { .. }));
        assert!(matches!(read("link-out").expect_err("link-out"), SecretError::FileOutside { .. }));
        assert!(matches!(read("absent").expect_err("absent"), SecretError::FileUnreadable { .. }));
        fs::create_dir(inside.join("folder")).expect("a folder");
        assert!(matches!(read("folder").expect_err("folder"), SecretError::NotAFile { .. }));
    }

    #[test]
    fn a_rotated_file_is_seen_at_the_next_resolve() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("password");
        let fences = fences("SLUICE_SECRET_", dir.path());
        for password in ["first", "second"] {
            fs::write(&path, password).expect("written");
            let text = format!("${{file:{}}}", path.display());
            assert_eq!(fences.resolve(&text).expect("readable").reveal(), password);
        }
    }
}
