//! Sinks alone: everything is queued while the target cannot be written; then it can.
//!
//! Our rate is counted from the first records at the target to the last, so that the pause before the next attempt is
//! not in it; the first records themselves are left out.

use std::path::Path;
use std::time::{Duration, Instant};

use ::tests::cluster::Cluster;
use ::tests::wait;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::interval;

use crate::peers;
use crate::peers::connect::Connect;
use crate::peers::postgres::{Loader, Postgres};
use crate::sampled::{Rounds, median, ratio};
use crate::table::{Aim, Table, against, number};
use crate::{Effort, cpu, generator, sluice};

const LINES: u64 = 1_000_000;
const ROWS: u64 = 200_000;
const BYTES: usize = 256;
/// How often the length of a file is looked at.
const LOOK: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(120);
const AIM_FILE: f64 = 1.0;
const AIM_ROWS: f64 = 0.7;

/// The tables give the CPU seconds of a million records.
const PER: f64 = 1e6;

pub async fn measure(effort: Effort) -> Result<Vec<Table>> {
    let (mut raw, mut envelope, mut connect) = (Rounds::default(), Rounds::default(), Rounds::default());
    let peer = peers::found("kafka connect", filled_connect().await);
    for round in 0..effort.rounds {
        lines("raw", &mut raw).await?;
        eprintln!("file, raw: {} /s", number(raw.last()));
        lines("envelope", &mut envelope).await?;
        eprintln!("file, envelope: {} /s", number(envelope.last()));
        if let Some(peer) = &peer {
            connect_lines(peer, &format!("sink_{round}"), &mut connect).await?;
            eprintln!("connect: {} /s", number(connect.last()));
        }
    }
    drop(peer);
    let mut tables = vec![lines_table(&raw, &envelope, &connect)];
    if let Some(postgres) = peers::found("postgres", Postgres::start().await) {
        let (mut ours, mut loaded) = (Rounds::default(), [Rounds::default(), Rounds::default()]);
        for round in 0..effort.rounds {
            let table = format!("ours_{round}");
            if peers::found("the postgres sink", rows(&postgres, &table, &mut ours).await).is_none() {
                return Ok(tables);
            }
            for (loader, rounds) in Loader::ALL.into_iter().zip(&mut loaded) {
                load(&postgres, loader, &table, rounds).await?;
            }
        }
        tables.push(rows_table(&ours, &loaded));
    }
    Ok(tables)
}

/// Queues so many records for a connector whose target cannot be written.
pub async fn queue(cluster: &Cluster, connector: &serde_json::Value, records: u64, more: &[&str]) -> Result<()> {
    cluster.api(0).create(connector).await?.data()?;
    let (port, records) = (cluster.nodes[0].mqtt_port.to_string(), records.to_string());
    let bytes = BYTES.to_string();
    let load = ["publish", "--port", &port, "--connections", "20", "--window", "100", "--topic", "sink"];
    let much = ["--messages", &records, "--payload-bytes", &bytes];
    generator::run(&[&load[..], &much, more].concat()).await.map(drop)
}

async fn lines(format: &str, rounds: &mut Rounds) -> Result<()> {
    let cluster = sluice::single().await?;
    let path = cluster.files().join("lines.log");
    // A folder of this name is in the way.
    std::fs::create_dir(&path)?;
    let config = json!({ "local_file_path": path, "payload_format": format });
    queue(&cluster, &sluice::connector("lines", "file", "sink/#", config), LINES, &[]).await?;
    let pid = cluster.nodes[0].process()?.pid();
    let before = cpu::seconds(pid)?;
    std::fs::remove_dir(&path)?;
    let (began, first) = first_bytes(&path).await?;
    sluice::sent(&cluster, "lines", LINES).await?;
    let took = began.elapsed();
    let used = cpu::seconds(pid)? - before;
    let share = 1.0 - first as f64 / std::fs::metadata(&path)?.len() as f64;
    rounds.per_second.push(LINES as f64 * share / took.as_secs_f64());
    rounds.cpu.push(used * PER / LINES as f64);
    cluster.finish().await
}

async fn filled_connect() -> Result<Connect> {
    let connect = Connect::start().await?;
    connect.produce(LINES, BYTES).await?;
    Ok(connect)
}

