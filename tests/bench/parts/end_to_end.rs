//! From the publish to the row, beside Mosquitto and Telegraf; and to the line of a file.
//!
//! PostgreSQL keeps the time of each commit, and each payload the time of its publish, so the database itself says how
//! long everything took: from the first publish to the last commit, and for every single row.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::wait;

use crate::peers::postgres::Postgres;
use crate::peers::telegraf::Telegraf;
use crate::peers::{self, mosquitto};
use crate::sampled::{median, ratio};
use crate::table::{Aim, Table, against, number};
use crate::{Effort, cpu, generator, sluice};

const MESSAGES: u64 = 100_000;
const PAYLOAD_BYTES: &str = "256";
const ARRIVAL_LIMIT: Duration = Duration::from_secs(120);
/// Share of the measured rate at which latency is measured.
const CALM: f64 = 0.1;
/// For how long.
const CALM_SECONDS: f64 = 5.0;
const AIM_RATE: f64 = 2.0;
const AIM_CPU: f64 = 0.6;

#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    /// CPU seconds of everything between publisher and database, for 100,000 messages.
    cpu: Vec<f64>,
    p50_ms: Vec<f64>,
    p99_ms: Vec<f64>,
}

pub async fn measure(effort: Effort) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    if let Some(postgres) = peers::found("postgres", Postgres::start().await) {
        let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
        for round in 0..effort.rounds {
            if round == 0 || !ours.per_second.is_empty() {
                peers::found("the postgres sink", into_rows(&postgres, &format!("ours_{round}"), &mut ours).await);
            }
            if round == 0 || !theirs.per_second.is_empty() {
                let measured = telegraf_into_rows(&postgres, &format!("theirs_{round}"), &mut theirs).await;
                peers::found("mosquitto with telegraf", measured);
            }
        }
        tables.push(rows_table(&ours, &theirs));
    }
    let mut lines = Rounds::default();
    for _ in 0..effort.rounds {
        into_lines(&mut lines).await?;
    }
    tables.push(lines_table(&lines));
    Ok(tables)
}

/// Publishes everything and waits for it, then a tenth of the rate.
async fn into_rows(postgres: &Postgres, table: &str, rounds: &mut Rounds) -> Result<()> {
    postgres.create_table(table).await?;
    let cluster = sluice::single().await?;
    let connector = sluice::connector("rows", "postgres", "bench/#", postgres.connector_config(table));
    cluster.api(0).create(&connector).await?.data()?;
    cluster.owner_seen_by(0, "rows").await?;
    let node = &cluster.nodes[0];
    let pids = [node.process()?.pid()];
    rows(postgres, node.mqtt_port, &pids, table, "payload", rounds).await?;
    cluster.finish().await
}

async fn telegraf_into_rows(postgres: &Postgres, table: &str, rounds: &mut Rounds) -> Result<()> {
    let broker = mosquitto::start().await?;
    let telegraf = Telegraf::start(broker.port, "bench/#", postgres, table).await?;
    rows(postgres, broker.port, &[broker.pid(), telegraf.pid()], table, "value", rounds).await
}

async fn rows(
    postgres: &Postgres,
    port: u16,
    pids: &[u32],
    table: &str,
    column: &str,
    rounds: &mut Rounds,
) -> Result<()> {
    let before = cpu::seconds_of_all(pids)?;
    publish(port, &["--messages", &MESSAGES.to_string()]).await?;
    arrived(postgres, table, MESSAGES).await?;
    let used = cpu::seconds_of_all(pids)? - before;
    let sent_us = format!("({column}::json->>'sent_us')::bigint");
    let committed_us = "extract(epoch from pg_xact_commit_timestamp(xmin)) * 1000000";
    let took_us = postgres.number(&format!("select max({committed_us}) - min({sent_us}) from {table}")).await?;
    rounds.per_second.push(MESSAGES as f64 / (took_us / 1e6));
    rounds.cpu.push(used * 100_000.0 / MESSAGES as f64);

    let calm = calm_rate(rounds);
    let count = (calm as f64 * CALM_SECONDS) as u64;
    postgres.ask(&format!("delete from {table}")).await?;
    publish(port, &["--messages", &count.to_string(), "--rate", &calm.to_string(), "--window", "5000"]).await?;
    arrived(postgres, table, count).await?;
    for (share, into) in [(0.5, &mut rounds.p50_ms), (0.99, &mut rounds.p99_ms)] {
        let waited_ms = format!("({committed_us} - {sent_us}) / 1000");
        into.push(
            postgres
                .number(&format!("select percentile_cont({share}) within group (order by {waited_ms}) from {table}"))
                .await?,
        );
    }
    Ok(())
}

/// A tenth of what was just reached, in messages per second.
fn calm_rate(rounds: &Rounds) -> u64 {
    (rounds.per_second.last().copied().unwrap_or_default() * CALM) as u64
}

