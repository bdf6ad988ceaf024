//! Elasticsearch as a target, and curl, which says what is in it.
//!
//! ```text
//!   sluice ──▶ user `sluice` (may create documents) ──▶ indices, data streams
//!   tests  ──curl──▶ as the administrator
//! ```
//!
//! The jars come from Maven, by `scripts/setup`; Java is the machine's. It is run under the Elastic License, and never
//! given on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::certificates::Certificates;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

pub const VERSION: &str = "8.19.21";
/// May create documents and indices, and nothing else.
pub const USER: &str = "sluice";
/// Everything that a URL would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d&%20=ü";
/// The same, where the index is called [`OWN_INDICES`].
pub const LIMITED: &str = "limited";
pub const OWN_INDICES: &str = "own-*";
/// May log in.
pub const STRANGER: &str = "stranger";
/// Indices with such a name are not made by themselves.
pub const NEVER_MADE: &str = "never-*";

const ADMIN: &str = "admin:s3cret-Pw";
/// Of that password, by bcrypt.
const ADMIN_HASH: &str = "$2a$10$J7JYgzbnNn3xgYWh.QS8lOB2Mbq3PMY6gbZcmXdVLtbvlRxRGQ2jC";

/// Several Java processes start at a time on a small machine.
const START_LIMIT: Duration = Duration::from_secs(180);
const CALL_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct ElasticsearchOptions {
    /// More lines of elasticsearch.yml.
    pub settings: Vec<String>,
    /// Names of the server in its certificate; without them, and without `certificates`, it speaks no TLS.
    pub tls_names: Option<String>,
    /// Made elsewhere.
    pub certificates: Option<Certificates>,
    /// Clients have to show a certificate of the same authority.
    pub client_certificate: bool,
}

pub struct Elasticsearch {
    process: Process,
    port: u16,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

/// A document as it is stored, with the very bytes of its source.
#[derive(Debug, Deserialize)]
pub struct Hit {
    #[serde(rename = "_id")]
    pub id: String,
    /// The index behind an alias or a data stream.
    #[serde(rename = "_index")]
    pub index: String,
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}

impl Hit {
    pub fn text(&self) -> &str {
        self.source.get()
    }

    pub fn value(&self) -> Result<Value> {
        Ok(serde_json::from_str(self.source.get())?)
    }
}

#[derive(Deserialize)]
struct Found {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

impl Elasticsearch {
    pub async fn start() -> Result<Self> {
        Self::with(ElasticsearchOptions::default()).await
    }

    pub async fn with(options: ElasticsearchOptions) -> Result<Self> {
        let scratch = Scratch::new("elasticsearch")?;
        let port = ports::free()?;
        for folder in ["conf", "data", "logs", "tmp"] {
            std::fs::create_dir(scratch.path().join(folder))?;
        }
        let conf = scratch.path().join("conf");
        let certificates = match (&options.certificates, &options.tls_names) {
            // It reads keys below its configuration only.
            (Some(certificates), _) => Some(certificates.copied_to(&conf)?),
            (None, Some(names)) => Some(Certificates::make(&conf, names, USER)?),
            (None, None) => None,
        };
        configure(scratch.path(), port, &options, certificates.as_ref())?;
        let process = spawn(scratch.path())?;
        let server = Self { process, port, certificates, scratch };
        server.ready().await?;
        server.make_users().await?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the server speaks no TLS")
    }

    /// Of a connector into this index, with these fields more.
    pub fn config(&self, index: &str, more: &Value) -> Value {
        let mut config = json!({
            "url": self.url(), "index": index, "auth_type": "basic", "username": USER, "password": PASSWORD,
        });
        if let Some(certificates) = &self.certificates {
            config["ca_cert_path"] = json!(certificates.ca);
        }
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    /// Asks as the administrator, and fails with the server's words.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let text = self.text(method, path, body).await?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Makes an index with these mappings and settings.
    pub async fn make_index(&self, name: &str, body: &Value) -> Result<()> {
        self.call("PUT", name, body).await.map(drop)
    }

    /// A setting of the whole cluster; `null` takes it back.
    pub async fn set(&self, name: &str, value: Value) -> Result<()> {
        self.call("PUT", "_cluster/settings", &json!({ "persistent": { name: value } })).await.map(drop)
    }

    /// A key for indices of these names, as the server shows it for use; and its id.
    pub async fn api_key(&self, indices: &str) -> Result<(String, String)> {
        let role = json!({ "indices": [{ "names": [indices], "privileges": ["create_doc", "auto_configure"] }] });
        let key = json!({ "name": "sluice", "role_descriptors": { "writer": role } });
        let answer = self.call("POST", "_security/api_key", &key).await?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| answer.to_string());
        Ok((text("encoded")?, text("id")?))
    }

