//! Mosquitto: its broker (to try the harness's own publishers on), its clients and its password tool.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::process::{self, Finished, Process};
use crate::scratch::Scratch;
use crate::{ports, wait};

const START_LIMIT: Duration = Duration::from_secs(20);
const CONFIG: &str = "mosquitto.conf";
const CLIENT_LIMIT: Duration = Duration::from_secs(30);

/// What the configuration of a broker says beyond its port. By default it keeps nothing over a restart.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// Sessions and messages are written to the disk at a SIGTERM, and every half hour.
    pub persistence: bool,
    /// More lines.
    pub extra: String,
}

/// A running Mosquitto.
pub struct Broker {
    process: Process,
    port: u16,
    scratch: Scratch,
}

impl Broker {
    pub async fn start() -> Result<Self> {
        Self::with(BrokerOptions::default()).await
    }

    pub async fn with(options: BrokerOptions) -> Result<Self> {
        let scratch = Scratch::new("mosquitto")?;
        let port = ports::free()?;
        configure(scratch.path(), port, &options)?;
        let process = spawn_broker(scratch.path())?;
        let broker = Self { process, port, scratch };
        broker.wait_ready().await?;
        Ok(broker)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL and start again.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.start_again().await
    }

    /// SIGTERM; it is gone when this returns.
    pub async fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.exited(START_LIMIT).await.map(drop)
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        self.process = spawn_broker(self.scratch.path())?;
        self.wait_ready().await
    }

    /// Everything that it would write at its end is on the disk when this returns, the session of `client` too.
    pub async fn save(&self, client: &str) -> Result<()> {
        self.process.signal(Signal::USR1)?;
        let file = self.scratch.path().join("mosquitto.db");
        wait::until(START_LIMIT, &format!("the session of {client} is saved"), || async {
            let saved = std::fs::read(&file)?;
            let is_there = saved.windows(client.len()).any(|bytes| bytes == client.as_bytes());
            anyhow::ensure!(is_there, "not among {} bytes", saved.len());
            Ok(())
        })
        .await
    }

    /// Passwords and access rules are read anew; what connects after this is judged by the new ones.
    pub async fn reload(&self) -> Result<()> {
        const SAYS: &str = "Reloading config";
        let before = self.log().matches(SAYS).count();
        self.process.signal(Signal::HUP)?;
        wait::until(START_LIMIT, "mosquitto reads its configuration", async || {
            anyhow::ensure!(self.log().matches(SAYS).count() > before, "it has not said so");
            Ok(())
        })
        .await
    }

    /// Stops (SIGSTOP) or continues it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Where it keeps what it has: readable by it.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.process.log_path()).unwrap_or_default()
    }

    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn wait_ready(&self) -> Result<()> {
        let port = self.port;
        wait::until(START_LIMIT, "mosquitto listens", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        })
        .await
    }
}

fn configure(folder: &Path, port: u16, options: &BrokerOptions) -> Result<()> {
    // Nothing is dropped for a subscriber that is slow or away.
    let mut config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 1000\nmax_queued_messages 0\n\
         log_dest stderr\n"
    );
    if options.persistence {
        config.push_str(&format!("persistence true\npersistence_location {}/\n", folder.display()));
    }
    config.push_str(&options.extra);
    std::fs::write(folder.join(CONFIG), config).context("write configuration")
}

fn spawn_broker(folder: &Path) -> Result<Process> {
    let config = folder.join(CONFIG);
    let program = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
    let mut command = Command::new(program);
    command.arg("-c").arg(&config);
    Process::spawn_unprivileged("mosquitto", &mut command, &folder.join("mosquitto.log"), folder)
}

/// `mosquitto_pub` with the arguments given, to its end.
pub async fn publish(port: u16, arguments: &[&str]) -> Result<Finished> {
    let mut command = tokio::process::Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
    process::run(&mut command, CLIENT_LIMIT).await
}

/// Adds a user to a password file in the format of mosquitto_passwd (made if absent).
pub async fn add_password(file: &Path, user: &str, password: &str) -> Result<()> {
    let mut command = tokio::process::Command::new("mosquitto_passwd");
    command.arg("-b");
    if !file.exists() {
        command.arg("-c");
    }
    command.arg(file).args([user, password]);
    process::run(&mut command, CLIENT_LIMIT).await?.success()?;
    Ok(())
}

/// A running `mosquitto_sub`.
pub struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Subscriber {
    /// Subscribes; when this returns, the broker has acknowledged the subscription.
    pub async fn start(port: u16, topic: &str) -> Result<Self> {
        // Debug output, which tells of the SUBACK, and the messages share standard output; line by line, please.
        // (stdbuf becomes mosquitto_sub, so the pid is right.)
        let mut command = tokio::process::Command::new("stdbuf");
        command.args([
            "-oL",
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-t",
            topic,
            "-q",
            "1",
            "-F",
            "message %p",
            "-d",
        ]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start mosquitto_sub")?;
        let stdout = child.stdout.take().context("mosquitto_sub without stdout")?;
        let mut subscriber = Self { child, lines: BufReader::new(stdout).lines() };
        let subscribed = async {
            while let Some(line) = subscriber.lines.next_line().await? {
                if line.starts_with("Subscribed") {
                    return Ok(());
                }
            }
            bail!("mosquitto_sub ended before it was subscribed")
        };
        tokio::time::timeout(CLIENT_LIMIT, subscribed).await.context("no SUBACK in time")??;
        Ok(subscriber)
    }

    /// The next message's payload.
    pub async fn next(&mut self, limit: Duration) -> Result<String> {
        let message = async {
            while let Some(line) = self.lines.next_line().await? {
                if let Some(payload) = line.strip_prefix("message ") {
                    return Ok(payload.to_owned());
                }
            }
            bail!("mosquitto_sub ended")
        };
        tokio::time::timeout(limit, message).await.with_context(|| format!("no message within {limit:?}"))?
    }

    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await.context("end mosquitto_sub")
    }
}
