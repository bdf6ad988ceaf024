//! The publisher's side: packets to one batch per read, one submit per batch, acks when the batch is on disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU16;
use std::task::Poll;
use std::time::Duration;

use api_types::Message;
use api_types::topic::check_topic_name;
use bytestring::ByteString;
use futures::future::BoxFuture;
use futures::{FutureExt, future};
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::warn;

use super::{ALIAS_MAX, Connection, OUTPUT_BYTES_MAX, Phase};
use crate::mqtt::hub::{WithoutLease, not_stored, refused, wall_clock_ms};
use crate::mqtt::ingest::{Ticket, TicketError};
use crate::mqtt::metrics::Refused;
use crate::mqtt::publication::Publication;
use crate::mqtt::subscriptions::{LEVELS_MAX, levels};
use crate::mqtt::wire::{Ack, AckKind, AckOutcome, Inbound, Outbound, Publish, Reason, Version, Will};

/// A client whose publishes cannot be stored is not read for a time in this range, so that a fleet does not come back
/// at once and together.
const REFUSED_PAUSE_MS: std::ops::RangeInclusive<u64> = 1000..=5000;
/// Bytes of all topics that one client's aliases may hold.
const ALIAS_BYTES_MAX: usize = 64 << 10;
/// Input that a connection may hold outside the budget: less than one packet larger than a read.
const FREE_BYTES: usize = super::io::READ_BYTES;
/// A packet that holds a share of the budget must be complete within this time.
const PACKET_TIME_MAX: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Intake {
    /// Submitted and not yet settled, oldest first.
    pub pending: VecDeque<Pending>,
    /// A share of the budget that reading waits for.
    pub waiting: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    /// The batch for which `waiting` is; without one it is for the packet that is being read.
    held: Option<Batch>,
    /// The share of a large packet that is being read.
    packet_share: Option<OwnedSemaphorePermit>,
    /// When a packet that holds a share must be complete.
    pub packet_until: Option<Instant>,
    /// Publishes in `pending`.
    publishes: usize,
    /// Those of QoS 0 among them.
    publishes_qos0: usize,
    /// QoS 1 and 2 publishes that the client counts against its receive maximum.
    unacknowledged: usize,
    /// QoS 2 packet ids from PUBLISH to PUBREL: a PUBLISH with one of them is a repeat.
    received: HashSet<NonZeroU16>,
    aliases: HashMap<NonZeroU16, ByteString>,
    alias_bytes: usize,
}

/// What one read brought.
#[derive(Default)]
struct Batch {
    messages: Vec<Message>,
    publications: Vec<Publication>,
    acks: Vec<Ack>,
    bytes: usize,
    publishes: usize,
    publishes_qos0: usize,
}

pub struct Pending {
    /// `None`: nothing to wait for but those before it.
    ticket: Option<Ticket>,
    publications: Vec<Publication>,
    acks: Vec<Ack>,
    publishes: usize,
    publishes_qos0: usize,
    read_at: Instant,
    /// Returned to the budget when it is settled.
    _share: Option<OwnedSemaphorePermit>,
}