    pub async fn revoke(&self, key_id: &str) -> Result<()> {
        self.call("DELETE", "_security/api_key", &json!({ "ids": [key_id] })).await.map(drop)
    }

    pub async fn set_password(&self, password: &str) -> Result<()> {
        let path = format!("_security/user/{USER}/_password");
        self.call("POST", &path, &json!({ "password": password })).await.map(drop)
    }

    /// What [`USER`] may do from now on.
    pub async fn set_rights(&self, indices: &[&str]) -> Result<()> {
        self.make_role("writer", indices).await
    }

    /// Every document of an index, an alias or a data stream, at most as many as its `max_result_window`.
    pub async fn hits(&self, index: &str, at_most: usize) -> Result<Vec<Hit>> {
        self.call("POST", &format!("{index}/_refresh"), &Value::Null).await?;
        // A filter would make it write its sources anew.
        let path = format!("{index}/_search?size={at_most}");
        let text = self.text("POST", &path, &json!({ "sort": ["_doc"] })).await?;
        let found: Found = serde_json::from_str(&text).with_context(|| text.chars().take(500).collect::<String>())?;
        Ok(found.hits.hits)
    }

    pub async fn count(&self, index: &str) -> Result<u64> {
        self.call("POST", &format!("{index}/_refresh"), &Value::Null).await?;
        let answer = self.call("GET", &format!("{index}/_count"), &Value::Null).await?;
        answer["count"].as_u64().with_context(|| answer.to_string())
    }

    /// Names of all indices that are not the server's own.
    pub async fn indices(&self) -> Result<Vec<String>> {
        let text = self.text("GET", "_cat/indices?h=index&expand_wildcards=all", &Value::Null).await?;
        let names = text.split_whitespace().filter(|name| !name.starts_with(".security"));
        Ok(names.map(str::to_owned).collect())
    }

    /// The server goes away, as by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "Elasticsearch still runs");
        self.process = spawn(self.scratch.path())?;
        self.ready().await
    }

    /// Stops (SIGSTOP) or continues it.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "Elasticsearch answers", async || {
            self.call("GET", "_cluster/health?wait_for_status=yellow&timeout=1s", &Value::Null).await
        });
        ready.await.with_context(|| self.process.log_tail()).map(drop)
    }

    async fn make_users(&self) -> Result<()> {
        self.make_role("writer", &["*"]).await?;
        self.make_role("own", &[OWN_INDICES]).await?;
        for (name, roles) in [(USER, json!(["writer"])), (LIMITED, json!(["own"])), (STRANGER, json!([]))] {
            let user = json!({ "password": PASSWORD, "roles": roles });
            self.call("PUT", &format!("_security/user/{name}"), &user).await?;
        }
        Ok(())
    }

    /// What a connector needs.
    async fn make_role(&self, name: &str, indices: &[&str]) -> Result<()> {
        let privileges = json!([{ "names": indices, "privileges": ["create_doc", "auto_configure"] }]);
        let indices = if indices.is_empty() { json!([]) } else { privileges };
        self.call("PUT", &format!("_security/role/{name}"), &json!({ "indices": indices })).await.map(drop)
    }

    async fn text(&self, method: &str, path: &str, body: &Value) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-g", "-u", ADMIN, "-X", method, "-w", "\n%{http_code}"]);
        if let Some(certificates) = &self.certificates {
            let (client, key) = (&certificates.client, &certificates.client_key);
            curl.arg("-k").arg("--cert").arg(client).arg("--key").arg(key);
        }
        if !body.is_null() {
            curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        curl.arg(format!("{}/{path}", self.url()));
        let answer = process::run(&mut curl, CALL_LIMIT).await?.success()?.stdout;
        let (text, status) = answer.rsplit_once('\n').context("no status")?;
        if !matches!(status, "200" | "201") {
            bail!("{method} {path}: {status} {text}");
        }
        Ok(text.to_owned())
    }
}

