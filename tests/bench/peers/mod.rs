//! The other products: started as their own documentation says, tuned where their defaults would make them look bad.

pub mod clickhouse;
pub mod connect;
pub mod etcd;
pub mod kafka;
pub mod mosquitto;
pub mod nats;
pub mod postgres;
pub mod pulsar;
pub mod rabbitmq;
pub mod telegraf;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::process::{self, Process};
use tests::scratch::Scratch;
use tests::wait;

/// A server listens within this, Java included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A Go build with an empty cache.
const BUILD_LIMIT: Duration = Duration::from_secs(900);

/// A peer that is not there is named and left out.
pub fn found<T>(name: &str, peer: Result<T>) -> Option<T> {
    match peer {
        Ok(peer) => Some(peer),
        Err(error) => {
            eprintln!("{name} cannot be had here and is left out: {error:#}");
            None
        }
    }
}

/// One process of a peer, with its folder and its port.
pub struct Server {
    process: Process,
    pub port: u16,
    scratch: Scratch,
}

impl Server {
    /// Starts a program that listens on `port` and runs in the folder given.
    async fn start(name: &str, command: &mut Command, port: u16, scratch: Scratch) -> Result<Self> {
        let process = Process::spawn(name, command, &scratch.path().join(format!("{name}.log")))?;
        Self::listening(name, process, port, scratch).await
    }

    /// As [`Self::start`], for those that refuse to be root.
    async fn start_unprivileged(name: &str, command: &mut Command, port: u16, scratch: Scratch) -> Result<Self> {
        let log = scratch.path().join(format!("{name}.log"));
        let process = Process::spawn_unprivileged(name, command, &log, scratch.path())?;
        Self::listening(name, process, port, scratch).await
    }

    async fn listening(name: &str, process: Process, port: u16, mut scratch: Scratch) -> Result<Self> {
        // What a peer leaves behind is of no interest.
        scratch.passed();
        let mut server = Self { process, port, scratch };
        wait::until(START_LIMIT, &format!("{name} listens"), || {
            let listens = TcpStream::connect(("127.0.0.1", port)).is_ok();
            async move { listens.then_some(()).context("nobody listens") }
        })
        .await
        .with_context(|| server.process.log_tail())?;
        anyhow::ensure!(server.process.is_running(), "{name} ended:\n{}", server.process.log_tail());
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// A program of a Go module, built once.
async fn go_program(name: &str, package: &str, tags: &str) -> Result<PathBuf> {
    let folder = tests::cache::folder()?.join("bench/bin");
    let program = folder.join(name);
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("building {package}, once");
    let mut command = tokio::process::Command::new("go");
    command.args(["install", "-trimpath", "-ldflags=-s -w", "-tags", tags, package]);
    command.env("GOBIN", &folder).env("CGO_ENABLED", "0");
    process::run(&mut command, BUILD_LIMIT).await?.success()?;
    anyhow::ensure!(program.is_file(), "{package} did not make {}", program.display());
    Ok(program)
}

/// A program that Debian puts beside the path of ordinary users.
fn program(name: &str) -> String {
    let places = ["/usr/sbin", "/usr/bin", "/sbin"];
    let place = places.iter().map(|place| format!("{place}/{name}")).find(|path| Path::new(path).exists());
    place.unwrap_or_else(|| name.to_owned())
}
