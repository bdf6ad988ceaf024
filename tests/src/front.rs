//! nginx in front of another server: it rewrites paths, bounds bodies, ends TLS and asks for certificates. What came by
//! is in its log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::certificates::Certificates;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{ports, wait};

const START_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, Default)]
pub struct FrontOptions {
    /// Lines of the `server` block: its locations, `client_max_body_size`.
    pub lines: String,
    /// Names of the server in its certificate; without them it speaks no TLS.
    pub tls_names: Option<String>,
    /// Shows these instead of some of its own.
    pub certificates: Option<Certificates>,
    /// Clients have to show a certificate of the same authority.
    pub client_certificate: bool,
}

pub struct Front {
    process: Process,
    port: u16,
    certificates: Option<Certificates>,
    scratch: Scratch,
}

/// One request as nginx logged it.
#[derive(Clone, Debug)]
pub struct Passed {
    pub method: String,
    /// Path and query.
    pub uri: String,
    pub status: u16,
    pub encoding: String,
    pub authorization: String,
    /// Of the body.
    pub bytes: u64,
    /// Connection of the client, as a number of its own.
    pub connection: u64,
}

impl Front {
    pub async fn start(options: FrontOptions) -> Result<Self> {
        let scratch = Scratch::new("front")?;
        let certificates = match (&options.certificates, &options.tls_names) {
            (Some(certificates), _) => Some(certificates.clone()),
            (None, Some(names)) => Some(Certificates::make(scratch.path(), names, "sluice")?),
            (None, None) => None,
        };
        let port = ports::free()?;
        let config = scratch.path().join("nginx.conf");
        std::fs::write(&config, configuration(scratch.path(), port, &options, certificates.as_ref()))?;
        let process = spawn(scratch.path(), &config)?;
        let front = Self { process, port, certificates, scratch };
        let ready = wait::until(START_LIMIT, "nginx listens", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        });
        ready.await.with_context(|| front.process.log_tail())?;
        Ok(front)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub fn certificates(&self) -> Result<&Certificates> {
        self.certificates.as_ref().context("the front speaks no TLS")
    }

    /// What was answered so far.
    pub fn passed(&self) -> Result<Vec<Passed>> {
        let text = std::fs::read_to_string(self.scratch.path().join("requests.log")).context("read the log")?;
        let lines = crate::records::complete_lines(&text);
        lines.map(parse_line).collect()
    }

    /// As soon as there are `count`; the log is written after the answer.
    pub async fn passed_are(&self, count: usize) -> Result<Vec<Passed>> {
        let passed = wait::until(START_LIMIT, "nginx has logged the requests", async || {
            let passed = self.passed()?;
            ensure!(passed.len() >= count, "{} of {count}", passed.len());
            Ok(passed)
        });
        let passed = passed.await?;
        ensure!(passed.len() == count, "{} requests instead of {count}", passed.len());
        Ok(passed)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

fn parse_line(line: &str) -> Result<Passed> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("access log line: {line}"))?;
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| value[key].as_u64().with_context(|| format!("no {key} in {line}"));
    Ok(Passed {
        method: text("method"),
        uri: text("uri"),
        status: u16::try_from(number("status")?)?,
        encoding: text("encoding"),
        authorization: text("authorization"),
        bytes: number("bytes")?,
        connection: number("connection")?,
    })
}

fn spawn(folder: &Path, config: &Path) -> Result<Process> {
    let program = PathBuf::from("/usr/sbin/nginx");
    let program = if program.exists() { program } else { PathBuf::from("nginx") };
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).arg("-c").arg(config).arg("-e").arg(folder.join("error.log"));
    Process::spawn_unprivileged("nginx", &mut command, &folder.join("output.log"), folder)
}

fn configuration(folder: &Path, port: u16, options: &FrontOptions, certificates: Option<&Certificates>) -> String {
    let tls = certificates.map_or_else(String::new, |certificates| {
        let client = if options.client_certificate {
            format!("ssl_client_certificate {}; ssl_verify_client on;", certificates.ca.display())
        } else {
            String::new()
        };
        let (server, key) = (certificates.server.display(), certificates.server_key.display());
        format!("ssl_certificate {server}; ssl_certificate_key {key}; {client}")
    });
    let ssl = if certificates.is_some() { " ssl" } else { "" };
    let (folder, lines) = (folder.display(), &options.lines);
    format!(
        r#"daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
  log_format requests escape=json '{{"method":"$request_method","uri":"$request_uri","status":$status,'
    '"encoding":"$http_content_encoding","authorization":"$http_authorization","bytes":$content_length_or_none,'
    '"connection":$connection}}';
  map $content_length $content_length_or_none {{ default $content_length; "" 0; }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port}{ssl};
    access_log {folder}/requests.log requests;
    {tls}
    {lines}
  }}
}}
"#
    )
}
