//! nginx as a webhook target: an HTTP server that somebody else wrote. It answers by path and writes every request
//! with its body into its access log, which is the oracle.
//!
//! ```text
//!   sluice ──POST──▶ front (logs the body) ──proxy_pass──▶ back (answers 200)
//!                      /accept → 200   /refuse → 400   /down → 503
//!                      /judge → 422 when the body says "poison", else 200
//!                      /slow → 200, whose last bytes come a second later: delivered, and not yet heard of
//!                      /place/{name} → as /judge, for whoever has the password, while the place is there and open;
//!                        written down (`places`) before it is answered, so that no kill comes in between
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{self, Process};
use crate::records::{self, Arrived};
use crate::scratch::Scratch;
use crate::{ports, wait};

/// Who may write to a place.
pub const USER: &str = "sluice";
const PASSWORDS_LIMIT: Duration = Duration::from_secs(10);

const START_LIMIT: Duration = Duration::from_secs(20);
/// More than the headers of an answer, which count too.
const SLOW_BYTES_PER_SECOND: usize = 512;

pub struct Nginx {
    process: Process,
    port: u16,
    back: u16,
    listeners: usize,
    log: PathBuf,
    config: PathBuf,
    scratch: Scratch,
}

/// One request as nginx logged it.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub content_type: String,
    pub idempotency_key: String,
    /// `Sluice-Epoch`; 0 without one.
    pub epoch: u64,
    pub authorization: String,
    pub body: String,
}

impl Nginx {
    pub async fn start() -> Result<Self> {
        let scratch = Scratch::new("nginx")?;
        let (port, back) = (ports::free()?, ports::free()?);
        let config = scratch.path().join("nginx.conf");
        std::fs::write(&config, configuration(scratch.path(), port, back, ports::free()?))?;
        for folder in ["place", "closed/place"] {
            std::fs::create_dir_all(scratch.path().join(folder))?;
        }
        let process = spawn(scratch.path(), &config)?;
        let log = scratch.path().join("requests.log");
        let mut nginx = Self { process, port, back, listeners: 0, log, config, scratch };
        nginx.wait_ready().await?;
        Ok(nginx)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a place, or takes it away.
    pub fn set_place(&self, name: &str, there: bool) -> Result<()> {
        toggle(&self.scratch.path().join("place").join(name), there)
    }

    /// Nobody may write to a closed place.
    pub fn set_closed(&self, name: &str, closed: bool) -> Result<()> {
        toggle(&self.scratch.path().join("closed/place").join(name), closed)
    }

    /// What [`USER`] has to say from now on at every place.
    pub async fn set_password(&self, password: &str) -> Result<()> {
        write_password(&self.scratch.path().join("passwords"), password).await
    }

    /// One more listener, with TLS; gives its port. The server is started again for it.
    pub async fn listen_with_tls(&mut self, certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<u16> {
        let port = ports::free()?;
        let mut tls =
            format!("ssl_certificate {};\n    ssl_certificate_key {};\n", certificate.display(), key.display());
        if let Some(ca) = client_ca {
            // Otherwise its answer is 400, as if something were wrong with the request.
            tls.push_str(
                "    error_page 495 496 = @unknown;\n    location @unknown { return 403 \"nobody knows you\\n\"; }\n",
            );
            tls.push_str(&format!("    ssl_client_certificate {};\n    ssl_verify_client on;\n", ca.display()));
        }
        let server = server(self.scratch.path(), &format!("127.0.0.1:{port} ssl"), self.back, &tls);
        self.listeners += 1;
        std::fs::write(self.scratch.path().join(format!("listener-{}.conf", self.listeners)), server)?;
        self.kill()?;
        self.restart().await?;
        Ok(port)
    }

    /// Stops (SIGSTOP) or continues it.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// The log of requests that came to a place; [`Request::read`] reads its lines.
    pub fn places_log(&self) -> PathBuf {
        self.scratch.path().join("places.log")
    }

    /// A target that accepts everything.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/accept", self.port)
    }

    /// A target that refuses every request with 400: each record's own fault.
    pub fn refusing_url(&self) -> String {
        format!("http://127.0.0.1:{}/refuse", self.port)
    }

    /// A target that is out of order: 503.
    pub fn failing_url(&self) -> String {
        format!("http://127.0.0.1:{}/down", self.port)
    }

    /// Any path of this server. Paths below those of the module's picture do the same, so that each connector can have
    /// one of its own: `/judge/a`.
    pub fn url_of(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests to one path that were answered so far.
    pub fn requests_to(&self, path: &str) -> Result<Vec<Request>> {
        Ok(self.requests()?.into_iter().filter(|request| request.path == path).collect())
    }

    /// What arrived at one path and was answered with 200.
    pub fn arrived_at(&self, path: &str) -> Result<Arrived> {
        let mut arrived = Arrived::default();
        for request in self.requests_to(path)?.iter().filter(|request| request.status == 200) {
            records::of_body(&request.body, &mut arrived)?;
        }
        Ok(arrived)
    }

    /// How many requests to `/slow` were accepted, answered to their end or not.
    pub fn slow_requests(&self) -> Result<usize> {
        let text = std::fs::read_to_string(self.scratch.path().join("slow.log")).context("read slow.log")?;
        Ok(records::complete_lines(&text).count())
    }

    pub fn requests(&self) -> Result<Vec<Request>> {
        let text = std::fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        records::complete_lines(&text).map(Request::read).collect()
    }

    /// What arrived at [`Self::url`] and was answered with 200.
    pub fn arrived(&self) -> Result<Arrived> {
        self.arrived_at("/accept")
    }

    /// The target goes away, as by a power cut.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    pub async fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "nginx still runs");
        self.process = spawn(self.scratch.path(), &self.config)?;
        self.wait_ready().await
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let port = self.port;
        let ready = wait::until(START_LIMIT, "nginx listens", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        });
        ready.await.with_context(|| self.process.log_tail())
    }
}

