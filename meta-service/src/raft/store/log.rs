//! Raft's log and vote. Entries are readable when `append` returns and durable when its callback comes.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_types::{LogIndex, RaftId};
use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use super::super::types::{Entry, LogId, Types, Vote};
use super::super::wire;
use super::database::{Database, Fact};
use super::flusher::{Flusher, Waiter};
use super::high_water::{Generation, HighWater, Mark};
use super::recent::Recent;
use crate::fatal::{Fatal, FatalReason};

/// Most bytes of entries in one append request (at least one entry goes).
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Entries decoded at once on their way to the state machine.
const APPLY_CHUNK: u64 = 256;

#[derive(Clone)]
pub(crate) struct LogStore {
    database: Arc<Database>,
    bounds: Arc<Mutex<Bounds>>,
    recent: Arc<Mutex<Recent>>,
    flusher: Arc<Flusher>,
    high_water: Arc<Mutex<HighWater>>,
    generation: Generation,
    fatal: Fatal,
}

/// What the log holds, so that nobody has to look.
#[derive(Clone, Copy, Debug, Default)]
struct Bounds {
    purged: Option<LogId>,
    last: Option<LogId>,
}

/// What the log itself says of its entries. Raft tells what it found only some time after its start, and before that
/// nobody may believe that there is nothing.
pub(crate) struct Extent(Arc<Mutex<Bounds>>);

impl Extent {
    /// Whether the log has never held an entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.is_none()
    }
}

/// A log that was opened, and what it held then.
pub(crate) struct OpenedLog {
    pub store: LogStore,
    /// Last index at the opening, for `DISK_WENT_BACK`.
    pub last_index: LogIndex,
    /// Resolves when the database is closed and its directory free.
    pub closed: oneshot::Receiver<()>,
}

impl LogStore {
    /// Opens `{directory}/log` and refuses it when it is behind `{directory}/high-water.json`.
    pub(crate) fn open(directory: &Path, raft_id: RaftId, fatal: Fatal) -> Result<OpenedLog, FatalReason> {
        let unreadable = |what| move |error| FatalReason::MetaRead { what, error };
        std::fs::create_dir_all(directory).map_err(|error| FatalReason::MetaWrite { what: "folder meta", error })?;
        let high_water_path = directory.join("high-water.json");
        let expected = HighWater::read(&high_water_path).map_err(unreadable("high-water file"))?;
        let (database, closed) = Database::open(&directory.join("log")).map_err(unreadable("raft log"))?;
        let bounds = read_bounds(&database).map_err(unreadable("raft log"))?;
        let vote = read_vote(&database).map_err(unreadable("raft vote"))?;
        let found = Mark {
            raft_id: raft_id.0,
            term: vote.map_or(0, |vote: Vote| vote.leader_id.term),
            next_index: bounds.last.next_index(),
        };
        check(expected.unwrap_or(Mark { raft_id: raft_id.0, ..Mark::default() }), found)?;
        let database = Arc::new(database);
        let high_water = HighWater::new(high_water_path, found);
        let generation = high_water.generation();
        let high_water = Arc::new(Mutex::new(high_water));
        let flusher = Flusher::start(Arc::clone(&database), Arc::clone(&high_water), fatal.clone())
            .map_err(|error| FatalReason::MetaWrite { what: "flusher thread", error })?;
        let (bounds_now, flusher) = (Arc::new(Mutex::new(bounds)), Arc::new(flusher));
        let recent = Arc::default();
        let store = Self { database, bounds: bounds_now, recent, flusher, high_water, generation, fatal };
        let last_index = LogIndex(bounds.last.map_or(0, |last| last.index));
        Ok(OpenedLog { store, last_index, closed })
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent(Arc::clone(&self.bounds))
    }

    fn bounds(&self) -> MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while the file is synced: only for what must wait for that.
    pub(super) fn high_water(&self) -> MutexGuard<'_, HighWater> {
        self.high_water.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A failed write leaves the WAL in an unknown state.
    fn written(&self, what: &'static str, outcome: io::Result<()>) -> io::Result<()> {
        outcome.inspect_err(|error| {
            let error = io::Error::new(error.kind(), error.to_string());
            self.fatal.raise(FatalReason::MetaWrite { what, error });
        })
    }