fn configure(
    folder: &Path,
    port: u16,
    options: &ElasticsearchOptions,
    certificates: Option<&Certificates>,
) -> Result<()> {
    let at = folder.display();
    let mut lines = vec![
        "cluster.name: tests".to_owned(),
        "node.name: node".to_owned(),
        "discovery.type: single-node".to_owned(),
        "network.host: 127.0.0.1".to_owned(),
        format!("http.port: {port}"),
        format!("transport.port: {}", ports::free()?),
        format!("path.data: {at}/data"),
        format!("path.logs: {at}/logs"),
        format!("action.auto_create_index: \"-{NEVER_MADE},+*\""),
        // How full the machine's disk is says nothing here.
        "cluster.routing.allocation.disk.threshold_enabled: false".to_owned(),
        "xpack.security.enabled: true".to_owned(),
        "xpack.security.enrollment.enabled: false".to_owned(),
        "xpack.security.authc.api_key.enabled: true".to_owned(),
    ];
    if let Some(certificates) = certificates {
        let asked = if options.client_certificate { "required" } else { "optional" };
        lines.extend([
            "xpack.security.http.ssl.enabled: true".to_owned(),
            format!("xpack.security.http.ssl.certificate: {}", certificates.server.display()),
            format!("xpack.security.http.ssl.key: {}", certificates.server_key.display()),
            format!("xpack.security.http.ssl.certificate_authorities: [\"{}\"]", certificates.ca.display()),
            format!("xpack.security.http.ssl.client_authentication: {asked}"),
        ]);
    }
    lines.extend(options.settings.iter().cloned());
    let conf = folder.join("conf");
    std::fs::write(conf.join("elasticsearch.yml"), lines.join("\n"))?;
    std::fs::write(conf.join("users"), format!("admin:{ADMIN_HASH}\n"))?;
    std::fs::write(conf.join("users_roles"), "superuser:admin\n")?;
    let log = "status = error\nappender.c.type = Console\nappender.c.name = c\nappender.c.layout.type = PatternLayout\n\
               appender.c.layout.pattern = %d{ISO8601} %-5p %c{1.} %m%n\nrootLogger.level = info\n\
               rootLogger.appenderRef.c.ref = c\n";
    Ok(std::fs::write(conf.join("log4j2.properties"), log)?)
}

fn spawn(folder: &Path) -> Result<Process> {
    let home = cache::folder()?.join(format!("servers/elasticsearch-{VERSION}/home"));
    ensure!(
        home.is_dir(),
        "Elasticsearch {VERSION} is not at {}: run `scripts/setup`, which fetches it with Maven (mvn)",
        home.display()
    );
    let home = cache::readable(&home, folder)?;
    let (home, at) = (home.display(), folder.display());
    let mut command = Command::new("java");
    command
        .args([
            "-Xms512m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Djava.net.preferIPv4Stack=true",
        ])
        .args(["-Dlog4j2.disable.jmx=true", "--add-opens", "java.base/java.io=ALL-UNNAMED"])
        .arg(format!("-Dlog4j.configurationFile={at}/conf/log4j2.properties"))
        .arg(format!("-Djava.io.tmpdir={at}/tmp"))
        .arg(format!("-Des.path.home={home}"))
        .arg("-cp")
        .arg(format!("{home}/lib/*:{home}/starter/starter.jar"))
        .arg("NodeOfTests")
        .arg(home.to_string())
        .arg(format!("{at}/conf"));
    Process::spawn_unprivileged("elasticsearch", &mut command, &folder.join("elasticsearch.log"), folder)
}
