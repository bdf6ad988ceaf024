//! Who may connect: a password file in the format of `mosquitto_passwd`, or anybody.
//!
//! Lines are `user:$7$iterations$salt$hash` (PBKDF2-HMAC-SHA-512) or `user:$6$salt$hash` (SHA-512 of password and
//! salt), salt and hash in base64. Empty lines and lines that begin with `#` are skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api_types::secret::same_bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha512};
use tokio::sync::Semaphore;
use tracing::error;

use super::wire::Reason;

/// Work factor beyond which one connect would keep a processor busy for seconds.
const ITERATIONS_MAX: u32 = 10_000_000;
/// Passwords hashed at once; the others wait, so that a storm of connects leaves processors to the rest.
const HASHING_MAX: usize = 2;
const HASH_BYTES: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    #[error("cannot read the password file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("line {line} of the password file {path}: {problem}")]
    Line { path: PathBuf, line: usize, problem: &'static str },
}

/// Users and the hashes of their passwords.
#[derive(Default)]
pub struct PasswordFile {
    users: HashMap<String, PasswordHash>,
}

impl std::fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordFile").field("users", &self.users.len()).finish()
    }
}

#[derive(Clone)]
enum PasswordHash {
    Pbkdf2 { iterations: u32, salt: Vec<u8>, hash: Vec<u8> },
    Sha512 { salt: Vec<u8>, hash: Vec<u8> },
}

impl PasswordFile {
    pub fn load(path: &Path) -> Result<Self, PasswordFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| PasswordFileError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|(line, problem)| PasswordFileError::Line { path: path.to_owned(), line, problem })
    }

    /// The number of the first bad line and what is wrong with it.
    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |problem| (index + 1, problem);
            let (user, hash) = line.split_once(':').ok_or(at("there is no colon after the user name"))?;
            if user.is_empty() {
                return Err(at("the user name is empty"));
            }
            users.insert(user.to_owned(), PasswordHash::parse(hash).map_err(at)?);
        }
        Ok(Self { users })
    }
}

impl PasswordHash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "the password must have the form $7$iterations$salt$hash or $6$salt$hash";
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| "salt and hash must be base64");
        let mut parts = text.split('$');
        let parsed = match (parts.next(), parts.next()) {
            (Some(""), Some("7")) => {
                let iterations = parts.next().and_then(|text| text.parse().ok()).ok_or(FORM)?;
                if iterations == 0 || iterations > ITERATIONS_MAX {
                    return Err("the iterations must be between 1 and 10000000");
                }
                let salt = decode(parts.next().ok_or(FORM)?)?;
                Self::Pbkdf2 { iterations, salt, hash: decode(parts.next().ok_or(FORM)?)? }
            }
            (Some(""), Some("6")) => {
                let salt = decode(parts.next().ok_or(FORM)?)?;
                Self::Sha512 { salt, hash: decode(parts.next().ok_or(FORM)?)? }
            }
            (Some(_) | None, Some(_) | None) => return Err(FORM),
        };
        if parts.next().is_some() {
            return Err(FORM);
        }
        let hash = match &parsed {
            Self::Pbkdf2 { hash, .. } | Self::Sha512 { hash, .. } => hash,
        };
        if hash.len() == HASH_BYTES { Ok(parsed) } else { Err("the hash must have 64 bytes") }
    }

    fn matches(&self, password: &[u8]) -> bool {
        let (made, hash): ([u8; HASH_BYTES], _) = match self {
            Self::Pbkdf2 { iterations, salt, hash } => {
                let mut made = [0; HASH_BYTES];
                pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, *iterations, &mut made);
                (made, hash)
            }
            Self::Sha512 { salt, hash } => {
                (Sha512::new().chain_update(password).chain_update(salt).finalize().into(), hash)
            }
        };
        same_bytes(&made, hash)
    }
}

/// Judges user names and passwords of connecting clients.
#[derive(Clone, Debug)]
pub struct Auth {
    passwords: Option<Arc<PasswordFile>>,
    allow_anonymous: bool,
    hashing: Arc<Semaphore>,
}

impl Auth {
    /// Without a password file nobody can prove who he is: then `allow_anonymous` decides for all.
    pub fn new(passwords: Option<PasswordFile>, allow_anonymous: bool) -> Self {
        Self { passwords: passwords.map(Arc::new), allow_anonymous, hashing: Arc::new(Semaphore::new(HASHING_MAX)) }
    }

    pub async fn check(&self, username: Option<&str>, password: Option<Bytes>) -> Result<(), Reason> {
        let (Some(passwords), Some(username)) = (&self.passwords, username) else {
            return if self.allow_anonymous { Ok(()) } else { Err(Reason::NotAuthorized) };
        };
        let Some(password) = password else { return Err(Reason::BadUserNameOrPassword) };
        let known = passwords.users.get(username).cloned();
        // An unknown name costs as much as a known one, so that the time does not tell which names exist.
        let Some(hash) = known.clone().or_else(|| passwords.users.values().next().cloned()) else {
            return Err(Reason::BadUserNameOrPassword);
        };
        let Ok(_permit) = self.hashing.acquire().await else { return Err(Reason::ServerUnavailable) };
        match tokio::task::spawn_blocking(move || hash.matches(&password)).await {
            Ok(true) if known.is_some() => Ok(()),
            Ok(_) => Err(Reason::BadUserNameOrPassword),
            Err(error) => {
                error!(%error, "checking a password failed");
                Err(Reason::ServerUnavailable)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let hash = STANDARD.encode([0; HASH_BYTES]);
        let good = format!("# users\n\nalice:$7$101$AAAA${hash}\nbob:$6$AAAA${hash}\n");
        assert_eq!(PasswordFile::parse(&good).map(|file| file.users.len()).ok(), Some(2));
        for (line, part) in [
            ("alice".to_owned(), "colon"),
            (":$6$AAAA$AAAA".to_owned(), "user name"),
            ("alice:secret".to_owned(), "form"),
            (format!("alice:$5$AAAA${hash}"), "form"),
            (format!("alice:$7$0$AAAA${hash}"), "iterations"),
            (format!("alice:$7$x$AAAA${hash}"), "form"),
            (format!("alice:$7$101$?${hash}"), "base64"),
            (format!("alice:$6$AAAA${hash}$x"), "form"),
            ("alice:$6$AAAA$AAAA".to_owned(), "64 bytes"),
        ] {
            let Err((number, problem)) = PasswordFile::parse(&format!("\n{line}")) else { panic!("{line}") };
            assert!(number == 2 && problem.contains(part), "{line}: {number} {problem}");
        }
    }

    #[tokio::test]
    async fn without_a_file_the_switch_decides() {
        for (allow, expect) in [(true, Ok(())), (false, Err(Reason::NotAuthorized))] {
            let auth = Auth::new(None, allow);
            assert_eq!(auth.check(None, None).await, expect);
            assert_eq!(auth.check(Some("a"), Some("b".into())).await, expect);
        }
        let empty = Auth::new(Some(PasswordFile::default()), false);
        assert_eq!(empty.check(Some("a"), Some("b".into())).await, Err(Reason::BadUserNameOrPassword));
        assert_eq!(empty.check(None, None).await, Err(Reason::NotAuthorized));
    }
}
