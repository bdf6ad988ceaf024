//! What the owner of a connector may ask of its queue on this node, wherever the owner runs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use api_types::{Epoch, Incarnation, Record, RecordId, Sequence};
use connector_runtime::source::{BatchLimits, Commit, End, Fetched, SealedBatch};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, warn};

use super::letters::{LetterContext, build_letter};
use super::op::{Answer, Call, CallError, CommitCall, Lost, Part, Piece, Seal, SealFront};
use super::rows::{self, SealedRow, StoredRecord, count, stored_bytes};
use super::state::Phase;
use super::store::StoreError;
use super::{Queues, Shared, lock};

/// Counted under this reason when a record that is a dead letter would have become one again.
const DEAD_LETTER_LOOP: &str = "dead_letter_loop";
/// A queue asks for no more than this at once, whatever the limits say: the answer is one RPC body.
const FETCH_BYTES_MAX: u64 = 32 << 20;

/// Batches that a full queue dropped as a whole between their read and their bounds; then both are one step.
const LOST_RACES_MAX: u32 = 2;

impl Queues {
    pub async fn open_queue(&self, incarnation: Incarnation, epoch: Epoch) -> Result<Sequence, CallError> {
        self.raise(incarnation, epoch).await?;
        let state = lock(&self.shared.state);
        state.queues.get(&incarnation).map(|queue| queue.row.position).ok_or(CallError::Gone)
    }

    pub async fn fetch(
        &self,
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        limits: BatchLimits,
    ) -> Result<Fetched, CallError> {
        self.raise(incarnation, epoch).await?;
        let (mut missing, mut lost_races) = (None, 0);
        loop {
            match self.look(incarnation, epoch, from, limits.sync_bounds)? {
                Look::Empty { head } => return Ok(Fetched::Empty { head }),
                Look::Barrier => {
                    self.shared.call(Call::Barrier { sync: limits.sync_bounds }).await?;
                }
                Look::Sealed(row) => {
                    let records = self.read_sealed(incarnation, epoch, from, row).await?;
                    return Ok(Fetched::Batch(SealedBatch { from, to: row.to, records }));
                }
                Look::Unsealed { first, head } => {
                    if lost_races >= LOST_RACES_MAX {
                        lost_races = 0;
                        let front = SealFront {
                            incarnation,
                            epoch,
                            from,
                            records_max: u64::from(limits.records_max),
                            bytes_max: limits.bytes_max.min(FETCH_BYTES_MAX),
                            sync: limits.sync_bounds,
                        };
                        self.shared.call(Call::SealFront(front)).await?;
                        continue;
                    }
                    let mut gathered = self.gather(incarnation, first, head, limits).await?;
                    if gathered.is_empty() {
                        // They were dropped meanwhile, and the next look shows it; or they are missing.
                        if missing.replace((first, head)) == Some((first, head)) {
                            self.shared.call(Call::Skip { incarnation, epoch, first, head }).await?;
                        }
                        continue;
                    }
                    let to = gathered.next;
                    let seal = gathered.seal(incarnation, epoch, from, first, limits.sync_bounds);
                    match self.shared.call(Call::Seal(seal)).await? {
                        Answer::Sealed { cut } => {
                            gathered.records.drain(..cut.min(gathered.records.len()));
                            return Ok(Fetched::Batch(SealedBatch { from, to, records: gathered.records }));
                        }
                        Answer::Done | Answer::Retry => lost_races += 1,
                    }
                }
            }
        }
    }

    pub async fn split(
        &self,
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        at: Sequence,
    ) -> Result<(), CallError> {
        let first = {
            let state = lock(&self.shared.state);
            let queue = state.queues.get(&incarnation).ok_or(CallError::Gone)?;
            queue.sealed.get(&from).ok_or(CallError::Moved)?.row.first
        };
        let (records, bytes) = self.shared.read(move |shared| shared.measure(incarnation, first, at)).await?;
        let call = Call::Split { incarnation, epoch, from, at, records, bytes };
        self.shared.call(call).await.map(|_| ())
    }

