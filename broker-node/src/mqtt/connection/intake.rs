//! The state of the publisher's side: what was submitted and is not settled, and what the session remembers of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU16;
use std::task::Poll;

use api_types::Message;
use bytestring::ByteString;
use futures::future::BoxFuture;
use futures::{FutureExt, future};
use tokio::time::Instant;

use super::ALIAS_MAX;
use crate::mqtt::budget::Share;
use crate::mqtt::ingest::{Ticket, TicketError};
use crate::mqtt::publication::Publication;
use crate::mqtt::wire::{Ack, Publish, Reason, Version};

/// Acks that may wait beside those of a full window: PUBCOMPs, and PUBRECs of repeats.
const ACKS_SPARE: usize = 1024;
/// Bytes of all topics that one client's aliases may hold.
const ALIAS_BYTES_MAX: usize = 64 << 10;

#[derive(Default)]
pub struct Intake {
    /// Submitted and not yet settled, oldest first.
    pub pending: VecDeque<Pending>,
    /// A share of the budget that reading waits for.
    pub waiting: Option<BoxFuture<'static, Option<Share>>>,
    /// The batch for which `waiting` is; without one it is for the packet that is being read.
    pub held: Option<Batch>,
    /// The share of a large packet that is being read.
    pub packet_share: Option<Share>,
    /// When a packet that holds a share must be complete.
    pub packet_until: Option<Instant>,
    /// Publishes in `pending`.
    publishes: usize,
    /// Those of QoS 0 among them.
    publishes_qos0: usize,
    /// Acks in `pending`.
    acks: usize,
    /// QoS 1 and 2 publishes that the client counts against its receive maximum.
    pub unacknowledged: usize,
    /// QoS 2 packet ids from PUBLISH to PUBREL: a PUBLISH with one of them is a repeat.
    pub received: HashSet<NonZeroU16>,
    aliases: HashMap<NonZeroU16, ByteString>,
    alias_bytes: usize,
}

/// What one read brought.
#[derive(Default)]
pub struct Batch {
    pub messages: Vec<Message>,
    pub publications: Vec<Publication>,
    pub acks: Vec<Ack>,
    pub bytes: usize,
    pub publishes: usize,
    pub publishes_qos0: usize,
    /// Publishes of each QoS, the refused ones too.
    pub received: [u64; 3],
}

pub struct Pending {
    /// `None`: nothing to wait for but those before it.
    ticket: Option<Ticket>,
    pub publications: Vec<Publication>,
    pub acks: Vec<Ack>,
    pub publishes: usize,
    publishes_qos0: usize,
    pub read_at: Instant,
    /// Returned to the budget when it is settled.
    _share: Option<Share>,
}

impl Intake {
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.held.is_none()
    }

    /// MQTT 5 clients know the window, and are refused beyond it; others are not read.
    pub fn window_is_full_with(&self, batch: &Batch, version: Version, window: NonZeroU16) -> bool {
        let window = usize::from(window.get());
        if self.acks + batch.acks.len() >= 2 * window + ACKS_SPARE {
            return true;
        }
        match version {
            Version::V31 | Version::V311 => self.publishes + batch.publishes >= window,
            Version::V5 => self.publishes_qos0 + batch.publishes_qos0 >= window,
        }
    }

    pub fn push(&mut self, batch: Batch, ticket: Option<Ticket>, share: Option<Share>) {
        self.publishes += batch.publishes;
        self.publishes_qos0 += batch.publishes_qos0;
        self.acks += batch.acks.len();
        self.pending.push_back(Pending {
            ticket,
            publications: batch.publications,
            acks: batch.acks,
            publishes: batch.publishes,
            publishes_qos0: batch.publishes_qos0,
            read_at: Instant::now(),
            _share: share,
        });
    }

    pub fn pop(&mut self) -> Option<Pending> {
        let pending = self.pending.pop_front()?;
        self.publishes -= pending.publishes;
        self.publishes_qos0 -= pending.publishes_qos0;
        self.acks -= pending.acks.len();
        Some(pending)
    }

    /// The topic of a PUBLISH, by its alias if it has one.
    pub fn resolve_alias(&mut self, publish: &Publish) -> Result<ByteString, Reason> {
        let Some(alias) = publish.alias else {
            return if publish.topic.is_empty() { Err(Reason::ProtocolError) } else { Ok(publish.topic.clone()) };
        };
        if alias.get() > ALIAS_MAX {
            return Err(Reason::TopicAliasInvalid);
        }
        if publish.topic.is_empty() {
            return self.aliases.get(&alias).cloned().ok_or(Reason::ProtocolError);
        }
        // A copy, because the topic is a part of the packet it came in.
        let topic = ByteString::from(&*publish.topic);
        self.alias_bytes += topic.len();
        if let Some(old) = self.aliases.insert(alias, topic.clone()) {
            self.alias_bytes -= old.len();
        }
        if self.alias_bytes > ALIAS_BYTES_MAX { Err(Reason::QuotaExceeded) } else { Ok(topic) }
    }
}

/// Completes when the oldest batch is on disk or lost; never while there is none.
pub async fn front_ticket(pending: &mut VecDeque<Pending>) -> Result<(), TicketError> {
    future::poll_fn(|context| match pending.front_mut() {
        None => Poll::Pending,
        Some(Pending { ticket: None, .. }) => Poll::Ready(Ok(())),
        Some(Pending { ticket: Some(ticket), .. }) => ticket.poll_unpin(context),
    })
    .await
}

/// Completes when the share of the budget is there; never while none is waited for.
pub async fn granted(waiting: &mut Option<BoxFuture<'static, Option<Share>>>) -> Option<Share> {
    match waiting {
        None => future::pending().await,
        Some(waiting) => waiting.await,
    }
}
