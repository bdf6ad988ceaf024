//! One kind of connector after the other: what its sink reaches alone, what the whole product reaches with it, and what
//! the target's own tool or a bare loop reaches with the same safety in the same run.
//!
//! ```text
//! each round   alone   hold the place ─▶ queue everything ─▶ make the place ─▶ from the first records sent to the last
//!              tools   as many records of the same size into places of their own, each by its own clock
//!              whole   publish ─▶ queue ─▶ sink ─▶ target, from the first publish to the last record sent
//! ```
//!
//! Another kind is a file here, a line in `kinds!`, and two marks in `docs/performance.md`. One whose sink is not in the
//! program that is measured is left out.

mod cassandra;
mod clickhouse;
mod elasticsearch;
mod file;
mod greptime;
mod influxdb;
mod kafka;
mod mongodb;
mod mqtt;
mod mysql;
mod opentsdb;
mod postgres;
mod pulsar;
mod rabbitmq;
mod redis;
mod s3;
mod webhook;

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use tests::wait;

use super::{end_to_end, sink};
use crate::bare::records::BYTES;
use crate::sampled::{Rounds, median, ratio};
use crate::table::{Aim, Table, against, number};
use crate::{Effort, cpu, peers, sluice};

/// A target may count what it has a moment later.
const COUNT_LIMIT: Duration = Duration::from_secs(60);
/// Of the sink alone to the first of the tools.
const AIM: f64 = 0.7;
/// The tables give the CPU seconds of so many records.
const PER: f64 = 100_000.0;
const CONNECTOR: &str = "sink";

