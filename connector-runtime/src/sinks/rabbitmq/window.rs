//! What is on its way to the server: decides what is sent next, on which channel, and what each answer means for which
//! record. No I/O, and the time is passed in.
//!
//! ```text
//!   runs ──fill──► channel 1…n, in the order of its tags ──ack, nack──► outcome of the record
//!                        └──return── comes before the ack of its message, and names it by its id
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use amq_protocol::frame::AMQPContentHeader;
use amq_protocol::protocol::basic;
use amq_protocol::types::ShortString;
use api_types::RecordId;
use tokio::time::Instant;

use super::message::Publish;
use super::refusal::Close;
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::shared::outbox::Outbox;
use crate::sinks::shared::runs::{self, Place, Runs};

/// Bytes that wait for the socket: enough for many small messages in one write, little to keep in memory. One message
/// may go over it.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Messages that the server has not confirmed: enough for 100,000 a second when its disk answers within 40 ms, and a
/// bound for what is sent again after a lost connection.
const UNCONFIRMED_MAX: usize = 4_096;

/// The records of one call of `deliver`, in their order.
pub(super) type Run = runs::Run<Publish>;

/// What this connection allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Open, from 1 on.
    pub(super) channels: u16,
    pub(super) frame_bytes_max: usize,
}

/// What the server says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ack,
    Nack,
}

pub(super) struct Window {
    confirms: bool,
    runs: Runs<Publish>,
    channels: Vec<Channel>,
    frame_bytes_max: usize,
    unconfirmed: usize,
    /// Without confirmations: what is delivered when the socket has taken it.
    handed: VecDeque<Handed>,
}

#[derive(Default)]
struct Channel {
    /// Of the last message.
    tag: u64,
    flights: BTreeMap<u64, Flight>,
    /// A message that is coming back.
    returning: Option<Returning>,
}

struct Flight {
    id: RecordId,
    place: Place,
    body_bytes: u64,
    /// Where the record has a part in it.
    own_key: Option<ShortString>,
    /// Where it ends in the bytes of this connection.
    end: u64,
    since: Instant,
    /// The server could not route it, in its own words.
    returned: Option<Arc<str>>,
}

struct Returning {
    words: Arc<str>,
    id: Option<RecordId>,
    bytes_left: u64,
}

struct Handed {
    place: Place,
    /// Where it ends in the bytes of this connection.
    end: u64,
    since: Instant,
}

impl Window {
    pub(super) fn new(confirms: bool) -> Self {
        Self {
            confirms,
            runs: Runs::default(),
            channels: Vec::new(),
            frame_bytes_max: 0,
            unconfirmed: 0,
            handed: VecDeque::new(),
        }
    }

    /// On a new connection. Nothing is under way.
    pub(super) fn begin(&mut self, limits: Limits) {
        self.channels = std::iter::repeat_with(Channel::default).take(limits.channels.into()).collect();
        self.frame_bytes_max = limits.frame_bytes_max;
        self.unconfirmed = 0;
        self.handed.clear();
    }

