//! ClickHouse as a target, and curl, which says what is in it.
//!
//! ```text
//!   sluice ──▶ user `sluice` (password), database `sluice` ──▶ tables
//!   tests  ──curl──▶ as the administrator
//! ```
//!
//! The server is Debian's 18.16: genuine in HTTP, TLS, logins and statuses, and older than some types and settings. The
//! engine of a current release is in [`engine`].

pub mod engine;
mod interface;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::ports;
use crate::process::Process;
use crate::scratch::Scratch;
pub use interface::Interface;

const START_LIMIT: Duration = Duration::from_secs(60);

pub const DATABASE: &str = "sluice";
pub const USER: &str = "sluice";
/// Everything that a URL or XML would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d&%20=ü<'\"";
/// May read and nothing else.
pub const READER: &str = "reader";
/// May do everything, with memory for inserts of a few megabytes.
pub const SMALL: &str = "small";
const ADMIN: &str = "admin";

#[derive(Clone, Debug, Default)]
pub struct ClickHouseOptions {
    /// Speaks TLS as well.
    pub certificates: Option<Certificates>,
    /// Clients that speak TLS have to show a certificate of the same authority.
    pub client_certificate: bool,
    /// Lines of the profile of [`USER`]: settings.
    pub profile: String,
}

pub struct ClickHouse {
    process: Process,
    interface: Interface,
    ports: Ports,
    options: ClickHouseOptions,
    scratch: Scratch,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    /// Where it speaks TLS.
    https: Option<u16>,
    /// Of its own client.
    native: u16,
}

impl ClickHouse {
    pub async fn start() -> Result<Self> {
        Self::with(ClickHouseOptions::default()).await
    }

    pub async fn with(options: ClickHouseOptions) -> Result<Self> {
        let scratch = Scratch::new("clickhouse")?;
        let https = options.certificates.as_ref().map(|_| ports::free()).transpose()?;
        let ports = Ports { http: ports::free()?, https, native: ports::free()? };
        configure(scratch.path(), ports, &options)?;
        std::fs::write(scratch.path().join("users.xml"), users(PASSWORD, "writer", &options.profile))?;
        let process = spawn(scratch.path())?;
        let interface = Interface::new(ports.http, ADMIN, ADMIN);
        interface.ready(START_LIMIT, &process).await?;
        interface.run(&format!("CREATE DATABASE {DATABASE}")).await?;
        Ok(Self { process, interface, ports, options, scratch })
    }

    /// As the administrator.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    pub fn port(&self) -> u16 {
        self.interface.port()
    }

    /// Of the protocol that its own client speaks.
    pub fn native_port(&self) -> u16 {
        self.ports.native
    }

    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    pub fn url(&self) -> String {
        self.interface.url()
    }

    /// Where it speaks TLS.
    pub fn tls_url(&self) -> Result<String> {
        let port = self.ports.https.context("this ClickHouse speaks no TLS")?;
        Ok(format!("https://127.0.0.1:{port}"))
    }

    /// Of a connector that writes to this table, with these fields more.
    pub fn config(&self, table: &str, more: &Value) -> Value {
        let config = json!({
            "url": self.url(), "database": DATABASE, "table": table, "username": USER, "password": PASSWORD,
            "linger_ms": 0,
        });
        interface::with(config, more)
    }

    /// Gives the user another password, at once.
    pub async fn set_password(&self, password: &str) -> Result<()> {
        self.set_users(&users(password, "writer", &self.options.profile)).await
    }

    /// Takes the right to write from the user, or gives it back, at once.
    pub async fn set_readonly(&self, readonly: bool) -> Result<()> {
        self.set_users(&users(PASSWORD, if readonly { "reader" } else { "writer" }, &self.options.profile)).await
    }

    async fn set_users(&self, text: &str) -> Result<()> {
        // Never half of it: the server looks by itself as well.
        let next = self.scratch.path().join("users.next");
        std::fs::write(&next, text)?;
        std::fs::rename(next, self.scratch.path().join("users.xml"))?;
        self.interface.run("SYSTEM RELOAD CONFIG").await.map(drop)
    }

    /// Statements of connectors that it began, in their order.
    pub fn statements(&self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(self.process.log_path())?;
        let of_user = format!(", user: {USER}) ");
        let statement = |line: &str| {
            let (_, rest) = line.split_once("<Debug> executeQuery: (from ")?;
            rest.split_once(&of_user).map(|(_, statement)| statement.to_owned())
        };
        Ok(log.lines().filter_map(statement).collect())
    }

    /// How many of them are inserts into this table.
    pub fn inserts(&self, table: &str) -> Result<u64> {
        let begins = format!("INSERT INTO `{DATABASE}`.`{table}` ");
        Ok(self.statements()?.iter().filter(|statement| statement.starts_with(&begins)).count() as u64)
    }

    /// As by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "ClickHouse still runs");
        self.process = spawn(self.scratch.path())?;
        self.interface.ready(START_LIMIT, &self.process).await
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

