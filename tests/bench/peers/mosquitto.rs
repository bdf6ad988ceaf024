//! Mosquitto without persistence: it forgets everything when it is killed.

use std::process::Command;

use anyhow::Result;
use tests::ports;
use tests::scratch::Scratch;

use super::{Server, program};

pub async fn start() -> Result<Server> {
    start_on(ports::free()?).await
}

/// No limit on what is under way, no delay of small packets, no log.
pub async fn start_on(port: u16) -> Result<Server> {
    let scratch = Scratch::new("mosquitto")?;
    let config = scratch.path().join("mosquitto.conf");
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n\
         max_queued_messages 0\nset_tcp_nodelay true\nlog_dest none\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new(program("mosquitto"));
    command.arg("-c").arg(&config);
    Server::start_unprivileged("mosquitto", &mut command, port, scratch).await
}
