//! The publisher's side: packets to one batch per read, one submit per batch, acks when the batch is on disk.

use std::time::Duration;

use api_types::Message;
use api_types::topic::check_topic_name;
use bytestring::ByteString;
use futures::FutureExt;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tracing::warn;

use super::intake::{Batch, front_ticket};
use super::{Connection, Phase};
use crate::mqtt::budget::{Purpose, Share};
use crate::mqtt::hub::{WithoutLease, not_stored, refused, wall_clock_ms};
use crate::mqtt::ingest::TicketError;
use crate::mqtt::metrics::Refused;
use crate::mqtt::publication::Publication;
use crate::mqtt::subscriptions::{LEVELS_MAX, levels};
use crate::mqtt::wire::{Ack, AckKind, AckOutcome, Inbound, Outbound, Publish, Reason, Will};

/// A client whose publishes cannot be stored is not read for a time in this range, so that a fleet does not come back
/// at once and together.
const REFUSED_PAUSE_MS: std::ops::RangeInclusive<u64> = 1000..=5000;
/// QoS 2 packet ids that a client of version 3 may leave unreleased; those of MQTT 5 are bound by the window.
const RECEIVED_MAX: usize = 10_000;
/// Input that a connection may hold outside the budget: less than one packet larger than a read.
const FREE_BYTES: usize = super::io::READ_BYTES;
/// A packet that holds a share of the budget must be complete within this time.
const PACKET_TIME_MAX: Duration = Duration::from_secs(120);

/// Why a batch is no larger.
#[derive(Clone, Copy, Debug)]
enum Took {
    /// What is left of the input is no whole packet.
    All,
    /// The window or the output is full, or the connection ends.
    UntilFull,
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
    /// Decodes every complete packet of the input, as far as there is room for what they bring.
    ///
    /// Afterwards the input holds a complete packet only if [`Self::may_read`] does not hold: so the input is less than
    /// one packet whenever it is read into, and at the end of the stream nothing whole is left in it.
    pub(super) fn take_packets(&mut self) {
        // A batch may settle at once, above all where no connector wants it, and then the window is open again.
        while self.may_read() {
            match self.take_batch() {
                Took::All => break,
                Took::UntilFull => {}
            }
        }
        self.provide_for_large_packet();
    }

    /// One batch, at most what is left of the window.
    fn take_batch(&mut self) -> Took {
        let mut batch = Batch::default();
        let mut took = Took::UntilFull;
        // Read before the filters are matched: then they are at least as new as the lease promises.
        let leased = self.hub.lease.is_held();
        let timestamp_ms = wall_clock_ms();
        while self.may_take_beside(&batch) {
            match self.wire.decode(&mut self.input) {
                Ok(Some((packet, bytes))) => {
                    batch.bytes += bytes;
                    if let Err(reason) = self.packet(packet, &mut batch, leased, timestamp_ms) {
                        self.end(Some(reason));
                    }
                }
                Ok(None) => {
                    took = Took::All;
                    break;
                }
                Err(error) => self.end(Some(error.0)),
            }
        }
        self.hub.metrics.received(batch.received);
        self.offer(batch);
        took
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
        batch.received[usize::from(publish.qos.min(2))] += 1;
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
            if self.intake.received.len() >= RECEIVED_MAX {
                return Err(Reason::QuotaExceeded);
            }
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
            user_properties: properties
                .user
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
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
        match self.hub.budget.take(Purpose::Batch, batch.bytes) {
            Some(share) => self.submit(batch, Some(share)),
            None => {
                self.intake.waiting = Some(self.hub.budget.wait(Purpose::Batch, batch.bytes));
                self.intake.held = Some(batch);
            }
        }
    }

    pub(super) fn granted(&mut self, share: Option<Share>) {
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
        if !matches!(self.phase, Phase::Open) || self.intake.waiting.is_some() {
            return;
        }
        let announced = self.wire.announced_bytes(&self.input).ok().flatten().filter(|bytes| *bytes > FREE_BYTES);
        let Some(announced) = announced else {
            self.intake.packet_share = None;
            self.intake.packet_until = None;
            return;
        };
        if announced <= self.input.len() {
            self.intake.packet_until = None;
            return;
        }
        if self.intake.packet_share.is_some() {
            return;
        }
        match self.hub.budget.take(Purpose::Packet, announced) {
            Some(share) => self.granted(Some(share)),
            None => self.intake.waiting = Some(self.hub.budget.wait(Purpose::Packet, announced)),
        }
    }

    fn submit(&mut self, mut batch: Batch, share: Option<Share>) {
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
        let answered = pending.acks.iter().filter(|ack| ack.kind != AckKind::Pubcomp).count();
        self.hub.metrics.acknowledged(answered, pending.read_at.elapsed());
        for ack in pending.acks {
            match (ack.kind, ack.outcome) {
                (AckKind::Pubrec, AckOutcome::Success) | (AckKind::Pubcomp, AckOutcome::PacketIdNotFound) => {}
                (AckKind::Puback | AckKind::Pubcomp | AckKind::Pubrec, _) => {
                    self.intake.unacknowledged = self.intake.unacknowledged.saturating_sub(1);
                }
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
