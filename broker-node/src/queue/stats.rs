//! Numbers for the metrics, the API and the leader.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use api_types::connector::WhenFull;
use api_types::status::Ledger;
use api_types::{Incarnation, Sequence};

use super::op::CallError;
use super::rows::{Appended, Totals};
use super::state::{Phase, Queue};
use super::store::StoreError;
use super::wire::Lag;
use super::{Queues, Shared, lock};

/// Most full queues that a heartbeat names.
const FULL_QUEUES_MAX: usize = 1000;

/// One queue of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStats {
    pub incarnation: Incarnation,
    pub name: String,
    pub kind: String,
    /// Records between position and head.
    pub records: u64,
    pub bytes: u64,
    pub sealed_batches: usize,
    pub totals: Totals,
    pub ledger: Ledger,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LettersStats {
    pub stored: u64,
    pub bytes: u64,
    pub published: u64,
    pub unpublished: u64,
    /// By reason: `full`, `expired`, `unreadable`.
    pub dropped: BTreeMap<String, u64>,
    /// Of those, letters that had not been published.
    pub unpublished_dropped: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuesStats {
    pub queues: Vec<QueueStats>,
    pub letters: LettersStats,
    pub bytes: u64,
    /// Submitted and not yet on disk.
    pub waiting_bytes: u64,
    pub disk_free_bytes: u64,
    /// The free space is below `disk_reserve`.
    pub disk_low: bool,
    /// Appends are taken.
    pub writable: bool,
    pub queues_deleted: u64,
    /// Records that went with deleted queues, by reason.
    pub deleted_dropped: BTreeMap<String, u64>,
}

/// One queue with the age of its oldest record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueReport {
    pub stats: QueueStats,
    pub oldest_age_ms: Option<u64>,
}

impl Queues {
    /// Without a look at the disk.
    pub fn stats(&self) -> QueuesStats {
        let state = lock(&self.shared.state);
        let letters = &state.letters;
        QueuesStats {
            queues: state.queues.iter().map(|(incarnation, queue)| queue_stats(*incarnation, queue)).collect(),
            letters: LettersStats {
                stored: letters.next - letters.first,
                bytes: letters.bytes,
                published: letters.published,
                unpublished: letters.next - letters.cursor,
                dropped: letters.dropped.clone(),
                unpublished_dropped: letters.unpublished_dropped,
            },
            bytes: state.bytes,
            waiting_bytes: state.reserved_bytes,
            disk_free_bytes: state.disk.free_bytes,
            disk_low: self.shared.disk_deficit(&state, 0) > 0,
            writable: state.phase == Phase::Open,
            queues_deleted: state.node.queues_deleted,
            deleted_dropped: state.node.dropped.clone(),
        }
    }

    /// Records and bytes that wait on this node.
    pub fn waiting(&self) -> (u64, u64) {
        let state = lock(&self.shared.state);
        (state.queues.values().map(|queue| queue.row.pending).sum(), state.bytes)
    }

    pub fn disk_free_bytes(&self) -> u64 {
        lock(&self.shared.state).disk.free_bytes
    }

    /// With the age of each queue's oldest record: one seek per queue that has any.
    pub async fn report(&self) -> Result<Vec<QueueReport>, CallError> {
        let queues: Vec<(QueueStats, Option<Sequence>)> = {
            let state = lock(&self.shared.state);
            state.queues.iter().map(|(incarnation, queue)| (queue_stats(*incarnation, queue), oldest(queue))).collect()
        };
        self.shared
            .read(move |shared| {
                queues
                    .into_iter()
                    .map(|(stats, oldest)| {
                        let oldest_age_ms = age_ms(shared, stats.incarnation, oldest)?;
                        Ok(QueueReport { stats, oldest_age_ms })
                    })
                    .collect()
            })
            .await
    }

    /// What this node holds of these connectors, or of all when none is named. A connector without a queue here is
    /// not in the answer.
    pub async fn lag(&self, incarnations: Vec<Incarnation>) -> Result<Vec<Lag>, CallError> {
        let held: Vec<(Lag, Option<Sequence>)> = {
            let state = lock(&self.shared.state);
            if state.phase != Phase::Open {
                // Numbers of a store that is being read back would be guesses.
                return Err(CallError::Failed("the store is being opened".to_owned()));
            }
            let wanted = |incarnation: &Incarnation| incarnations.is_empty() || incarnations.contains(incarnation);
            state
                .queues
                .iter()
                .filter(|(incarnation, _)| wanted(incarnation))
                .map(|(incarnation, queue)| {
                    let (ledger, bytes) = (queue.row.ledger(), queue.row.bytes);
                    (Lag { incarnation: *incarnation, ledger, bytes, oldest_age_ms: None }, oldest(queue))
                })
                .collect()
        };
        self.shared
            .read(move |shared| {
                held.into_iter()
                    .map(|(lag, oldest)| {
                        let oldest_age_ms = age_ms(shared, lag.incarnation, oldest)?;
                        Ok(Lag { oldest_age_ms, ..lag })
                    })
                    .collect()
            })
            .await
    }

    pub fn ledger(&self, incarnation: Incarnation) -> Option<Ledger> {
        lock(&self.shared.state).queues.get(&incarnation).map(|queue| queue.row.ledger())
    }

    /// Connectors whose queue here is at its bound and holds its publishers back.
    pub fn full(&self) -> Vec<Incarnation> {
        let state = lock(&self.shared.state);
        let full = state.queues.iter().filter(|(_, queue)| {
            // Another record of the usual size would be refused.
            let usual = queue.row.bytes / queue.row.pending.max(1);
            queue.bounds.is_some_and(|bounds| match bounds.when_full {
                WhenFull::Block => queue.row.pending > 0 && queue.row.bytes + usual > bounds.bytes_max,
                WhenFull::DropOldest => false,
            })
        });
        full.map(|(incarnation, _)| *incarnation).take(FULL_QUEUES_MAX).collect()
    }

    /// Records that wait for this connector here.
    pub fn local_lag(&self, incarnation: Incarnation) -> u64 {
        lock(&self.shared.state).queues.get(&incarnation).map_or(0, |queue| queue.row.pending)
    }
}

fn queue_stats(incarnation: Incarnation, queue: &Queue) -> QueueStats {
    QueueStats {
        incarnation,
        name: queue.names.name.clone(),
        kind: queue.names.kind.clone(),
        records: queue.row.pending,
        bytes: queue.row.bytes,
        sealed_batches: queue.sealed.len(),
        totals: queue.row.totals.clone(),
        ledger: queue.row.ledger(),
    }
}

/// Where the oldest record is looked for.
fn oldest(queue: &Queue) -> Option<Sequence> {
    (queue.row.pending > 0).then(|| queue.dead().below)
}

fn age_ms(shared: &Shared, incarnation: Incarnation, from: Option<Sequence>) -> Result<Option<u64>, StoreError> {
    let Some(from) = from else { return Ok(None) };
    let (wall_ms, open_ms) = (shared.clock.wall_ms(), shared.open_ms());
    let mut age_ms = None;
    shared.store.scan(incarnation, from, Sequence(u64::MAX), |_, value| {
        // One that cannot be read is dropped when its turn comes: it must not take the numbers of all queues away.
        let Ok(appended) = Appended::read(value) else { return Ok(ControlFlow::Continue(())) };
        age_ms = Some(appended.age_ms(wall_ms, open_ms));
        Ok(ControlFlow::Break(()))
    })?;
    Ok(age_ms)
}
