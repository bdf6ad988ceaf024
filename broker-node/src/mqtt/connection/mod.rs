//! One connected client, from its CONNACK to its last byte.
//!
//! ```text
//! socket ─► read ─► decode all packets ─► batch ─► budget ─► submit ─► [ticket, acks] ─► … ─► front ticket done
//!                                                                                                │
//! socket ◄─ output ◄─ acks in order, then the publications to their subscribers ◄────────────────┘
//!              ▲
//!              └── mailbox of the session (what others published)
//! ```
//!
//! Invariants:
//! - Acknowledgements leave in the order of the packets they answer; only the front ticket is waited for.
//! - A full window, a full output or a spent budget stops the reading; nothing else waits for a slow disk.
//! - The socket is read only while the input holds no complete packet, so the input has a bound and its end is the end.
//! - Whatever ends the connection, what was submitted is waited for (within a bound), so that subscribers get it.

mod alarm;
mod inbound;
mod intake;
pub mod io;
mod outbound;
mod subscribing;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use api_types::Message;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tracing::debug;

use self::alarm::Alarm;
use self::intake::{Batch, Intake};
use self::io::{Exchanged, exchange, linger};
use self::outbound::Outlet;
use self::subscribing::Subscribed;
use super::handshake::Established;
use super::hub::{Admission, Hub, wall_clock_ms};
use super::publication::Publication;
use super::session::Session;
use super::wire::{Accepted, Outbound, Reason, Version, Wire};

/// Topic aliases a publisher may set.
const ALIAS_MAX: u16 = 16;
/// Output beyond which no more messages are taken from the mailbox.
const OUTPUT_BYTES_GOAL: usize = 64 << 10;
/// Output beyond which nothing is read, because reading makes output.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// A peer that takes no byte of our output for so long is gone.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the end of a connection waits for what it submitted.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// No deadline: far enough to mean never, near enough to be a timer.
const IDLE: Duration = Duration::from_secs(3600);

pub struct Connection<S> {
    hub: Arc<Hub>,
    stream: S,
    wire: Wire,
    session: Arc<Session>,
    input: BytesMut,
    output: BytesMut,
    intake: Intake,
    outlet: Outlet,
    subscribed: Subscribed,
    /// One and a half times what the client announced.
    keep_alive: Option<Duration>,
    last_read: Instant,
    /// When output last moved, or there was none.
    last_write: Instant,
    was_reading: bool,
    alarm: Alarm,
    session_expiry_secs: u32,
    will: Option<(Message, Publication)>,
    phase: Phase,
    _admission: Admission,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Open,
    Ending(Ending),
}

