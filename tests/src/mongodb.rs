//! mongo-java-server as MongoDB, and PyMongo, which says what is in it.
//!
//! ```text
//!   sluice ──▶ mongo-java-server (tests/servers/MongoDb.java) ──▶ a file of the scratch folder
//!   tests  ──PyMongo (tests/servers/mongo_client.py)──▶ the same, documents as canonical extended JSON
//! ```
//!
//! MongoDB itself is in no registry. This one has its protocol, its types and its errors by the place of a document; it
//! has no users. That it is a member of a replica set, or a router, it only says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, kept, ports, wait};

pub const VERSION: &str = "1.47.0";
pub const DATABASE: &str = "mqtt_data";
pub const COLLECTION: &str = "mqtt_messages";
/// PyMongo takes a certificate and its key from one file.
const CLIENT_FILE: &str = "client_with_key.pem";
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct MongoDbOptions {
    /// With these it speaks TLS only.
    pub certificates: Option<Certificates>,
    /// It asks clients for a certificate of the same authority.
    pub client_certificate: bool,
    /// Each insert takes so long.
    pub slow_ms: u64,
    pub standing: Standing,
    /// What it says that a document may have.
    pub document_bytes_max: Option<u32>,
    /// Where others expect it.
    pub port: Option<u16>,
}

/// What it says of its place among others.
#[derive(Clone, Debug, Default)]
pub enum Standing {
    #[default]
    Alone,
    /// Ports of all members, and of the primary among them.
    Member { set: String, members: Vec<u16>, primary: u16 },
    /// Of a sharded cluster.
    Router,
}

pub struct MongoDb {
    process: Process,
    port: u16,
    options: MongoDbOptions,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

impl MongoDb {
    pub async fn start() -> Result<Self> {
        Self::with(MongoDbOptions::default()).await
    }

    pub async fn with(options: MongoDbOptions) -> Result<Self> {
        let scratch = Scratch::new("mongodb")?;
        let port = options.port.map_or_else(ports::free, Ok)?;
        copy_classes(scratch.path())?;
        let certificates = match &options.certificates {
            // The server's key has to be its own.
            Some(made) => {
                let made = made.copied_to(scratch.path())?;
                let client = [std::fs::read(&made.client)?, std::fs::read(&made.client_key)?].concat();
                std::fs::write(scratch.path().join(CLIENT_FILE), client)?;
                Some(made)
            }
            None => None,
        };
        let process = spawn(scratch.path(), port, &options, certificates.as_ref()).await?;
        Ok(Self { process, port, options, certificates, scratch })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of a connector into [`COLLECTION`], with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        config(self.port, more)
    }

    pub fn client(&self) -> Client {
        let certificate = self.certificates.is_some().then(|| self.scratch.path().join(CLIENT_FILE));
        Client { certificate, ..Client::of(self.port) }
    }

    /// Runs a command, as canonical extended JSON in both directions.
    pub async fn command(&self, command: &Value) -> Result<Value> {
        self.client().command(DATABASE, command).await
    }

    /// The documents of a collection, by their ids.
    pub async fn documents(&self, collection: &str) -> Result<Vec<Value>> {
        self.client().find(DATABASE, collection, &json!({})).await
    }

    pub async fn count(&self, collection: &str) -> Result<u64> {
        let answer = self.command(&json!({ "count": collection, "query": {} })).await?;
        let count = answer["n"].as_object().and_then(|number| number.values().next()?.as_str()).context("no number")?;
        Ok(count.parse()?)
    }

    /// Lines about what clients have asked of it since it was started first, those that begin with this.
    pub fn told(&self, begin: &str) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        Ok(log.lines().filter(|line| line.starts_with(begin)).map(str::to_owned).collect())
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        self.start_again_as(self.options.standing.clone()).await
    }

