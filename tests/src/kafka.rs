//! Apache Kafka as a target, in KRaft mode, and what reads its topics.
//!
//! ```text
//!   sluice ──▶ broker: PLAINTEXT · SASL · TLS · SASL over TLS ──▶ topics
//!   tests  ──consumer──▶ messages of a topic     ──kafka-dump-log──▶ batches, as they lie on the broker's disk
//! ```
//!
//! The jars come from Maven, by `scripts/setup`; Java is the machine's.

mod batches;
mod properties;
mod reader;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::certificates::Certificates;
use crate::jars::{self, class_path};
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

use properties::Ports;

pub use batches::Batch;
pub use properties::Listener;
pub use reader::{Received, TopicReader};

/// May do everything.
pub const USER: &str = "sluice";
/// Everything that a property file, a URL or a command line would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d '%20&=";
/// May log in, and what [`Kafka::rights`] gives.
pub const GUEST: &str = "guest";
pub const GUEST_PRINCIPAL: &str = "User:guest";

/// Several Java processes start at a time on a small machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const ADMIN_LIMIT: Duration = Duration::from_secs(30);
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAQ";

#[derive(Clone, Debug)]
pub struct KafkaOptions {
    pub brokers: usize,
    /// More settings, as in server.properties.
    pub settings: Vec<(String, String)>,
    /// [`USER`] and [`GUEST`] log in by PLAIN and SCRAM on a listener of their own, and rights are checked.
    pub accounts: bool,
    /// Names of the server in its certificate; without them, and without `certificates`, it speaks no TLS.
    pub tls_names: Option<String>,
    /// Made elsewhere.
    pub certificates: Option<Certificates>,
    /// Who comes by TLS has to show a certificate.
    pub client_certificate: bool,
    /// What the brokers say of themselves; clients connect to it once they have asked.
    pub advertised_host: String,
    /// For what stands between: one more listener like [`Listener::Sasl`], of which clients hear this port.
    pub proxy_port: Option<u16>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: 1,
            settings: Vec::new(),
            accounts: false,
            tls_names: None,
            certificates: None,
            client_certificate: false,
            advertised_host: "127.0.0.1".to_owned(),
            proxy_port: None,
        }
    }
}

impl KafkaOptions {
    fn speaks_tls(&self) -> bool {
        self.tls_names.is_some() || self.certificates.is_some()
    }
}

pub struct Kafka {
    brokers: Vec<Broker>,
    certificates: Option<Certificates>,
    jars: PathBuf,
    scratch: Scratch,
}

struct Broker {
    process: Process,
    folder: PathBuf,
    ports: Ports,
}

impl Kafka {
    pub async fn start() -> Result<Self> {
        Self::with(KafkaOptions::default()).await
    }

    pub async fn with(options: KafkaOptions) -> Result<Self> {
        let scratch = Scratch::new("kafka")?;
        let jars = cache::readable(&jars::folder(jars::KAFKA)?, scratch.path())?;
        let certificates = match &options.tls_names {
            Some(names) => Some(Certificates::make(scratch.path(), names, USER)?),
            None => options.certificates.clone(),
        };
        if let Some(certificates) = &certificates {
            write_stores(scratch.path(), certificates)?;
        }
        let ports = (0..options.brokers).map(|_| Ports::free()).collect::<Result<Vec<_>>>()?;
        let mut brokers = Vec::new();
        for (at, own) in ports.iter().enumerate() {
            let folder = scratch.path().join(format!("broker-{}", at + 1));
            std::fs::create_dir(&folder)?;
            std::fs::write(
                folder.join("server.properties"),
                properties::text(at, &ports, &folder, scratch.path(), &options),
            )?;
            format(&jars, at, &folder, options.accounts).await?;
            brokers.push(Broker { process: spawn(&jars, &folder)?, folder, ports: *own });
        }
        let mut kafka = Self { brokers, certificates, jars, scratch };
        for at in 0..kafka.brokers.len() {
            kafka.ready(at).await?;
        }
        Ok(kafka)
    }

