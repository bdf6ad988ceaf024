//! FerretDB as MongoDB, for what mongo-java-server has not: users, who log in by SCRAM. `servers/ferretdb.patch` makes the
//! end of a login what it is since MongoDB 4.4.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::mongodb::{self, Client};
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

pub const VERSION: &str = "1.24.0";
/// Who may do everything; FerretDB knows no roles.
pub const ADMIN: &str = "admin";
pub const USER: &str = "sluice";
/// Everything that a connection string would have to escape.
pub const PASSWORD: &str = "p@ss:w/o?r#d '\\\"%20 ü";
const START_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_secs(5);

pub struct FerretDb {
    process: Process,
    port: u16,
    scratch: Scratch,
}

impl FerretDb {
    /// With [`USER`]. `None`, and says so, where `scripts/setup` could not build it.
    pub async fn start() -> Result<Option<Self>> {
        let Some(program) = cache::program(&format!("ferretdb-{VERSION}-patched"))? else {
            eprintln!("not run: FerretDB {VERSION} is not here; `scripts/setup` builds it with Go");
            return Ok(None);
        };
        let scratch = Scratch::new("ferretdb")?;
        let folder = scratch.path();
        std::fs::create_dir(folder.join("data"))?;
        let (port, debug) = (ports::free()?, ports::free()?);
        let mut command = Command::new(cache::readable(&program, folder)?);
        command
            .env("DO_NOT_TRACK", "1")
            .args(["--handler=sqlite", "--telemetry=disable", "--test-enable-new-auth", "--setup-database=admin"])
            .arg(format!("--state-dir={}", folder.display()))
            .arg(format!("--sqlite-url=file:{}/data/", folder.display()))
            .arg(format!("--listen-addr=127.0.0.1:{port}"))
            .arg(format!("--debug-addr=127.0.0.1:{debug}"))
            .args([format!("--setup-username={ADMIN}"), format!("--setup-password={PASSWORD}")]);
        let process = Process::spawn_unprivileged("ferretdb", &mut command, &folder.join("ferretdb.log"), folder)?;
        let mut ferretdb = Self { process, port, scratch };
        ferretdb.ready(debug).await?;
        ferretdb.admin().command("admin", &json!({ "createUser": USER, "pwd": PASSWORD, "roles": [] })).await?;
        Ok(Some(ferretdb))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of a connector of [`USER`], with these fields more.
    pub fn config(&self, more: &Value) -> Value {
        let mut config = mongodb::config(self.port, &json!({ "username": USER, "password": PASSWORD }));
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        config
    }

    pub fn admin(&self) -> Client {
        Client::with_login(self.port, ADMIN, PASSWORD)
    }

    pub async fn change_password(&self, password: &str) -> Result<()> {
        self.admin().command("admin", &json!({ "updateUser": USER, "pwd": password })).await.map(drop)
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }

    async fn ready(&mut self, debug: u16) -> Result<()> {
        let ready = wait::until(START_LIMIT, "FerretDB answers", async || {
            ensure!(self.process.is_running(), "it has ended");
            let mut curl = tokio::process::Command::new("curl");
            curl.args(["-sS", "-f", "-o", "/dev/null", &format!("http://127.0.0.1:{debug}/debug/readyz")]);
            process::run(&mut curl, ASK_LIMIT).await?.success()
        });
        ready.await.map(drop).with_context(|| self.log_tail())
    }

    fn log_tail(&self) -> String {
        process::tail(Path::new(self.process.log_path()), 40)
    }
}
