//! Pulsar's own proxy, of the same distribution.

use std::process::Command;

use anyhow::{Context, Result};

use super::{PROXY_MEMORY, Pulsar, START_LIMIT, command, settings};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{ports, wait};

/// Clients come to it alone. It looks topics up at the server, and takes them to it.
pub struct Proxy {
    process: Process,
    port: u16,
    scratch: Scratch,
}

impl Pulsar {
    pub async fn proxy(&self) -> Result<Proxy> {
        let scratch = Scratch::new("pulsar-proxy")?;
        let folder = scratch.path();
        let (port, web_port) = (ports::free()?, ports::free()?);
        let conf = folder.join("proxy.conf");
        std::fs::write(&conf, settings::proxy(&self.home, port, web_port, &self.ports)?)?;
        let mut command: Command = command(&self.home, folder, PROXY_MEMORY);
        command.env("PULSAR_PROXY_CONF", &conf).arg("proxy");
        let process = Process::spawn_unprivileged("pulsar-proxy", &mut command, &folder.join("proxy.log"), folder)?;
        let proxy = Proxy { process, port, scratch };
        let ready = wait::until(START_LIMIT, "the proxy answers", async || {
            // It begins to speak HTTP last.
            tokio::net::TcpStream::connect(("127.0.0.1", web_port)).await.map(drop).context("no connection")
        });
        ready.await.with_context(|| proxy.process.log_tail())?;
        Ok(proxy)
    }
}

impl Proxy {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}
