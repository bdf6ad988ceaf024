//! NATS with JetStream that syncs before it acknowledges, by its MQTT listener.

use std::process::Command;

use anyhow::{Context, Result};
use tests::scratch::Scratch;
use tests::{ports, process};

use super::{START_LIMIT, Server, go_program};

const PACKAGE: &str = "github.com/nats-io/nats-server/v2@latest";

/// Ready, with one durable subscription: without it nothing would be stored. Thousands of publishes that are synced one by
/// one take longer than the five seconds it gives itself by default.
pub async fn start(topic: &str) -> Result<Server> {
    let binary = go_program("nats-server", PACKAGE, "").await?;
    let (scratch, port) = (Scratch::new("nats")?, ports::free()?);
    let config = scratch.path().join("nats.conf");
    let store = scratch.path().join("store");
    let text = format!(
        "server_name: bench\nlisten: 127.0.0.1:{}\njetstream {{ store_dir: \"{}\", sync_interval: always, \
         max_file: 64GB }}\nmqtt {{ listen: \"127.0.0.1:{port}\", js_api_timeout: \"60s\" }}\n",
        ports::free()?,
        store.display()
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&config);
    let server = Server::start("nats-server", &mut command, port, scratch).await?;
    subscribe(port, topic).await.with_context(|| server.log_tail())?;
    Ok(server)
}

/// A session that stays when its client goes.
async fn subscribe(port: u16, topic: &str) -> Result<()> {
    let mut command = tokio::process::Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-i", "durable", "-c", "-q", "1", "-E", "-t", topic]);
    process::run(&mut command, START_LIMIT).await?.success()?;
    Ok(())
}
