//! Apache Cassandra as a target, and DataStax's Python driver, which says what is in it.
//!
//! ```text
//!   sluice ──▶ user `sluice` (may modify) ──▶ keyspace `mqtt` ──▶ tables
//!   tests  ──tests/servers/cassandra_client.py──▶ as the administrator
//! ```
//!
//! The jars come from Maven, by `scripts/setup all`; Java is the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, jars, ports, wait};

pub const SERVER: &str = "cassandra-5.0.4";
const DRIVER: &str = "cassandra-driver-3.30.1";
pub const KEYSPACE: &str = "mqtt";
pub const USER: &str = "sluice";
/// What CQL would have to escape, and more.
pub const PASSWORD: &str = "p@ss:w/o?r#d&%20=ü<'\"";
/// As Cassandra makes it by itself.
const ADMIN: &str = "cassandra";

/// Several Java processes start at a time on a small machine.
const START_LIMIT: Duration = Duration::from_secs(180);
/// Another process of the machine may take a port between the time at which it was free and the start.
const STARTS_MAX: usize = 3;
/// The words of the ports of nodes, and of clients.
const TAKEN: [&str; 2] = ["in use by another process", "Failed to bind port"];
const ASK_LIMIT: Duration = Duration::from_secs(120);

/// Cassandra reads what the platform hides.
const OPENED: [&str; 20] = [
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/java.lang.ref=ALL-UNNAMED",
    "--add-exports=java.management.rmi/com.sun.jmx.remote.internal.rmi=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.server=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.transport.tcp=ALL-UNNAMED",
    "--add-exports=java.sql/java.sql=ALL-UNNAMED",
    "--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.loader=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.module=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.util.jar=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED",
];

#[derive(Clone, Debug)]
pub struct CassandraOptions {
    /// Users and rights; without them everybody may do everything.
    pub login: bool,
    /// With these it speaks TLS, beside plain text unless `tls_only`.
    pub certificates: Option<Certificates>,
    pub tls_only: bool,
    /// Clients that speak TLS have to show a certificate of the same authority.
    pub client_certificate: bool,
    /// How long a node waits for the replicas of a write.
    pub write_timeout: &'static str,
    /// A level at which users may not write.
    pub forbidden_level: Option<&'static str>,
    /// Of 127.0.0.0/8.
    pub address: &'static str,
    /// Ports for clients and for other nodes, where somebody else expects them.
    pub ports: Option<(u16, u16)>,
    /// The address of the first node of the cluster, where this is not the first one.
    pub joins: Option<&'static str>,
    /// Of the ring; nodes with their own take even shares of it.
    pub token: Option<i64>,
}

impl Default for CassandraOptions {
    fn default() -> Self {
        Self {
            login: true,
            certificates: None,
            tls_only: false,
            client_certificate: false,
            write_timeout: "20s",
            forbidden_level: None,
            address: "127.0.0.1",
            ports: None,
            joins: None,
            token: None,
        }
    }
}

pub struct Cassandra {
    process: Process,
    ports: (u16, u16),
    options: CassandraOptions,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

impl Cassandra {
    pub async fn start() -> Result<Self> {
        Self::with(CassandraOptions::default()).await
    }

    pub async fn with(options: CassandraOptions) -> Result<Self> {
        for _ in 1..STARTS_MAX {
            match Self::once(options.clone()).await {
                Err(error) if options.ports.is_none() && is_taken(&error) => {}
                started => return started,
            }
        }
        Self::once(options).await
    }

    async fn once(options: CassandraOptions) -> Result<Self> {
        let scratch = Scratch::new("cassandra")?;
        let ports = options.ports.map_or_else(|| Ok((ports::free()?, ports::free()?)), anyhow::Ok)?;
        std::fs::create_dir(scratch.path().join("logs"))?;
        let certificates = match &options.certificates {
            // The server's key has to be its own.
            Some(made) => Some(made.copied_to(scratch.path())?),
            None => None,
        };
        configure(scratch.path(), ports, &options, certificates.as_ref())?;
        let process = spawn(scratch.path(), &options)?;
        let mut server = Self { process, ports, options, certificates, scratch };
        server.ready(1).await?;
        if server.options.joins.is_none() {
            server.make_keyspace().await?;
        }
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.ports.0
    }

