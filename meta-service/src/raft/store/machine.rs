//! The state machine: the replicated state in memory. After a restart it comes back from the last snapshot and the
//! log up to the stored commit index.

use std::io;
use std::sync::Arc;

use api_types::LogIndex;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::super::types::{Entry, LogId, Proposal, SnapshotMeta, StoredMembership, Types};
use super::snapshot::{SnapshotFile, SnapshotStore};
use crate::fatal::{Fatal, FatalReason};
use crate::replica::Replica;
use crate::state::{ClusterState, Reply, ReplyBody};

/// Entries applied under one lock.
const APPLY_BATCH: usize = 64;

type SnapshotOf = openraft::alias::SnapshotOf<Types, SnapshotFile>;

pub(crate) struct Machine {
    replica: Arc<Replica>,
    snapshots: Arc<SnapshotStore>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    fatal: Fatal,
}

impl Machine {
    pub(crate) fn new(replica: Arc<Replica>, snapshots: Arc<SnapshotStore>, fatal: Fatal) -> Self {
        Self { replica, snapshots, last_applied: None, membership: StoredMembership::default(), fatal }
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }

    pub(super) fn builder(&self) -> Builder {
        Builder {
            snapshots: Arc::clone(&self.snapshots),
            meta: self.meta(),
            state: self.replica.state(),
            fatal: self.fatal.clone(),
        }
    }
}

/// A command is decided by the state; blank and membership entries only move it on.
fn apply(state: &mut ClusterState, entry: Entry, membership: &mut StoredMembership) -> Reply {
    let log_id = entry.log_id;
    let index = LogIndex(log_id.index);
    match entry.payload {
        EntryPayload::Normal(Proposal(command)) => return state.apply(index, log_id.leader_id.term, &command),
        EntryPayload::Blank => {}
        EntryPayload::Membership(changed) => *membership = StoredMembership::new(Some(log_id), changed),
    }
    // The first entry of the log has index 0, which is also what an empty state has applied.
    if index > state.applied {
        state.advance(index);
    }
    Reply { index, body: ReplyBody::Done }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH);
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
            let answers: Vec<_> = self.replica.change(|state| {
                let each = batch.into_iter().map(|(entry, responder)| {
                    self.last_applied = Some(entry.log_id);
                    (apply(state, entry, &mut self.membership), responder)
                });
                each.collect()
            });
            for (reply, responder) in answers {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let snapshots = Arc::clone(&self.snapshots);
        let of = meta.clone();
        let installed = blocking(move || snapshots.install(&of, snapshot)).await;
        let mut state = installed.inspect_err(|error| raise(&self.fatal, "snapshot", error))?;
        state.applied = state.applied.max(LogIndex(meta.last_log_id.map_or(0, |last| last.index)));
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.replica.change(|current| *current = state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let current = self.snapshots.current()?;
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A view of the state at one moment, and where to write it.
pub(crate) struct Builder {
    snapshots: Arc<SnapshotStore>,
    meta: SnapshotMeta,
    state: Arc<ClusterState>,
    fatal: Fatal,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        let (snapshots, meta, state) = (Arc::clone(&self.snapshots), self.meta.clone(), Arc::clone(&self.state));
        let built = blocking(move || snapshots.build(&meta, &state)).await;
        let snapshot = built.inspect_err(|error| raise(&self.fatal, "snapshot", error))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn raise(fatal: &Fatal, what: &'static str, error: &io::Error) {
    let error = io::Error::new(error.kind(), error.to_string());
    fatal.raise(FatalReason::MetaWrite { what, error });
}
