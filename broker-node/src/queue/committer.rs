//! The one thread that writes: takes all that waits, applies it to the state, writes one batch, syncs once, and only
//! then shows the new heads and answers.
//!
//! ```text
//! inbox ──► Turn::apply … ──► store.write(batch, sync) ──► heads, watchers, dead records ──► tickets, answers
//!                                     └─ error ──► everybody is told ──► close, open, read back
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use api_types::Incarnation;
use tracing::{error, info, warn};

use super::load::Loaded;
use super::op::{Call, CallError, Op, Taken, TicketError};
use super::reclaim::Reclaim;
use super::reserve::Blocks;
use super::rows::{self, MetaKey};
use super::state::{Phase, Queue, State};
use super::store::{Batch, Dead, StoreError, format};
use super::turn::{Group, Turn};
use super::{Shared, lock};

const TICK: Duration = Duration::from_secs(1);
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MAX: Duration = Duration::from_secs(5);
/// Passed bytes of one queue after which its files are looked at.
const RECLAIM_BYTES: u64 = 64 << 20;
/// How often the files are compared with what is alive, in ticks.
const COMPARE_TICKS: u64 = 30;
/// Dead bytes that are not worth a compaction of everything.
const DEAD_BYTES_SPARED: u64 = 256 << 20;

pub(super) struct Committer {
    shared: Arc<Shared>,
    reclaim: SyncSender<Reclaim>,
    /// Queues whose space is asked for at the next tick: the reclaim thread has enough to do, or what the space held is
    /// not known to be passed on disk yet.
    postponed: BTreeMap<Incarnation, Reclaim>,
    /// Queues that changed without a sync: their passed records may go once the next tick has synced.
    unsynced: BTreeSet<Incarnation>,
    last_tick: Instant,
    ticks: u64,
    /// The queue where expiry goes on in the next group; none when it is done until the next tick.
    expire_from: Option<Incarnation>,
}

impl Committer {
    pub fn new(shared: Arc<Shared>, reclaim: SyncSender<Reclaim>) -> Self {
        let (postponed, unsynced) = Default::default();
        Self { shared, reclaim, postponed, unsynced, last_tick: Instant::now(), ticks: 0, expire_from: None }
    }

    pub fn run(mut self) {
        let _gone = Gone(self.shared.clone());
        loop {
            let patience = match self.expire_from {
                Some(_) => Duration::ZERO,
                None => TICK.saturating_sub(self.last_tick.elapsed()),
            };
            let result = match self.shared.inbox.take(patience) {
                Taken::Closed => break,
                Taken::Ops(ops) if ops.is_empty() => Ok(()),
                Taken::Ops(ops) => self.group(ops),
            };
            let result = match result {
                Ok(()) if self.last_tick.elapsed() >= TICK => self.tick(),
                Ok(()) if self.expire_from.is_some() => self.expire(),
                other => other,
            };
            if let Err(error) = result
                && !self.reopen(&error)
            {
                break;
            }
        }
        if let Err(error) = self.shared.store.write(Batch::default(), self.shared.settings.sync()) {
            warn!(error = &error as &dyn std::error::Error, "last sync of the queues failed");
        }
        self.shared.store.close();
    }