    pub async fn commit(&self, incarnation: Incarnation, epoch: Epoch, commit: Commit) -> Result<(), CallError> {
        // The copies of a sealed batch do not change, so the letters can be made before the turn of the commit.
        let inside = lock(&self.shared.state).queues.get(&incarnation).and_then(|queue| queue.batch_around(commit.to));
        let call = if commit.ends.is_empty() && inside.is_none() {
            prepare(&self.shared, incarnation, epoch, commit, None)?
        } else {
            self.shared.read(move |shared| prepare(shared, incarnation, epoch, commit, inside)).await?
        };
        self.shared.call(Call::Commit(Box::new(call))).await.map(|_| ())
    }

    async fn raise(&self, incarnation: Incarnation, epoch: Epoch) -> Result<(), CallError> {
        let known = {
            let state = lock(&self.shared.state);
            let queue = state.queues.get(&incarnation).ok_or_else(|| absent(state.phase))?;
            if epoch < state.floor(incarnation, self.shared.replica_epoch(incarnation)) {
                return Err(CallError::Fenced);
            }
            queue.row.epoch >= epoch
        };
        if known { Ok(()) } else { self.shared.call(Call::Raise { incarnation, epoch }).await.map(|_| ()) }
    }

    fn look(
        &self,
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        sync_bounds: bool,
    ) -> Result<Look, CallError> {
        let mut state = lock(&self.shared.state);
        if epoch < state.floor(incarnation, self.shared.replica_epoch(incarnation)) {
            return Err(CallError::Fenced);
        }
        let (phase, written, synced) = (state.phase, state.group_written, state.group_synced);
        let queue = state.queues.get_mut(&incarnation).ok_or_else(|| absent(phase))?;
        if let Some(sealed) = queue.sealed.get(&from) {
            let there = sealed.group <= if sync_bounds { synced } else { written };
            return Ok(if there { Look::Sealed(sealed.row) } else { Look::Barrier });
        }
        if queue.sealed_end() != from {
            return Err(CallError::Moved);
        }
        let (first, head) = (queue.row.unsealed_from, queue.head());
        if first < head {
            return Ok(Look::Unsealed { first, head });
        }
        // Under the lock that shows new heads: whoever appends next sees that somebody waits.
        queue.armed = true;
        Ok(Look::Empty { head })
    }

    /// Collects records until a limit is reached, or the linger is over and something is there.
    async fn gather(
        &self,
        incarnation: Incarnation,
        first: Sequence,
        mut head: Sequence,
        limits: BatchLimits,
    ) -> Result<Gathered, CallError> {
        let mut heads = self.heads(incarnation)?;
        let mut gathered = Gathered::new(&self.shared, first);
        let mut deadline = None;
        loop {
            gathered = self.shared.read(move |shared| gathered.extend(shared, incarnation, head, limits)).await?;
            let until = *deadline.get_or_insert_with(|| Instant::now() + gathered.patience(limits.linger));
            if gathered.full || Instant::now() >= until {
                return Ok(gathered);
            }
            match tokio::time::timeout_at(until, heads.wait_for(|now| *now > head)).await {
                Ok(Ok(now)) => head = *now,
                // The queue was deleted.
                Ok(Err(_)) => return Err(CallError::Gone),
                Err(_) => return Ok(gathered),
            }
        }
    }

    fn heads(&self, incarnation: Incarnation) -> Result<watch::Receiver<Sequence>, CallError> {
        let state = lock(&self.shared.state);
        state.queues.get(&incarnation).map(|queue| queue.head.subscribe()).ok_or(CallError::Gone)
    }

    async fn read_sealed(
        &self,
        incarnation: Incarnation,
        epoch: Epoch,
        from: Sequence,
        row: SealedRow,
    ) -> Result<Vec<Record>, CallError> {
        let limits =
            BatchLimits { records_max: u32::MAX, bytes_max: u64::MAX, linger: Duration::ZERO, sync_bounds: false };
        let gathered = Gathered { whole: true, ..Gathered::new(&self.shared, row.first) };
        let gathered = self.shared.read(move |shared| gathered.extend(shared, incarnation, row.to, limits)).await?;
        // While it was read, it may have been committed and its records removed.
        match self.look(incarnation, epoch, from, false)? {
            Look::Sealed(now) if now == row => {}
            Look::Sealed(_) | Look::Unsealed { .. } | Look::Empty { .. } | Look::Barrier => {
                return Err(CallError::Moved);
            }
        }
        let records = gathered.records.len() as u64;
        if records < row.records {
            let (bytes, unreadable) = (gathered.sizes.iter().sum(), gathered.unreadable);
            let lost = Lost { incarnation, epoch, from, row, records, bytes, unreadable };
            match self.shared.call(Call::Lose(lost)).await? {
                Answer::Done | Answer::Sealed { .. } => {}
                Answer::Retry => return Err(CallError::Moved),
            }
        }
        Ok(gathered.records)
    }
}

