//! What is on its way to the target: decides what is sent next, and what each answer means for which record. No I/O and
//! no clock.
//!
//! ```text
//!   runs ──fill──► on the wire ──answer──► outcome of the record ──► the run is answered when all have theirs
//!                   │      ▲
//!                 lost     └─fill── again, in the old order and under the old packet id
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::num::NonZeroU16;

use super::answers;
use super::message::Publish;
use super::suspects::{Loss, Suspects};
use super::wire::{self, Answer, FAILURE};
use crate::sink::{Outcome, RecordFault};
use crate::sinks::shared::outbox::Outbox;
use crate::sinks::shared::runs::{self, Place, Runs, held};

/// Bytes that wait for the socket: enough for many small packets in one write, little to keep in memory. One packet may
/// go over it.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Packet ids that were given up while the target may still hold them. They are not used again in this session.
const ABANDONED_MAX: usize = 1_000;

/// The records of one call of `deliver`, in their order.
pub(super) type Run = runs::Run<Publish>;

/// What this connection allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages of QoS 1 and 2 that the target takes before it has answered one.
    pub(super) on_wire_max: usize,
    pub(super) packet_bytes_max: usize,
}

/// What became of what was sent on a connection that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The target has the session: it remembers packet ids.
    Session,
    Nothing,
}

pub(super) struct Window {
    max_retries: u64,
    limits: Limits,
    runs: Runs<Publish>,
    in_flight: BTreeMap<Serial, Flight>,
    next_serial: Serial,
    by_packet_id: HashMap<NonZeroU16, Serial>,
    next_packet_id: NonZeroU16,
    abandoned: HashSet<NonZeroU16>,
    /// To be sent on this connection before anything new.
    again: VecDeque<Serial>,
    /// With QoS 0: what is delivered when the socket has taken it.
    handed: VecDeque<Serial>,
    on_wire: usize,
    /// A message that is suspected is on the wire, so nothing else is.
    is_alone: bool,
    suspects: Suspects,
    /// Messages that the target has answered.
    answered: u64,
}

/// Order of first sending.
type Serial = u64;

struct Flight {
    publish: Publish,
    place: Place,
    packet_id: Option<NonZeroU16>,
    /// The target has it (PUBREC): what is left is to release it.
    is_taken: bool,
    is_on_wire: bool,
    /// The target may have seen it before.
    is_duplicate: bool,
    /// Connections that were lost with it on the wire.
    losses: u64,
    /// Since an earlier attempt of the pipeline: it goes alone from the start, and has one connection to lose.
    is_suspect: bool,
    /// Where it ends in the bytes of this connection.
    end: u64,
}

impl Window {
    pub(super) fn new(max_retries: u64, limits: Limits) -> Self {
        Self {
            max_retries,
            limits,
            runs: Runs::default(),
            in_flight: BTreeMap::new(),
            next_serial: 0,
            by_packet_id: HashMap::new(),
            next_packet_id: NonZeroU16::MIN,
            abandoned: HashSet::new(),
            again: VecDeque::new(),
            handed: VecDeque::new(),
            on_wire: 0,
            is_alone: false,
            suspects: Suspects::default(),
            answered: 0,
        }
    }