    fn group(&mut self, ops: Vec<Op>) -> Result<(), StoreError> {
        self.shared.sample_disk();
        let records: usize = ops
            .iter()
            .map(|op| match op {
                Op::Append(append) => append.entries.len(),
                Op::Call(..) => 0,
            })
            .sum();
        let shared = self.shared.clone();
        let mut group = Group::default();
        let reserved = self.reserve(&ops, records as u64);
        let applied = {
            let mut state = lock(&shared.state);
            group.number = state.group_written + 1;
            let mut waiting = ops.into_iter();
            let applied = reserved.and_then(|blocks| {
                state.blocks = blocks;
                Self::apply(&shared, &mut state, &mut group, &mut waiting)
            });
            if let Err(error) = &applied {
                state.fail(error);
                refuse(&mut state, waiting);
            }
            applied
        };
        let written = applied.and_then(|()| self.write(&mut group));
        match written {
            Ok(()) => {
                self.publish(group);
                Ok(())
            }
            Err(error) => {
                shared.sample_disk();
                let failure = {
                    let mut state = lock(&shared.state);
                    state.fail(&error);
                    failure(&state)
                };
                let message = error.to_string();
                // Whoever does not wait for an answer any more does not need one; so below.
                for ticket in group.tickets {
                    let _ = ticket.send(Err(failure));
                }
                for (answer, _) in group.answers {
                    let _ = answer.send(Err(CallError::Failed(message.clone())));
                }
                Err(error)
            }
        }
    }

    /// Sequences for all of a group. Outside of the state's lock, for it waits for the disk: only this thread changes
    /// the blocks. A new identity, and a new beginning, hold for the whole group they come in.
    fn reserve(&self, ops: &[Op], records: u64) -> Result<Blocks, StoreError> {
        let shared = &self.shared;
        let mut blocks = lock(&shared.state).blocks.clone();
        for op in ops {
            if let Op::Call(Call::Adopt { raft_id }, _) = op {
                shared.reserve_block(&mut blocks, *raft_id, true)?;
                shared.set_raft_id(*raft_id);
            }
            if let Op::Call(Call::BeginAt { first }, _) = op {
                blocks.skip_to(first.0);
                shared.reserve_block(&mut blocks, shared.raft_id(), true)?;
            }
        }
        while blocks.left() < records {
            shared.reserve_block(&mut blocks, shared.raft_id(), false)?;
        }
        Ok(blocks)
    }

    fn apply(
        shared: &Shared,
        state: &mut State,
        group: &mut Group,
        ops: &mut impl Iterator<Item = Op>,
    ) -> Result<(), StoreError> {
        for op in ops {
            Turn { shared, state, group }.apply(op)?;
        }
        Turn { shared, state, group }.finish()
    }