async fn connect_lines(connect: &Connect, name: &str, rounds: &mut Rounds) -> Result<()> {
    let path = connect.folder().join(name);
    let before = cpu::seconds(connect.worker_pid())?;
    connect.write_to(name, &path).await?;
    let (began, first) = first_bytes(&path).await?;
    let whole = LINES * (BYTES as u64 + 1);
    wait::until(LIMIT, "connect has written all", || {
        let length = length(&path);
        async move {
            ensure!(length >= whole, "{length} of {whole} bytes");
            Ok(())
        }
    })
    .await?;
    let took = began.elapsed();
    let used = cpu::seconds(connect.worker_pid())? - before;
    rounds.per_second.push(LINES as f64 * (1.0 - first as f64 / whole as f64) / took.as_secs_f64());
    rounds.cpu.push(used * PER / LINES as f64);
    connect.stop_writing(name).await?;
    std::fs::remove_file(&path).context("remove what connect wrote")
}

/// When the file had its first bytes, and how many.
async fn first_bytes(path: &Path) -> Result<(Instant, u64)> {
    let mut looks = interval(LOOK);
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        looks.tick().await;
        let length = length(path);
        if length > 0 && path.is_file() {
            return Ok((Instant::now(), length));
        }
    }
    anyhow::bail!("nothing was written to {}", path.display())
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The table is made when everything is queued.
async fn rows(postgres: &Postgres, table: &str, rounds: &mut Rounds) -> Result<()> {
    let cluster = sluice::single().await?;
    let connector = sluice::connector("rows", "postgres", "sink/#", postgres.connector_config(table));
    queue(&cluster, &connector, ROWS, &[]).await?;
    let pid = cluster.nodes[0].process()?.pid();
    let before = cpu::seconds(pid)?;
    postgres.create_table(table).await?;
    sluice::sent(&cluster, "rows", ROWS).await?;
    let used = cpu::seconds(pid)? - before;
    let committed = "extract(epoch from pg_xact_commit_timestamp(xmin))";
    let counted = postgres
        .number(&format!(
            "with c as (select {committed} as at from {table}), b as (select min(at) as first, max(at) as last from c) \
             select count(*) filter (where c.at > b.first) / (max(b.last) - max(b.first)) from c, b"
        ))
        .await?;
    rounds.per_second.push(counted);
    rounds.cpu.push(used * PER / ROWS as f64);
    cluster.finish().await
}

/// The same rows, by something else.
async fn load(postgres: &Postgres, loader: Loader, table: &str, rounds: &mut Rounds) -> Result<()> {
    let into = format!("{table}_{loader:?}").to_lowercase();
    postgres.create_table(&into).await?;
    rounds.per_second.push(ROWS as f64 / postgres.load(loader, table, &into).await?);
    let found = postgres.count(&into).await?;
    ensure!(found == ROWS, "{found} rows by {loader:?}");
    Ok(())
}

fn lines_table(raw: &Rounds, envelope: &Rounds, connect: &Rounds) -> Table {
    let columns = ["", "lines/s", "ratio", "aim", "CPU s per million"];
    let mut table = Table::new("File sink alone", &columns);
    let [ratio, aim] = against(ratio(&raw.per_second, &connect.per_second), Aim::AtLeast(AIM_FILE));
    let line = |name: &str, rounds: &Rounds, ratio: String, aim: String| {
        [name.to_owned(), number(median(&rounds.per_second)), ratio, aim, number(median(&rounds.cpu))]
    };
    table.row(line("Sluice, payload alone", raw, ratio, aim));
    let whole = crate::sampled::ratio(&envelope.per_second, &connect.per_second);
    table.row(line("Sluice, envelope as JSON", envelope, number(whole), String::new()));
    table.row(line("Kafka Connect, FileStreamSink", connect, String::new(), String::new()));
    table.note(format!(
        "{LINES} records of {BYTES} bytes, queued beforehand. Sluice syncs every batch and commits it durably; \
         FileStreamSink does not sync the file. CPU of the node, or of the Connect worker without its broker."
    ));
    table
}

fn rows_table(ours: &Rounds, loaded: &[Rounds]) -> Table {
    let columns = ["", "rows/s", "Sluice to it", "aim", "CPU s per million"];
    let mut table = Table::new("PostgreSQL sink alone", &columns);
    let cpu = number(median(&ours.cpu));
    table.row(["Sluice".to_owned(), number(median(&ours.per_second)), String::new(), String::new(), cpu]);
    for (loader, peer) in Loader::ALL.into_iter().zip(loaded) {
        let [ratio, aim] = against(ratio(&ours.per_second, &peer.per_second), Aim::AtLeast(AIM_ROWS));
        table.row([loader.says().to_owned(), number(median(&peer.per_second)), ratio, aim, String::new()]);
    }
    table.note(format!(
        "{ROWS} records of {BYTES} bytes, queued beforehand, `batch_size` 10 000; five columns, no index. The other two are \
         `psql` with the same rows from a file, over the same connection type."
    ));
    table
}
