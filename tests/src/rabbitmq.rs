//! RabbitMQ as a target, and its own management API, which says what is in it.
//!
//! ```text
//!   sluice ──AMQP──▶ virtual host `mq`, user `sluice` ──▶ exchange `mqtt_messages` ──▶ queue `all`
//!   tests  ──HTTP──▶ as its administrator
//! ```

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::api::http_client;
use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{ports, wait};

const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// It boots within four seconds of an idle machine.
const START_LIMIT: Duration = Duration::from_secs(120);
/// `rabbitmqctl` boots an Erlang machine of its own.
const CONTROL_LIMIT: Duration = Duration::from_secs(60);

pub const USER: &str = "sluice";
/// Everything that a URL would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d '\"%20 ü";
pub const VIRTUAL_HOST: &str = "mq";
pub const EXCHANGE: &str = "mqtt_messages";
/// Bound to [`EXCHANGE`], whatever the routing key.
pub const QUEUE: &str = "all";
const ADMINISTRATOR: &str = "admin";
const ADMINISTRATOR_PASSWORD: &str = "admin-password";

#[derive(Clone, Debug, Default)]
pub struct RabbitmqOptions {
    /// Lines of rabbitmq.conf.
    pub settings: Vec<String>,
    /// Names of the server in its certificate; without them it speaks no TLS.
    pub tls_names: Option<String>,
    /// The same with certificates that were made elsewhere.
    pub certificates: Option<Certificates>,
    /// Over TLS clients have to show a certificate.
    pub client_certificate: bool,
}

pub struct Rabbitmq {
    process: Process,
    /// Tells where the node is: `rabbitmqctl` asks it. The node finds it running and starts none of its own.
    _port_mapper: Process,
    ports: Ports,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

#[derive(Clone, Copy)]
struct Ports {
    amqp: u16,
    tls: u16,
    management: u16,
    distribution: u16,
    port_mapper: u16,
}

/// A message as it stands in a queue.
#[derive(Clone, Debug)]
pub struct Message {
    pub payload: Vec<u8>,
    pub routing_key: String,
    /// `delivery_mode`, `message_id`, `timestamp`, `headers`, …
    pub properties: Value,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.properties["headers"][name].as_str()
    }
}

static SHARED: Mutex<Weak<Rabbitmq>> = Mutex::const_new(Weak::new());

impl Rabbitmq {
    pub async fn start() -> Result<Self> {
        Self::with(RabbitmqOptions::default()).await
    }