    /// Nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_idle()
    }

    pub(super) fn wants_run(&self) -> bool {
        !self.runs.has_current() && self.unconfirmed < UNCONFIRMED_MAX
    }

    /// Only when it [wants](Self::wants_run) one, or is idle.
    pub(super) fn take(&mut self, run: Run) {
        self.runs.take(run);
    }

    /// Writes what may be sent now.
    pub(super) fn fill(&mut self, out: &mut Outbox, now: Instant) {
        while out.bytes.len() < OUT_BYTES_MAX && self.unconfirmed < UNCONFIRMED_MAX {
            let Some((place, publish)) = self.runs.next() else { return };
            self.send(place, &publish, out, now);
        }
    }

    fn send(&mut self, place: Place, publish: &Publish, out: &mut Outbox, now: Instant) {
        let frame_bytes = publish.largest_frame_bytes();
        if frame_bytes > self.frame_bytes_max {
            let message = format!("properties of {frame_bytes} bytes; a frame has {} at most", self.frame_bytes_max);
            let fault = RecordFault::offline("properties_too_large", message);
            return self.runs.settle(place, Outcome::RecordFault(fault));
        }
        // One lane is always on the same channel: channels may overtake each other.
        let index = usize::try_from(publish.lane % self.channels.len().max(1) as u64).unwrap_or_default();
        let (Some(channel), Some(id)) = (self.channels.get_mut(index), channel_id(index)) else {
            let fault = TargetFault::new(TargetFaultKind::Down, "the connection has no channel");
            return self.runs.settle(place, Outcome::TargetFault(fault));
        };
        publish.write(id, self.frame_bytes_max, &mut out.bytes);
        if !self.confirms {
            self.handed.push_back(Handed { place, end: out.end(), since: now });
            return;
        }
        channel.tag += 1;
        let flight = Flight {
            id: publish.id,
            place,
            body_bytes: publish.body_bytes(),
            own_key: publish.own_key.clone(),
            end: out.end(),
            since: now,
            returned: None,
        };
        channel.flights.insert(channel.tag, flight);
        self.unconfirmed += 1;
    }

    /// The socket has taken something: without confirmations that is the delivery.
    pub(super) fn handed_over(&mut self, out: &Outbox) {
        while let Some(handed) = self.handed.pop_front_if(|handed| handed.end <= out.handed_over) {
            self.runs.settle(handed.place, Outcome::Delivered);
        }
    }

    /// Since when the oldest message waits for its answer, or for the socket.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let oldest = self.channels.iter().filter_map(|channel| channel.flights.values().next());
        let oldest = oldest.map(|flight| flight.since);
        oldest.chain(self.handed.front().map(|handed| handed.since)).min()
    }

    /// For so long nobody could have answered, and nothing could leave.
    pub(super) fn shift(&mut self, by: Duration) {
        for flight in self.channels.iter_mut().flat_map(|channel| channel.flights.values_mut()) {
            flight.since += by;
        }
        for handed in &mut self.handed {
            handed.since += by;
        }
    }

    /// `multiple`: the same for all before it; 0 is all that there are. `taken` are the bytes that may have left: nothing
    /// behind them is confirmed, whatever the server says.
    pub(super) fn confirmed(&mut self, channel: u16, tag: u64, multiple: bool, verdict: Verdict, taken: u64) {
        let Some(channel) = self.channel(channel) else { return };
        let confirmed = channel.take_confirmed(tag, multiple, taken);
        self.unconfirmed -= confirmed.len();
        for flight in confirmed {
            let outcome = match (verdict, flight.returned) {
                (Verdict::Nack, _) => Outcome::TargetFault(nacked()),
                (Verdict::Ack, Some(words)) => Outcome::RecordFault(RecordFault::refused("unroutable", words)),
                (Verdict::Ack, None) => Outcome::Delivered,
            };
            self.runs.settle(flight.place, outcome);
        }
    }

    /// A message begins to come back. Its properties and its body follow.
    pub(super) fn returned(&mut self, channel: u16, method: &basic::Return) {
        let Some(channel) = self.channel(channel) else { return };
        let basic::Return { reply_code, reply_text, exchange, routing_key } = method;
        let words = format!(
            "the server returned the message: {reply_text} (code {reply_code}), exchange {:?}, routing key {:?}",
            exchange.as_str(),
            routing_key.as_str()
        );
        channel.returning = Some(Returning { words: words.into(), id: None, bytes_left: 0 });
    }

    pub(super) fn returned_properties(&mut self, channel: u16, header: &AMQPContentHeader) {
        let Some(channel) = self.channel(channel) else { return };
        let Some(returning) = &mut channel.returning else { return };
        returning.id = header.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
        returning.bytes_left = header.body_size;
        channel.end_return();
    }

    pub(super) fn returned_body(&mut self, channel: u16, bytes: usize) {
        let Some(channel) = self.channel(channel) else { return };
        let Some(returning) = &mut channel.returning else { return };
        returning.bytes_left = returning.bytes_left.saturating_sub(bytes as u64);
        channel.end_return();
    }

    /// The server closed a channel, for one of its messages or for all; its tags begin anew.
    pub(super) fn channel_closed(&mut self, channel: u16, close: &Close) {
        let Some(channel) = self.channel(channel) else { return };
        let flights = std::mem::take(channel).flights;
        self.unconfirmed -= flights.len();
        let culprit = culprit(&flights, close);
        for (tag, flight) in flights {
            let outcome = match culprit {
                Some((culprit, class)) if culprit == tag => {
                    Outcome::RecordFault(RecordFault::refused(class, close.says("the channel")))
                }
                Some(_) => Outcome::TargetFault(TargetFault {
                    reopen: false,
                    ..TargetFault::new(TargetFaultKind::Interrupted, "another message cost the channel")
                }),
                None => Outcome::TargetFault(close.of_channel()),
            };
            self.runs.settle(flight.place, outcome);
        }
    }

    /// What was not yet sent of the current run.
    pub(super) fn end_unsent(&mut self, outcome: &Outcome) {
        while let Some((place, _)) = self.runs.next() {
            // The first one takes the rest along as held back.
            self.runs.settle(place, outcome.clone());
        }
    }

    /// What the server has for longer than this, or may have: its answer comes too late for anybody. Whether some of it
    /// has not left, with so many bytes `handed_over`: it would still leave.
    pub(super) fn end_sent_before(&mut self, before: Instant, outcome: &Outcome, handed_over: u64) -> bool {
        let late = |since: Instant| since <= before;
        let mut is_some_here = false;
        for channel in &mut self.channels {
            while let Some(entry) = channel.flights.first_entry().filter(|entry| late(entry.get().since)) {
                let flight = entry.remove();
                is_some_here |= flight.end > handed_over;
                self.runs.settle(flight.place, outcome.clone());
                self.unconfirmed -= 1;
            }
        }
        while let Some(handed) = self.handed.pop_front_if(|handed| late(handed.since)) {
            is_some_here |= handed.end > handed_over;
            self.runs.settle(handed.place, outcome.clone());
        }
        is_some_here
    }

    /// Everything that has no outcome yet gets this one. The connection is lost.
    pub(super) fn end_all(&mut self, outcome: &Outcome) {
        self.channels.clear();
        self.unconfirmed = 0;
        self.handed.clear();
        self.runs.end_all(outcome);
    }

    fn channel(&mut self, id: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(id).checked_sub(1)?)
    }
}

