//! One `sluice server` process: its addresses, its configuration, its life.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::Signal;

use crate::api::ApiClient;
use crate::process::Process;
use crate::small_disk::SmallDisk;
use crate::{binary, ports, process, wait};

/// A cluster forms, and a killed node is back, within this.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// What the configuration of one node says, beyond addresses and folders.
#[derive(Clone, Debug, Default)]
pub struct NodeOptions {
    /// `name=rpc address` of the voters, or empty for a node that joins.
    pub initial_voters: Vec<String>,
    /// RPC addresses that a joining node asks.
    pub join: Vec<String>,
    pub secret: String,
    /// Folder for the file connector, shared by the nodes of a test.
    pub file_root: PathBuf,
    /// More lines of TOML, whole sections.
    pub extra: String,
    /// More `--set` arguments.
    pub set: Vec<String>,
}

pub struct Node {
    pub name: String,
    pub api_port: u16,
    pub rpc_port: u16,
    pub mqtt_port: u16,
    folder: PathBuf,
    process: Option<Process>,
    api: ApiClient,
    set: Vec<String>,
    /// In the place of the data directory; goes after the process.
    disk: Option<SmallDisk>,
}

impl Node {
    /// Chooses ports; nothing runs yet.
    pub fn reserve(name: &str, parent: &Path) -> Result<Self> {
        let folder = parent.join(name);
        std::fs::create_dir_all(&folder)?;
        let api_port = ports::free()?;
        Ok(Self {
            name: name.to_owned(),
            api_port,
            rpc_port: ports::free()?,
            mqtt_port: ports::free()?,
            folder,
            process: None,
            api: ApiClient::new(api_port)?,
            set: Vec::new(),
            disk: None,
        })
    }

    /// Gives the node, before its first start, a disk of its own for its data.
    pub fn mount_disk(&mut self, bytes: u64) -> Result<()> {
        ensure!(self.process.is_none() && self.disk.is_none(), "{} has a disk already", self.name);
        self.disk = Some(SmallDisk::mount(&self.data_dir(), bytes)?);
        Ok(())
    }

    pub fn disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().with_context(|| format!("{} has no disk of its own", self.name))
    }

    pub fn rpc_address(&self) -> String {
        format!("127.0.0.1:{}", self.rpc_port)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.join("sluice.toml")
    }

    /// The folder that the process runs in, with its configuration, its data and its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("sluice.log")
    }

    pub fn api(&self) -> &ApiClient {
        &self.api
    }

    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} does not run", self.name))
    }

    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Writes the configuration file.
    pub fn configure(&mut self, options: &NodeOptions) -> Result<()> {
        self.set.clone_from(&options.set);
        std::fs::write(self.config_path(), self.configuration(options)).context("write configuration")
    }

    /// Starts the process; readiness is another question.
    pub fn start(&mut self) -> Result<()> {
        ensure!(!self.is_running(), "{} already runs", self.name);
        let program = binary::sluice()?;
        let mut command = self.disk.as_ref().map_or_else(|| Command::new(&program), |disk| disk.enter(&program));
        command.arg("server").arg("--config").arg(self.config_path()).current_dir(&self.folder);
        for set in &self.set {
            command.arg("--set").arg(set);
        }
        self.process = Some(Process::spawn(&self.name, &mut command, &self.log_path())?);
        Ok(())
    }

    /// Waits for `/health/ready`; a process that ended meanwhile is an error at once.
    pub async fn ready(&mut self) -> Result<()> {
        let api = self.api.clone();
        let name = self.name.clone();
        let began = Instant::now();
        loop {
            let probe = wait::until(Duration::from_secs(1), "ready", || async {
                let answer = api.get("/health/ready").await?;
                ensure!(answer.status == 200, "{}", answer.body);
                Ok(())
            });
            match probe.await {
                Ok(()) => return Ok(()),
                Err(error) if !self.is_running() => {
                    bail!("{name} ended before it was ready ({error:#}):\n{}", process::tail(&self.log_path(), 40))
                }
                Err(error) if began.elapsed() > READY_LIMIT => {
                    return Err(error.context(format!("{name}:\n{}", process::tail(&self.log_path(), 40))));
                }
                Err(_) => {}
            }
        }
    }

    /// SIGKILL; gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        process.kill().map(drop)
    }

    /// SIGSTOP: the node stands still, its sockets stay open.
    pub fn pause(&self) -> Result<()> {
        self.process()?.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.process()?.signal(Signal::CONT)
    }

    /// SIGTERM; gives the exit status and how long it took.
    pub async fn terminate(&mut self, limit: Duration) -> Result<(ExitStatus, Duration)> {
        let mut process = self.process.take().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        let began = Instant::now();
        process.signal(Signal::TERM)?;
        let status = process.exited(limit).await.with_context(|| process.log_tail())?;
        Ok((status, began.elapsed()))
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.process.take().with_context(|| format!("{} does not run", self.name))?;
        process.exited(limit).await.with_context(|| process.log_tail())
    }

    /// Fails when the process is not there or its log tells of a panic.
    pub fn check_sound(&mut self) -> Result<()> {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        if let Some(at) = log.find("panicked at") {
            let text: String = log[at..].chars().take(800).collect();
            bail!("{} panicked: {text}", self.name);
        }
        ensure!(self.is_running(), "{} does not run:\n{}", self.name, process::tail(&self.log_path(), 40));
        Ok(())
    }

    fn configuration(&self, options: &NodeOptions) -> String {
        let list = |items: &[String]| {
            let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
            format!("[{}]", quoted.join(", "))
        };
        let mut cluster = format!("secret = \"{}\"\n", options.secret);
        if !options.initial_voters.is_empty() {
            cluster.push_str(&format!("initial_voters = {}\n", list(&options.initial_voters)));
        }
        if !options.join.is_empty() {
            cluster.push_str(&format!("join = {}\n", list(&options.join)));
        }
        let (name, data, files) = (&self.name, self.data_dir(), &options.file_root);
        let (api, rpc, mqtt) = (self.api_port, self.rpc_port, self.mqtt_port);
        // A machine that runs tests may have little disk left: the reserve is small.
        format!(
            "[node]\nname = \"{name}\"\ndata_dir = \"{data}\"\n\n[cluster]\n{cluster}\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\n\n[rpc]\nlisten = \"127.0.0.1:{rpc}\"\n\n\
             [mqtt]\nlisten = \"127.0.0.1:{mqtt}\"\n\n\
             [queue]\ndisk_reserve = \"64MiB\"\n\n[connectors]\nfile_roots = [\"{files}\"]\n{extra}\n",
            data = data.display(),
            files = files.display(),
            extra = options.extra,
        )
    }
}
