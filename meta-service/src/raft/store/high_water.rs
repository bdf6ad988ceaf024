//! A tiny file beside the log that says how far it had been synced. RocksDB's recovery drops everything after the
//! first bad record without a word: right for a torn tail, amnesia for bit rot or a restored volume. A log that opens
//! behind this file must not vote.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::durable_file;

/// Rewritten at most so often.
pub(super) const REWRITE_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub raft_id: u64,
    /// Term of the last synced vote.
    pub term: u64,
    /// Number of entries the log had, purged ones included: the last synced index + 1.
    pub next_index: u64,
}

#[derive(Debug)]
pub(super) struct HighWater {
    path: PathBuf,
    mark: Mark,
    written: Mark,
    written_at: Instant,
    generation: Generation,
}

/// Raised by each truncation, so that a sync that was asked for before it cannot raise the mark after it. Read without
/// the mark's lock, which is held while the file is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Generation(Arc<AtomicU64>);

impl Generation {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl HighWater {
    pub(super) fn read(path: &Path) -> io::Result<Option<Mark>> {
        let Some(bytes) = durable_file::read(path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// `mark` is what the opened log has, and what the file holds or is behind of.
    pub(super) fn new(path: PathBuf, mark: Mark) -> Self {
        let written = Mark { raft_id: mark.raft_id, ..Mark::default() };
        Self { path, mark, written, written_at: Instant::now(), generation: Generation::default() }
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation.clone()
    }

    pub(super) fn entries_synced(&mut self, next_index: u64, generation: u64) {
        if generation == self.generation.get() {
            self.mark.next_index = self.mark.next_index.max(next_index);
        }
    }

    pub(super) fn vote_synced(&mut self, term: u64) {
        self.mark.term = self.mark.term.max(term);
    }

    /// How long until the file wants to be written; `None` when it is up to date.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        (self.mark != self.written).then(|| (self.written_at + REWRITE_EVERY).saturating_duration_since(now))
    }

    pub(super) fn write(&mut self, now: Instant) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.mark).map_err(io::Error::other)?;
        durable_file::replace(&self.path, &bytes)?;
        self.written = self.mark;
        self.written_at = now;
        Ok(())
    }

    /// Before entries are taken off the end of the log: the file must never be ahead of a healthy log.
    pub(super) fn lower(&mut self, next_index: u64) -> io::Result<()> {
        self.generation.raise();
        if self.mark.next_index > next_index {
            self.mark.next_index = next_index;
        }
        if self.written.next_index > next_index { self.write(Instant::now()) } else { Ok(()) }
    }
}
