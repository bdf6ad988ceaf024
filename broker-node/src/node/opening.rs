//! Opens the queues, as soon as their disk has room for what an opening writes.

use std::future::Future;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api_types::RaftId;

use super::{Ground, NodeError};
use crate::config::{QueueFsync, QueueWhenFull};
use crate::error_chain::error_chain;
use crate::queue::{DiskReserve, Fsync, QueueDefaults, QueueError, QueueOptions, Queues};

/// How often a disk without room is tried again.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// Waits while there is no room: what lies on the disk is well, and goes on once there is. Gives what `until` gives
/// when that comes first.
pub async fn open_queues<T>(
    ground: &Ground,
    raft_id: RaftId,
    until: impl Future<Output = T>,
) -> Result<Result<Queues, T>, NodeError> {
    let options = options(ground, raft_id);
    let mut until = std::pin::pin!(until);
    let mut tries = tokio::time::interval(TRY_EVERY);
    let mut waited = false;
    loop {
        // Not while they are being opened: a database that nobody closes would be left behind.
        tokio::select! {
            _ = tries.tick() => {}
            ended = &mut until => return Ok(Err(ended)),
        }
        let options = options.clone();
        let opened = tokio::task::spawn_blocking(move || Queues::open(options)).await;
        let panicked =
            |error| NodeError::Io { doing: "the queues cannot be opened", source: std::io::Error::other(error) };
        match opened.map_err(panicked)? {
            Ok(queues) => {
                if waited {
                    tracing::info!("the disk has room for the queues again");
                }
                return Ok(Ok(queues));
            }
            Err(error @ QueueError::NoRoom { .. }) => {
                let text = error_chain(&error);
                if !waited {
                    tracing::warn!(error = text, "waiting for room on the queues' disk");
                }
                waited = true;
                *ground.control.opening.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
            }
            Err(error @ (QueueError::Directory(_) | QueueError::Store(_) | QueueError::Thread(_))) => {
                return Err(error.into());
            }
        }
    }
}

fn options(ground: &Ground, raft_id: RaftId) -> QueueOptions {
    let queue = &ground.config.queue;
    let replica = ground.handle();
    let mut options = QueueOptions::new(
        ground.config.node.data_dir.join("queue"),
        raft_id,
        Arc::new(move || replica.state()),
        ground.metrics.queue_sync_seconds.clone(),
    );
    options.defaults = QueueDefaults {
        bytes_max: queue.bytes_max.0,
        age_max_ms: queue.age_max.map(millis),
        when_full: queue.when_full.as_ref().map(|when_full| match when_full.0 {
            QueueWhenFull::Block => api_types::connector::WhenFull::Block,
            QueueWhenFull::DropOldest => api_types::connector::WhenFull::DropOldest,
        }),
    };
    options.total_bytes_max = queue.total_bytes_max.map(|size| size.0);
    if let Some(reserve) = queue.disk_reserve {
        options.disk_reserve = DiskReserve { bytes: reserve.0, percent: 0 };
    }
    options.dead_letter_bytes_max = queue.dead_letter_bytes_max.0;
    options.dead_letter_age_max_ms = millis(queue.dead_letter_age_max);
    options.fsync = match queue.fsync.0 {
        QueueFsync::Group => Fsync::Group,
        QueueFsync::Off => Fsync::Off,
    };
    options.submit_bytes_max = ground.config.mqtt.inflight_bytes_max.0;
    options
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