    /// Where clients begin.
    pub fn bootstrap(&self, listener: Listener) -> String {
        let address = |broker: &Broker| format!("127.0.0.1:{}", broker.ports.of(listener));
        self.brokers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// Of one broker; of the first, where a listener is asked for alone.
    pub fn port(&self, listener: Listener) -> u16 {
        self.brokers[0].ports.of(listener)
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector into this topic, with these fields more.
    pub fn config(&self, topic: &str, more: &Value) -> Value {
        let mut config = json!({ "bootstrap_servers": self.bootstrap(Listener::Plain), "topic": topic });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    pub async fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let replicas = i32::try_from(self.brokers.len())?;
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        // A broker that has stood still is no part of its cluster for a while, and answers late or never.
        let made = wait::until(START_LIMIT, "the topic is made", async || {
            for result in self.admin()?.create_topics([&new], &admin_options()).await? {
                match result {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((topic, error)) => anyhow::bail!("topic {topic}: {error}"),
                }
            }
            Ok(())
        });
        made.await?;
        // The controller has it; the brokers hear of it a moment later.
        wait::until(ADMIN_LIMIT, "the topic has its leaders", async || self.leaders(topic).await.map(drop)).await
    }

    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        for result in self.admin()?.delete_topics(&[topic], &admin_options()).await? {
            result.map_err(|(topic, error)| anyhow::anyhow!("topic {topic}: {error}"))?;
        }
        Ok(())
    }

    pub async fn grow_topic(&self, topic: &str, partitions: usize) -> Result<()> {
        let grown = self.admin()?.create_partitions([&NewPartitions::new(topic, partitions)], &admin_options()).await?;
        for result in grown {
            result.map_err(|(topic, error)| anyhow::anyhow!("topic {topic}: {error}"))?;
        }
        Ok(())
    }

    /// Topics that somebody made, without Kafka's own.
    pub async fn topics(&self) -> Result<Vec<String>> {
        reader::topics(self.bootstrap(Listener::Plain)).await
    }

    /// The leader of each partition, as a place among the brokers.
    pub async fn leaders(&self, topic: &str) -> Result<Vec<usize>> {
        reader::leaders(self.bootstrap(Listener::Plain), topic.to_owned()).await
    }

    /// Everything that is in the topic now: by partition, in its order.
    pub async fn messages(&self, topic: &str) -> Result<Vec<Received>> {
        reader::messages(self.bootstrap(Listener::Plain), topic.to_owned()).await
    }

    /// Waits until the topic has so many messages, and gives all of them.
    pub async fn arrived(&self, topic: &str, count: usize, within: Duration) -> Result<Vec<Received>> {
        wait::until(within, "the messages arrive", async || {
            let messages = self.messages(topic).await?;
            ensure!(messages.len() >= count, "{} of {count}", messages.len());
            Ok(messages)
        })
        .await
    }

    /// The batches of each of these topics as the first broker has them on its disk, in the words of Kafka's own tool.
    pub async fn batches(&self, topics: &[&str]) -> Result<BTreeMap<String, Vec<Batch>>> {
        let data = self.brokers[0].folder.join("data");
        let files = batches::segments(&data, topics)?;
        ensure!(!files.is_empty(), "{topics:?} have nothing under {}", data.display());
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let dump = self.tool("org.apache.kafka.tools.DumpLogSegments", &["--files", &files.join(",")]).await?;
        batches::parse(&dump)
    }

    /// Gives [`GUEST`] a right on a topic, such as `Describe` or `Write`.
    pub async fn allow_guest(&self, operation: &str, topic: &str) -> Result<()> {
        self.rights(&["--add", "--allow-principal", GUEST_PRINCIPAL, "--operation", operation, "--topic", topic]).await
    }

    /// `kafka-acls.sh` with these arguments.
    pub async fn rights(&self, arguments: &[&str]) -> Result<()> {
        let server = self.bootstrap(Listener::Plain);
        let arguments = [&["--bootstrap-server", &server][..], arguments].concat();
        self.tool("org.apache.kafka.tools.AclCommand", &arguments).await.map(drop)
    }

    /// Sets a password for one SCRAM mechanism.
    pub async fn set_scram_password(&self, user: &str, mechanism: &str, password: &str) -> Result<()> {
        let (server, set) = (self.bootstrap(Listener::Plain), format!("{mechanism}=[password={password}]"));
        let arguments = ["--bootstrap-server", &server, "--alter", "--add-config", &set, "--entity-type", "users"];
        self.tool("kafka.admin.ConfigCommand", &[&arguments[..], &["--entity-name", user]].concat()).await?;
        Ok(())
    }

    /// Runs one of Kafka's own tools; gives what it writes.
    pub async fn tool(&self, class: &str, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new("java");
        command.args(JAVA_TOOL).arg("-cp").arg(class_path(&self.jars)).arg(class).args(arguments);
        Ok(process::run(&mut command, TOOL_LIMIT).await?.success()?.stdout)
    }

    /// Writes a file of lines `key⇥value` by Kafka's own producer.
    pub async fn produce_lines(&self, topic: &str, lines: &Path) -> Result<()> {
        let mut command = tokio::process::Command::new("bash");
        command.args(["-c", r#"exec "$@" <"$0""#]).arg(lines).arg("java").args(JAVA_TOOL);
        command.arg("-cp").arg(class_path(&self.jars)).arg("org.apache.kafka.tools.ConsoleProducer");
        command.args(["--bootstrap-server", &self.bootstrap(Listener::Plain), "--topic", topic]);
        command.args(["--reader-property", "parse.key=true"]);
        process::run(&mut command, TOOL_LIMIT).await?.success()?;
        Ok(())
    }

    /// As by a power cut.
    pub fn kill(&mut self, broker: usize) -> Result<()> {
        self.brokers[broker].process.kill().map(drop)
    }

    pub async fn start_again(&mut self, broker: usize) -> Result<()> {
        let stopped = &mut self.brokers[broker];
        ensure!(!stopped.process.is_running(), "Kafka still runs");
        std::fs::write(stopped.process.log_path(), "")?;
        stopped.process = spawn(&self.jars, &stopped.folder)?;
        self.ready(broker).await
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, broker: usize, signal: Signal) -> Result<()> {
        self.brokers[broker].process.signal(signal)
    }

    /// What the broker's kernel has taken from clients and the broker has not read. Kafka bounds it by its
    /// `socket.receive.buffer.bytes`; the rest of a large request stays with the client's kernel.
    pub fn unread_bytes(&self, broker: usize) -> Result<u64> {
        ports::unread_bytes(self.brokers[broker].ports.plain)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    /// For a server that several tests share: the folder goes with the last of them.
    pub fn keep_nothing(mut self) -> Self {
        self.scratch.passed();
        self
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        let mut config = ClientConfig::new();
        Ok(config.set("bootstrap.servers", self.bootstrap(Listener::Plain)).create()?)
    }

    async fn ready(&mut self, broker: usize) -> Result<()> {
        let Broker { process, folder, .. } = &mut self.brokers[broker];
        let log = process.log_path().to_owned();
        let process = std::cell::RefCell::new(process);
        let ready = wait::until(START_LIMIT, "Kafka has started", async || {
            ensure!(process.borrow_mut().is_running(), "Kafka ended");
            ensure!(std::fs::read_to_string(&log)?.contains("Kafka Server started"), "not yet");
            Ok(())
        });
        let ready = ready.await;
        ready.with_context(|| format!("{}:\n{}", folder.display(), process.borrow().log_tail()))
    }
}

/// Java is quicker to start when it does not optimise everything it can.
const JAVA_TOOL: [&str; 3] = ["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
/// IPv4 alone: its connections stand in one table of the kernel.
const JAVA_SERVER: [&str; 4] =
    ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"];

/// Names and contents.
type Files = Vec<(OsString, Vec<u8>)>;

/// What the tool wrote, by broker and by whether it has accounts: the same each time, and Java takes seconds to start.
static FORMATTED: Mutex<BTreeMap<(usize, bool), Files>> = Mutex::const_new(BTreeMap::new());

async fn format(jars: &Path, at: usize, folder: &Path, accounts: bool) -> Result<()> {
    let mut formatted = FORMATTED.lock().await;
    let data = folder.join("data");
    if let Some(files) = formatted.get(&(at, accounts)) {
        std::fs::create_dir(&data)?;
        return files.iter().try_for_each(|(name, text)| Ok(std::fs::write(data.join(name), text)?));
    }
    let mut command = Command::new("java");
    command.args(JAVA_TOOL).arg("-cp").arg(class_path(jars));
    command.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]).arg(folder.join("server.properties"));
    if accounts {
        for user in [USER, GUEST] {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                command.arg("--add-scram").arg(format!("{mechanism}=[name={user},password={PASSWORD}]"));
            }
        }
    }
    let log = folder.join("format.log");
    let mut formatting = Process::spawn_unprivileged("StorageTool", &mut command, &log, folder)
        .context("Kafka needs Java (Debian package default-jre-headless)")?;
    let status = formatting.exited(TOOL_LIMIT).await?;
    ensure!(status.success(), "{}", formatting.log_tail());
    let mut files = Files::new();
    for file in std::fs::read_dir(&data)? {
        let file = file?;
        files.push((file.file_name(), std::fs::read(file.path())?));
    }
    formatted.insert((at, accounts), files);
    Ok(())
}

fn spawn(jars: &Path, folder: &Path) -> Result<Process> {
    let mut command = Command::new("java");
    command.args(JAVA_SERVER).arg("-cp").arg(class_path(jars));
    command.arg("kafka.Kafka").arg(folder.join("server.properties"));
    Process::spawn_unprivileged("kafka", &mut command, &folder.join("kafka.log"), folder)
}

/// Key and certificates in the one file that Kafka reads.
fn write_stores(folder: &Path, certificates: &Certificates) -> Result<()> {
    let key = Command::new("openssl")
        .args(["pkcs8", "-topk8", "-nocrypt", "-in"])
        .arg(&certificates.server_key)
        .output()
        .context("start openssl")?;
    ensure!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
    let store = [key.stdout, std::fs::read(&certificates.server)?].concat();
    std::fs::write(folder.join("keystore.pem"), store)?;
    std::fs::copy(&certificates.ca, folder.join("truststore.pem"))?;
    Ok(())
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ADMIN_LIMIT)).request_timeout(Some(ADMIN_LIMIT))
}

/// A kafka connector.
pub fn kafka_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "kafka", "config": config.to_string(), "topic_name": topic,
    })
}