fn absent(phase: Phase) -> CallError {
    match phase {
        Phase::Open | Phase::Failed => CallError::Gone,
        Phase::Closed => CallError::Closed,
    }
}

enum Look {
    Sealed(SealedRow),
    /// The batch is sealed, but its bounds are not as safe as asked.
    Barrier,
    Unsealed {
        first: Sequence,
        head: Sequence,
    },
    Empty {
        head: Sequence,
    },
}

/// Records read so far for one batch.
struct Gathered {
    records: Vec<Record>,
    /// Bytes of each of them.
    sizes: Vec<u64>,
    unreadable: Vec<Piece>,
    /// Of all.
    bytes: u64,
    /// Where reading goes on.
    next: Sequence,
    /// A limit is reached.
    full: bool,
    /// The bounds are fixed already: a change of identity inside cannot be.
    whole: bool,
    /// Age of the first record when it was read.
    age: Duration,
    raft_id: api_types::RaftId,
    /// The next Raft id's sequences begin here.
    run_end: Sequence,
}

impl Gathered {
    fn new(shared: &Shared, first: Sequence) -> Self {
        let (raft_id, run_end) = lock(&shared.state).blocks.run(first);
        Self {
            records: Vec::new(),
            sizes: Vec::new(),
            unreadable: Vec::new(),
            bytes: 0,
            next: first,
            full: false,
            whole: false,
            age: Duration::ZERO,
            raft_id,
            run_end,
        }
    }

