//! A child process that is ended by its pid when its owner goes, with its output in a file.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// `nobody` and `nogroup`: servers that refuse to run as root get these.
const NOBODY: u32 = 65_534;
/// Of all threads, which may be in the middle of a sync.
const STOP_LIMIT: Duration = Duration::from_secs(30);

pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes is appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = append_to(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// As [`Self::spawn`], but not as root: with the rights of `nobody`, to whom `folder` is given.
    pub fn spawn_unprivileged(name: &str, command: &mut Command, log: &Path, folder: &Path) -> Result<Self> {
        without_root(command, folder)?;
        Self::spawn(name, command, log)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL, and the process is gone when this returns.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Ends it by a signal that it takes for a request, and waits.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// After SIGSTOP it stands still: a thread may go on for a moment, and read what comes.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).ok_or_else(|| anyhow!("{} has no pid", self.name))?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))?;
        let began = Instant::now();
        while signal == Signal::STOP && !is_stopped(self.pid())? {
            ensure!(began.elapsed() < STOP_LIMIT, "{} does not stop", self.name);
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits until the process has ended by itself.
    pub async fn exited(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (name, child) = (&self.name, std::cell::RefCell::new(&mut self.child));
        wait::until(limit, &format!("{name} ends"), || async {
            child.borrow_mut().try_wait()?.ok_or_else(|| anyhow!("{name} still runs"))
        })
        .await
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output, for failures.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 40)
    }

    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number in VmRSS")?.parse()?;
        Ok(kib * 1024)
    }

    pub fn open_files(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            // A paused child would not be reaped before it is continued; SIGKILL ends it all the same.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a program to its end and gives what it wrote, or both streams in the error.
pub async fn run(command: &mut tokio::process::Command, limit: Duration) -> Result<Finished> {
    run_with_input(command, Stdio::null(), limit).await
}

/// As [`run`], with something to read.
pub async fn run_with_input(
    command: &mut tokio::process::Command,
    input: impl Into<Stdio>,
    limit: Duration,
) -> Result<Finished> {
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).stdin(input).output())
        .await
        .with_context(|| format!("{command:?} did not end within {limit:?}"))?
        .with_context(|| format!("start {command:?}"))?;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

#[derive(Debug)]
pub struct Finished {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    pub fn success(self) -> Result<Self> {
        if self.code == Some(0) {
            return Ok(self);
        }
        bail!("exit code {:?}\n{}{}", self.code, self.stdout, self.stderr)
    }
}

pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// All of its threads, which stop one after the other.
fn is_stopped(pid: u32) -> Result<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(thread?.path().join("stat")) else { return Ok(false) };
        // Behind the name, which may hold anything.
        let state = stat.rsplit(") ").next().context("no state")?;
        if !state.starts_with(['T', 't']) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn append_to(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// Root gives the folder to `nobody` and runs the command as such; everybody else runs it as they are.
pub fn without_root(command: &mut Command, folder: &Path) -> Result<()> {
    if rustix::process::getuid().is_root() {
        give_to_nobody(folder)?;
        beside(command, folder);
    }
    Ok(())
}

/// Runs the command as one that [`without_root`] started runs, whose folder it may change meanwhile.
pub fn beside(command: &mut Command, folder: &Path) {
    if rustix::process::getuid().is_root() {
        command.uid(NOBODY).gid(NOBODY).env("HOME", folder);
    }
}

fn give_to_nobody(folder: &Path) -> Result<()> {
    std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_to_nobody(&entry.path())?;
        } else {
            std::os::unix::fs::chown(entry.path(), Some(NOBODY), Some(NOBODY))?;
        }
    }
    Ok(())
}
