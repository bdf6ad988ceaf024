//! What connections cost that do nothing.

use anyhow::Result;

use crate::peers::{self, mosquitto};
use crate::table::{Aim, Table, against, number};
use crate::{cpu, generator, sluice};

const CONNECTIONS: &str = "5000";
const AIM_KIB: f64 = 12.0;

/// Resident memory of a server without connections and with them, in bytes.
struct Held {
    before: u64,
    with: u64,
    count: f64,
}

impl Held {
    fn kib_each(&self) -> f64 {
        self.with.saturating_sub(self.before) as f64 / 1024.0 / self.count
    }
}

pub async fn measure() -> Result<Vec<Table>> {
    let cluster = sluice::single().await?;
    let node = &cluster.nodes[0];
    let ours = hold(node.mqtt_port, node.process()?.pid()).await?;
    cluster.finish().await?;
    let theirs = match peers::found("mosquitto", mosquitto::start().await) {
        Some(server) => Some(hold(server.port, server.pid()).await?),
        None => None,
    };

    let columns = ["", "memory without, MiB", "with, MiB", "KiB per connection", "aim"];
    let mut table = Table::new(&format!("{CONNECTIONS} idle connections"), &columns);
    let mib = |bytes: u64| number(bytes as f64 / f64::from(1 << 20));
    let [_, aim] = against(ours.kib_each(), Aim::AtMost(AIM_KIB));
    table.row(["Sluice".to_owned(), mib(ours.before), mib(ours.with), format!("**{:.1}**", ours.kib_each()), aim]);
    if let Some(theirs) = theirs {
        let each = format!("{:.1}", theirs.kib_each());
        table.row(["Mosquitto".to_owned(), mib(theirs.before), mib(theirs.with), each, String::new()]);
    }
    table.note("Resident memory of the process; the kernel's buffers of the sockets are not in it.");
    Ok(vec![table])
}

async fn hold(port: u16, pid: u32) -> Result<Held> {
    let before = cpu::resident_bytes(pid)?;
    let arguments = ["idle", "--port", &port.to_string(), "--connections", CONNECTIONS];
    let (clients, connected) = generator::Running::start(&arguments).await?;
    let with = cpu::resident_bytes(pid)?;
    let count = generator::figure(&connected, "/connected")?;
    clients.end().await?;
    Ok(Held { before, with, count })
}