    /// Those of clients and of other nodes.
    pub fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// Of a connector into this table, with these fields more.
    pub fn config(&self, table: &str, more: &Value) -> Value {
        let mut config = json!({
            "nodes": [self.options.address], "port": self.port(), "keyspace": KEYSPACE, "table": table,
        });
        if self.options.login {
            (config["username"], config["password"]) = (json!(USER), json!(PASSWORD));
        }
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Runs statements as the administrator, one after the other.
    pub async fn run(&self, statements: &[&str]) -> Result<()> {
        self.ask(statements).await.map(drop)
    }

    /// The rows of a query, as the administrator sees them.
    pub async fn rows(&self, query: &str) -> Result<Vec<Value>> {
        let text = self.ask(&[query]).await?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    pub async fn count(&self, table: &str) -> Result<u64> {
        let rows = self.rows(&format!("SELECT count(*) AS n FROM {KEYSPACE}.{table}")).await?;
        rows[0]["n"].as_u64().context("no number")
    }

    /// A table of the form that the page shows, into which the user may write.
    pub async fn make_table(&self, name: &str, columns: &str) -> Result<()> {
        let statement = format!("CREATE TABLE IF NOT EXISTS {KEYSPACE}.{name} ({columns})");
        if !self.options.login {
            return self.run(&[&statement]).await;
        }
        self.run(&[&statement, &format!("GRANT MODIFY ON {KEYSPACE}.{name} TO {USER}")]).await
    }

    pub async fn set_password(&self, password: &str) -> Result<()> {
        self.run(&[&format!("ALTER ROLE {USER} WITH PASSWORD = {}", text(password))]).await
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "Cassandra still runs");
        let starts = self.starts()? + 1;
        self.process = spawn(self.scratch.path(), &self.options)?;
        self.ready(starts).await
    }

    /// Stops or continues it: it keeps its connections and answers nothing.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Continues it or starts it again, whatever became of it.
    pub async fn revive(&mut self) -> Result<()> {
        if self.process.is_running() {
            return self.signal(Signal::CONT);
        }
        self.start_again().await
    }

    /// Of a server that many tests share, and whose folder nobody looks into.
    pub fn keep_nothing(mut self) -> Self {
        self.scratch.passed();
        self
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    /// How often it has begun to listen.
    fn starts(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        Ok(log.lines().filter(|line| line.contains("Starting listening for CQL clients")).count())
    }

    async fn ready(&mut self, starts: usize) -> Result<()> {
        let log = self.process.log_path().to_owned();
        let begun = wait::until(START_LIMIT, "Cassandra listens", async || {
            let listens = self.starts()? >= starts;
            ensure!(listens || !self.process.is_running(), "not yet");
            Ok(listens)
        });
        let listens = begun.await.with_context(|| process::tail(&log, 40))?;
        ensure!(listens, "Cassandra has ended: {}", process::tail(&log, 40));
        // The first user is made a moment later.
        let answers =
            wait::until(START_LIMIT, "Cassandra answers", async || self.run(&["SELECT key FROM system.local"]).await);
        answers.await.with_context(|| process::tail(&log, 40))
    }

    async fn make_keyspace(&self) -> Result<()> {
        let keyspace = format!(
            "CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}}"
        );
        if !self.options.login {
            return self.run(&[&keyspace]).await;
        }
        let role = format!("CREATE ROLE IF NOT EXISTS {USER} WITH LOGIN = true AND PASSWORD = {}", text(PASSWORD));
        self.run(&[&keyspace, &role]).await
    }

    async fn ask(&self, statements: &[&str]) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/cassandra_client.py");
        let mut command = tokio::process::Command::new(client()?);
        command.arg(script).arg(self.options.address).arg(self.port().to_string()).args(statements);
        if self.options.login {
            command.env("CASSANDRA_USER", ADMIN).env("CASSANDRA_PASSWORD", ADMIN);
        }
        if let (Some(certificates), true) = (&self.certificates, self.options.tls_only) {
            command.env("CASSANDRA_CERTIFICATE", &certificates.client).env("CASSANDRA_KEY", &certificates.client_key);
        }
        Ok(process::run(&mut command, ASK_LIMIT).await?.success()?.stdout)
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    TAKEN.iter().any(|words| said.contains(words))
}

/// The columns that the page shows.
pub const COLUMNS: &str = "msgid text PRIMARY KEY, topic text, qos int, payload blob, arrived timestamp";

/// As a constant of CQL.
fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// Python with the driver.
fn client() -> Result<PathBuf> {
    let folder = cache::folder()?.join("servers").join(DRIVER);
    ensure!(
        folder.join("complete").is_file(),
        "{DRIVER} is not in {}: run `scripts/setup all`, which fetches it with pip",
        folder.display()
    );
    Ok(folder.join("bin/python"))
}

fn configure(
    folder: &Path,
    (port, storage_port): (u16, u16),
    options: &CassandraOptions,
    certificates: Option<&Certificates>,
) -> Result<()> {
    let (at, address) = (folder.display(), options.address);
    let (authenticator, authorizer) = match options.login {
        true => ("PasswordAuthenticator", "CassandraAuthorizer"),
        false => ("AllowAllAuthenticator", "AllowAllAuthorizer"),
    };
    let mut lines = vec![
        "cluster_name: tests".to_owned(),
        "num_tokens: 1".to_owned(),
        "partitioner: org.apache.cassandra.dht.Murmur3Partitioner".to_owned(),
        format!("authenticator: {{class_name: {authenticator}}}"),
        format!("authorizer: {{class_name: {authorizer}}}"),
        // What is changed counts at once.
        "permissions_validity: 0ms".to_owned(),
        "roles_validity: 0ms".to_owned(),
        "credentials_validity: 0ms".to_owned(),
        format!("listen_address: {address}"),
        format!("rpc_address: {address}"),
        format!("storage_port: {storage_port}"),
        format!("native_transport_port: {port}"),
        format!(
            "seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, \
             parameters: [{{seeds: \"{}:{storage_port}\"}}]}}]",
            options.joins.unwrap_or(address)
        ),
        "endpoint_snitch: SimpleSnitch".to_owned(),
        // What is confirmed is on the disk. By default it forgets, when it is killed, what it has confirmed since the last
        // mark in its log.
        "commitlog_sync: batch".to_owned(),
        // As many rows as a connector has under way share one sync: each waits for it in a thread.
        "concurrent_writes: 256".to_owned(),
        "commitlog_segment_size: 8MiB".to_owned(),
        "commitlog_total_space: 64MiB".to_owned(),
        "memtable_heap_space: 64MiB".to_owned(),
        "memtable_offheap_space: 64MiB".to_owned(),
        "networking_cache_size: 32MiB".to_owned(),
        "file_cache_size: 32MiB".to_owned(),
        "key_cache_size: 8MiB".to_owned(),
        "auto_bootstrap: false".to_owned(),
        // On a machine with much else to do.
        "read_request_timeout: 20s".to_owned(),
        format!("write_request_timeout: {}", options.write_timeout),
        "request_timeout: 30s".to_owned(),
        "native_transport_timeout: 60s".to_owned(),
        // Nothing here looks at the machine's disk.
        "auto_snapshot: false".to_owned(),
    ];
    let folders = ["commitlog", "saved_caches", "hints"];
    lines.extend(folders.map(|name| format!("{name}_directory: {at}/data/{name}")));
    lines.push(format!("data_file_directories: [ {at}/data/data ]"));
    lines.push(format!("cdc_raw_directory: {at}/data/cdc"));
    lines.extend(options.forbidden_level.map(|level| format!("write_consistency_levels_disallowed: [{level}]")));
    lines.extend(options.token.map(|token| format!("initial_token: {token}")));
    if let Some(certificates) = certificates {
        lines.push(encryption(folder, options, certificates)?);
    }
    std::fs::write(folder.join("cassandra.yaml"), lines.join("\n"))?;
    let log = "<configuration><appender name=\"out\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
               <pattern>%d %-5level %logger{20} %msg%n</pattern></encoder></appender><root level=\"INFO\">\
               <appender-ref ref=\"out\"/></root></configuration>";
    Ok(std::fs::write(folder.join("logback.xml"), log)?)
}

/// It reads the key and its certificate from one file.
fn encryption(folder: &Path, options: &CassandraOptions, certificates: &Certificates) -> Result<String> {
    let own = folder.join("server_with_key.pem");
    std::fs::write(&own, [std::fs::read(&certificates.server_key)?, std::fs::read(&certificates.server)?].concat())?;
    Ok(format!(
        "client_encryption_options: {{enabled: true, optional: {}, require_client_auth: {}, keystore: \"{}\", \
         truststore: \"{}\", ssl_context_factory: {{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}}}}",
        !options.tls_only,
        options.client_certificate,
        own.display(),
        certificates.ca.display()
    ))
}

fn spawn(folder: &Path, options: &CassandraOptions) -> Result<Process> {
    let jars = jars::folder(SERVER)?;
    let jars = cache::readable(&jars, folder)?;
    let at = folder.display();
    let mut command = Command::new("java");
    command
        .args(["-Xms384m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .args(["-Djava.net.preferIPv4Stack=true", "-Djdk.attach.allowAttachSelf=true"])
        .args(OPENED)
        .arg(format!("-Dcassandra.config=file://{at}/cassandra.yaml"))
        .arg(format!("-Dcassandra.storagedir={at}/data"))
        .arg(format!("-Dcassandra.logdir={at}/logs"))
        .arg(format!("-Dlogback.configurationFile=file://{at}/logback.xml"))
        .arg(format!("-Djava.io.tmpdir={at}"))
        .args(["-Dcassandra-foreground=yes", "-Dcassandra.jmx.local.port=0", "-Dcassandra.superuser_setup_delay_ms=0"]);
    if options.joins.is_none() {
        // Nobody else is there to wait for.
        command.args(["-Dcassandra.ring_delay_ms=1", "-Dcassandra.skip_wait_for_gossip_to_settle=0"]);
    }
    command.arg("-cp").arg(jars::class_path(&jars)).arg("org.apache.cassandra.service.CassandraDaemon");
    Process::spawn_unprivileged("cassandra", command.current_dir(folder), &folder.join("cassandra.log"), folder)
}
