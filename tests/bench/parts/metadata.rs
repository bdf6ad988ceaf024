//! Replicated writes and linearizable reads of three nodes, beside three members of etcd.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tests::cluster::{Cluster, SECRET};

use crate::peers::{self, etcd::Etcd};
use crate::sampled::{median, ratio};
use crate::table::{Aim, Table, against, number};
use crate::{Effort, cpu, generator, sluice};

const SECONDS: &str = "3";

/// Operation, clients, aim.
const LOADS: [(&str, &str, f64); 6] = [
    ("write", "1", 0.8),
    ("write", "16", 1.5),
    ("write", "256", 1.1),
    ("read", "1", 1.5),
    ("read", "16", 1.5),
    ("read", "256", 1.5),
];

#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    p99_ms: Vec<f64>,
    /// Of all three processes.
    cpu_us: Vec<f64>,
}

impl Rounds {
    async fn load(&mut self, arguments: &[&str], pids: &[u32]) -> Result<()> {
        let before = cpu::seconds_of_all(pids)?;
        let result = generator::run(&[arguments, &["--seconds", SECONDS, "--warm-up", "0"]].concat()).await?;
        let used = cpu::seconds_of_all(pids)? - before;
        self.per_second.push(generator::figure(&result, "/per_second")?);
        self.p99_ms.push(generator::figure(&result, "/latency_ms/p99")?);
        self.cpu_us.push(used * 1e6 / generator::figure(&result, "/requests")?);
        Ok(())
    }
}

pub async fn measure(effort: Effort) -> Result<Vec<Table>> {
    let mut cluster = Cluster::start().await?;
    let leader = cluster.leader().await?;
    let follower = cluster.other_than(&[leader])?;
    let etcd = peers::found("etcd", Etcd::start().await);
    let pids = sluice::pids(&cluster)?;
    let (mut ours, mut theirs): (BTreeMap<usize, Rounds>, BTreeMap<usize, Rounds>) = Default::default();
    for _ in 0..effort.rounds {
        for (at, (operation, clients, _)) in LOADS.into_iter().enumerate() {
            let load = ["metadata", "--operation", operation, "--clients", clients];
            let address = match operation {
                "write" => cluster.nodes[leader].rpc_address(),
                _ => cluster.api(follower).base().strip_prefix("http://").context("an address")?.to_owned(),
            };
            let rounds = ours.entry(at).or_default();
            rounds.load(&[&load[..], &["--address", &address, "--secret", SECRET]].concat(), &pids).await?;
            let Some(etcd) = &etcd else { continue };
            let address = if operation == "write" { etcd.leader_address() } else { etcd.follower_address() };
            let rounds = theirs.entry(at).or_default();
            rounds.load(&[&load[..], &["--etcd", "--address", &address]].concat(), &etcd.pids()).await?;
        }
    }
    cluster.finish().await?;
    Ok(vec![table(&ours, &theirs)])
}

fn table(ours: &BTreeMap<usize, Rounds>, theirs: &BTreeMap<usize, Rounds>) -> Table {
    let columns = [
        "operation, clients",
        "Sluice, requests/s",
        "etcd",
        "ratio",
        "aim",
        "Sluice p99, ms",
        "etcd p99, ms",
        "Sluice CPU µs",
        "etcd CPU µs",
    ];
    let mut table = Table::new("Metadata of three nodes", &columns);
    let none = Rounds::default();
    for (at, (operation, clients, aim)) in LOADS.into_iter().enumerate() {
        let (ours, theirs) = (ours.get(&at).unwrap_or(&none), theirs.get(&at).unwrap_or(&none));
        let [ratio, aim] = against(ratio(&ours.per_second, &theirs.per_second), Aim::AtLeast(aim));
        let mut cells = vec![format!("{operation}, {clients}")];
        cells.extend([number(median(&ours.per_second)), number(median(&theirs.per_second)), ratio, aim]);
        let medians = [&ours.p99_ms, &theirs.p99_ms, &ours.cpu_us, &theirs.cpu_us];
        cells.extend(medians.map(|values| number(median(values))));
        table.row(cells);
    }
    table.note(format!(
        "{SECONDS} s each, the same HTTP/2 client for both. Writes go to the leader: an entry of 1 KiB proposed over the node \
         RPC, beside `Put` of 1 KiB over gRPC; both are synced by a majority before they are answered. Reads go to a \
         follower and are linearizable: one row of the API's list, beside `Range`. CPU is that of all three processes for \
         one request. etcd with its defaults."
    ));
    table
}
