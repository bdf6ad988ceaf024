//! The three nodes, as child processes of this same program.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::DemoError;
use super::client::ApiClient;

/// A node stops within 10 s; after this it is ended by force.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a node's log that an error shows.
const LOG_LINES: usize = 20;

pub(super) struct Node {
    pub name: String,
    pub api_port: u16,
    pub mqtt_port: u16,
    pub api: ApiClient,
    rpc_port: u16,
    folder: PathBuf,
    child: Option<Child>,
}

/// Chooses addresses, writes the configurations and starts all nodes.
pub(super) async fn start(folder: &Path, files: &Path, count: usize) -> Result<Vec<Node>, DemoError> {
    // The ports that the documentation names, where they are free.
    let (api, mqtt, rpc) = (free_ports(8080, count)?, free_ports(1883, count)?, free_ports(7480, count)?);
    let mut nodes = Vec::new();
    for index in 0..count {
        let name = format!("sluice-{}", index + 1);
        nodes.push(Node {
            api: ApiClient::new(api[index])?,
            api_port: api[index],
            mqtt_port: mqtt[index],
            rpc_port: rpc[index],
            folder: folder.join(&name),
            name,
            child: None,
        });
    }
    let voters: Vec<String> =
        nodes.iter().map(|node| format!("\"{}=127.0.0.1:{}\"", node.name, node.rpc_port)).collect();
    let secret = format!("{:032x}", rand::random::<u128>());
    for node in &mut nodes {
        node.configure(&voters.join(", "), &secret, files)?;
        node.start()?;
    }
    for node in &mut nodes {
        node.ready().await?;
    }
    Ok(nodes)
}

impl Node {
    fn configure(&self, voters: &str, secret: &str, files: &Path) -> Result<(), DemoError> {
        std::fs::create_dir_all(&self.folder).map_err(DemoError::io("create a node's folder"))?;
        let text = format!(
            "[node]\nname = \"{}\"\ndata_dir = \"{}\"\n\n[cluster]\ninitial_voters = [{voters}]\nsecret = \"{secret}\"\n\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n\n[rpc]\nlisten = \"127.0.0.1:{}\"\n\n[mqtt]\nlisten = \"127.0.0.1:{}\"\n\n\
             [queue]\ndisk_reserve = \"64MiB\"\n\n[connectors]\nfile_roots = [\"{}\"]\n",
            self.name,
            self.folder.join("data").display(),
            self.api_port,
            self.rpc_port,
            self.mqtt_port,
            files.display(),
        );
        std::fs::write(self.folder.join("sluice.toml"), text).map_err(DemoError::io("write a node's configuration"))
    }

    pub fn start(&mut self) -> Result<(), DemoError> {
        let program = std::env::current_exe().map_err(DemoError::io("find this program"))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .map_err(DemoError::io("open a node's log"))?;
        let errors = log.try_clone().map_err(DemoError::io("open a node's log"))?;
        let child = Command::new(program)
            .args(["server", "--config"])
            .arg(self.folder.join("sluice.toml"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C is for the demo, which stops the nodes in its own order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(DemoError::io(format!("start {}", self.name)))?;
        self.child = Some(child);
        Ok(())
    }

    pub async fn ready(&mut self) -> Result<(), DemoError> {
        let what = format!("{} is ready", self.name);
        super::until(&what, READY_LIMIT, async || {
            if let Some(child) = &mut self.child
                && let Ok(Some(_)) = child.try_wait()
            {
                return Err(DemoError::NodeEnded { name: self.name.clone(), log: log_end(&self.folder) });
            }
            Ok(self.api.ready().await)
        })
        .await
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// SIGKILL; the process is gone when this returns.
    pub async fn kill(&mut self) -> Result<(), DemoError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill().await.map_err(DemoError::io(format!("kill {}", self.name)))
    }

    /// SIGTERM, and force when that is not enough.
    pub async fn stop(&mut self) -> Result<(), DemoError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)
                .map_err(|error| DemoError::io(format!("stop {}", self.name))(error.into()))?;
        }
        if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
            println!("{} did not stop within {STOP_LIMIT:?} and is killed", self.name);
            child.kill().await.map_err(DemoError::io(format!("kill {}", self.name)))?;
        }
        Ok(())
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("sluice.log")
    }
}

fn log_end(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("sluice.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// The first free ports from `first` on.
fn free_ports(first: u16, count: usize) -> Result<Vec<u16>, DemoError> {
    let free: Vec<u16> = (first..first.saturating_add(1_000)).filter(|port| is_free(*port)).take(count).collect();
    if free.len() == count {
        return Ok(free);
    }
    let none = std::io::Error::new(std::io::ErrorKind::AddrInUse, format!("no free port from {first} on"));
    Err(DemoError::io("choose ports")(none))
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
