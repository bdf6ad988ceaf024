//! A target that stands still with very much waiting for it: it waits on the disk, and the node's memory stays within
//! its bound.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::publisher::{Publisher, PublisherOptions};

use crate::adapter::Adapter;
use crate::report::{Measured, Verdict};
use crate::shapes::CELSIUS;
use crate::stage::{Ending, MEMORY_BYTES_MAX, Stage};

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
const PUBLISHERS: u64 = 2;

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    if stage.adapter.upstream().is_none() {
        return Ok(Verdict::NotApplicable("there is no server to stand still".to_owned()));
    }
    let connected = stage.connect("waiting", "c/waiting/#", Ending::Waits).await?;
    // What the path and the store of the queues take for their own is taken before.
    let warm = publishers(stage, "warm", stage.counts.waiting / 2);
    let mut published = tests::publisher::finish_all(warm, stage.counts.limit).await?;
    stage.sent_at_least(&connected.name, stage.counts.waiting / 2).await?;
    let before = stage.cluster.nodes[0].process()?.resident_bytes()?;
    let growth_max = MEMORY_BYTES_MAX + stage.counts.memory_bytes;
    let waiting_bytes = stage.counts.waiting * stage.counts.waiting_bytes as u64;
    ensure!(waiting_bytes > growth_max, "{waiting_bytes} bytes would fit into memory anyway");

    stage.adapter.pause()?;
    let publishers = publishers(stage, "waiting", stage.counts.waiting);
    let all = tests::publisher::finish_all(publishers, stage.counts.limit);
    let (more, mut most) = sampled(stage, all).await?;
    published.merge(more);
    let ledger = stage.ledger(&connected.name).await?;
    ensure!(ledger.pending > stage.counts.waiting / 2, "the target did not stand still: {ledger:?}");
    stage.adapter.resume()?;
    // What arrived is read by other cases; here it would be more than there is time for.
    let queued = published.acknowledged.len() as u64;
    let draining = stage.cluster.drained(stage.asked, &connected.name, stage.counts.limit);
    let (ledger, most_later) = sampled(stage, draining).await?;
    most = most.max(most_later);
    ensure!(ledger.sent == queued && ledger.queued == queued, "{queued} were acknowledged: {ledger:?}");
    let growth = most.saturating_sub(before);
    ensure!(growth < growth_max, "{} MiB before, {} MiB at most", before >> 20, most >> 20);
    let note = format!(
        "{} MB waited, the node grew by {} of at most {} MiB",
        waiting_bytes / 1_000_000,
        growth >> 20,
        growth_max >> 20
    );
    Ok(Verdict::Passed(Measured { records: queued, note, ..Measured::default() }))
}

fn publishers<A: Adapter>(stage: &Stage<A>, name: &str, count: u64) -> Vec<Publisher> {
    let start = |number: u64| {
        let port = stage.cluster.nodes[0].mqtt_port;
        let options = PublisherOptions::new(&format!("{name}{number}"), "c/waiting", &[port], count / PUBLISHERS);
        Publisher::start(PublisherOptions { padding: stage.counts.waiting_bytes, celsius: Some(CELSIUS), ..options })
    };
    (0..PUBLISHERS).map(start).collect()
}

/// What comes of it, and the most memory that the node had meanwhile.
async fn sampled<A: Adapter, T>(stage: &Stage<A>, work: impl Future<Output = Result<T>>) -> Result<(T, u64)> {
    let process = stage.cluster.nodes[0].process()?;
    let mut samples = tokio::time::interval(SAMPLE_EVERY);
    let mut most = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, most.max(process.resident_bytes()?))),
            _ = samples.tick() => most = most.max(process.resident_bytes()?),
        }
    }
}
