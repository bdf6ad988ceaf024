//! From messages to a ticket, without waiting: encode, check the bounds, reserve, hand over.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api_types::connector::WhenFull;
use api_types::{Incarnation, Message};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::op::{Append, Entry, Op, TicketError};
use super::rows::{self, Appended, StoredRecordRef, stored_bytes};
use super::state::{Phase, State};
use super::target::QueueTarget;
use super::{Queues, Shared, lock};
use crate::catalogue::Catalogue;

/// One message to be queued for every connector that matches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    pub message: Message,
}

/// Nothing of the submission was queued, for any connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    /// A connector that blocks is at its bound, or the node is and nothing may be dropped.
    #[error("a connector queue is full")]
    QueueFull,
    /// The disk is at its reserve and nothing may be dropped; or a write failed for want of room.
    #[error("the disk of the queues is full")]
    DiskFull,
    /// A write failed; the store is being opened again.
    #[error("the queue store failed")]
    Failed,
    #[error("the queues are closed")]
    Closed,
}

/// Completes once all of the submission is on disk. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Ticket {
    /// `None`: no connector wanted anything.
    synced: Option<oneshot::Receiver<Result<(), TicketError>>>,
}

impl Future for Ticket {
    type Output = Result<(), TicketError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.synced {
            None => Poll::Ready(Ok(())),
            Some(synced) => Pin::new(synced).poll(context).map(|result| result.unwrap_or(Err(TicketError::Closed))),
        }
    }
}

impl Queues {
    /// All or nothing: one connector that blocks and is full refuses everything. Never waits.
    pub fn submit(&self, submissions: Vec<Submission>, catalogue: &Catalogue) -> Result<Ticket, SubmitRefusal> {
        let shared = &*self.shared;
        let collected = Collected::collect(shared, &submissions, catalogue)?;
        if collected.entries.is_empty() {
            return Ok(Ticket { synced: None });
        }
        let Collected { entries, targets, bytes, .. } = collected;
        let reserved: Vec<(Incarnation, u64)> =
            targets.iter().zip(bytes).map(|(target, bytes)| (target.incarnation, bytes)).collect();
        {
            let mut state = lock(&shared.state);
            admit(shared, &state, &targets, &reserved)?;
            for (incarnation, bytes) in &reserved {
                *state.reserved.entry(*incarnation).or_default() += bytes;
                state.reserved_bytes += bytes;
            }
        }
        let (done, synced) = oneshot::channel();
        match shared.inbox.push(Op::Append(Append { entries, targets, reserved, done })) {
            Ok(()) => Ok(Ticket { synced: Some(synced) }),
            Err(Op::Append(append)) => {
                lock(&shared.state).release(&append.reserved);
                Err(SubmitRefusal::Closed)
            }
            Err(Op::Call(..)) => Err(SubmitRefusal::Closed),
        }
    }
}

/// A submission, encoded once per message and counted once per connector; made outside the lock.
#[derive(Default)]
struct Collected {
    entries: Vec<Entry>,
    targets: Vec<Arc<QueueTarget>>,
    bytes: Vec<u64>,
    index: HashMap<Incarnation, u32>,
}

impl Collected {
    fn collect(shared: &Shared, submissions: &[Submission], catalogue: &Catalogue) -> Result<Self, SubmitRefusal> {
        let mut collected = Self::default();
        let appended = Appended { wall_ms: shared.clock.wall_ms(), open_ms: shared.open_ms() };
        // One piece of memory for all values: they are written together and let go together.
        let mut values = Vec::new();
        let mut ends = Vec::new();
        // A device publishes one topic many times.
        let mut last: Option<(&str, Arc<[u32]>)> = None;
        for Submission { message } in submissions {
            let wanted_by = match &last {
                Some((topic, wanted_by)) if *topic == message.topic && message.dead_letter_of.is_empty() => {
                    wanted_by.clone()
                }
                _ => collected.wanted_by(message, catalogue),
            };
            last = message.dead_letter_of.is_empty().then(|| (message.topic.as_str(), wanted_by.clone()));
            if wanted_by.is_empty() {
                continue;
            }
            if ends.is_empty() {
                values.reserve(submissions.iter().map(|one| one.message.size_bytes()).sum());
                ends.reserve(submissions.len());
            }
            let start = values.len();
            values = rows::encode_after(values, &StoredRecordRef { appended, message })
                .map_err(|_| SubmitRefusal::Failed)?;
            for index in &*wanted_by {
                if let Some(bytes) = collected.bytes.get_mut(*index as usize) {
                    *bytes += stored_bytes(&values[start..]);
                }
            }
            ends.push((values.len(), wanted_by));
        }
        let mut values = Bytes::from(values);
        let mut start = 0;
        for (end, wanted_by) in ends {
            collected.entries.push(Entry { value: values.split_to(end - start), wanted_by });
            start = end;
        }
        Ok(collected)
    }

    fn wanted_by(&mut self, message: &Message, catalogue: &Catalogue) -> Arc<[u32]> {
        let mut wanted_by = Vec::new();
        catalogue.targets(&message.topic, |target| {
            // A letter never goes back to a connector it came from.
            if !message.dead_letter_of.contains(&target.incarnation) {
                wanted_by.push(self.index_of(target));
            }
        });
        wanted_by.into()
    }

    fn index_of(&mut self, target: &Arc<QueueTarget>) -> u32 {
        let (targets, bytes) = (&mut self.targets, &mut self.bytes);
        *self.index.entry(target.incarnation).or_insert_with(|| {
            targets.push(target.clone());
            bytes.push(0);
            u32::try_from(targets.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

fn admit(
    shared: &Shared,
    state: &State,
    targets: &[Arc<QueueTarget>],
    reserved: &[(Incarnation, u64)],
) -> Result<(), SubmitRefusal> {
    match state.phase {
        Phase::Open => {}
        Phase::Failed if state.lacks_room => return Err(SubmitRefusal::DiskFull),
        Phase::Failed => return Err(SubmitRefusal::Failed),
        Phase::Closed => return Err(SubmitRefusal::Closed),
    }
    let bytes: u64 = reserved.iter().map(|(_, bytes)| bytes).sum();
    // The first submission is let in whatever its size, so that one large read cannot be refused for ever.
    if state.reserved_bytes > 0 && state.reserved_bytes + bytes > shared.settings.submit_bytes_max {
        return Err(SubmitRefusal::QueueFull);
    }
    for (target, (incarnation, bytes)) in targets.iter().zip(reserved) {
        let queued = state.queues.get(incarnation).map_or(0, |queue| queue.row.bytes);
        let held = queued + state.reserved.get(incarnation).copied().unwrap_or_default();
        let full = held > 0 && held + bytes > target.bounds.bytes_max;
        if full && target.bounds.when_full == WhenFull::Block {
            return Err(SubmitRefusal::QueueFull);
        }
    }
    let bytes = bytes + state.reserved_bytes;
    let over_total =
        shared.settings.total_bytes_max.map_or(0, |bytes_max| (state.bytes + bytes).saturating_sub(bytes_max));
    if over_total > 0 && state.droppable_bytes() < over_total {
        return Err(SubmitRefusal::QueueFull);
    }
    if shared.disk_is_full(state, bytes) { Err(SubmitRefusal::DiskFull) } else { Ok(()) }
}