impl Channel {
    fn take_confirmed(&mut self, tag: u64, multiple: bool, taken: u64) -> Vec<Flight> {
        let has_left = |flight: &Flight| flight.end <= taken;
        if !multiple {
            let is_known = self.flights.get(&tag).is_some_and(has_left);
            return if is_known { self.flights.remove(&tag).into_iter().collect() } else { Vec::new() };
        }
        let is_later = |at: u64| tag != 0 && at > tag;
        let later = self.flights.iter().find(|(at, flight)| is_later(**at) || !has_left(flight)).map(|(at, _)| *at);
        let later = later.map(|at| self.flights.split_off(&at)).unwrap_or_default();
        std::mem::replace(&mut self.flights, later).into_values().collect()
    }

    /// Messages come back in the order in which they were sent, so the first one that fits is near.
    fn end_return(&mut self) {
        let Some(returning) = self.returning.take_if(|returning| returning.bytes_left == 0) else { return };
        let fits = |flight: &&mut Flight| Some(flight.id) == returning.id && flight.returned.is_none();
        if let Some(flight) = self.flights.values_mut().find(fits) {
            flight.returned = Some(returning.words);
        }
    }
}

/// The one message that cost the channel, where the server names it, and the class of its fault. A routing key that is
/// the same for all is nobody's own.
fn culprit(flights: &BTreeMap<u64, Flight>, close: &Close) -> Option<(u64, &'static str)> {
    let (bytes, key) = (close.too_large_bytes(), close.refused_routing_key());
    flights.iter().find_map(|(tag, flight)| {
        let own_key = flight.own_key.as_ref().map(ShortString::as_str);
        if bytes == Some(flight.body_bytes) {
            Some((*tag, "message_too_large"))
        } else if key.is_some() && own_key == key {
            Some((*tag, "routing_key_refused"))
        } else {
            None
        }
    })
}

fn channel_id(index: usize) -> Option<u16> {
    u16::try_from(index).ok()?.checked_add(1)
}

/// The server does not say why; `reject-publish` is the one reason that has a purpose.
fn nacked() -> TargetFault {
    let message = "the server did not take the message (basic.nack): a queue is full and rejects it, or failed";
    TargetFault::new(TargetFaultKind::Full, message)
}

#[cfg(test)]
mod tests;
