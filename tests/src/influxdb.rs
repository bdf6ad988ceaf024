//! InfluxDB as a target, and curl, which says what is in it.
//!
//! ```text
//!   sluice ──▶ user `sluice` (password), database `sluice` ──▶ measurements
//!   tests  ──curl──▶ as the administrator
//! ```
//!
//! Debian's 1.6 speaks version 1 of the API; 1.8, which `scripts/setup` builds, version 2 as well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(60);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

pub const DATABASE: &str = "sluice";
pub const USER: &str = "sluice";
/// Everything that a URL would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d&%20=ü";
/// May only read.
pub const READER: &str = "reader";
/// Without spaces: a token of the API of version 2 is `user:password`.
pub const TOKEN_PASSWORD: &str = "t0ken-p@ss";
/// The same rights as [`USER`], with the other password.
pub const TOKEN_USER: &str = "token";
/// The key of the measurement in [`InfluxDb::rows`].
pub const MEASUREMENT: &str = "@measurement";
const ADMIN: &str = "admin:admin";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    #[default]
    Debian,
    /// With the API of version 2.
    V1_8,
}

#[derive(Clone, Debug, Default)]
pub struct InfluxOptions {
    pub release: Release,
    /// Whoever comes may do everything.
    pub open: bool,
    /// Lines of the sections `data` and `http`, as in influxdb.conf.
    pub data: Vec<String>,
    pub http: Vec<String>,
}

pub struct InfluxDb {
    process: Process,
    program: PathBuf,
    port: u16,
    scratch: Scratch,
}

impl InfluxDb {
    pub async fn start() -> Result<Self> {
        Self::with(InfluxOptions::default()).await
    }

    /// 1.8, or `None`, and says so, where `scripts/setup` could not build it.
    pub async fn with_version_2() -> Result<Option<Self>> {
        if program(Release::V1_8).is_err() {
            eprintln!("not run: InfluxDB 1.8 is not here; `scripts/setup all` builds it where it finds Go");
            return Ok(None);
        }
        Self::with(InfluxOptions { release: Release::V1_8, ..InfluxOptions::default() }).await.map(Some)
    }

    pub async fn with(options: InfluxOptions) -> Result<Self> {
        let scratch = Scratch::new("influxdb")?;
        let program = match options.release {
            Release::Debian => program(Release::Debian)?,
            Release::V1_8 => cache::readable(&program(Release::V1_8)?, scratch.path())?,
        };
        let port = ports::free()?;
        std::fs::write(scratch.path().join("influxdb.conf"), configuration(scratch.path(), port, &options)?)?;
        let process = spawn(&program, scratch.path())?;
        let mut influxdb = Self { process, program, port, scratch };
        influxdb.ready().await?;
        influxdb.make_users().await?;
        Ok(influxdb)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Of a connector that writes version 1 of the API, with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        let config = json!({
            "server": self.url(), "version": "v1", "database": DATABASE, "username": USER, "password": PASSWORD,
            "measurement": "mqtt",
        });
        with(config, more)
    }

    /// The same in version 2.
    pub fn config_v2(&self, more: &Value) -> Value {
        let config = json!({
            "server": self.url(), "token": format!("{TOKEN_USER}:{TOKEN_PASSWORD}"), "org": "any", "bucket": DATABASE,
            "measurement": "mqtt",
        });
        with(config, more)
    }

    /// Runs statements of InfluxQL as the administrator.
    pub async fn run(&self, statement: &str) -> Result<Value> {
        self.run_in(DATABASE, statement).await
    }

    async fn run_in(&self, database: &str, statement: &str) -> Result<Value> {
        let answer = self.curl("query", &[("q", statement), ("db", database), ("epoch", "ns")]).await?;
        let value: Value = serde_json::from_str(&answer).with_context(|| answer)?;
        let failed = value["error"].as_str().or_else(|| value["results"][0]["error"].as_str());
        match failed {
            Some(error) => bail!("{statement}: {error}"),
            None => Ok(value),
        }
    }

    /// The rows of a query, each with its columns, in the order of their times; `time` in nanoseconds. Of several
    /// measurements one after the other, each row with its [`MEASUREMENT`].
    pub async fn rows(&self, query: &str) -> Result<Vec<Value>> {
        self.rows_of(DATABASE, query).await
    }

    /// The same in another database.
    pub async fn rows_of(&self, database: &str, query: &str) -> Result<Vec<Value>> {
        let answer = self.run_in(database, query).await?;
        let mut rows = Vec::new();
        for series in answer["results"][0]["series"].as_array().unwrap_or(&Vec::new()) {
            let columns = series["columns"].as_array().context("no columns")?;
            for values in series["values"].as_array().context("no values")? {
                let mut row = serde_json::Map::new();
                row.insert(MEASUREMENT.to_owned(), series["name"].clone());
                for (column, value) in columns.iter().zip(values.as_array().context("no row")?) {
                    row.insert(column.as_str().context("no name")?.to_owned(), value.clone());
                }
                rows.push(Value::Object(row));
            }
        }
        Ok(rows)
    }