/// Publishes from ten connections.
pub async fn publish(port: u16, arguments: &[&str]) -> Result<()> {
    let port = port.to_string();
    let fixed = ["publish", "--port", &port, "--connections", "10", "--payload-bytes", PAYLOAD_BYTES];
    generator::run(&[&fixed[..], arguments].concat()).await.map(drop)
}

async fn arrived(postgres: &Postgres, table: &str, count: u64) -> Result<()> {
    wait::until(ARRIVAL_LIMIT, &format!("{count} rows in {table}"), || async {
        // The table may not be there yet.
        let found = postgres.number(&format!("select count(*) from {table}")).await?;
        ensure!(found >= count as f64, "{found}");
        Ok(())
    })
    .await
}

async fn into_lines(rounds: &mut Rounds) -> Result<()> {
    let cluster = sluice::single().await?;
    let path = cluster.files().join("lines.log");
    let connector = sluice::connector("lines", "file", "bench/#", json!({ "local_file_path": path }));
    cluster.api(0).create(&connector).await?.data()?;
    cluster.owner_seen_by(0, "lines").await?;
    let node = &cluster.nodes[0];
    let pid = node.process()?.pid();

    let before = cpu::seconds(pid)?;
    let began = std::time::Instant::now();
    publish(node.mqtt_port, &["--messages", &MESSAGES.to_string()]).await?;
    sluice::sent(&cluster, "lines", MESSAGES).await?;
    rounds.per_second.push(MESSAGES as f64 / began.elapsed().as_secs_f64());
    rounds.cpu.push((cpu::seconds(pid)? - before) * 100_000.0 / MESSAGES as f64);

    let calm = calm_rate(rounds);
    let count = (calm as f64 * CALM_SECONDS) as u64;
    let file = path.display().to_string();
    // The lines that are there already are passed over: their latency is not measured.
    let skip = MESSAGES.to_string();
    let (follower, _) =
        generator::Running::start(&["follow", "--file", &file, "--skip", &skip, "--lines", &count.to_string()]).await?;
    publish(node.mqtt_port, &["--messages", &count.to_string(), "--rate", &calm.to_string(), "--window", "5000"])
        .await?;
    let followed = follower.finish().await?;
    ensure!(generator::figure(&followed, "/lines")? == count as f64, "{count} lines: {followed}");
    rounds.p50_ms.push(generator::figure(&followed, "/latency_ms/p50")?);
    rounds.p99_ms.push(generator::figure(&followed, "/latency_ms/p99")?);
    cluster.finish().await
}

fn rows_table(ours: &Rounds, theirs: &Rounds) -> Table {
    let columns = ["", "Sluice", "Mosquitto + Telegraf", "ratio", "aim"];
    let mut table = Table::new("Publish to PostgreSQL row", &columns);
    let compared = [
        ("messages/s", &ours.per_second, &theirs.per_second, Some(Aim::AtLeast(AIM_RATE))),
        ("CPU s per 100,000 messages", &ours.cpu, &theirs.cpu, Some(Aim::AtMost(AIM_CPU))),
        ("p50 at a tenth of the rate, ms", &ours.p50_ms, &theirs.p50_ms, None),
        ("p99 at a tenth of the rate, ms", &ours.p99_ms, &theirs.p99_ms, None),
    ];
    for (what, ours, theirs, aim) in compared {
        let ratio = ratio(ours, theirs);
        let [ratio, aim] = match aim {
            Some(aim) => against(ratio, aim),
            None => [if ratio.is_finite() { format!("{ratio:.2}") } else { "–".to_owned() }, String::new()],
        };
        table.row([what.to_owned(), number(median(ours)), number(median(theirs)), ratio, aim]);
    }
    table.note(format!(
        "{MESSAGES} messages of {PAYLOAD_BYTES} bytes at QoS 1 from 10 connections with a window of 100; from the first publish \
         to the last commit, both by the clock of the machine. CPU of everything between publisher and database. Sluice: \
         one node, `enable_batch_insert`, `batch_size` 10 000, every message synced before it is acknowledged. Telegraf: \
         QoS 1, persistent session, batches of 10 000, flushed every second; what Mosquitto holds is lost when it is killed."
    ));
    table
}

fn lines_table(lines: &Rounds) -> Table {
    let columns = ["messages/s", "CPU s per 100,000", "p50 at a tenth of the rate, ms", "p99, ms"];
    let mut table = Table::new("Publish to line of a file", &columns);
    let medians = [&lines.per_second, &lines.cpu, &lines.p50_ms, &lines.p99_ms].map(|values| number(median(values)));
    table.row(medians);
    table.note("The same publishers; each batch of lines is synced. Latency by `sluice bench follow`.");
    table
}