impl Intake {
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.waiting.is_none()
    }

    /// MQTT 5 clients know the window, and are refused beyond it; others are not read.
    pub fn window_is_full(&self, version: Version, window: NonZeroU16) -> bool {
        self.window_is_full_with(&Batch::default(), version, window)
    }

    fn window_is_full_with(&self, batch: &Batch, version: Version, window: NonZeroU16) -> bool {
        let window = usize::from(window.get());
        match version {
            Version::V31 | Version::V311 => self.publishes + batch.publishes >= window,
            Version::V5 => self.publishes_qos0 + batch.publishes_qos0 >= window,
        }
    }

    fn push(&mut self, batch: Batch, ticket: Option<Ticket>, share: Option<OwnedSemaphorePermit>) {
        self.publishes += batch.publishes;
        self.publishes_qos0 += batch.publishes_qos0;
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

    fn pop(&mut self) -> Option<Pending> {
        let pending = self.pending.pop_front()?;
        self.publishes -= pending.publishes;
        self.publishes_qos0 -= pending.publishes_qos0;
        Some(pending)
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
pub async fn granted(
    waiting: &mut Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
) -> Option<OwnedSemaphorePermit> {
    match waiting {
        None => future::pending().await,
        Some(waiting) => waiting.await,
    }
}

/// The will as a message and as a publication; its time is set when it is published.
pub fn will_message(client_id: &str, will: Will, now: Instant) -> (Message, Publication) {
    let properties = will.properties;
    let message = Message {
        topic: will.topic.to_string(),
        client_id: client_id.to_owned(),
        qos: will.qos,
        retain: will.retain,
        payload: will.payload,
        content_type: properties.content_type.as_deref().map(str::to_owned),
        response_topic: properties.response_topic.as_deref().map(str::to_owned),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        ..Message::default()
    };
    let publication = Publication::received(&message, properties, None, now);
    (message, publication)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Decodes every complete packet of the input, as far as the window goes, and submits what they hold.
    pub(super) fn take_packets(&mut self) {
        if self.intake.waiting.is_some() {
            return;
        }
        let mut batch = Batch::default();
        // Read before the filters are matched: then they are at least as new as the lease promises.
        let leased = self.hub.lease.is_held();
        let timestamp_ms = wall_clock_ms();
        while matches!(self.phase, Phase::Open)
            && self.output.len() < OUTPUT_BYTES_MAX
            && !self.intake.window_is_full_with(&batch, self.wire.version(), self.hub.limits.window)
        {
            match self.wire.decode(&mut self.input) {
                Ok(Some((packet, bytes))) => {
                    batch.bytes += bytes;
                    if let Err(reason) = self.packet(packet, &mut batch, leased, timestamp_ms) {
                        self.end(Some(reason));
                    }
                }
                Ok(None) => break,
                Err(error) => self.end(Some(error.0)),
            }
        }
        self.offer(batch);
        self.provide_for_large_packet();
    }

    fn packet(&mut self, packet: Inbound, batch: &mut Batch, leased: bool, now_ms: u64) -> Result<(), Reason> {
        match packet {
            Inbound::Publish(publish) => self.publish(*publish, batch, leased, now_ms),
            Inbound::Pubrel(packet_id) => {
                let known = self.intake.received.remove(&packet_id);
                let outcome = if known { AckOutcome::Success } else { AckOutcome::PacketIdNotFound };
                batch.acks.push(Ack { kind: AckKind::Pubcomp, packet_id, outcome });
                Ok(())
            }
            Inbound::Puback(packet_id) => {
                self.outlet.acknowledged(packet_id);
                Ok(())
            }
            // Nothing is sent with QoS 2, so these answer nothing; the client is helped to forget them.
            Inbound::Pubrec(packet_id) => self.send(Outbound::Pubrel(packet_id)),
            Inbound::Pubcomp => Ok(()),
            Inbound::Subscribe(subscribe) => self.subscribe(subscribe),
            Inbound::Unsubscribe { packet_id, filters } => self.unsubscribe(packet_id, &filters),
            Inbound::Pingreq => self.send(Outbound::Pingresp),
            Inbound::Disconnect { reason, session_expiry_secs } => {
                if self.session_expiry_secs == 0 && session_expiry_secs.is_some_and(|secs| secs > 0) {
                    return Err(Reason::ProtocolError);
                }
                if reason == Reason::Normal {
                    self.will = None;
                }
                self.end(None);
                Ok(())
            }
        }
    }

    fn send(&mut self, packet: Outbound<'_>) -> Result<(), Reason> {
        self.wire.encode(packet, &mut self.output).map_err(|_| Reason::PacketTooLarge)
    }

    fn publish(&mut self, publish: Publish, batch: &mut Batch, leased: bool, now_ms: u64) -> Result<(), Reason> {
        let metrics = &self.hub.metrics;
        metrics.received(publish.qos);
        let topic = self.intake.resolve_alias(&publish)?;
        let repeated = publish.qos == 2 && publish.packet_id.is_some_and(|id| self.intake.received.contains(&id));
        if let (true, Some(packet_id)) = (repeated, publish.packet_id) {
            // Its ack queues behind the ticket of the first.
            batch.acks.push(Ack { kind: AckKind::Pubrec, packet_id, outcome: AckOutcome::Success });
            return Ok(());
        }
        if self.is_v5() && publish.qos > 0 {
            if self.intake.unacknowledged >= usize::from(self.hub.limits.window.get()) {
                metrics.refused(Refused::ReceiveMaximum, 1);
                return Err(Reason::ReceiveMaximumExceeded);
            }
            self.intake.unacknowledged += 1;
        }
        if check_topic_name(&topic).is_err() {
            metrics.refused(Refused::Topic, 1);
            return Err(Reason::TopicNameInvalid);
        }
        let ack = publish.packet_id.map(|packet_id| Ack {
            kind: if publish.qos == 1 { AckKind::Puback } else { AckKind::Pubrec },
            packet_id,
            outcome: AckOutcome::Success,
        });
        if topic.starts_with('$') || levels(&topic) > LEVELS_MAX {
            metrics.refused(Refused::Topic, 1);
            return match ack {
                None => Ok(()),
                Some(ack) if self.is_v5() => {
                    batch.acks.push(Ack { outcome: AckOutcome::TopicNameInvalid, ..ack });
                    Ok(())
                }
                // Before MQTT 5 an ack means success, whatever it answers.
                Some(_) => Err(Reason::TopicNameInvalid),
            };
        }
        if !leased && self.needs_lease(publish.qos, &topic) {
            metrics.refused(Refused::NoLease, 1);
            return Err(Reason::ServerBusy);
        }
        if let (2, Some(packet_id)) = (publish.qos, publish.packet_id) {
            self.intake.received.insert(packet_id);
        }
        self.collect(publish, topic, now_ms, batch);
        batch.acks.extend(ack);
        Ok(())
    }

    /// Whether this publish may be taken under a lease only.
    fn needs_lease(&self, qos: u8, topic: &str) -> bool {
        match self.hub.limits.without_lease {
            WithoutLease::Refuse => true,
            WithoutLease::Accept => qos > 0 && !self.hub.ingest.wanted(topic),
        }
    }

    fn collect(&self, publish: Publish, topic: ByteString, timestamp_ms: u64, batch: &mut Batch) {
        let Publish { qos, retain, payload, properties, .. } = publish;
        let text = |text: &Option<ByteString>| text.as_deref().map(str::to_owned);
        let message = Message {
            topic: topic.to_string(),
            client_id: self.session.client_id.clone(),
            qos,
            retain,
            payload,
            timestamp_ms,
            content_type: text(&properties.content_type),
            response_topic: text(&properties.response_topic),
            correlation_data: properties.correlation_data.clone(),
            user_properties: properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            dead_letter_of: Vec::new(),
        };
        if self.hub.router.has_subscriber(&topic) {
            let publisher = Some(self.session.id);
            batch.publications.push(Publication::received(&message, properties, publisher, Instant::now()));
        }
        batch.messages.push(message);
        batch.publishes += 1;
        batch.publishes_qos0 += usize::from(qos == 0);
    }

    /// Submits the batch if its share of the budget is there, else keeps it until it is.
    fn offer(&mut self, batch: Batch) {
        if batch.messages.is_empty() {
            if !batch.acks.is_empty() {
                self.intake.push(batch, None, None);
                self.settle_finished();
            }
            return;
        }
        // A large packet brought its share; what came with it was read within the free bytes.
        if let Some(share) = self.intake.packet_share.take() {
            self.intake.packet_until = None;
            return self.submit(batch, Some(share));
        }
        let bytes = self.hub.budget_share(batch.bytes);
        match self.hub.budget.clone().try_acquire_many_owned(bytes) {
            Ok(share) => self.submit(batch, Some(share)),
            Err(_) => {
                self.intake.held = Some(batch);
                self.wait_for_budget(bytes);
            }
        }
    }

    fn wait_for_budget(&mut self, bytes: u32) {
        let budget = self.hub.budget.clone();
        self.intake.waiting = Some(budget.acquire_many_owned(bytes).map(Result::ok).boxed());
    }

    pub(super) fn granted(&mut self, share: Option<OwnedSemaphorePermit>) {
        self.intake.waiting = None;
        match (self.intake.held.take(), share) {
            (Some(batch), share) => {
                self.submit(batch, share);
                self.take_packets();
            }
            (None, share) => {
                self.intake.packet_share = share;
                self.intake.packet_until = Some(Instant::now() + PACKET_TIME_MAX);
            }
        }
    }

    /// A packet larger than the free bytes is read on only with a share of the budget.
    fn provide_for_large_packet(&mut self) {
        if !matches!(self.phase, Phase::Open) || self.intake.waiting.is_some() || self.intake.packet_share.is_some() {
            return;
        }
        let Ok(Some(announced)) = self.wire.announced_bytes(&self.input) else { return };
        if announced <= FREE_BYTES || announced <= self.input.len() {
            return;
        }
        let bytes = self.hub.budget_share(announced);
        match self.hub.budget.clone().try_acquire_many_owned(bytes) {
            Ok(share) => self.granted(Some(share)),
            Err(_) => self.wait_for_budget(bytes),
        }
    }

    fn submit(&mut self, mut batch: Batch, share: Option<OwnedSemaphorePermit>) {
        match self.hub.ingest.submit(std::mem::take(&mut batch.messages)) {
            Ok(ticket) => {
                self.intake.push(batch, Some(ticket), share);
                self.settle_finished();
            }
            Err(refusal) => {
                let reason = refused(refusal);
                self.hub.metrics.refused(reason, batch.publishes);
                // Not acknowledging is the whole answer; the client sends it again when it is back.
                self.refuse(reason);
            }
        }
    }

    /// Ends the connection because the queues do not take what it publishes.
    fn refuse(&mut self, reason: Refused) {
        let pause = Duration::from_millis(rand::rng().random_range(REFUSED_PAUSE_MS));
        match reason {
            Refused::QueueFull | Refused::DiskFull => self.end_after(Some(Reason::QuotaExceeded), pause),
            Refused::Failed => self.end_after(Some(Reason::Unspecified), pause),
            Refused::Closed => self.end(Some(Reason::ServerShuttingDown)),
            Refused::NoLease => self.end(Some(Reason::ServerBusy)),
            Refused::Topic => self.end(Some(Reason::TopicNameInvalid)),
            Refused::ReceiveMaximum => self.end(Some(Reason::ReceiveMaximumExceeded)),
        }
    }

    /// The front ticket is done: acks, then the next ones that are done too.
    pub(super) fn settle(&mut self, settled: Result<(), TicketError>) {
        match settled {
            Ok(()) => {
                self.settle_front();
                self.settle_finished();
                // Reading may have stopped for want of room in the window.
                self.take_packets();
            }
            Err(error) => self.lose(error),
        }
    }

    fn settle_finished(&mut self) {
        while let Some(done) = front_ticket(&mut self.intake.pending).now_or_never() {
            match done {
                Ok(()) => self.settle_front(),
                Err(error) => return self.lose(error),
            }
        }
    }

    fn settle_front(&mut self) {
        let Some(pending) = self.intake.pop() else { return };
        let seconds = pending.read_at.elapsed().as_secs_f64();
        for ack in pending.acks {
            match (ack.kind, ack.outcome) {
                (AckKind::Pubrec, AckOutcome::Success) | (AckKind::Pubcomp, AckOutcome::PacketIdNotFound) => {}
                (AckKind::Puback | AckKind::Pubcomp | AckKind::Pubrec, _) => {
                    self.intake.unacknowledged = self.intake.unacknowledged.saturating_sub(1);
                }
            }
            if ack.kind != AckKind::Pubcomp {
                self.hub.metrics.ack_seconds.observe(seconds);
            }
            if self.send(Outbound::Ack(ack)).is_err() {
                self.end(Some(Reason::PacketTooLarge));
            }
        }
        for publication in pending.publications {
            self.hub.router.publish(publication);
        }
    }

    /// Nothing from the front ticket on is acknowledged.
    fn lose(&mut self, error: TicketError) {
        let publishes = self.intake.pending.iter().map(|pending| pending.publishes).sum();
        let reason = not_stored(error);
        self.hub.metrics.refused(reason, publishes);
        warn!(client_id = %self.session.client_id, publishes, %error, "publishes were not stored");
        while self.intake.pop().is_some() {}
        self.intake.held = None;
        self.intake.waiting = None;
        self.refuse(reason);
    }
}

impl Intake {
    /// The topic of a PUBLISH, by its alias if it has one.
    fn resolve_alias(&mut self, publish: &Publish) -> Result<ByteString, Reason> {
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
