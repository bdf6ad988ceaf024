//! The engine of a current ClickHouse behind a small HTTP face of our own (`servers/clickhouse_engine.py`): its types, its
//! words and its deduplication are genuine, statuses and login are not.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::interface::{Interface, with};
use super::{DATABASE, PASSWORD, USER};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{cache, ports};

/// As in `scripts/setup`.
const RELEASE: &str = "chdb-4.4.0";
const FACE: &str = include_str!("../../servers/clickhouse_engine.py");
const START_LIMIT: Duration = Duration::from_secs(120);

pub struct Engine {
    _process: Process,
    interface: Interface,
    scratch: Scratch,
}

impl Engine {
    /// `None`, and says so, where `scripts/setup` could not fetch it.
    pub async fn start() -> Result<Option<Self>> {
        let Ok(python) = python() else {
            eprintln!("not run: the engine of a current ClickHouse is not here; `scripts/setup` fetches it");
            return Ok(None);
        };
        let scratch = Scratch::new("clickhouse-engine")?;
        let (port, folder) = (ports::free()?, scratch.path().to_owned());
        std::fs::write(folder.join("face.py"), FACE)?;
        let mut command = Command::new(python);
        command.arg(folder.join("face.py")).arg(port.to_string()).arg(folder.join("data")).args([USER, PASSWORD]);
        command.arg(folder.join("requests.log"));
        let process = Process::spawn("chdb", &mut command, &folder.join("output.log"))?;
        let interface = Interface::new(port, USER, PASSWORD);
        interface.ready(START_LIMIT, &process).await?;
        interface.run(&format!("CREATE DATABASE {DATABASE}")).await?;
        Ok(Some(Self { _process: process, interface, scratch }))
    }

    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Of a connector that writes to this table, with these fields more.
    pub fn config(&self, table: &str, more: &Value) -> Value {
        let config = json!({
            "url": self.interface.url(), "database": DATABASE, "table": table, "username": USER, "password": PASSWORD,
            "linger_ms": 0,
        });
        with(config, more)
    }

    /// Inserts of connectors that were answered, as `status exception-code parameters`.
    pub fn inserts(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.scratch.path().join("requests.log"))?;
        Ok(log.lines().filter(|line| line.contains("INSERT INTO `")).map(str::to_owned).collect())
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

fn python() -> Result<PathBuf> {
    let folder = cache::folder()?.join("servers").join(RELEASE);
    ensure!(folder.join("complete").exists(), "{} was not fetched", folder.display());
    Ok(folder.join("bin/python"))
}
