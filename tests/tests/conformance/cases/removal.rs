//! A connector that is deleted, or whose node is stopped, in the middle of its work: it ends within the bound, its
//! connections are gone at the server, and the node keeps nothing of it.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::process::Process;
use tests::wait;

use crate::adapter::Adapter;
use crate::publishing::Sent;
use crate::report::{Measured, Verdict};
use crate::stage::{Connected, Ending, Stage};

/// `connectors.stop_timeout` and the node's own share.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// A closed connection is seen at the other end within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// Published after the connector is gone.
const MORE: u64 = 100;

pub async fn run<A: Adapter>(stage: &mut Stage<A>) -> Result<Verdict> {
    let deleted = delete_during_load(stage).await?;
    let stopped = stop_during_load(stage).await?;
    let mut measured = stopped;
    measured.records += deleted;
    Ok(Verdict::Passed(measured))
}

async fn delete_during_load<A: Adapter>(stage: &mut Stage<A>) -> Result<u64> {
    // Once before, so that what is opened for all connectors is open.
    let warm = stage.connect("removed_before", "c/none/#", Ending::Waits).await?;
    stage.cluster.api(0).delete(&warm.name).await?.data()?;
    stage.deleted(&warm.name);
    let before = wait::until(stage.counts.limit, "the node is at rest", async || {
        let held = Held::by(stage.cluster.nodes[0].process()?)?;
        ensure!(none_or_zero(stage.adapter.connections().await?), "connections are left of the cases before");
        Ok(held)
    })
    .await?;

    let connected = stage.connect("removed", "c/removed/#", Ending::Waits).await?;
    let count = stage.counts.removal;
    let publisher = stage.publisher_without_end("removed", "c/removed", count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&connected.name, count / 4).await?;
    if let Some(connections) = stage.adapter.connections().await? {
        ensure!(connections > 0, "the server counts no connection of a connector that writes");
    }
    let began = std::time::Instant::now();
    stage.cluster.api(0).delete(&connected.name).await?.data()?;
    wait::within(STOP_BOUND, "delete during load", began.elapsed())?;
    stage.deleted(&connected.name);
    gone(stage).await?;
    let arrived = at_rest(stage, &connected).await?;
    ensure!(arrived > 0, "nothing arrived");
    // Publishes that no connector wants are acknowledged as well, and go nowhere.
    let more = publisher.acknowledged() + MORE;
    let published = publisher.stop_after(more, stage.counts.limit).await?.acknowledged.len() as u64;
    let afterwards = stage.adapter.read(&connected.destination).await?.len();
    ensure!(afterwards == arrived, "{arrived} had arrived when the connector was gone, {afterwards} have since");
    wait::until(stage.counts.limit, "the node keeps nothing", async || {
        let after = Held::by(stage.cluster.nodes[0].process()?)?;
        ensure!(after.sockets <= before.sockets, "{after:?}, before {before:?}");
        ensure!(after.own_threads <= before.own_threads, "{after:?}, before {before:?}");
        Ok(())
    })
    .await?;
    Ok(published)
}

async fn stop_during_load<A: Adapter>(stage: &mut Stage<A>) -> Result<Measured> {
    let connected = stage.connect("stopped", "c/stopped/#", Ending::Waits).await?;
    let count = stage.counts.removal;
    let publisher = stage.publisher_without_end("stopped", "c/stopped", count, stage.cluster.nodes[0].mqtt_port);
    stage.sent_at_least(&connected.name, count / 4).await?;
    let (status, took) = stage.cluster.nodes[0].terminate(STOP_BOUND * 10).await?;
    wait::within(STOP_BOUND, "stop during load", took)?;
    ensure!(status.code() == Some(0), "exit status {status}");
    gone(stage).await?;
    stage.cluster.nodes[0].start()?;
    stage.cluster.nodes[0].ready().await?;
    let sent = Sent::of_published(&publisher.stop_after(count, stage.counts.limit).await?)?;
    let settled = stage.settle(&connected, &sent).await?;
    settled.nothing_is_missing()?;
    // A quiet stop waits for the batches under way.
    let repeated = settled.repeated();
    ensure!(repeated <= sent.sent_again, "{repeated} came again, {} were published again", sent.sent_again);
    Ok(Measured {
        records: sent.len() as u64,
        repeated,
        note: format!("stopped in {:.1} s", took.as_secs_f64()),
        ..Measured::default()
    })
}

/// What stands at the target, when it is through with what had reached it.
async fn at_rest<A: Adapter>(stage: &Stage<A>, connected: &Connected) -> Result<usize> {
    let last = Cell::new(None);
    wait::until(stage.counts.limit, "the target is through", async || {
        let now = stage.adapter.read(&connected.destination).await?.len();
        ensure!(last.replace(Some(now)) == Some(now), "{now} so far");
        Ok(())
    })
    .await?;
    last.get().context("it was read")
}

async fn gone<A: Adapter>(stage: &Stage<A>) -> Result<()> {
    wait::measured(CLOSED_WITHIN, "connections are gone at the server", async || {
        let connections = stage.adapter.connections().await?;
        ensure!(none_or_zero(connections), "{connections:?}");
        Ok(())
    })
    .await
    .map(drop)
}

fn none_or_zero(connections: Option<usize>) -> bool {
    connections.is_none_or(|connections| connections == 0)
}

/// What a process holds that a connector could leave behind.
#[derive(Clone, Copy, Debug)]
struct Held {
    sockets: usize,
    /// Threads that are not the runtime's: those come and go by themselves.
    own_threads: usize,
}

impl Held {
    fn by(process: &Process) -> Result<Self> {
        let folder = std::path::PathBuf::from(format!("/proc/{}", process.pid()));
        let mut sockets = 0;
        for file in std::fs::read_dir(folder.join("fd"))? {
            // One that was closed in between leads nowhere.
            let target = std::fs::read_link(file?.path());
            sockets += usize::from(target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")));
        }
        let mut own_threads = 0;
        for thread in std::fs::read_dir(folder.join("task")).context("threads")? {
            let name = std::fs::read_to_string(thread?.path().join("comm"));
            own_threads += usize::from(name.is_ok_and(|name| !name.starts_with("tokio")));
        }
        Ok(Self { sockets, own_threads })
    }
}
