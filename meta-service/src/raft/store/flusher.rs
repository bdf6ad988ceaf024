//! Group commit: one thread syncs the WAL for everybody who waits.
//!
//! ```text
//! append, save_vote ─► queue ─► take all ─► one sync ─► answer all, newest first ─► high-water file, once a second
//! ```

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::oneshot;

use super::super::types::Types;
use super::database::Database;
use super::high_water::HighWater;
use crate::fatal::{Fatal, FatalReason};

/// Appends that wait for a sync; Raft's own queues are shorter, so this is never what holds it up.
const WAITING_MAX: usize = 65_536;

/// Somebody who waits for all writes made before this was sent to be durable.
pub(super) enum Waiter {
    Append { next_index: u64, generation: u64, flushed: IOFlushed<Types> },
    Vote { term: u64, synced: oneshot::Sender<io::Result<()>> },
}

impl Waiter {
    fn answer(self, outcome: Result<(), &io::Error>) {
        let outcome = outcome.map_err(|error| io::Error::new(error.kind(), error.to_string()));
        match self {
            Self::Append { flushed, .. } => flushed.io_completed(outcome),
            // A vote that nobody waits for any more: Raft is shutting down.
            Self::Vote { synced, .. } => drop(synced.send(outcome)),
        }
    }
}

pub(super) struct Flusher {
    queue: SyncSender<Waiter>,
}

impl Flusher {
    /// The thread ends when the last `Flusher` is gone.
    pub(super) fn start(database: Arc<Database>, high_water: Arc<Mutex<HighWater>>, fatal: Fatal) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(WAITING_MAX);
        let work = Work { database, high_water, fatal, waiting };
        thread::Builder::new().name("raft-flusher".to_owned()).spawn(move || work.run())?;
        Ok(Self { queue })
    }

    pub(super) fn wait_for_sync(&self, waiter: Waiter) -> io::Result<()> {
        self.queue.send(waiter).map_err(|_| io::Error::other("the flusher of the raft log has stopped"))
    }
}

struct Work {
    database: Arc<Database>,
    high_water: Arc<Mutex<HighWater>>,
    fatal: Fatal,
    waiting: Receiver<Waiter>,
}

impl Work {
    fn run(self) {
        loop {
            let due_in = self.high_water().due_in(Instant::now());
            let first = match due_in {
                None => self.waiting.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due_in) => self.waiting.recv_timeout(due_in),
            };
            let more = match first {
                Ok(waiter) => self.sync_for(waiter),
                Err(RecvTimeoutError::Timeout) => self.write_high_water(),
                Err(RecvTimeoutError::Disconnected) => {
                    // The last chance to say how far the log had come; without it the check is only less sharp.
                    if self.high_water().due_in(Instant::now()).is_some() {
                        self.write_high_water();
                    }
                    false
                }
            };
            if !more {
                return;
            }
        }
    }

    fn sync_for(&self, first: Waiter) -> bool {
        let waiters: Vec<Waiter> = std::iter::once(first).chain(self.waiting.try_iter()).collect();
        if let Err(error) = self.database.sync() {
            // The state of the WAL is unknown from here on: nothing more may be acknowledged by this process.
            for waiter in waiters {
                waiter.answer(Err(&error));
            }
            self.fatal.raise(FatalReason::MetaWrite { what: "sync of the raft log", error });
            return false;
        }
        let mut high_water = self.high_water();
        for waiter in &waiters {
            match waiter {
                Waiter::Append { next_index, generation, .. } => high_water.entries_synced(*next_index, *generation),
                Waiter::Vote { term, .. } => high_water.vote_synced(*term),
            }
        }
        let due = high_water.due_in(Instant::now()).is_some_and(|due_in| due_in.is_zero());
        drop(high_water);
        // The newest first: it covers the others, which then wake nobody. Openraft forwards each one that is newer than
        // the last by a timer when they come at once, and a timer's shortest time is a millisecond.
        for waiter in waiters.into_iter().rev() {
            waiter.answer(Ok(()));
        }
        !due || self.write_high_water()
    }

    fn write_high_water(&self) -> bool {
        let written = self.high_water().write(Instant::now());
        written.map_err(|error| self.fatal.raise(FatalReason::MetaWrite { what: "high-water file", error })).is_ok()
    }

    fn high_water(&self) -> std::sync::MutexGuard<'_, HighWater> {
        self.high_water.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