    fn write(&self, group: &mut Group) -> Result<(), StoreError> {
        let sync = group.sync && self.shared.settings.sync();
        let start = Instant::now();
        self.shared.store.write(std::mem::take(&mut group.batch), sync)?;
        if sync {
            self.shared.settings.sync_seconds.observe(start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The group is on disk (or as near to it as it asked for): now the world may know.
    fn publish(&mut self, group: Group) {
        let shared = self.shared.clone();
        let mut woken: Vec<Incarnation> = Vec::new();
        let mut reclaim = Vec::new();
        {
            let mut state = lock(&shared.state);
            state.group_written = group.number;
            if group.sync {
                state.group_synced = group.number;
                state.letters_synced = state.letters.next;
            }
            for (incarnation, head) in &group.heads {
                let Some(queue) = state.queues.get_mut(incarnation) else { continue };
                queue.head.send_replace(*head);
                // `armed` is set under this lock by whoever answered "nothing up to the head": no wake-up is lost.
                if std::mem::take(&mut queue.armed) || group.was_empty.contains(incarnation) {
                    woken.push(*incarnation);
                }
            }
            if group.sync {
                let changed = group.deleted.iter().chain(&group.dirty).copied();
                if shared.settings.sync() {
                    shared.store.set_dead(dead(&state, changed));
                } else {
                    self.unsynced.extend(changed);
                }
                for incarnation in &group.dirty {
                    if let Some(queue) = state.queues.get_mut(incarnation)
                        && queue.passed_bytes >= RECLAIM_BYTES
                    {
                        queue.passed_bytes = 0;
                        reclaim.push(Reclaim::Files(*incarnation, queue.dead().below));
                    }
                }
            }
        }
        reclaim.extend(group.deleted.iter().map(|incarnation| Reclaim::Gone(*incarnation)));
        reclaim.extend(group.squeezed.iter().map(|incarnation| Reclaim::Queue(*incarnation)));
        reclaim.into_iter().for_each(|reclaim| self.reclaim(reclaim));
        shared.hub.wake(&woken);
        for ticket in group.tickets {
            let _ = ticket.send(Ok(()));
        }
        for (answer, result) in group.answers {
            let _ = answer.send(result);
        }
        if group.letters_dirty {
            shared.letters_added.notify_waiters();
        }
    }

    pub fn reclaim(&mut self, reclaim: Reclaim) {
        if matches!(reclaim, Reclaim::Queue(_) | Reclaim::Gone(_)) {
            self.shared.squeezing.fetch_add(1, Ordering::SeqCst);
        }
        if self.shared.settings.sync() { self.hand_over(reclaim) } else { self.postpone(reclaim) }
    }

    /// Never waits: a compaction may take longer than a publisher has patience.
    fn hand_over(&mut self, reclaim: Reclaim) {
        match self.reclaim.try_send(reclaim) {
            Ok(()) => {}
            Err(TrySendError::Full(reclaim)) => self.postpone(reclaim),
            Err(TrySendError::Disconnected(Reclaim::Queue(_) | Reclaim::Gone(_))) => self.squeezed(),
            Err(TrySendError::Disconnected(Reclaim::Files(..) | Reclaim::Everything)) => {}
        }
    }

    /// One request per queue waits; the compaction of a queue also removes its files.
    fn postpone(&mut self, reclaim: Reclaim) {
        let incarnation = match reclaim {
            Reclaim::Files(incarnation, _) | Reclaim::Queue(incarnation) | Reclaim::Gone(incarnation) => incarnation,
            // The files are compared again.
            Reclaim::Everything => return,
        };
        match (self.postponed.get(&incarnation), &reclaim) {
            (Some(Reclaim::Queue(_) | Reclaim::Gone(_)), Reclaim::Queue(_))
            | (Some(Reclaim::Gone(_)), Reclaim::Gone(_)) => {
                self.squeezed();
            }
            (Some(Reclaim::Queue(_)), Reclaim::Gone(_)) => {
                self.postponed.insert(incarnation, reclaim);
                self.squeezed();
            }
            (Some(Reclaim::Queue(_) | Reclaim::Gone(_)), Reclaim::Files(..) | Reclaim::Everything) => {}
            (None | Some(Reclaim::Files(..) | Reclaim::Everything), _) => {
                self.postponed.insert(incarnation, reclaim);
            }
        }
    }

    fn squeezed(&self) {
        self.shared.squeezing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives back what is passed. With `queue.fsync = off` that is known only after a sync: a position that a power cut
    /// takes back must find its records.
    pub fn give_back(&mut self) -> Result<(), StoreError> {
        let unsynced = std::mem::take(&mut self.unsynced);
        let wanted = !unsynced.is_empty() || !self.postponed.is_empty();
        if wanted && !self.shared.settings.sync() {
            self.shared.store.write(Batch::default(), true)?;
        }
        if !unsynced.is_empty() {
            let dead = dead(&lock(&self.shared.state), unsynced);
            self.shared.store.set_dead(dead);
        }
        for reclaim in std::mem::take(&mut self.postponed).into_values() {
            self.hand_over(reclaim);
        }
        Ok(())
    }

    /// What needs a clock and nobody asks for: ages, the open clock, orphans, files.
    fn tick(&mut self) -> Result<(), StoreError> {
        self.last_tick = Instant::now();
        self.ticks += 1;
        self.shared.sample_disk();
        self.shared.delete_orphans();
        let shared = self.shared.clone();
        let mut group = Group::default();
        let alive = {
            let mut state = lock(&shared.state);
            group.number = state.group_written + 1;
            let open_ms = rows::encode(&shared.open_ms()).map_err(format("the clock"))?;
            group.batch.put_meta(MetaKey::Clock, open_ms);
            let mut turn = Turn { shared: &shared, state: &mut state, group: &mut group };
            self.expire_from = turn.expire_some(self.expire_from)?;
            turn.trim_letters()?;
            turn.finish()?;
            state.bytes + state.letters.bytes
        };
        self.write(&mut group)?;
        self.publish(group);
        self.give_back()?;
        if self.ticks.is_multiple_of(COMPARE_TICKS) && shared.store.file_bytes()? > 2 * alive + DEAD_BYTES_SPARED {
            self.reclaim(Reclaim::Everything);
        }
        Ok(())
    }

    /// What one turn of expiry left, between the groups of others.
    fn expire(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut group = Group::default();
        {
            let mut state = lock(&shared.state);
            group.number = state.group_written + 1;
            let mut turn = Turn { shared: &shared, state: &mut state, group: &mut group };
            self.expire_from = turn.expire_some(self.expire_from)?;
            turn.finish()?;
        }
        self.write(&mut group)?;
        self.publish(group);
        Ok(())
    }

    /// Until the store takes writes again. False when the queues were closed meanwhile.
    fn reopen(&mut self, cause: &StoreError) -> bool {
        error!(error = cause as &dyn std::error::Error, "queue write failed, the store is opened again");
        lock(&self.shared.state).fail(cause);
        let mut pause = REOPEN_FIRST;
        loop {
            self.shared.store.close();
            self.shared.sample_disk();
            match self.try_open() {
                Ok(()) => break,
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "queue store not opened");
                    lock(&self.shared.state).fail(&error);
                }
            }
            let until = Instant::now() + pause;
            while let Some(patience) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                match self.shared.inbox.take(patience) {
                    Taken::Closed => return false,
                    Taken::Ops(ops) => refuse(&mut lock(&self.shared.state), ops),
                }
            }
            pause = (pause * 2).min(REOPEN_MAX);
        }
        info!("queue store opened again");
        self.shared.reconcile_again();
        let waiting: Vec<Incarnation> = lock(&self.shared.state).queues.keys().copied().collect();
        self.shared.hub.wake(&waiting);
        self.shared.letters_added.notify_waiters();
        true
    }

    fn try_open(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let loaded = shared.open_store()?;
        let mut state = lock(&shared.state);
        loaded.install(&mut state);
        state.phase = Phase::Open;
        Ok(())
    }
}

/// However the committer ends, nobody waits for it afterwards.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        lock(&self.0.state).phase = Phase::Closed;
        self.0.inbox.abandon();
        self.0.hub.close();
    }
}

