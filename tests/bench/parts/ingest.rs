//! Publishes at QoS 1 until they are acknowledged, beside Mosquitto, which keeps them in memory only, and NATS, which
//! syncs as we do.
//!
//! Every measurement has a fresh server: what the one before left on the disk must not be compacted during the next.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::peers::{self, mosquitto, nats};
use crate::sampled::{median, ratio};
use crate::table::{Aim, Table, against, number};
use crate::{Effort, cpu, generator, sluice};

const SECONDS: &str = "3";
const PAYLOAD_BYTES: &str = "256";

/// Connections, window, and what Mosquitto and NATS are to be surpassed by.
const LOADS: [(&str, &str, f64, f64); 3] = [("1", "100", 1.0, 8.0), ("50", "100", 1.2, 8.0), ("1000", "1", 0.9, 8.0)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum System {
    /// One connector matches and only queues.
    Queue,
    /// One connector matches and writes to a file meanwhile.
    File,
    Mosquitto,
    Nats,
}

/// Of one load on one system, round by round.
#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
    peak_mib: Vec<f64>,
}

pub async fn measure(effort: Effort) -> Result<Vec<Table>> {
    let mut all: BTreeMap<(usize, System), Rounds> = BTreeMap::new();
    for round in 0..effort.rounds {
        for (at, (connections, window, ..)) in LOADS.into_iter().enumerate() {
            for system in [System::Queue, System::Mosquitto, System::File, System::Nats] {
                let rounds = all.entry((at, system)).or_default();
                // What could not be had in the first round is not tried again.
                if round > 0 && rounds.per_second.is_empty() {
                    continue;
                }
                if let Some(()) = peers::found(&format!("{system:?}"), one(system, connections, window, rounds).await) {
                    let rate = rounds.per_second.last().copied().unwrap_or(f64::NAN);
                    eprintln!("{connections} x {window}, {system:?}: {} /s", number(rate));
                }
            }
        }
    }
    Ok(vec![rates(&all), costs(&all)])
}

async fn one(system: System, connections: &str, window: &str, rounds: &mut Rounds) -> Result<()> {
    match system {
        System::Queue | System::File => {
            let cluster = sluice::single().await?;
            match system {
                System::File => {
                    let (connector, _) = cluster.file_connector("file", "bench/#");
                    cluster.api(0).create(&connector).await?.data()?;
                }
                System::Queue | System::Mosquitto | System::Nats => {
                    cluster.api(0).create(&sluice::queue_only("bench/#")).await?.data()?;
                }
            }
            let node = &cluster.nodes[0];
            load(node.mqtt_port, node.process()?.pid(), connections, window, rounds).await?;
            cluster.finish().await
        }
        System::Mosquitto => {
            let server = mosquitto::start().await?;
            load(server.port, server.pid(), connections, window, rounds).await
        }
        System::Nats => {
            let server = nats::start("bench/#").await?;
            load(server.port, server.pid(), connections, window, rounds).await
        }
    }
}

async fn load(port: u16, pid: u32, connections: &str, window: &str, rounds: &mut Rounds) -> Result<()> {
    let port = port.to_string();
    let before = cpu::seconds(pid)?;
    let arguments = ["publish", "--port", &port, "--connections", connections, "--window", window];
    let fixed = ["--seconds", SECONDS, "--payload-bytes", PAYLOAD_BYTES];
    let result = generator::run(&[&arguments[..], &fixed].concat()).await?;
    let used = cpu::seconds(pid)? - before;
    let figure = |pointer| generator::figure(&result, pointer);
    rounds.per_second.push(figure("/per_second")?);
    rounds.cpu_us.push(used * 1e6 / figure("/acknowledged")?);
    rounds.p50_ms.push(figure("/ack_ms/p50")?);
    rounds.p99_ms.push(figure("/ack_ms/p99")?);
    rounds.peak_mib.push(cpu::peak_resident_bytes(pid)? as f64 / f64::from(1 << 20));
    Ok(())
}

fn rates(all: &BTreeMap<(usize, System), Rounds>) -> Table {
    let columns = [
        "connections × window",
        "Sluice, messages/s",
        "Mosquitto without persistence",
        "ratio",
        "aim",
        "NATS, synced",
        "ratio",
        "aim",
        "Sluice with file sink",
        "ratio to Mosquitto",
    ];
    let mut table = Table::new("Publishes acknowledged per second", &columns);
    for (at, (connections, window, mosquitto, nats)) in LOADS.into_iter().enumerate() {
        let of = |system| all.get(&(at, system)).map_or(&[][..], |rounds| &rounds.per_second);
        let (ours, theirs, synced) = (of(System::Queue), of(System::Mosquitto), of(System::Nats));
        let [ratio_1, aim_1] = against(ratio(ours, theirs), Aim::AtLeast(mosquitto));
        let [ratio_2, aim_2] = against(ratio(ours, synced), Aim::AtLeast(nats));
        table.row([
            format!("{connections} × {window}"),
            number(median(ours)),
            number(median(theirs)),
            ratio_1,
            aim_1,
            number(median(synced)),
            ratio_2,
            aim_2,
            number(median(of(System::File))),
            format!("{:.2}", ratio(of(System::File), theirs)),
        ]);
    }
    table.note(format!(
        "QoS 1, {PAYLOAD_BYTES} bytes, {SECONDS} s after 1 s of warm-up, one thread of `sluice bench publish`, one fresh \
         server each. Sluice syncs before it acknowledges, for one connector that matches: one that only queues (it is \
         stopped), or the file sink at work. Mosquitto forgets everything when it is killed; nobody subscribes. \
         NATS: JetStream with `sync_interval: always`, one durable subscription."
    ));
    table
}

fn costs(all: &BTreeMap<(usize, System), Rounds>) -> Table {
    let columns =
        ["connections × window", "system", "CPU µs per message", "ack p50, ms", "ack p99, ms", "peak memory, MiB"];
    let mut table = Table::new("What a publish costs the server", &columns);
    for ((at, system), rounds) in all {
        let (connections, window, ..) = LOADS[*at];
        table.row([
            format!("{connections} × {window}"),
            match system {
                System::Queue => "Sluice",
                System::File => "Sluice with file sink",
                System::Mosquitto => "Mosquitto",
                System::Nats => "NATS, synced",
            }
            .to_owned(),
            number(median(&rounds.cpu_us)),
            number(median(&rounds.p50_ms)),
            number(median(&rounds.p99_ms)),
            number(median(&rounds.peak_mib)),
        ]);
    }
    table
}
