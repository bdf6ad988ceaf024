//! MariaDB as a target, and its own client, which says what is in it.
//!
//! ```text
//!   sluice ──▶ user and database `sluice` (password) ──▶ tables
//!   tests  ──mariadb──▶ as root, or as the user
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{kept, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(60);
const SQL_LIMIT: Duration = Duration::from_secs(60);

pub const USER: &str = "sluice";
/// Everything that a URL or a connection string would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d '\\\"%20 ü";

/// The table of the documentation, and its column for the record's id.
pub const TABLE: &str = "CREATE TABLE mqtt_messages (record_key VARCHAR(512) NOT NULL, payload LONGTEXT NOT NULL, \
    timestamp BIGINT NOT NULL)";
pub const ID_COLUMN: &str = "ALTER TABLE mqtt_messages ADD COLUMN id VARCHAR(96) CHARACTER SET ascii NOT NULL UNIQUE";

#[derive(Clone, Debug, Default)]
pub struct MariaDbOptions {
    /// Settings, as in my.cnf.
    pub settings: Vec<(String, String)>,
    /// Names of the server in its certificate; without them it speaks no TLS.
    pub tls_names: Option<String>,
    /// The same with certificates that were made elsewhere.
    pub certificates: Option<Certificates>,
}

pub struct MariaDb {
    process: Process,
    port: u16,
    options: MariaDbOptions,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

impl MariaDb {
    pub async fn start() -> Result<Self> {
        Self::with(MariaDbOptions::default()).await
    }

    pub async fn with(options: MariaDbOptions) -> Result<Self> {
        let scratch = Scratch::new("mariadb")?;
        copy_fresh_data(scratch.path())?;
        let certificates = match (&options.tls_names, &options.certificates) {
            (Some(names), _) => Some(Certificates::make(scratch.path(), names, USER)?),
            // The server's key has to be its own.
            (None, Some(made)) => Some(made.copied_to(scratch.path())?),
            (None, None) => None,
        };
        let port = ports::free()?;
        let process = spawn(scratch.path(), port, &options, certificates.as_ref())?;
        let mut mariadb = Self { process, port, options, certificates, scratch };
        mariadb.ready().await?;
        Ok(mariadb)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Readable and writable by the server.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector into [`TABLE`], with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "host": "127.0.0.1", "port": self.port, "database": USER, "username": USER, "password": PASSWORD,
            "table": "mqtt_messages",
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Runs statements as root; gives what they answer, a row on a line, columns apart by `|`.
    pub async fn sql(&self, text: &str) -> Result<String> {
        self.client("root", "", text).await
    }

    /// The same as the user.
    pub async fn sql_of_user(&self, text: &str) -> Result<String> {
        self.client(USER, PASSWORD, text).await
    }

    pub async fn count(&self, table: &str) -> Result<u64> {
        Ok(self.sql(&format!("SELECT count(*) FROM {table}")).await?.parse()?)
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "MariaDB still runs");
        self.process = spawn(self.scratch.path(), self.port, &self.options, self.certificates.as_ref())?;
        self.ready().await
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn client(&self, user: &str, password: &str, text: &str) -> Result<String> {
        let mut command = tokio::process::Command::new("mariadb");
        command
            .args(["--no-defaults", "--protocol=tcp", "--skip-ssl", "--batch", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--host=127.0.0.1"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--user={user}"))
            .args(["--execute", text, USER])
            .env("MYSQL_PWD", password);
        let finished = process::run(&mut command, SQL_LIMIT).await?.success()?;
        Ok(finished.stdout.trim_end_matches('\n').replace('\t', "|"))
    }

    async fn ready(&mut self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "MariaDB answers", async || {
            ensure!(self.process.is_running(), "it has ended");
            self.sql("SELECT 1").await
        });
        let ready = ready.await.map(drop);
        ready.with_context(|| self.process.log_tail())
    }
}

/// What a killed process has written stays: only a power cut would need more.
const SETTINGS: &str = "[mariadbd]
innodb_log_file_size=16M
innodb_buffer_pool_size=32M
innodb_flush_log_at_trx_commit=2
performance_schema=ON
skip_name_resolve=ON
character_set_server=utf8mb4
bind_address=127.0.0.1
";

fn spawn(folder: &Path, port: u16, options: &MariaDbOptions, certificates: Option<&Certificates>) -> Result<Process> {
    let mut settings = SETTINGS.to_owned();
    let mut set = |name: &str, value: &str| settings.push_str(&format!("{name}={value}\n"));
    if let Some(certificates) = certificates {
        set("ssl_ca", &certificates.ca.display().to_string());
        set("ssl_cert", &certificates.server.display().to_string());
        set("ssl_key", &certificates.server_key.display().to_string());
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    let file = folder.join("my.cnf");
    std::fs::write(&file, settings)?;
    let mut command = server(&file, &folder.join("data"));
    command
        .arg(format!("--port={port}"))
        .arg(format!("--socket={}", folder.join("socket").display()))
        .arg(format!("--pid-file={}", folder.join("pid").display()));
    Process::spawn_unprivileged("mariadbd", &mut command, &folder.join("mariadb.log"), folder)
}

fn server(settings: &Path, data: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg(format!("--defaults-file={}", settings.display())).arg(format!("--datadir={}", data.display()));
    // A server that starts clears the temporary tables of all others away that share its folder for them.
    command.arg(format!("--tmpdir={}", data.parent().unwrap_or(data).display()));
    command
}

/// Debian keeps servers out of the way of users.
fn program() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mariadbd");
    if debian.exists() { debian } else { PathBuf::from("mariadbd") }
}

/// Root exists, and may come from this machine without a password.
const SETUP: &str = "FLUSH PRIVILEGES;
CREATE DATABASE sluice CHARACTER SET utf8mb4;
CREATE USER 'sluice'@'%' IDENTIFIED BY '{password}';
GRANT ALL ON sluice.* TO 'sluice'@'%';
";

/// Making a data folder takes three seconds, copying one a twentieth of it.
fn copy_fresh_data(folder: &Path) -> Result<()> {
    let version = Command::new(program()).arg("--version").output().context("Debian package mariadb-server")?;
    let data = folder.join("data");
    kept::copy_of("mariadb", (version.stdout, SETTINGS, SETUP, PASSWORD), &data, || make_data(folder, &data))
}

fn make_data(folder: &Path, data: &Path) -> Result<()> {
    let settings = folder.join("make.cnf");
    std::fs::write(&settings, SETTINGS)?;
    let mut install = Command::new("mariadb-install-db");
    install.arg(format!("--defaults-file={}", settings.display())).arg(format!("--datadir={}", data.display())).args([
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
    ]);
    kept::run(install, folder, None)?;
    let setup = folder.join("setup.sql");
    std::fs::write(&setup, SETUP.replace("{password}", &PASSWORD.replace('\\', "\\\\").replace('\'', "\\'")))?;
    let mut bootstrap = server(&settings, data);
    bootstrap.arg("--bootstrap");
    kept::run(bootstrap, folder, Some(&setup))
}

/// A mysql connector.
pub fn mysql_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "mysql", "config": config.to_string(), "topic_name": topic,
    })
}