impl Shared {
    /// Opens the store, reads it and begins a fresh block: a synced write, so this also proves that the disk takes
    /// writes again.
    pub(super) fn open_store(&self) -> Result<Loaded, StoreError> {
        self.store.open()?;
        let mut loaded = Loaded::read(&self.store, &self.reserved_file)?;
        self.reserve_block(&mut loaded.blocks, self.raft_id(), true)?;
        self.set_open_base(loaded.open_ms);
        self.store.set_dead(loaded.queues.iter().map(|(incarnation, queue)| (*incarnation, Some(queue.dead()))));
        Ok(loaded)
    }
}

/// What those are told whose messages met a store that failed.
fn failure(state: &State) -> TicketError {
    if state.lacks_room { TicketError::DiskFull } else { TicketError::Failed }
}

fn refuse(state: &mut State, ops: impl IntoIterator<Item = Op>) {
    let failure = failure(state);
    for op in ops {
        match op {
            Op::Append(append) => {
                state.release(&append.reserved);
                let _ = append.done.send(Err(failure));
            }
            Op::Call(_, answer) => {
                let _ = answer.send(Err(CallError::Failed("the store is being opened".to_owned())));
            }
        }
    }
}

fn dead(state: &State, queues: impl IntoIterator<Item = Incarnation>) -> Vec<(Incarnation, Option<Dead>)> {
    queues.into_iter().map(|incarnation| (incarnation, state.queues.get(&incarnation).map(Queue::dead))).collect()
}
