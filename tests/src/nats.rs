//! NATS with JetStream as an MQTT 3.1.1 broker.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::Process;
use crate::scratch::Scratch;
use crate::{ports, wait};

pub const USER: &str = "sink";
pub const PASSWORD: &str = "a password with spaces";
const START_LIMIT: Duration = Duration::from_secs(20);

pub struct Nats {
    _process: Process,
    port: u16,
    scratch: Scratch,
}

impl Nats {
    pub async fn start() -> Result<Self> {
        let scratch = Scratch::new("nats")?;
        let (port, mqtt) = (ports::free()?, ports::free()?);
        let folder = scratch.path();
        // A server that speaks MQTT needs a name.
        let config = format!(
            "server_name: n1\nlisten: \"127.0.0.1:{port}\"\n\
             jetstream {{ store_dir: \"{store}\", max_mem: 64MB, max_file: 512MB }}\n\
             accounts {{ A {{ jetstream: enabled, users: [ {{user: \"{USER}\", password: \"{PASSWORD}\"}} ] }} }}\n\
             mqtt {{ listen: \"127.0.0.1:{mqtt}\", ack_wait: \"5s\", max_ack_pending: 1000 }}\n",
            store = folder.join("js").display(),
        );
        let path = folder.join("nats.conf");
        std::fs::write(&path, config)?;
        let program = if Path::new("/usr/sbin/nats-server").exists() { "/usr/sbin/nats-server" } else { "nats-server" };
        let mut command = Command::new(program);
        command.arg("-c").arg(path);
        let process = Process::spawn_unprivileged("nats-server", &mut command, &folder.join("nats.log"), folder)?;
        let nats = Self { _process: process, port: mqtt, scratch };
        wait::until(START_LIMIT, "nats-server listens for MQTT", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", mqtt)).await?;
            Ok(())
        })
        .await?;
        Ok(nats)
    }

    /// Where it listens for MQTT.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn finish(mut self) {
        self.scratch.passed();
    }
}