/// One kind's target, and what else writes to it.
trait Target: Sized {
    const KIND: &'static str;
    /// In few words, for the title.
    const WRITES: &'static str;
    /// The aim is about the first one.
    const TOOLS: &'static [&'static str];
    /// What must be said about safety and settings.
    const NOTE: &'static str;
    /// Enough for a second or two.
    const RECORDS: u64;
    /// So many more a tool may write, until it sees that it has written enough.
    const BEYOND: u64 = 0;
    /// More arguments of the generator.
    const LOAD: &'static [&'static str] = &[];

    async fn start() -> Result<Self>;

    /// `--set` of the node.
    fn settings(&self) -> Vec<String> {
        Vec::new()
    }

    /// `config` of a connector that writes to the place.
    fn config(&self, place: &str) -> Value;

    /// Sees to it that the place cannot be written to before it is made.
    async fn hold(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    /// Makes the place, empty; whoever waited for it goes on.
    async fn make(&mut self, place: &str) -> Result<()>;

    /// Records that stand there; `None` where nobody counts them.
    async fn count(&self, place: &str) -> Result<Option<u64>>;

    /// Lets one of [`Self::TOOLS`] write into a place that was made; gives the seconds it took. `from` has the same
    /// records, written by Sluice.
    async fn write(&self, tool: usize, from: &str, place: &str) -> Result<f64>;

    /// The place will not be looked at again.
    async fn forget(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    /// Everything was measured: folders may go.
    fn finish(self) {}
}

/// The list of all, from which everything that has to know them is made.
macro_rules! kinds {
    ($($target:ty),* $(,)?) => {
        pub const KINDS: &[&str] = &[$(<$target as Target>::KIND),*];

        async fn of(kind: &str, effort: Effort) -> Result<Table> {
            $(
                if kind == <$target as Target>::KIND {
                    return compared::<$target>(effort).await;
                }
            )*
            bail!("{kind} is not measured")
        }
    };
}

kinds![
    file::File,
    webhook::Webhook,
    mqtt::Mqtt,
    postgres::Rows,
    mysql::Mysql,
    redis::Redis,
    rabbitmq::Queues,
    influxdb::Influxdb,
    greptime::Greptime,
    kafka::Topics,
    opentsdb::Opentsdb,
    pulsar::Topics,
    cassandra::Rows,
    elasticsearch::Elasticsearch,
    mongodb::Mongodb,
    clickhouse::Clickhouse,
    s3::Buckets,
];

/// No table for a kind that is not offered.
pub async fn measure(kind: &str, effort: Effort) -> Result<Vec<Table>> {
    if !sluice::offers(kind).await? {
        return Ok(Vec::new());
    }
    Ok(vec![of(kind, effort).await?])
}

async fn compared<T: Target>(effort: Effort) -> Result<Table> {
    let mut target = T::start().await?;
    let (mut alone, mut whole) = (Rounds::default(), Rounds::default());
    let mut tools: Vec<Rounds> = T::TOOLS.iter().map(|_| Rounds::default()).collect();
    for round in 0..effort.rounds {
        let ours = format!("alone{round}");
        queued(&mut target, &ours, effort.with, &mut alone).await?;
        says("alone", &alone);
        for (at, (name, rounds)) in T::TOOLS.iter().zip(&mut tools).enumerate() {
            // What could not be had in the first round is not tried again.
            if round == 0 || !rounds.per_second.is_empty() {
                let place = format!("tool{round}x{at}");
                peers::found(name, by_tool(&mut target, at, &ours, &place, rounds).await);
                says(name, rounds);
            }
        }
        target.forget(&ours).await?;
        through(&mut target, &format!("whole{round}"), effort.with, &mut whole).await?;
        says("whole", &whole);
    }
    target.finish();
    Ok(table::<T>(&alone, &tools, &whole))
}

fn says(what: &str, rounds: &Rounds) {
    eprintln!("{what}: {} /s", number(rounds.last()));
}

fn config<T: Target>(target: &T, place: &str, with: Option<&Value>) -> Value {
    let mut config = target.config(place);
    if let (Some(config), Some(Value::Object(with))) = (config.as_object_mut(), with) {
        config.extend(with.clone());
    }
    config
}

/// The sink alone. Its rate is counted from the first records that were sent to the last, so that the pause before it
/// tries again is not in it.
async fn queued<T: Target>(target: &mut T, place: &str, with: Option<&Value>, rounds: &mut Rounds) -> Result<()> {
    let cluster = sluice::single_with(target.settings()).await?;
    target.hold(place).await?;
    let connector = sluice::connector(CONNECTOR, T::KIND, "sink/#", config(target, place, with));
    sink::queue(&cluster, &connector, T::RECORDS, T::LOAD).await?;
    let pid = cluster.nodes[0].process()?.pid();
    let before = cpu::seconds(pid)?;
    target.make(place).await?;
    let (began, first) = sluice::first_sent(&cluster, CONNECTOR).await?;
    ensure!(first < T::RECORDS, "everything was sent before it was looked at");
    sluice::sent(&cluster, CONNECTOR, T::RECORDS).await?;
    let took = began.elapsed().as_secs_f64();
    rounds.cpu.push((cpu::seconds(pid)? - before) * PER / T::RECORDS as f64);
    rounds.per_second.push((T::RECORDS - first) as f64 / took);
    arrived(target, place, 0).await?;
    cluster.finish().await
}

async fn by_tool<T: Target>(target: &mut T, tool: usize, from: &str, place: &str, rounds: &mut Rounds) -> Result<()> {
    target.make(place).await?;
    let own = std::process::id();
    let before = cpu::seconds(own)?;
    let took = target.write(tool, from, place).await?;
    let used = cpu::seconds(own)? - before;
    arrived(target, place, T::BEYOND).await?;
    rounds.per_second.push(T::RECORDS as f64 / took);
    rounds.cpu.push(used * PER / T::RECORDS as f64);
    target.forget(place).await
}

async fn through<T: Target>(target: &mut T, place: &str, with: Option<&Value>, rounds: &mut Rounds) -> Result<()> {
    let cluster = sluice::single_with(target.settings()).await?;
    target.make(place).await?;
    let connector = sluice::connector(CONNECTOR, T::KIND, "bench/#", config(target, place, with));
    cluster.api(0).create(&connector).await?.data()?;
    cluster.owner_seen_by(0, CONNECTOR).await?;
    let node = &cluster.nodes[0];
    let pid = node.process()?.pid();
    let before = cpu::seconds(pid)?;
    let began = Instant::now();
    end_to_end::publish(node.mqtt_port, &[&["--messages", &T::RECORDS.to_string()], T::LOAD].concat()).await?;
    sluice::sent(&cluster, CONNECTOR, T::RECORDS).await?;
    rounds.per_second.push(T::RECORDS as f64 / began.elapsed().as_secs_f64());
    rounds.cpu.push((cpu::seconds(pid)? - before) * PER / T::RECORDS as f64);
    arrived(target, place, 0).await?;
    cluster.finish().await?;
    target.forget(place).await
}

/// Everything is there, and nothing twice.
async fn arrived<T: Target>(target: &T, place: &str, beyond: u64) -> Result<()> {
    wait::until(COUNT_LIMIT, &format!("{} records in {place}", T::RECORDS), async || {
        let Some(found) = target.count(place).await? else { return Ok(()) };
        ensure!((T::RECORDS..=T::RECORDS + beyond).contains(&found), "{found} are there");
        Ok(())
    })
    .await
}

fn table<T: Target>(alone: &Rounds, tools: &[Rounds], whole: &Rounds) -> Table {
    let columns = ["", "records/s", "sink alone to it", "aim", "CPU s per 100,000"];
    let mut table = Table::new(&format!("{}: {}", T::KIND, T::WRITES), &columns);
    let row = |name: &str, rounds: &Rounds, ratio: String, aim: String| {
        [name.to_owned(), number(median(&rounds.per_second)), ratio, aim, number(median(&rounds.cpu))]
    };
    table.row(row("sink alone", alone, String::new(), String::new()));
    for (at, (name, rounds)) in T::TOOLS.iter().zip(tools).enumerate() {
        let compared = ratio(&alone.per_second, &rounds.per_second);
        let [ratio, aim] = match at {
            0 => against(compared, Aim::AtLeast(AIM)),
            _ => [number(compared), String::new()],
        };
        table.row(row(name, rounds, ratio, aim));
    }
    table.row(row("publish to target", whole, String::new(), String::new()));
    table.note(format!("{} records of {BYTES} bytes. {}", number(T::RECORDS as f64), T::NOTE));
    table
}
