//! PostgreSQL as a target, with its defaults; it keeps the time of each commit, so that latencies need no client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::process::{self, Finished};
use tests::scratch::Scratch;
use tests::{ports, wait};

use super::Server;
use crate::bare::statements;

const USER: &str = "bench";
const PASSWORD: &str = "bench";
const DATABASE: &str = "postgres";
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Of the tables that are written to.
const COLUMNS: [&str; 5] = ["client_id text", "topic text", "timestamp bigint", "payload text", "data bytea"];
/// Rows of one statement of a loop, as of one batch of ours.
pub const ROWS_PER_INSERT: usize = 10_000;

/// What writes rows without Sluice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    Copy,
    Insert,
}

impl Loader {
    pub const ALL: [Self; 2] = [Self::Copy, Self::Insert];

    pub const fn says(self) -> &'static str {
        match self {
            Self::Copy => "`COPY` of all rows",
            Self::Insert => "`INSERT` of 10,000 rows each, in a loop",
        }
    }
}

pub struct Postgres {
    server: Server,
    programs: PathBuf,
}

impl Postgres {
    pub async fn start() -> Result<Self> {
        let programs = programs()?;
        let (scratch, port) = (Scratch::new("postgres")?, ports::free()?);
        let folder = scratch.path().to_owned();
        std::fs::write(folder.join("password"), PASSWORD)?;
        let mut init = Command::new(programs.join("initdb"));
        init.arg("-D").arg(folder.join("data")).arg("--pwfile").arg(folder.join("password"));
        init.args(["-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8"]);
        init_database(&mut init, &folder).await?;
        let mut command = Command::new(programs.join("postgres"));
        command.arg("-D").arg(folder.join("data")).args(["-p", &port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "track_commit_timestamp=on"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", folder.display()));
        let server = Server::start_unprivileged("postgres", &mut command, port, scratch).await?;
        let postgres = Self { server, programs };
        wait::until(super::START_LIMIT, "postgres answers", || async { postgres.ask("select 1").await.map(drop) })
            .await?;
        Ok(postgres)
    }

    pub fn port(&self) -> u16 {
        self.server.port
    }

    pub fn folder(&self) -> &Path {
        self.server.folder()
    }

    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", self.port())
    }

    /// The configuration of a connector that writes to `table`.
    pub fn connector_config(&self, table: &str) -> serde_json::Value {
        serde_json::json!({
            "host": "127.0.0.1", "port": self.port(), "database": DATABASE, "username": USER, "password": PASSWORD,
            "table": table, "enable_batch_insert": true, "batch_size": 10_000,
        })
    }

    /// For what a connector of this configuration writes.
    pub async fn create_table(&self, table: &str) -> Result<()> {
        self.ask(&format!("create table {table} ({})", COLUMNS.join(", "))).await.map(drop)
    }

    pub async fn count(&self, table: &str) -> Result<u64> {
        Ok(self.number(&format!("select count(*) from {table}")).await? as u64)
    }

    /// Writes the rows of one table into another by `psql`, over the same kind of connection as ours and without anything
    /// that could repeat them; gives the seconds it took.
    pub async fn load(&self, loader: Loader, from: &str, into: &str) -> Result<f64> {
        let file = self.folder().join("rows.copy");
        self.psql(&["-c", &format!("\\copy {from} to '{}'", file.display())]).await?;
        let statements = self.folder().join("statements.sql");
        let copy = format!("\\copy {into} from '{}'", file.display());
        let arguments = match loader {
            Loader::Copy => ["-c".to_owned(), copy],
            Loader::Insert => {
                let rows = std::fs::read_to_string(&file)?;
                let text = statements::inserts(into, COLUMNS.len(), &rows, ROWS_PER_INSERT, statements::postgres)?;
                std::fs::write(&statements, text)?;
                ["-f".to_owned(), statements.display().to_string()]
            }
        };
        let began = Instant::now();
        self.psql(&arguments.each_ref().map(String::as_str)).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    /// The first row, columns separated by `|`.
    pub async fn ask(&self, statement: &str) -> Result<String> {
        Ok(self.psql(&["-c", statement]).await?.stdout.lines().last().unwrap_or_default().to_owned())
    }

    pub async fn number(&self, statement: &str) -> Result<f64> {
        let answer = self.ask(statement).await?;
        answer.parse().with_context(|| format!("{statement}: {answer}"))
    }

    pub async fn psql(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = tokio::process::Command::new(self.programs.join("psql"));
        command.args(["-qAt", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]).args(arguments);
        process::run(&mut command, CALL_LIMIT).await?.success()
    }
}

/// Debian puts them where no path leads, by version.
fn programs() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .context("no PostgreSQL")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|programs| programs.join("postgres").is_file())
        .collect();
    versions.sort();
    versions.pop().context("no PostgreSQL server")
}

async fn init_database(command: &mut Command, folder: &Path) -> Result<()> {
    let mut init = process::Process::spawn_unprivileged("initdb", command, &folder.join("initdb.log"), folder)?;
    let status = init.exited(CALL_LIMIT).await?;
    ensure!(status.success(), "initdb failed:\n{}", init.log_tail());
    Ok(())
}
