//! Leaving in order.
//!
//! ```text
//! not ready ─► mqtt closed, acks drained ─► tasks handed over ─► own queues served to the new owners (≤ 5 s)
//!           ─► leadership handed over ─► heartbeats end, goodbye ─► exit 0
//! ```

use std::sync::atomic::Ordering;
use std::time::Duration;

use api_types::RaftId;
use connector_runtime::lease::Lease;
use meta_service::Handle;
use tokio::time::{Instant, timeout};

use super::Ground;
use super::control::Rooms;
use super::up::Up;

/// Publishes that were read get their acknowledgement within this, or none.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// The new owners may empty this node's queues for so long; what is left waits on the disk.
const SERVE_WITHIN: Duration = Duration::from_secs(5);
const SERVE_LOOK_EVERY: Duration = Duration::from_millis(50);
/// Beside `stop_timeout`: the release, the report and the assignment go through the leader.
const HAND_OVER_MARGIN: Duration = Duration::from_secs(2);
/// An election takes about a second; when there is still no leader after this, the others are gone too.
const LEADERLESS_WAIT: Duration = Duration::from_secs(2);
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const TRANSFER_WITHIN: Duration = Duration::from_secs(2);

pub async fn stop(ground: Ground, up: Up) {
    tracing::info!("stopping");
    let handle = ground.handle();
    let Up { rooms, identity, node_epoch, stopping, agent, agent_cancel } = up;
    ground.control.stopping.store(true, Ordering::SeqCst);
    if !rooms.mqtt.drain(DRAIN_WITHIN).await {
        tracing::warn!("not every mqtt connection ended in time");
    }
    stopping.send_replace(true);
    let stop_timeout = ground.config.connectors.stop_timeout;
    hand_over(&handle, ground.lease.lease(), identity.raft_id, stop_timeout + HAND_OVER_MARGIN).await;
    if !rooms.supervisor.shutdown(stop_timeout).await {
        tracing::warn!("not every task stopped in time");
    }
    serve_queues(&handle, &rooms, identity.raft_id).await;
    let others_vote = handle.raft_status().is_some_and(|raft| raft.voters.len() > 1);
    if others_vote && timeout(TRANSFER_WITHIN, handle.transfer_leadership()).await != Ok(true) {
        tracing::warn!("the leadership was not handed over: the others will elect");
    }
    let last_registration = *node_epoch.borrow();
    agent_cancel.cancel();
    match agent.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the agent ended badly"),
        Err(error) => tracing::error!(%error, "the agent ended badly"),
    }
    ground.lease.end();
    if let Some(node_epoch) = last_registration
        && !matches!(timeout(GOODBYE_WITHIN, handle.goodbye(identity.raft_id, node_epoch)).await, Ok(Ok(())))
    {
        tracing::warn!("nobody heard the goodbye: the leader will miss this node after its lease");
    }
    // The streams of other nodes end with the queues, so these go before the listeners.
    rooms.queues.close().await;
    ground.close().await;
    tracing::info!("stopped");
}

/// Waits until no task is this node's any more. Without a leader that cannot happen, so then it does not wait long.
async fn hand_over(handle: &Handle, lease: &Lease, me: RaftId, bound: Duration) {
    let mut applied = handle.applied();
    let deadline = Instant::now() + bound;
    let mut led_at = Instant::now();
    let mut looks = tokio::time::interval(SERVE_LOOK_EVERY);
    loop {
        applied.borrow_and_update();
        let state = handle.state();
        let mine = state.assignments.values().filter_map(|assignment| assignment.owner());
        let left = mine.filter(|owner| owner.node == me).count();
        if left == 0 {
            return;
        }
        // A lease is the proof of a leader that answers; the last one that was known may be gone.
        if lease.is_held() {
            led_at = Instant::now();
        }
        if Instant::now() >= deadline || led_at.elapsed() >= LEADERLESS_WAIT {
            tracing::warn!(left, "not every task was handed over in time");
            return;
        }
        tokio::select! {
            _ = applied.changed() => {}
            _ = looks.tick() => {}
        }
    }
}

/// Other nodes run the tasks now and read what this node's disk still holds.
async fn serve_queues(handle: &Handle, rooms: &Rooms, me: RaftId) {
    let deadline = Instant::now() + SERVE_WITHIN;
    while Instant::now() < deadline {
        let state = handle.state();
        let wanted = rooms.queues.stats().queues.into_iter().any(|queue| {
            let owner = state.assignment(queue.incarnation).and_then(|assignment| assignment.owner());
            queue.records > 0 && owner.is_some_and(|owner| owner.node != me)
        });
        if !wanted {
            return;
        }
        tokio::time::sleep(SERVE_LOOK_EVERY).await;
    }
    tracing::info!("records are left in the queues of this node; they wait for its return");
}
