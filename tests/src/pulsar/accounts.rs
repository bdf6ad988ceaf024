//! Who may log in: tokens that are signed with one key, and a file of passwords. And somebody who issues such tokens.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::python;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{ports, wait};

/// May publish.
pub const USER: &str = "sluice";
/// Everything that a form, a file or a command line would have to escape, but a colon: the server parts name and password at
/// each of them.
pub const PASSWORD: &str = "p@ss/w/o?r#d '%20&=ü";
/// May log in.
pub const STRANGER: &str = "stranger";
const ADMIN: &str = "admin";
const OPENSSL_LIMIT: Duration = Duration::from_secs(20);
const ISSUER_LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Accounts {
    folder: PathBuf,
    admin: String,
}

impl Accounts {
    pub(super) async fn make(folder: &Path) -> Result<Self> {
        let accounts = Self { folder: folder.to_owned(), admin: String::new() };
        accounts.openssl(&["genrsa", "-out", "token.key", "2048"]).await?;
        accounts.openssl(&["rsa", "-in", "token.key", "-pubout", "-outform", "DER", "-out", "token.der"]).await?;
        accounts.set_password(PASSWORD).await?;
        let admin = accounts.token(ADMIN).await?;
        Ok(Self { admin, ..accounts })
    }

    pub(super) fn admin(&self) -> &str {
        &self.admin
    }

    pub(super) fn settings(&self, folder: &Path) -> Vec<(String, String)> {
        let by = "org.apache.pulsar.broker.authentication";
        let parameters = format!("token:{}", self.admin);
        [
            ("authenticationEnabled", "true".to_owned()),
            ("authenticationProviders", format!("{by}.AuthenticationProviderToken,{by}.AuthenticationProviderBasic")),
            ("authenticationRefreshCheckSeconds", "1".to_owned()),
            ("tokenPublicKey", format!("file://{}/token.der", folder.display())),
            ("basicAuthConf", format!("file://{}/passwords", folder.display())),
            ("authorizationEnabled", "true".to_owned()),
            ("superUserRoles", ADMIN.to_owned()),
            ("brokerClientAuthenticationPlugin", "org.apache.pulsar.client.impl.auth.AuthenticationToken".to_owned()),
            ("brokerClientAuthenticationParameters", parameters),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    pub(super) async fn set_password(&self, password: &str) -> Result<()> {
        let hash = self.openssl(&["passwd", "-apr1", password]).await?;
        let line = format!("{USER}:{}\n", hash.trim());
        std::fs::write(self.folder.join("passwords"), line).context("passwords")
    }

    /// A token of RFC 7519, signed with RS256.
    pub(super) async fn token(&self, subject: &str) -> Result<String> {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(json!({ "alg": "RS256" })), part(json!({ "sub": subject })));
        let (file, signature) = (format!("{subject}.txt"), format!("{subject}.signature"));
        std::fs::write(self.folder.join(&file), &text)?;
        self.openssl(&["dgst", "-sha256", "-sign", "token.key", "-out", &signature, &file]).await?;
        let signature = std::fs::read(self.folder.join(signature))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    async fn openssl(&self, args: &[&str]) -> Result<String> {
        let mut openssl = tokio::process::Command::new("openssl");
        openssl.args(args).current_dir(&self.folder);
        Ok(process::run(&mut openssl, OPENSSL_LIMIT).await?.success()?.stdout)
    }
}

/// An OAuth2 issuer (tests/servers/token_issuer.py).
pub struct Issuer {
    process: Process,
    port: u16,
    scratch: Scratch,
}

impl Issuer {
    pub(super) async fn start(accounts: &Accounts, life: Duration) -> Result<Self> {
        let scratch = Scratch::new("issuer")?;
        let key = scratch.path().join("token.key");
        std::fs::copy(accounts.folder.join("token.key"), &key)?;
        let port = ports::free()?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/servers/token_issuer.py");
        let mut command = Command::new(python()?);
        command.arg("-u").arg(script).arg(port.to_string()).arg(key);
        command.args([USER, PASSWORD, &life.as_secs().to_string()]);
        let process = Process::spawn("issuer", &mut command, &scratch.path().join("issuer.log"))?;
        let issuer = Self { process, port, scratch };
        let ready = wait::until(ISSUER_LIMIT, "the issuer answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop).context("no connection")
        });
        ready.await.with_context(|| issuer.process.log_tail())?;
        Ok(issuer)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/realm", self.port)
    }

    /// How many tokens it was asked for, and how many it gave.
    pub fn asked(&self) -> Result<(usize, usize)> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        let asked: Vec<&str> = log.lines().filter(|line| line.contains("POST /realm/token")).collect();
        Ok((asked.len(), asked.iter().filter(|line| line.contains(" 200 ")).count()))
    }

    pub fn kill(&mut self) -> Result<()> {
        let ended = self.process.kill()?;
        ensure!(!ended.success(), "the issuer had ended by itself");
        Ok(())
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}