    /// As after an election.
    pub async fn start_again_as(&mut self, standing: Standing) -> Result<()> {
        ensure!(!self.process.is_running(), "mongo-java-server still runs");
        self.options.standing = standing;
        self.process = spawn(self.scratch.path(), self.port, &self.options, self.certificates.as_ref()).await?;
        Ok(())
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

/// PyMongo, as who it logs in.
pub struct Client {
    port: u16,
    login: Option<(String, String)>,
    /// Its own, with the key, for a server that speaks TLS.
    certificate: Option<PathBuf>,
}

impl Client {
    pub fn of(port: u16) -> Self {
        Self { port, login: None, certificate: None }
    }

    pub fn with_login(port: u16, user: &str, password: &str) -> Self {
        Self { login: Some((user.to_owned(), password.to_owned())), ..Self::of(port) }
    }

    pub async fn command(&self, database: &str, command: &Value) -> Result<Value> {
        let answers = self.ask(&["command", database, &command.to_string()]).await?;
        answers.into_iter().next().context("no answer")
    }

    pub async fn find(&self, database: &str, collection: &str, query: &Value) -> Result<Vec<Value>> {
        self.ask(&["find", database, collection, &query.to_string()]).await
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/mongo_client.py");
        // Debian's, which has Debian's PyMongo.
        let mut command = tokio::process::Command::new("/usr/bin/python3");
        command.arg(script).arg(format!("mongodb://127.0.0.1:{}", self.port)).args(arguments);
        if let Some((user, password)) = &self.login {
            command.env("MONGO_USER", user).env("MONGO_PASSWORD", password);
        }
        if let Some(certificate) = &self.certificate {
            command.env("MONGO_CERTIFICATE", certificate);
        }
        let text = process::run(&mut command, ASK_LIMIT).await?.success()?.stdout;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

/// Of a connector without a login, with these fields more.
pub fn config(port: u16, more: &Value) -> Value {
    let mut config = json!({ "host": "127.0.0.1", "port": port, "database": DATABASE, "collection": COLLECTION });
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

/// A mongodb connector.
pub fn mongodb_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "mongodb", "config": config.to_string(), "topic_name": topic,
    })
}

fn jars() -> Result<PathBuf> {
    let folder = cache::folder()?.join(format!("servers/mongo-java-server-{VERSION}"));
    ensure!(
        folder.join("complete").is_file(),
        "mongo-java-server {VERSION} is not in {}: run `scripts/setup`, which fetches it with Maven (mvn)",
        folder.display()
    );
    Ok(folder)
}

const SOURCE: &str = include_str!("../servers/MongoDb.java");

/// Compiling takes two seconds.
fn copy_classes(folder: &Path) -> Result<()> {
    let jars = cache::readable(&jars()?, folder)?;
    let classes = folder.join("classes");
    kept::copy_of("mongodb-classes", (VERSION, SOURCE), &classes, || {
        let source = folder.join("MongoDb.java");
        std::fs::write(&source, SOURCE)?;
        let mut compile = Command::new("javac");
        compile.arg("-cp").arg(format!("{}/*", jars.display())).arg("-d").arg(&classes).arg(&source);
        kept::run(compile, folder, None)
    })
}

async fn spawn(
    folder: &Path,
    port: u16,
    options: &MongoDbOptions,
    certificates: Option<&Certificates>,
) -> Result<Process> {
    let jars = cache::readable(&jars()?, folder)?;
    let mut command = Command::new("java");
    command
        .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true", "-cp"])
        .arg(format!("{}/*:{}", jars.display(), folder.join("classes").display()))
        .arg("MongoDb")
        .arg(format!("port={port}"))
        .arg(format!("file={}", folder.join("data").display()))
        .arg(format!("slow={}", options.slow_ms));
    if let Some(certificates) = certificates {
        command.arg(format!("certificate={}", certificates.server.display()));
        command.arg(format!("key={}", certificates.server_key.display()));
        if options.client_certificate {
            command.arg(format!("clients_of={}", certificates.ca.display()));
        }
    }
    match &options.standing {
        Standing::Alone => {}
        Standing::Member { set, members, primary } => {
            let at = |port: &u16| format!("127.0.0.1:{port}");
            let hosts: Vec<String> = members.iter().map(at).collect();
            command.args([format!("set={set}"), format!("hosts={}", hosts.join(","))]);
            command.args([format!("me={}", at(&port)), format!("primary={}", at(primary))]);
        }
        Standing::Router => {
            command.arg("router=yes");
        }
    }
    if let Some(bytes) = options.document_bytes_max {
        command.arg(format!("document_bytes_max={bytes}"));
    }
    let log = folder.join("mongodb.log");
    let starts = |text: &str| text.lines().filter(|line| *line == "ready").count();
    let before = std::fs::read_to_string(&log).map_or(0, |text| starts(&text));
    let mut process = Process::spawn_unprivileged("mongo-java-server", &mut command, &log, folder)?;
    let ready = wait::until(START_LIMIT, "mongo-java-server is ready", async || {
        let is_ready = starts(&std::fs::read_to_string(&log)?) > before;
        ensure!(is_ready || !process.is_running(), "not yet");
        Ok(is_ready)
    });
    let is_ready = ready.await.with_context(|| process::tail(&log, 40))?;
    ensure!(is_ready, "mongo-java-server ended: {}", process::tail(&log, 40));
    Ok(process)
}