    fn extend(
        mut self,
        shared: &Shared,
        incarnation: Incarnation,
        head: Sequence,
        limits: BatchLimits,
    ) -> Result<Self, StoreError> {
        let open_ms = shared.open_ms();
        let bytes_max = if self.whole { u64::MAX } else { limits.bytes_max.min(FETCH_BYTES_MAX) };
        shared.store.scan(incarnation, self.next, head, |sequence, value| {
            if self.records.is_empty() && sequence >= self.run_end {
                // The records before it were dropped: the batch begins under the later identity.
                (self.raft_id, self.run_end) = lock(&shared.state).blocks.run(sequence);
            }
            let bytes = stored_bytes(value);
            let over = !self.is_empty() && self.bytes + bytes > bytes_max;
            if over || (sequence >= self.run_end && !self.whole) {
                self.full = true;
                return Ok(ControlFlow::Break(()));
            }
            // One that cannot be read must not hold up those behind it: it ends when the batch is sealed.
            match rows::decode::<StoredRecord>(value) {
                Ok(stored) => {
                    if self.records.is_empty() {
                        self.age = Duration::from_millis(open_ms.saturating_sub(stored.appended.open_ms));
                    }
                    let id = RecordId { raft_id: self.raft_id, incarnation, sequence };
                    self.records.push(Record { id, message: stored.message });
                    self.sizes.push(bytes);
                }
                Err(error) => {
                    warn!(%incarnation, %sequence, %error, "record unreadable");
                    self.unreadable.push((sequence, bytes));
                }
            }
            self.bytes += bytes;
            self.next = sequence.next();
            let read = self.records.len() + self.unreadable.len();
            self.full = self.bytes >= bytes_max || read >= limits.records_max as usize;
            Ok(if self.full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(self)
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.unreadable.is_empty()
    }

    fn seal(&self, incarnation: Incarnation, epoch: Epoch, from: Sequence, first: Sequence, sync: bool) -> Seal {
        let sequences = self.records.iter().map(|record| record.id.sequence);
        Seal {
            incarnation,
            epoch,
            from,
            first,
            to: self.next,
            records: sequences.zip(self.sizes.iter().copied()).collect(),
            unreadable: self.unreadable.clone(),
            sync,
        }
    }

    /// What is left of the linger: the time the oldest record has waited already counts.
    fn patience(&self, linger: Duration) -> Duration {
        linger.saturating_sub(self.age)
    }
}

/// `inside`: where the batch begins that the commit ends inside of.
fn prepare(
    shared: &Shared,
    incarnation: Incarnation,
    epoch: Epoch,
    commit: Commit,
    inside: Option<Sequence>,
) -> Result<CommitCall, StoreError> {
    let part = match inside {
        Some(first) => {
            let (records, bytes) = shared.measure(incarnation, first, commit.to)?;
            Some(Part { first, records, bytes })
        }
        None => None,
    };
    let mut call = CommitCall {
        incarnation,
        epoch,
        from: commit.from,
        to: commit.to,
        discarded: BTreeMap::new(),
        dead_lettered: 0,
        unreadable: 0,
        part,
        letters: Vec::new(),
    };
    let ends: BTreeMap<Sequence, End> =
        commit.ends.into_iter().filter(|(sequence, _)| (commit.from..commit.to).contains(sequence)).collect();
    for (sequence, end) in ends {
        let Some(value) = shared.store.record(incarnation, sequence)? else { continue };
        let stored: StoredRecord = match rows::decode(&value) {
            Ok(stored) => stored,
            Err(error) => {
                error!(%incarnation, %sequence, %error, "record unreadable at its end, dropped without a letter");
                call.unreadable += 1;
                continue;
            }
        };
        let is_letter = !stored.message.dead_letter_of.is_empty();
        let words = match end {
            End::Discarded { reason, error_class, error_message, retry_times } => {
                count(&mut call.discarded, &reason, 1);
                if reason != DEAD_LETTER_LOOP {
                    continue;
                }
                (error_class, error_message, retry_times)
            }
            End::DeadLettered { error_class, error_message, retry_times } => {
                if is_letter {
                    count(&mut call.discarded, DEAD_LETTER_LOOP, 1);
                } else {
                    call.dead_lettered += 1;
                }
                (error_class, error_message, retry_times)
            }
        };
        let raft_id = lock(&shared.state).blocks.raft_id(sequence);
        let id = RecordId { raft_id, incarnation, sequence };
        let mut letter = shared.letter(incarnation, id, stored.message, words);
        letter.publish &= !is_letter;
        call.letters.push(letter);
    }
    Ok(call)
}

impl Shared {
    /// Records and bytes of `[from, to)`.
    pub(super) fn measure(
        &self,
        incarnation: Incarnation,
        from: Sequence,
        to: Sequence,
    ) -> Result<(u64, u64), StoreError> {
        let (mut records, mut bytes) = (0, 0);
        self.store.scan(incarnation, from, to, |_, value| {
            records += 1;
            bytes += stored_bytes(value);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((records, bytes))
    }

    /// The names come from this node's replica, else from what the queue remembers of the last append.
    fn letter(
        &self,
        incarnation: Incarnation,
        id: RecordId,
        message: api_types::Message,
        words: (String, String, u32),
    ) -> rows::LetterRow {
        let replica = (self.view)();
        let remembered = lock(&self.state).queues.get(&incarnation).map(|queue| queue.names.clone());
        let remembered = remembered.unwrap_or_default();
        let spec = replica.connectors.get(&incarnation).map(|connector| &connector.spec);
        let connector_name = spec.map_or(remembered.name.as_str(), |spec| spec.name.as_str());
        let topic = spec
            .and_then(|spec| spec.failure.strategy.dead_letter_topic())
            .or(remembered.dead_letter_topic.as_deref())
            .unwrap_or(api_types::failure::DEAD_LETTER_TOPIC_DEFAULT);
        let origin = |origin: &Incarnation| {
            let connector = replica.connectors.get(origin);
            connector.map_or_else(|| origin.to_string(), |connector| connector.spec.name.to_string())
        };
        let mut connectors: Vec<String> = message.dead_letter_of.iter().map(origin).collect();
        connectors.push(connector_name.to_owned());
        let context = LetterContext {
            connector_name,
            filter: spec.map_or(remembered.filter.as_str(), |spec| spec.filter.as_str()),
            topic: topic.to_owned(),
            connectors,
            stored_ms: self.clock.wall_ms(),
            open_ms: self.open_ms(),
        };
        build_letter(context, incarnation, id, message, words)
    }
}