    /// Nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        self.runs.is_idle()
    }

    pub(super) fn wants_run(&self) -> bool {
        !self.runs.has_current() && self.again.is_empty() && self.has_room()
    }

    /// Only when it [wants](Self::wants_run) one, or is idle.
    pub(super) fn take(&mut self, run: Run) {
        self.runs.take(run);
    }

    /// Writes what may be sent now.
    pub(super) fn fill(&mut self, out: &mut Outbox) {
        while out.bytes.len() < OUT_BYTES_MAX && self.has_room() {
            let more = if self.again.is_empty() { self.send_next(out) } else { self.send_again(out) };
            if !more {
                break;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.on_wire < self.limits.on_wire_max && !self.is_alone
    }

    /// `false`: there is nothing, or it has to wait.
    fn send_again(&mut self, out: &mut Outbox) -> bool {
        let Some(serial) = self.again.front().copied() else { return false };
        if self.is_held(serial) {
            self.again.pop_front();
            self.give_up(serial, held());
            return true;
        }
        let Some(flight) = self.in_flight.get_mut(&serial) else {
            self.again.pop_front();
            return true;
        };
        // Its last chance: if the connection is lost once more, this one alone was the cause.
        let is_suspect = flight.is_suspect || (flight.losses > 0 && flight.losses >= self.max_retries);
        if is_suspect && (self.on_wire > 0 || !self.handed.is_empty()) {
            return false;
        }
        self.again.pop_front();
        if flight.publish.bytes() > self.limits.packet_bytes_max {
            let outcome = too_large(&flight.publish, self.limits);
            self.end(serial, outcome);
            return true;
        }
        match flight.packet_id {
            Some(packet_id) if flight.is_taken => out.answer(|bytes| wire::release(packet_id, bytes)),
            packet_id => flight.publish.write(packet_id, flight.is_duplicate, &mut out.bytes),
        }
        flight.end = out.end();
        flight.is_on_wire = true;
        self.is_alone = is_suspect;
        match flight.packet_id {
            Some(_) => self.on_wire += 1,
            None => self.handed.push_back(serial),
        }
        true
    }

    fn send_next(&mut self, out: &mut Outbox) -> bool {
        let Some((place, publish)) = self.runs.next() else { return false };
        if publish.bytes() > self.limits.packet_bytes_max {
            let outcome = too_large(&publish, self.limits);
            self.runs.settle(place, outcome);
            return true;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let packet_id = publish.has_packet_id().then(|| self.free_packet_id());
        if let Some(packet_id) = packet_id {
            self.by_packet_id.insert(packet_id, serial);
        }
        let is_suspect = self.suspects.contains(publish.id);
        if is_suspect {
            // When its turn comes, nothing else is on the wire.
            self.again.push_back(serial);
        } else {
            publish.write(packet_id, false, &mut out.bytes);
            match packet_id {
                Some(_) => self.on_wire += 1,
                None => self.handed.push_back(serial),
            }
        }
        let flight = Flight {
            publish,
            place,
            packet_id,
            is_taken: false,
            is_on_wire: !is_suspect,
            is_duplicate: false,
            losses: 0,
            is_suspect,
            end: out.end(),
        };
        self.in_flight.insert(serial, flight);
        true
    }

    /// There always is one: at most `on_wire_max` and the abandoned ones are taken. Each is used as late as possible.
    fn free_packet_id(&mut self) -> NonZeroU16 {
        loop {
            let packet_id = self.next_packet_id;
            self.next_packet_id = packet_id.checked_add(1).unwrap_or(NonZeroU16::MIN);
            if !self.by_packet_id.contains_key(&packet_id) && !self.abandoned.contains(&packet_id) {
                return packet_id;
            }
        }
    }

    /// The socket has taken something: with QoS 0 that is the delivery.
    pub(super) fn handed_over(&mut self, out: &Outbox) {
        while let Some(serial) = self.handed.front().copied() {
            if self.in_flight.get(&serial).is_some_and(|flight| flight.end > out.handed_over) {
                return;
            }
            self.handed.pop_front();
            self.end(serial, Outcome::Delivered);
        }
    }

    /// The oldest message that the target has seen whole, and has not answered.
    pub(super) fn oldest_unanswered(&self, out: &Outbox) -> Option<Serial> {
        let (serial, flight) = self.in_flight.first_key_value()?;
        (flight.is_on_wire && flight.packet_id.is_some() && flight.end <= out.handed_over).then_some(*serial)
    }

    /// PUBACK.
    pub(super) fn acknowledged(&mut self, answer: &Answer) -> bool {
        self.answered(answer, answers::outcome(answer))
    }

    /// PUBREC. Whatever the target holds is released, also what this session does not know of.
    pub(super) fn taken(&mut self, answer: &Answer, out: &mut Outbox) -> bool {
        if answer.reason >= FAILURE {
            return self.answered(answer, answers::outcome(answer));
        }
        out.answer(|bytes| wire::release(answer.packet_id, bytes));
        // A target that keeps the session may say so before it is asked again: publishing it again would repeat it.
        let serial = self.by_packet_id.get(&answer.packet_id);
        let Some(flight) = serial.and_then(|serial| self.in_flight.get_mut(serial)) else { return false };
        flight.is_taken = true;
        flight.end = out.end();
        flight.is_on_wire
    }

    /// PUBCOMP. A packet id that the target does not know any more was released before.
    pub(super) fn completed(&mut self, answer: &Answer) -> bool {
        self.abandoned.remove(&answer.packet_id);
        self.asked(answer).is_some_and(|flight| flight.is_taken) && self.answered(answer, Outcome::Delivered)
    }

    fn asked(&mut self, answer: &Answer) -> Option<&mut Flight> {
        let serial = self.by_packet_id.get(&answer.packet_id)?;
        self.in_flight.get_mut(serial).filter(|flight| flight.is_on_wire)
    }

    /// `false`: it answers nothing that was asked.
    fn answered(&mut self, answer: &Answer, outcome: Outcome) -> bool {
        if self.asked(answer).is_none() {
            return false;
        }
        if let Some(serial) = self.by_packet_id.get(&answer.packet_id).copied() {
            self.answered += 1;
            self.end(serial, outcome);
        }
        true
    }

    /// The connection is lost. `true` when something was given up because of it: it was not in vain then.
    pub(super) fn lost(&mut self, loss: &Loss) -> bool {
        let was_alone = self.is_alone;
        let mut given_up = Vec::new();
        for (serial, flight) in &mut self.in_flight {
            let was_on_wire = std::mem::take(&mut flight.is_on_wire);
            flight.losses += u64::from(was_on_wire);
            let has_waiter = self.runs.has_waiter(flight.place);
            let is_spent = was_on_wire && (flight.is_suspect || flight.losses > self.max_retries);
            if is_spent || !has_waiter {
                given_up.push((*serial, is_spent));
            }
        }
        for (serial, is_spent) in &given_up {
            let Some(flight) = self.in_flight.get(serial) else { continue };
            let outcome = if *is_spent && was_alone {
                self.suspects.given_up_alone(&flight.publish, loss, self.answered)
            } else {
                if *is_spent {
                    self.suspects.given_up_in_company(flight.publish.id);
                }
                let outcome = Outcome::TargetFault(loss.fault.clone());
                // Nobody of this run was at fault alone: what was not yet sent has lost the same target.
                self.runs.end_rest(flight.place, &outcome);
                outcome
            };
            self.give_up(*serial, outcome);
        }
        let held_back: Vec<Serial> = self.in_flight.keys().copied().filter(|serial| self.is_held(*serial)).collect();
        for serial in held_back {
            self.give_up(serial, held());
        }
        self.again = self.in_flight.keys().copied().collect();
        self.handed.clear();
        self.on_wire = 0;
        self.is_alone = false;
        !given_up.is_empty()
    }

    pub(super) fn resume(&mut self, kept: Kept, limits: Limits) {
        self.limits = limits;
        for flight in self.in_flight.values_mut() {
            flight.is_duplicate = match kept {
                Kept::Session => flight.packet_id.is_some() && flight.losses > 0,
                Kept::Nothing => false,
            };
            // Who releases what the target has forgotten loses it; who publishes it again repeats it at worst.
            flight.is_taken = flight.is_taken && kept == Kept::Session;
        }
        if kept == Kept::Nothing {
            self.abandoned.clear();
        }
    }

    /// So many packet ids are lost that the session should be begun anew.
    pub(super) fn is_worn_out(&self) -> bool {
        self.abandoned.len() > ABANDONED_MAX
    }

    /// Everything that has no outcome yet gets this one.
    pub(super) fn end_all(&mut self, outcome: &Outcome) {
        self.in_flight.clear();
        self.runs.end_all(outcome);
    }

    fn end(&mut self, serial: Serial, outcome: Outcome) {
        let Some(flight) = self.in_flight.remove(&serial) else { return };
        if let Some(packet_id) = flight.packet_id {
            self.by_packet_id.remove(&packet_id);
            if flight.is_on_wire {
                self.on_wire -= 1;
            }
        }
        if self.on_wire == 0 {
            self.is_alone = false;
        }
        if outcome == Outcome::Delivered {
            self.suspects.delivered(flight.publish.id);
        }
        self.runs.settle(flight.place, outcome);
    }

    /// A record that has to be sent again holds what is not on the wire behind it, so that it is not overtaken.
    fn is_held(&self, serial: Serial) -> bool {
        let Some(flight) = self.in_flight.get(&serial) else { return false };
        !flight.is_on_wire && self.runs.is_held(flight.place)
    }

    fn give_up(&mut self, serial: Serial, outcome: Outcome) {
        if let Some(flight) = self.in_flight.get(&serial)
            && flight.losses > 0
        {
            // The target may have taken it under this packet id.
            self.abandoned.extend(flight.packet_id);
        }
        self.end(serial, outcome);
    }
}

fn too_large(publish: &Publish, limits: Limits) -> Outcome {
    let message =
        format!("a packet of {} bytes; the target takes {} at most", publish.bytes(), limits.packet_bytes_max);
    Outcome::RecordFault(RecordFault::offline("packet_too_large", message))
}

#[cfg(test)]
mod tests;