fn spawn(folder: &Path, config: &Path) -> Result<Process> {
    let errors = folder.join("error.log");
    let mut command = Command::new(program());
    command.arg("-p").arg(folder).arg("-c").arg(config).arg("-e").arg(&errors);
    Process::spawn_unprivileged("nginx", &mut command, &folder.join("output.log"), folder)
}

/// Debian has it in /usr/sbin, which is not on every user's PATH.
fn program() -> PathBuf {
    let path = Path::new("/usr/sbin/nginx");
    if path.exists() { path.to_owned() } else { PathBuf::from("nginx") }
}

fn configuration(folder: &Path, front: u16, back: u16, end: u16) -> String {
    let front = server(folder, &format!("127.0.0.1:{front}"), back, "");
    let folder = folder.display();
    // With its headers more than one second's worth, less than two.
    let slow_answer = "x".repeat(SLOW_BYTES_PER_SECOND);
    // One process and a body buffer larger than any request: `$request_body` holds only what is in memory.
    format!(
        r#"daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 16384; }}
http {{
  log_format requests escape=json '{{"at":"$msec","method":"$request_method","path":"$uri","status":$status,'
    '"content_type":"$http_content_type","idempotency_key":"$http_idempotency_key",'
    '"epoch":"$http_sluice_epoch","authorization":"$http_authorization","body":"$request_body"}}';
  log_format paths '$uri';
  map $request_body $poison {{ default ""; "~poison" "1"; }}
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 64m;
  client_body_buffer_size 64m;
  {front}
  include {folder}/listener-*.conf;
  server {{
    listen 127.0.0.1:{back};
    location /accept {{ return 200; }}
    location /refuse {{ return 400 "this record cannot be read\n"; }}
    location /down {{ return 503; }}
    location /place {{
      access_log {folder}/places.log requests;
      proxy_set_header Poison $poison;
      proxy_pass http://127.0.0.1:{end};
    }}
    location /judge {{ if ($http_poison) {{ return 422 "nobody believes this reading\n"; }} return 200; }}
    location /slow {{ access_log {folder}/slow.log paths; return 200 "{slow_answer}"; }}
  }}
  server {{
    listen 127.0.0.1:{end};
    location / {{ if ($http_poison) {{ return 422 "nobody believes this reading\n"; }} return 200; }}
  }}
}}
"#
    )
}

/// What is asked comes here. An `if` is looked at before the password is.
fn server(folder: &Path, listen: &str, back: u16, more: &str) -> String {
    let folder = folder.display();
    format!(
        r#"server {{
    listen {listen};
    {more}
    access_log {folder}/requests.log requests;
    proxy_set_header Content-Type $http_content_type;
    proxy_set_header Poison $poison;
    location / {{ proxy_pass http://127.0.0.1:{back}; }}
    location /slow {{ proxy_pass http://127.0.0.1:{back}; limit_rate {SLOW_BYTES_PER_SECOND}; }}
    location /place/ {{
      if (!-e {folder}$uri) {{ return 404 "there is no such place\n"; }}
      if (-e {folder}/closed$uri) {{ return 403 "this place is closed\n"; }}
      auth_basic "places";
      auth_basic_user_file {folder}/passwords;
      proxy_pass http://127.0.0.1:{back};
    }}
  }}
"#
    )
}

/// A file for `auth_basic_user_file`, which is read again with every request: [`USER`] has this password.
pub async fn write_password(file: &Path, password: &str) -> Result<()> {
    let mut openssl = tokio::process::Command::new("openssl");
    openssl.args(["passwd", "-apr1", password]);
    let hash = process::run(&mut openssl, PASSWORDS_LIMIT).await?.success()?.stdout;
    std::fs::write(file, format!("{USER}:{hash}")).with_context(|| file.display().to_string())
}

/// A file that is there says yes.
pub fn toggle(file: &Path, there: bool) -> Result<()> {
    match there {
        true => std::fs::write(file, "").with_context(|| file.display().to_string()),
        false => std::fs::remove_file(file).with_context(|| file.display().to_string()),
    }
}

impl Request {
    /// A line of the log.
    pub fn read(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("access log line: {line}"))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        // Seconds with three digits behind the point.
        let at_ms = text("at").replace('.', "").parse().context("no time")?;
        Ok(Self {
            at_ms,
            method: text("method"),
            path: text("path"),
            status: u16::try_from(value["status"].as_u64().context("no status")?)?,
            content_type: text("content_type"),
            idempotency_key: text("idempotency_key"),
            epoch: text("epoch").parse().unwrap_or_default(),
            authorization: text("authorization"),
            body: text("body"),
        })
    }
}
