//! Pulsar's own `pulsar-perf`, one producer.

use std::time::Duration;

use ::tests::process;
use ::tests::pulsar::Pulsar;
use anyhow::{Context, Result};

const LIMIT: Duration = Duration::from_secs(180);
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

pub struct Load {
    pub messages: u64,
    pub bytes: usize,
    /// Messages of one entry at most, and how long an entry waits for them.
    pub batch: usize,
    pub linger_ms: u64,
    /// Messages without a receipt.
    pub pending: usize,
}

/// Gives the seconds from when its producer was there until it had so many receipts; it may have sent twice as many
/// messages more as may be pending.
pub async fn produce(server: &Pulsar, topic: &str, load: &Load) -> Result<f64> {
    let mut perf = tokio::process::Command::new(server.home().join("bin/pulsar-perf"));
    // Its own statistics have the start of Java and its end in them, so the times of its log are taken.
    perf.env("PULSAR_LOG_APPENDER", "Console").env("PULSAR_LOG_LEVEL", "info").env("PULSAR_GC_LOG", " ");
    perf.args(["produce", "--service-url", &format!("pulsar://127.0.0.1:{}", server.port())]);
    perf.args(["--num-producers", "1", "--num-test-threads", "1", "--warmup-time", "0"]);
    perf.args(["--rate", &i32::MAX.to_string(), "--num-messages", &load.messages.to_string()]);
    perf.args(["--size", &load.bytes.to_string(), "--max-outstanding", &load.pending.to_string()]);
    perf.args(["--batch-max-messages", &load.batch.to_string(), "--batch-time-window", &load.linger_ms.to_string()]);
    let said = process::run(perf.arg(topic), LIMIT).await?.success()?.stdout;
    seconds(&said).with_context(|| format!("no times in {said}"))
}

/// Between `Created 1 producers` and `DONE`, which it says when it has counted receipts enough.
fn seconds(said: &str) -> Option<f64> {
    let at = |words: &str| said.lines().find(|line| line.contains(words)).and_then(milliseconds_of_the_day);
    let (began, done) = (at(" - Created 1 producers")?, at(" DONE (reached the maximum number")?);
    Some(((done + DAY_MS - began) % DAY_MS) as f64 / 1e3)
}

/// Of a line that begins with `2026-11-28T04:03:08,286+0000`.
fn milliseconds_of_the_day(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1.get(.."04:03:08,286".len())?;
    let parts: Vec<u64> = time.split([':', ',']).map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds, milliseconds] = *parts.as_slice() else { return None };
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_that_between_the_producer_and_the_last_receipt() {
        let line = |time: &str, says: &str| format!("{time}+0000 [exec-1-1] INFO  PerformanceProducer - {says}\n");
        let said = |began: &str, done: &str| {
            line("2026-11-28T04:03:04,546", "Started performance test thread 0")
                + &line(began, "Created 1 producers")
                + &line(done, "------------- DONE (reached the maximum number: 100000 of production) ---")
                + &line("2026-11-29T04:03:14,911", "Aggregated throughput stats --- 100309 records sent")
        };
        assert_eq!(seconds(&said("2026-11-28T04:03:08,286", "2026-11-28T04:03:13,649")), Some(5.363));
        assert_eq!(seconds(&said("2026-11-28T23:59:59,000", "2026-11-29T00:00:01,500")), Some(2.5));
        assert_eq!(seconds("2026-11-28T04:03:08,286+0000 - Created 1 producers"), None);
    }
}
