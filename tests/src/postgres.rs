//! PostgreSQL as a target, and psql, which says what is in it.
//!
//! ```text
//!   sluice ──▶ role and database `sluice` (password) ──▶ tables
//!   tests  ──psql──▶ as the superuser, or as the role
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

pub const ROLE: &str = "sluice";
/// Everything that a URL or a connection string would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d '\\\"%20 ü";

/// The table of the documentation, and its column for the record's id.
pub const TABLE: &str = "CREATE TABLE mqtt_messages (client_id text NOT NULL, topic text NOT NULL, \
    timestamp bigint NOT NULL, payload text, data bytea NOT NULL)";
pub const ID_COLUMN: &str = "ALTER TABLE mqtt_messages ADD COLUMN id text NOT NULL UNIQUE";

#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Settings, as in postgresql.conf.
    pub settings: Vec<(String, String)>,
    /// Names of the server in its certificate; without them it speaks no TLS.
    pub tls_names: Option<String>,
    /// The same with certificates that were made elsewhere, for the common name `sluice`.
    pub certificates: Option<Box<Certificates>>,
    /// The role has to show a certificate as well.
    pub client_certificate: bool,
}

pub struct Postgres {
    process: Process,
    port: u16,
    options: PostgresOptions,
    certificates: Option<Box<Certificates>>,
    scratch: Scratch,
}

impl Postgres {
    pub async fn start() -> Result<Self> {
        Self::with(PostgresOptions::default()).await
    }

    pub async fn with(options: PostgresOptions) -> Result<Self> {
        let scratch = Scratch::new("postgres")?;
        copy_fresh_cluster(scratch.path())?;
        let certificates = match (&options.tls_names, &options.certificates) {
            (Some(names), _) => Some(Box::new(Certificates::make(scratch.path(), names, ROLE)?)),
            // The server wants its key to be its own.
            (None, Some(made)) => Some(Box::new(made.copied_to(scratch.path())?)),
            (None, None) => None,
        };
        let port = ports::free()?;
        let process = spawn(scratch.path(), port, &options, certificates.as_deref())?;
        let mut postgres = Self { process, port, options, certificates, scratch };
        postgres.ready().await?;
        Ok(postgres)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_deref().context("the server speaks no TLS")
    }

    /// Of a connector into [`TABLE`], with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "host": "127.0.0.1", "port": self.port, "database": ROLE, "username": ROLE, "password": PASSWORD,
            "table": "mqtt_messages",
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Runs statements as the superuser; gives what they answer, a row on a line, columns apart by `|`.
    pub async fn sql(&self, text: &str) -> Result<String> {
        self.psql("postgres", text).await
    }

    /// The same as the role, to whom the tables belong that it makes.
    pub async fn sql_of_role(&self, text: &str) -> Result<String> {
        self.psql(ROLE, text).await
    }

    /// The rows of a query, each as a JSON object.
    pub async fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let text = self.sql(&format!("SELECT coalesce(json_agg(q), '[]') FROM ({query}) q")).await?;
        serde_json::from_str(&text).with_context(|| text)
    }

    pub async fn count(&self, table: &str) -> Result<u64> {
        Ok(self.sql(&format!("SELECT count(*) FROM {table}")).await?.parse()?)
    }

    /// As by a power cut; its children notice and end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "PostgreSQL still runs");
        self.process = self.spawn()?;
        self.ready().await
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)?;
        for child in children_of(self.process.pid())? {
            let pid = rustix::process::Pid::from_raw(child).context("no pid")?;
            rustix::process::kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn psql(&self, role: &str, text: &str) -> Result<String> {
        let mut command = tokio::process::Command::new(programs()?.join("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-d", ROLE, "-U", role])
            .args(["-p", &self.port.to_string(), "-c", text])
            .env("PGPASSWORD", PASSWORD);
        if let Some(certificates) = &self.certificates {
            command.env("PGSSLCERT", &certificates.client).env("PGSSLKEY", &certificates.client_key);
        }
        let finished = process::run(&mut command, SQL_LIMIT).await?.success()?;
        Ok(finished.stdout.trim_end_matches('\n').to_owned())
    }

    /// A killed server leaves children that hold its memory for a moment; until they are gone a new one ends at once.
    async fn ready(&mut self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "PostgreSQL answers", async || {
            if !self.process.is_running() {
                self.process = self.spawn()?;
            }
            self.sql("SELECT 1").await
        });
        let ready = ready.await.map(drop);
        ready.with_context(|| self.process.log_tail())
    }

    fn spawn(&self) -> Result<Process> {
        spawn(self.scratch.path(), self.port, &self.options, self.certificates.as_deref())
    }
}