/// Nothing is read any more; what was submitted is waited for.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// What the peer is told; `None` = it left, or is gone.
    reason: Option<Reason>,
    not_before: Instant,
    until: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Opens the session and answers the CONNECT.
    pub fn open(hub: Arc<Hub>, stream: S, established: Established) -> Self {
        let Established { mut wire, connect, client_id, assigned, admission, rest } = established;
        let now = Instant::now();
        let session = hub.sessions.open(&client_id);
        let will = connect.will.map(|will| inbound::will_message(&client_id, will, now));
        let accepted = Accepted {
            window: hub.limits.window,
            packet_bytes_max: hub.limits.packet_bytes_max,
            alias_max: ALIAS_MAX,
            assigned_client_id: assigned.then_some(client_id),
            session_ends: connect.session_expiry_secs > 0,
        };
        wire.set_packet_bytes_max(hub.limits.packet_bytes_max as usize);
        let mut output = BytesMut::new();
        let answered = wire.encode(Outbound::Connack(&accepted), &mut output);
        let keep_alive = Duration::from_millis(1500) * u32::from(connect.keep_alive_secs);
        let mut connection = Self {
            stream,
            input: rest,
            output,
            intake: Intake::default(),
            outlet: Outlet::new(connect.receive_max.map_or(u16::MAX, NonZeroU16::get)),
            subscribed: Subscribed::new(hub.clone(), session.clone()),
            session,
            keep_alive: (!keep_alive.is_zero()).then_some(keep_alive),
            last_read: now,
            last_write: now,
            was_reading: true,
            alarm: Alarm::default(),
            session_expiry_secs: connect.session_expiry_secs,
            will,
            phase: Phase::Open,
            _admission: admission,
            wire,
            hub,
        };
        if answered.is_err() {
            connection.end(None);
        }
        connection
    }

    pub async fn run(mut self) {
        debug!(client_id = %self.session.client_id, version = ?self.wire.version(), "client connected");
        self.take_packets();
        while !self.has_ended() {
            self.turn().await;
        }
        self.leave().await;
    }

    /// Waits for whatever happens first, and handles it.
    async fn turn(&mut self) {
        self.pump();
        let may_read = self.may_read();
        if may_read && !self.was_reading {
            // The client is not to blame for the time in which it was not listened to.
            self.last_read = Instant::now();
        }
        self.was_reading = may_read;
        if self.output.is_empty() {
            self.last_write = Instant::now();
        }
        let deadline = self.deadline(may_read);
        tokio::select! {
            biased;
            settled = intake::front_ticket(&mut self.intake.pending) => self.settle(settled),
            granted = intake::granted(&mut self.intake.waiting) => self.granted(granted),
            exchanged = exchange(&mut self.stream, &mut self.input, &mut self.output, may_read), if self.peer_is_there() => {
                self.exchanged(exchanged);
            }
            () = self.session.woken() => self.heed_session(),
            () = subscribing::known_everywhere(&self.hub, &self.subscribed) => self.answer_subscribe(),
            () = self.alarm.rings(deadline) => self.deadline_passed(),
        }
    }

    fn exchanged(&mut self, exchanged: std::io::Result<Exchanged>) {
        match exchanged {
            // What may be read into holds no whole packet: everything that came before the end is taken.
            Ok(Exchanged::Read(0)) => self.end(None),
            Ok(Exchanged::Read(_)) => {
                self.last_read = Instant::now();
                self.take_packets();
            }
            Ok(Exchanged::Wrote) => {
                self.last_write = Instant::now();
                // Reading may have stopped for want of room in the output.
                self.take_packets();
            }
            Err(_) => {
                // Whatever it said before it went counts, a goodbye above all; only the answers are in vain.
                self.output.clear();
                self.take_packets();
                self.peer_gone();
            }
        }
    }

    fn may_read(&self) -> bool {
        self.may_take_beside(&Batch::default())
    }

    /// Whether there is room for what one more packet may bring, beside what this batch holds already.
    fn may_take_beside(&self, batch: &Batch) -> bool {
        match self.phase {
            Phase::Open => {
                self.output.len() < OUTPUT_BYTES_MAX
                    && self.intake.waiting.is_none()
                    && !self.intake.window_is_full_with(batch, self.wire.version(), self.hub.limits.window)
            }
            Phase::Ending(_) => false,
        }
    }

    /// Ends the connection once what was submitted is settled. The first reason stays.
    fn end(&mut self, reason: Option<Reason>) {
        self.end_after(reason, Duration::ZERO);
    }

    fn end_after(&mut self, reason: Option<Reason>, pause: Duration) {
        match self.phase {
            Phase::Open => {
                if let Some(reason) = reason {
                    debug!(client_id = %self.session.client_id, %reason, "closing a connection");
                }
                let not_before = Instant::now() + pause;
                self.phase = Phase::Ending(Ending { reason, not_before, until: not_before + DRAIN_MAX });
            }
            Phase::Ending(_) => {}
        }
    }

    /// Nothing can be sent any more.
    fn peer_gone(&mut self) {
        let now = Instant::now();
        self.output.clear();
        self.phase = Phase::Ending(Ending { reason: None, not_before: now, until: now + DRAIN_MAX });
    }

    fn peer_is_there(&self) -> bool {
        match self.phase {
            Phase::Open => true,
            Phase::Ending(ending) => ending.reason.is_some() && !self.output.is_empty(),
        }
    }

    fn has_ended(&self) -> bool {
        match self.phase {
            Phase::Open => false,
            Phase::Ending(ending) => {
                let now = Instant::now();
                now >= ending.until || (now >= ending.not_before && self.intake.is_settled())
            }
        }
    }

    fn deadline(&self, may_read: bool) -> Instant {
        let mut deadline = Instant::now() + IDLE;
        let mut not_after = |other: Instant| deadline = deadline.min(other);
        match self.phase {
            Phase::Open => {
                if let (Some(keep_alive), true) = (self.keep_alive, may_read) {
                    not_after(self.last_read + keep_alive);
                }
                if let (Some(until), true) = (self.intake.packet_until, may_read) {
                    not_after(until);
                }
                if let Some(until) = self.subscribed.answer_until() {
                    not_after(until);
                }
            }
            Phase::Ending(ending) => {
                not_after(if Instant::now() < ending.not_before { ending.not_before } else { ending.until });
            }
        }
        if !self.output.is_empty() {
            not_after(self.last_write + STALL_MAX);
        }
        deadline
    }

    fn deadline_passed(&mut self) {
        let now = Instant::now();
        if !self.output.is_empty() && now >= self.last_write + STALL_MAX {
            return self.peer_gone();
        }
        if self.subscribed.answer_until().is_some_and(|until| now >= until) {
            self.answer_subscribe();
        }
        if !self.may_read() {
            return;
        }
        let silent = self.keep_alive.is_some_and(|keep_alive| now >= self.last_read + keep_alive);
        let crawling = self.intake.packet_until.is_some_and(|until| now >= until);
        if silent || crawling {
            self.end(Some(Reason::KeepAliveTimeout));
        }
    }

    fn heed_session(&mut self) {
        if let Some(reason) = self.session.close_reason() {
            self.end(Some(reason));
        }
    }

    /// The end: of the session, last words, the will.
    async fn leave(self) {
        let Self { hub, mut stream, mut wire, session, mut output, subscribed, will, phase, .. } = self;
        drop(subscribed);
        if let Phase::Ending(Ending { reason: Some(reason), .. }) = phase {
            // A DISCONNECT that the peer has no room for is left out.
            let _ = wire.encode(Outbound::Disconnect(reason), &mut output);
            let said = tokio::time::timeout(FLUSH_MAX, stream.write_all(&output)).await;
            if matches!(said, Ok(Ok(()))) {
                linger(&mut stream).await;
            }
        }
        drop(stream);
        debug!(client_id = %session.client_id, "client disconnected");
        if let Some((message, publication)) = will {
            let message = Message { timestamp_ms: wall_clock_ms(), ..message };
            hub.publish_will(message, publication).await;
        }
    }

    fn is_v5(&self) -> bool {
        match self.wire.version() {
            Version::V31 | Version::V311 => false,
            Version::V5 => true,
        }
    }
}