fn spawn(folder: &Path) -> Result<Process> {
    let program = PathBuf::from("/usr/sbin/clickhouse-server");
    ensure!(program.exists(), "Debian package clickhouse-server");
    let mut command = Command::new(program);
    command.arg(format!("--config-file={}", folder.join("config.xml").display())).current_dir(folder);
    Process::spawn_unprivileged("clickhouse-server", &mut command, &folder.join("clickhouse.log"), folder)
}

fn configure(folder: &Path, ports: Ports, options: &ClickHouseOptions) -> Result<()> {
    for name in ["data", "tmp"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let tls = match (&options.certificates, ports.https) {
        (Some(certificates), Some(https)) => {
            let own = certificates.copied_to(folder)?;
            let mode = if options.client_certificate { "strict" } else { "none" };
            format!(
                "<https_port>{https}</https_port><openSSL><server><certificateFile>{}</certificateFile>\
                 <privateKeyFile>{}</privateKeyFile><verificationMode>{mode}</verificationMode><caConfig>{}</caConfig>\
                 <loadDefaultCAFile>false</loadDefaultCAFile></server></openSSL>",
                own.server.display(),
                own.server_key.display(),
                own.ca.display(),
            )
        }
        _ => String::new(),
    };
    let (Ports { http, native, .. }, interserver, at) = (ports, ports::free()?, folder.display());
    let text = format!(
        "<yandex>
<logger><level>debug</level><console>1</console></logger>
<listen_host>127.0.0.1</listen_host><http_port>{http}</http_port><tcp_port>{native}</tcp_port>
<interserver_http_port>{interserver}</interserver_http_port><interserver_http_host>127.0.0.1</interserver_http_host>
{tls}
<path>{at}/data/</path><tmp_path>{at}/tmp/</tmp_path><users_config>{at}/users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>67108864</mark_cache_size><max_concurrent_queries>100</max_concurrent_queries>
</yandex>
"
    );
    std::fs::write(folder.join("config.xml"), text).context("write config.xml")
}

fn users(password: &str, profile: &str, settings: &str) -> String {
    let user = |name: &str, password: &str, profile: &str| {
        let escaped = password.replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<{name}><password>{escaped}</password><networks><ip>127.0.0.1</ip></networks><profile>{profile}</profile>\
             <quota>default</quota></{name}>\n"
        )
    };
    let users = [
        user("default", "", "reader"),
        user(ADMIN, ADMIN, "default"),
        user(USER, password, profile),
        user(READER, password, "reader"),
        user(SMALL, password, "small"),
    ];
    format!(
        "<yandex>
<profiles>
<default/>
<writer>{settings}</writer>
<reader><readonly>1</readonly></reader>
<small><max_memory_usage>18000000</max_memory_usage></small>
</profiles>
<users>
{}</users>
<quotas><default/></quotas>
</yandex>
",
        users.concat()
    )
}

/// A clickhouse connector.
pub fn clickhouse_connector(name: &str, topic: &str, config: &Value) -> Value {
    json!({
        "connector_name": name, "connector_type": "clickhouse", "config": config.to_string(), "topic_name": topic,
    })
}