/// An immediate shutdown takes the shared memory along.
impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.is_running() {
            let _ = self.signal_all(Signal::CONT);
            let _ = self.process.end(Signal::QUIT);
        }
    }
}

fn spawn(folder: &Path, port: u16, options: &PostgresOptions, certificates: Option<&Certificates>) -> Result<Process> {
    let method = if options.client_certificate { "scram-sha-256 clientcert=verify-full" } else { "scram-sha-256" };
    let hba = folder.join("pg_hba.conf");
    let rules = format!(
        "host all postgres 127.0.0.1/32 trust\n{} all all 127.0.0.1/32 {method}\n",
        match certificates {
            Some(_) => "hostssl",
            None => "host",
        }
    );
    std::fs::write(&hba, rules)?;
    let mut command = Command::new(programs()?.join("postgres"));
    command.arg("-D").arg(folder.join("data"));
    let mut set = |name: &str, value: &str| {
        command.arg("-c").arg(format!("{name}={value}"));
    };
    set("port", &port.to_string());
    set("listen_addresses", "127.0.0.1");
    set("unix_socket_directories", "");
    set("hba_file", &hba.display().to_string());
    // What a killed process has written stays: only a power cut would need more.
    set("fsync", "off");
    set("full_page_writes", "off");
    if let Some(certificates) = certificates {
        set("ssl", "on");
        set("ssl_ca_file", &certificates.ca.display().to_string());
        set("ssl_cert_file", &certificates.server.display().to_string());
        set("ssl_key_file", &certificates.server_key.display().to_string());
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    Process::spawn_unprivileged("postgres", &mut command, &folder.join("postgres.log"), folder)
}

/// Debian has the programs of each version in a folder of their own; the newest counts.
fn programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").context("Debian package postgresql")?;
    let mut folders: Vec<PathBuf> = versions.map(|version| Ok(version?.path().join("bin"))).collect::<Result<_>>()?;
    folders.retain(|folder| folder.join("postgres").exists());
    folders.sort_by_key(|folder| {
        let version = folder.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        version.and_then(|version| version.parse::<u32>().ok())
    });
    folders.pop().context("no PostgreSQL under /usr/lib/postgresql")
}

/// Making a cluster takes a second, copying one a twentieth of it.
fn copy_fresh_cluster(folder: &Path) -> Result<()> {
    let programs = programs()?;
    let data = folder.join("data");
    kept::copy_of("postgres", (&programs, SETUP, PASSWORD), &data, || make_cluster(&programs, folder, &data))
}

const SETUP: &str = "CREATE ROLE sluice LOGIN PASSWORD $p${password}$p$;\nCREATE DATABASE sluice OWNER sluice;\n";

fn make_cluster(programs: &Path, folder: &Path, data: &Path) -> Result<()> {
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
    kept::run(initdb, folder, None)?;
    let setup = folder.join("setup.sql");
    std::fs::write(&setup, SETUP.replace("{password}", PASSWORD))?;
    let mut single = Command::new(programs.join("postgres"));
    single.arg("--single").arg("-D").arg(data).arg("postgres");
    kept::run(single, folder, Some(&setup))
}

fn children_of(pid: u32) -> Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    text.split_whitespace().map(|child| Ok(child.parse()?)).collect()
}

/// A postgres connector.
pub fn postgres_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "postgres", "config": config.to_string(), "topic_name": topic,
    })
}