    /// The entries of `first..end` that the log contains, up to `bytes_max` (at least one).
    pub(super) fn entries(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        // Below the purged index there are only tombstones.
        let first = first.max(self.bounds().purged.next_index());
        if let Some(entries) = self.recent().get(first, end, bytes_max) {
            return Ok(entries);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        self.database.scan(first, end, |index, envelope| {
            if !entries.is_empty() && bytes + envelope.len() > bytes_max {
                return Ok(false);
            }
            if let Some(previous) = entries.last()
                && previous.log_id.index + 1 != index
            {
                let hole = format!("entries between {} and {index} are missing", previous.log_id.index);
                return Err(io::Error::new(io::ErrorKind::InvalidData, hole));
            }
            bytes += envelope.len();
            entries.push(wire::decode(envelope)?);
            Ok(true)
        })?;
        Ok(entries)
    }
}

fn check(expected: Mark, found: Mark) -> Result<(), FatalReason> {
    if expected.raft_id != found.raft_id {
        return Err(FatalReason::WrongDisk { expected: RaftId(found.raft_id), found: RaftId(expected.raft_id) });
    }
    if found.next_index < expected.next_index || found.term < expected.term {
        return Err(FatalReason::LogWentBack {
            expected: LogIndex(expected.next_index.saturating_sub(1)),
            expected_term: expected.term,
            found: LogIndex(found.next_index.saturating_sub(1)),
            found_term: found.term,
        });
    }
    Ok(())
}

fn read_bounds(database: &Database) -> io::Result<Bounds> {
    let purged: Option<LogId> = match database.fact(Fact::Purged)? {
        Some(envelope) => wire::decode(&envelope)?,
        None => None,
    };
    let last = match database.last_entry()? {
        Some((_, envelope)) => Some(wire::decode::<Entry>(&envelope)?.log_id),
        None => None,
    };
    Ok(Bounds { purged, last: last.max(purged) })
}

fn read_vote(database: &Database) -> io::Result<Option<Vote>> {
    let envelope = database.fact(Fact::Vote)?;
    Ok(envelope.map(|envelope| wire::decode(&envelope)).transpose()?)
}

/// A range as `first..end`.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (first, end)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (first, end) = half_open(&range);
        self.entries(first, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.entries(start, end, APPEND_BYTES_MAX)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (first, end) = half_open(&range);
        let chunks = futures::stream::try_unfold((self.clone(), first), move |(store, first)| async move {
            let entries = store.entries(first, end.min(first.saturating_add(APPLY_CHUNK)), usize::MAX)?;
            let Some(last) = entries.last() else { return Ok(None) };
            let next = last.log_id.index + 1;
            let chunk = futures::stream::iter(entries.into_iter().map(Ok::<_, io::Error>));
            Ok::<_, io::Error>(Some((chunk, (store, next))))
        });
        Box::pin(futures::TryStreamExt::try_flatten(chunks))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        read_vote(&self.database)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let bounds = *self.bounds();
        Ok(LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let envelope = wire::encode(vote)?;
        self.written("raft vote", self.database.put_fact(Fact::Vote, &envelope))?;
        let (synced, wait) = oneshot::channel();
        self.flusher.wait_for_sync(Waiter::Vote { term: vote.leader_id.term, synced })?;
        wait.await.map_err(|_| io::Error::other("the flusher of the raft log has stopped"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let envelope = wire::encode(&committed)?;
        self.written("committed index", self.database.put_fact(Fact::Committed, &envelope))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        match self.database.fact(Fact::Committed)? {
            Some(envelope) => Ok(wire::decode(&envelope)?),
            None => Ok(None),
        }
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut envelopes = Vec::new();
        let mut appended = Vec::new();
        for entry in entries {
            envelopes.push((entry.log_id.index, wire::encode(&entry)?));
            appended.push(entry);
        }
        let last = appended.last().map(|entry| entry.log_id);
        let generation = self.generation.get();
        self.written("append to the raft log", self.database.append(&envelopes))?;
        {
            let mut recent = self.recent();
            for (entry, (_, envelope)) in appended.into_iter().zip(&envelopes) {
                recent.push(entry, envelope.len());
            }
        }
        let next_index = {
            let mut bounds = self.bounds();
            bounds.last = last.or(bounds.last);
            bounds.last.next_index()
        };
        self.flusher.wait_for_sync(Waiter::Append { next_index, generation, flushed })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let (first, end) = (last.next_index(), self.bounds().last.next_index());
        if first >= end {
            return Ok(());
        }
        self.written("high-water file", self.high_water().lower(first))?;
        self.recent().truncate(first);
        self.written("truncation of the raft log", self.database.truncate(first, end))?;
        let mut bounds = self.bounds();
        bounds.last = last.max(bounds.purged);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let Bounds { purged, last } = *self.bounds();
        let (first, end) = (purged.next_index(), (upto.index + 1).min(last.next_index()));
        let envelope = wire::encode(&Some(upto))?;
        self.written("purge of the raft log", self.database.purge(first, end, &envelope))?;
        let mut bounds = self.bounds();
        bounds.purged = Some(upto);
        bounds.last = bounds.last.max(Some(upto));
        Ok(())
    }
}