    /// One for all tests of this process that run at the same time: it takes seconds to start. Each has a virtual host of
    /// its own and stops nothing that others need. It ends with the last of them.
    pub async fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let options = RabbitmqOptions {
            settings: vec!["max_message_size = 1000000".into()],
            tls_names: Some("DNS:mq.example.org".into()),
            client_certificate: true,
            ..RabbitmqOptions::default()
        };
        let mut server = Self::with(options).await?;
        // What it holds is of no use to whoever looks at one of many tests.
        server.scratch.passed();
        let server = Arc::new(server);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    pub async fn with(options: RabbitmqOptions) -> Result<Self> {
        let scratch = Scratch::new("rabbitmq")?;
        let ports = Ports {
            amqp: ports::free()?,
            tls: ports::free()?,
            management: ports::free()?,
            distribution: ports::free()?,
            port_mapper: ports::free()?,
        };
        let certificates = match (&options.tls_names, &options.certificates) {
            (Some(names), _) => Some(Certificates::make(scratch.path(), names, USER)?),
            // The server must be able to read its key.
            (None, Some(made)) => Some(made.copied_to(scratch.path())?),
            (None, None) => None,
        };
        configure(scratch.path(), ports, &options, certificates.as_ref())?;
        let port_mapper = start_port_mapper(scratch.path(), ports).await?;
        let process = spawn(scratch.path(), ports)?;
        let server = Self { process, _port_mapper: port_mapper, ports, certificates, scratch };
        server.ready().await?;
        server.add_user(USER, PASSWORD).await?;
        server.add_virtual_host(VIRTUAL_HOST).await?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    pub fn tls_port(&self) -> u16 {
        self.ports.tls
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector to [`EXCHANGE`] in a virtual host, with these fields more.
    pub fn config(&self, virtual_host: &str, more: &Value) -> Value {
        let mut config = json!({
            "server": "127.0.0.1", "port": self.ports.amqp, "username": USER, "password": PASSWORD,
            "virtual_host": virtual_host, "exchange": EXCHANGE,
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// With [`EXCHANGE`] and [`QUEUE`], and all rights for [`USER`] at last: who waits for it finds everything there.
    pub async fn add_virtual_host(&self, name: &str) -> Result<()> {
        self.put(&["vhosts", name], &Value::Null).await?;
        self.add_exchange(name, EXCHANGE, "fanout").await?;
        self.add_queue(name, QUEUE, &json!({})).await?;
        self.bind(name, EXCHANGE, QUEUE, "").await?;
        self.permit(name, USER, ".*").await
    }

    pub async fn add_user(&self, name: &str, password: &str) -> Result<()> {
        self.put(&["users", name], &json!({"password": password, "tags": ""})).await
    }

    /// `write`: the exchanges that the user may publish to, as a regular expression.
    pub async fn permit(&self, virtual_host: &str, user: &str, write: &str) -> Result<()> {
        let rights = json!({"configure": "", "write": write, "read": ""});
        self.put(&["permissions", virtual_host, user], &rights).await
    }

    pub async fn add_exchange(&self, virtual_host: &str, name: &str, kind: &str) -> Result<()> {
        self.put(&["exchanges", virtual_host, name], &json!({"type": kind, "durable": true})).await
    }

    pub async fn add_queue(&self, virtual_host: &str, name: &str, arguments: &Value) -> Result<()> {
        self.put(&["queues", virtual_host, name], &json!({"durable": true, "arguments": arguments})).await
    }

    pub async fn bind(&self, virtual_host: &str, exchange: &str, queue: &str, routing_key: &str) -> Result<()> {
        let path = ["bindings", virtual_host, "e", exchange, "q", queue];
        self.ask(Method::POST, &path, &json!({"routing_key": routing_key, "arguments": {}})).await.map(drop)
    }

    /// All messages of a queue, in its order. They stay there.
    pub async fn messages(&self, virtual_host: &str, queue: &str) -> Result<Vec<Message>> {
        let look = json!({"count": 1_000_000, "ackmode": "ack_requeue_true", "encoding": "base64"});
        let found = self.ask(Method::POST, &["queues", virtual_host, queue, "get"], &look).await?;
        found.as_array().context("no list of messages")?.iter().map(message).collect()
    }

    /// As soon as there are so many.
    pub async fn messages_when(&self, virtual_host: &str, queue: &str, count: usize) -> Result<Vec<Message>> {
        wait::until(START_LIMIT, &format!("{count} messages in {queue}"), async || {
            let messages = self.messages(virtual_host, queue).await?;
            ensure!(messages.len() >= count, "{} are there", messages.len());
            Ok(messages)
        })
        .await
    }

    /// Connections of a virtual host, as the server describes them.
    pub async fn connections(&self, virtual_host: &str) -> Result<Vec<Value>> {
        let all = self.get(&["connections"]).await?;
        let all = all.as_array().context("no list of connections")?;
        Ok(all.iter().filter(|connection| connection["vhost"] == virtual_host).cloned().collect())
    }

    /// As soon as the server describes one; it does so a moment after it was made.
    pub async fn connection(&self, virtual_host: &str) -> Result<Value> {
        wait::until(START_LIMIT, "a connection is shown", async || {
            let connections = self.connections(virtual_host).await?;
            let connection = connections.into_iter().find(|connection| connection["channel_max"].is_u64());
            connection.context("none yet")
        })
        .await
    }

    pub async fn get(&self, path: &[&str]) -> Result<Value> {
        self.ask(Method::GET, path, &Value::Null).await
    }

    pub async fn put(&self, path: &[&str], body: &Value) -> Result<()> {
        self.ask(Method::PUT, path, body).await.map(drop)
    }

    pub async fn delete(&self, path: &[&str]) -> Result<()> {
        self.ask(Method::DELETE, path, &Value::Null).await.map(drop)
    }

    /// The parts of a path are names, with any characters in them.
    async fn ask(&self, method: Method, path: &[&str], body: &Value) -> Result<Value> {
        let path: String = path.iter().map(|part| format!("/{}", percent_encoded(part))).collect();
        let url = format!("http://127.0.0.1:{}/api{path}", self.ports.management);
        let mut request =
            http_client()?.request(method.clone(), &url).basic_auth(ADMINISTRATOR, Some(ADMINISTRATOR_PASSWORD));
        if !body.is_null() {
            request = request.json(body);
        } else if method == Method::PUT {
            request = request.json(&json!({}));
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{method} {path}: status {status}: {text}");
        if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text).with_context(|| text) }
    }

    /// `rabbitmqctl` with these arguments.
    pub async fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(format!("{PROGRAMS}/rabbitmqctl"));
        command.arg("--node").arg(node(self.ports)).args(arguments);
        environment(&mut command, self.scratch.path(), self.ports);
        process::beside(&mut command, self.scratch.path());
        let mut command = tokio::process::Command::from(command);
        Ok(process::run(&mut command, CONTROL_LIMIT).await?.success()?.stdout)
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "RabbitMQ still runs");
        self.process = spawn(self.scratch.path(), self.ports)?;
        self.ready().await
    }

    /// It keeps its connections and answers nothing.
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::STOP)
    }

    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::CONT)
    }

    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.scratch.path().join("log/node.log")).unwrap_or_default();
        format!("{log}\n{}", self.process.log_tail())
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "RabbitMQ answers", async || {
            TcpStream::connect(("127.0.0.1", self.ports.amqp))?;
            self.get(&["overview"]).await
        });
        ready.await.map(drop).with_context(|| self.log())
    }
}