    /// Points of a measurement that have this field.
    pub async fn count(&self, measurement: &str, field: &str) -> Result<u64> {
        let rows = self.rows(&format!("SELECT count(\"{field}\") FROM \"{measurement}\"")).await?;
        Ok(rows.first().and_then(|row| row["count"].as_u64()).unwrap_or_default())
    }

    /// Requests to `/write` and `/api/v2/write` that it answered, as `status path?query`.
    pub fn writes(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        let lines = log.lines().filter_map(|line| {
            let (_, request) = line.split_once("\"POST ")?;
            let (uri, rest) = request.split_once(" HTTP/")?;
            // 1.8 has a space before the quotation mark at the end of the request, 1.6 has not.
            let status: u16 = rest.split_whitespace().find_map(|word| word.parse().ok())?;
            let is_write = uri.starts_with("/write") || uri.starts_with("/api/v2/write");
            is_write.then(|| format!("{status} {uri}"))
        });
        Ok(lines.collect())
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "InfluxDB still runs");
        self.process = spawn(&self.program, self.scratch.path())?;
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

    async fn ready(&mut self) -> Result<()> {
        let (process, port) = (&self.process, self.port);
        let ready = wait::until(START_LIMIT, "InfluxDB answers", async || {
            let url = format!("http://127.0.0.1:{port}/ping");
            let mut curl = tokio::process::Command::new("curl");
            curl.args(["-sS", "-f", "-o", "/dev/null", &url]);
            process::run(&mut curl, QUERY_LIMIT).await?.success()?;
            Ok(())
        });
        ready.await.with_context(|| process.log_tail())
    }

    /// The first user needs no password to be made.
    async fn make_users(&self) -> Result<()> {
        let (user, password) = ADMIN.split_once(':').context("no colon")?;
        self.run(&format!("CREATE USER {user} WITH PASSWORD '{password}' WITH ALL PRIVILEGES")).await?;
        self.run(&format!("CREATE DATABASE {DATABASE}")).await?;
        for (user, password, right) in
            [(USER, PASSWORD, "ALL"), (TOKEN_USER, TOKEN_PASSWORD, "WRITE"), (READER, PASSWORD, "READ")]
        {
            self.run(&format!("CREATE USER {user} WITH PASSWORD '{password}'")).await?;
            self.run(&format!("GRANT {right} ON {DATABASE} TO {user}")).await?;
        }
        Ok(())
    }

    /// Writes lines as the administrator.
    pub async fn write(&self, database: &str, lines: &str) -> Result<()> {
        let url = format!("{}/write?db={database}", self.url());
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "-u", ADMIN, "--data-binary", lines, &url]);
        process::run(&mut curl, QUERY_LIMIT).await?.success().map(drop)
    }

    async fn curl(&self, path: &str, parameters: &[(&str, &str)]) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-X", "POST", "-u", ADMIN]);
        for (name, value) in parameters {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        curl.arg(format!("{}/{path}", self.url()));
        Ok(process::run(&mut curl, QUERY_LIMIT).await?.success()?.stdout)
    }
}

fn with(mut config: Value, more: &Value) -> Value {
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

fn program(release: Release) -> Result<PathBuf> {
    match release {
        Release::Debian => {
            let path = Path::new("/usr/bin/influxd");
            ensure!(path.exists(), "Debian package influxdb");
            Ok(path.to_owned())
        }
        Release::V1_8 => cache::program("influxd-1.8.10")?.context("scripts/setup builds InfluxDB 1.8"),
    }
}

fn spawn(program: &Path, folder: &Path) -> Result<Process> {
    let mut command = Command::new(program);
    command.arg("-config").arg(folder.join("influxdb.conf"));
    Process::spawn_unprivileged("influxd", &mut command, &folder.join("influxdb.log"), folder)
}

fn configuration(folder: &Path, port: u16, options: &InfluxOptions) -> Result<String> {
    let (data, http) = (options.data.join("\n"), options.http.join("\n"));
    let folder = folder.display();
    Ok(format!(
        r#"reporting-disabled = true
bind-address = "127.0.0.1:{}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
query-log-enabled = false
{data}
[http]
enabled = true
bind-address = "127.0.0.1:{port}"
auth-enabled = {}
log-enabled = true
{http}
[monitor]
store-enabled = false
"#,
        ports::free()?,
        !options.open,
    ))
}

/// An influxdb connector.
pub fn influxdb_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "influxdb", "config": config.to_string(), "topic_name": topic,
    })
}
