//! Brokers that somebody else wrote: Mosquitto and NATS, started on free ports and ended with their test.

use std::fs::{File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const START_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Server {
    child: Child,
    command: fn(&Path) -> Command,
    folder: tempfile::TempDir,
    pub(super) port: u16,
}

impl Server {
    /// `more`: further lines of its configuration.
    pub(super) fn mosquitto(more: &str) -> Self {
        Self::mosquitto_with(|_| format!("allow_anonymous true\n{more}"))
    }

    /// The folder is where the server finds its files.
    pub(super) fn mosquitto_with(more: impl FnOnce(&Path) -> String) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("temporary folder"), free_port());
        // Nothing is dropped for a subscriber that is slow or away.
        let configuration = format!(
            "listener {port} 127.0.0.1\nlog_dest stderr\nlog_type all\nuser root\nmax_queued_messages 0\n{}\n",
            more(folder.path())
        );
        std::fs::write(folder.path().join("server.conf"), configuration).expect("writes");
        let command = |folder: &Path| {
            let program = if Path::new("/usr/sbin/mosquitto").exists() { "/usr/sbin/mosquitto" } else { "mosquitto" };
            let mut command = Command::new(program);
            command.arg("-c").arg(folder.join("server.conf"));
            command
        };
        Self::start(folder, port, command)
    }

    pub(super) fn nats() -> Self {
        let (folder, port) = (tempfile::tempdir().expect("temporary folder"), free_port());
        let configuration = format!(
            "server_name: n1\nlisten: \"127.0.0.1:{}\"\n\
             jetstream {{ store_dir: \"{}\", max_mem: 64MB, max_file: 512MB }}\n\
             accounts {{ A {{ jetstream: enabled, users: [ {{user: sink, password: sinkpw}} ] }} }}\n\
             mqtt {{ listen: \"127.0.0.1:{port}\", ack_wait: \"5s\", max_ack_pending: 1000 }}\n",
            free_port(),
            folder.path().join("js").display(),
        );
        std::fs::write(folder.path().join("server.conf"), configuration).expect("writes");
        let command = |folder: &Path| {
            let program =
                if Path::new("/usr/sbin/nats-server").exists() { "/usr/sbin/nats-server" } else { "nats-server" };
            let mut command = Command::new(program);
            command.arg("-c").arg(folder.join("server.conf"));
            command
        };
        Self::start(folder, port, command)
    }

    fn start(folder: tempfile::TempDir, port: u16, command: fn(&Path) -> Command) -> Self {
        let child = spawn(folder.path(), command);
        let server = Self { child, command, folder, port };
        server.wait_ready();
        server
    }

    pub(super) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(log_path(self.folder.path())).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Lines of the log with this text.
    pub(super) fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Bytes that were sent to it and that it has not read, by the word of the kernel.
    pub(super) fn unread_bytes(&self) -> u64 {
        ::tests::ports::unread_bytes(self.port).expect("is Linux")
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("is a pid");
        kill_process(pid, signal).expect("is our child");
    }

    /// It is gone when this returns.
    pub(super) fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.child.wait().expect("is our child");
    }

    pub(super) fn start_again(&mut self) {
        self.child = spawn(self.folder.path(), self.command);
        self.wait_ready();
    }

    fn wait_ready(&self) {
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < START_LIMIT, "the server does not listen:\n{}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the server's log:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

fn spawn(folder: &Path, command: fn(&Path) -> Command) -> Child {
    let log: File = OpenOptions::new().create(true).append(true).open(log_path(folder)).expect("opens the log");
    command(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("one more handle"))
        .stderr(log)
        .spawn()
        .expect("the server is installed")
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("server.log")
}