fn message(found: &Value) -> Result<Message> {
    let text = found["payload"].as_str().context("a message without payload")?;
    Ok(Message {
        payload: BASE64.decode(text).context("payload is not base64")?,
        routing_key: found["routing_key"].as_str().context("a message without routing key")?.to_owned(),
        properties: found["properties"].clone(),
    })
}

fn percent_encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn node(ports: Ports) -> String {
    format!("sluice{}@localhost", ports.amqp)
}

fn configure(
    folder: &Path,
    ports: Ports,
    options: &RabbitmqOptions,
    certificates: Option<&Certificates>,
) -> Result<()> {
    for part in ["mnesia", "log"] {
        std::fs::create_dir_all(folder.join(part))?;
    }
    let mut lines = vec![
        format!("listeners.tcp.1 = 127.0.0.1:{}", ports.amqp),
        "management.tcp.ip = 127.0.0.1".into(),
        format!("management.tcp.port = {}", ports.management),
        format!("default_user = {ADMINISTRATOR}"),
        format!("default_pass = {ADMINISTRATOR_PASSWORD}"),
        // Not a word of the machine's own memory and disk: an alarm is a test's.
        "vm_memory_high_watermark.absolute = 4GB".into(),
        "disk_free_limit.absolute = 1MB".into(),
        // Of messages of connections and queues, in milliseconds.
        "collect_statistics_interval = 500".into(),
        "log.file = node.log".into(),
        "log.console = false".into(),
    ];
    if let Some(certificates) = certificates {
        lines.extend([
            format!("listeners.ssl.1 = 127.0.0.1:{}", ports.tls),
            format!("ssl_options.cacertfile = {}", certificates.ca.display()),
            format!("ssl_options.certfile = {}", certificates.server.display()),
            format!("ssl_options.keyfile = {}", certificates.server_key.display()),
            "ssl_options.verify = verify_peer".into(),
            format!("ssl_options.fail_if_no_peer_cert = {}", options.client_certificate),
        ]);
    }
    lines.extend(options.settings.iter().cloned());
    std::fs::write(folder.join("rabbitmq.conf"), lines.join("\n") + "\n")?;
    std::fs::write(folder.join("enabled_plugins"), "[rabbitmq_management].\n")?;
    let cookie = folder.join(".erlang.cookie");
    std::fs::write(&cookie, "SLUICETESTSSLUICETESTS")?;
    std::fs::set_permissions(&cookie, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}

/// It would outlive its node if the node started it.
async fn start_port_mapper(folder: &Path, ports: Ports) -> Result<Process> {
    let port = ports.port_mapper.to_string();
    let mut command = Command::new("epmd");
    command.args(["-port", &port, "-address", "127.0.0.1"]);
    let process = Process::spawn_unprivileged("epmd", &mut command, &folder.join("epmd.log"), folder)?;
    let answers = async || Ok(TcpStream::connect(("127.0.0.1", ports.port_mapper)).map(drop)?);
    wait::until(START_LIMIT, "epmd listens", answers).await?;
    Ok(process)
}

fn environment(command: &mut Command, folder: &Path, ports: Ports) {
    command
        .env("HOME", folder)
        .env("RABBITMQ_NODENAME", node(ports))
        .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODE_PORT", ports.amqp.to_string())
        .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", ports.port_mapper.to_string())
        .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", folder.join("log"))
        .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_PID_FILE", folder.join("pid"));
}

/// The script becomes the server only for those who say that they watch over it; otherwise it stays as its parent.
fn spawn(folder: &Path, ports: Ports) -> Result<Process> {
    let mut command = Command::new(format!("{PROGRAMS}/rabbitmq-server"));
    environment(&mut command, folder, ports);
    // Other programs need the cores too: its threads need not spin when there is nothing to do.
    let erlang = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none";
    command.env("RUNNING_UNDER_SYSTEMD", "1").env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang);
    Process::spawn_unprivileged("RabbitMQ", &mut command, &folder.join("server.log"), folder)
}

/// A rabbitmq connector.
pub fn rabbitmq_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "rabbitmq", "config": config.to_string(), "topic_name": topic,
    })
}
