//! The one task that owns the connection of a sink: moves bytes, keeps the link alive, connects again.
//!
//! ```text
//!   deliver ─Run─► channel ─► window ─► outbox ─► socket
//!   deliver ◄─outcomes──────── window ◄─ inbox ◄── socket
//! ```

use std::io::ErrorKind;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answers::{self, Closing};
use super::config::ProtocolVersion;
use super::connect::{Dialer, Link, down, unreadable};
use super::suspects::{Cause, Loss};
use super::window::{Run, Window};
use super::wire::{self, Received};
use crate::sink::{Outcome, TargetFault, TargetFaultKind};
use crate::sinks::shared::driven::Signals;
use crate::sinks::shared::outbox::Outbox;
use crate::sinks::shared::stream::broken;

/// For the answer to one message, and for the socket to take more: a target that is alive and needs longer is as good
/// as gone, and the messages are safer in the queue.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// For all attempts to connect again without an answer to any message in between. Then the records go back to the
/// pipeline, which shows that the target is away, and asks again: with `max_retries` and `connect_timeout_secs` at
/// their most nobody would hear of it for most of an hour.
const RECONNECT_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Driver {
    dialer: Dialer,
    link: Option<Link>,
    traffic: Traffic,
    max_retries: u64,
    signals: Signals,
}

/// What goes over the link and comes back.
struct Traffic {
    version: ProtocolVersion,
    window: Window,
    out: Outbox,
    runs: mpsc::Receiver<Run>,
    /// Connections lost and not come about since the target last answered anything.
    in_vain: u64,
    /// Since when somebody waits in vain.
    in_vain_since: Option<Instant>,
    has_ever_answered: bool,
}

enum Lost {
    /// Worth another connection.
    Link(Loss),
    Sink(TargetFault),
}

/// What the link waits for.
struct Pulse {
    keepalive: Duration,
    sent: Instant,
    heard: Instant,
    /// The socket has taken bytes, or had nothing to take.
    taken: Instant,
    pinged: Option<Instant>,
    /// The oldest message without an answer, and since when it is that.
    oldest: Option<(u64, Instant)>,
}

impl Driver {
    pub(super) fn new(
        dialer: Dialer,
        link: Link,
        max_retries: u64,
        runs: mpsc::Receiver<Run>,
        signals: Signals,
    ) -> Self {
        let traffic = Traffic {
            version: dialer.version(),
            window: Window::new(max_retries, link.limits),
            out: Outbox::default(),
            runs,
            in_vain: 0,
            in_vain_since: None,
            has_ever_answered: false,
        };
        Self { dialer, link: Some(link), traffic, max_retries, signals }
    }

    pub(super) async fn run(mut self) {
        let signals = self.signals.clone();
        let fault = tokio::select! {
            biased;
            () = signals.aborted.cancelled() => {
                self.link = None;
                interrupted("the sink was aborted")
            }
            () = signals.closing.cancelled() => {
                self.close().await;
                interrupted("the sink was closed")
            }
            fault = self.work() => fault.reopening(),
        };
        self.end(fault).await;
    }

    /// Whoever asks from now on gets this fault, and so does everybody who waits.
    async fn end(mut self, fault: TargetFault) {
        let outcome = Outcome::TargetFault(fault.clone());
        // Nobody else sets it.
        let _ = self.signals.ended.set(fault);
        self.traffic.runs.close();
        self.traffic.window.end_all(&outcome);
        while let Some(run) = self.traffic.runs.recv().await {
            run.answer(&outcome);
        }
    }

    /// Sends nothing more of what was asked. In the middle of a packet there is no polite word.
    async fn close(&mut self) {
        if let Some(link) = self.link.take()
            && !self.traffic.out.is_writing()
        {
            link.goodbye().await;
        }
    }

    /// Until this sink is spent.
    async fn work(&mut self) -> TargetFault {
        loop {
            let loss = match self.converse().await {
                Lost::Link(loss) => self.explained(loss),
                Lost::Sink(fault) => return fault,
            };
            self.link = None;
            let traffic = &mut self.traffic;
            traffic.out = Outbox::default();
            let was_idle = traffic.window.is_idle();
            if traffic.window.lost(&loss) {
                traffic.in_vain = 0;
                traffic.in_vain_since = None;
            } else if !was_idle {
                traffic.in_vain += 1;
            }
            if traffic.in_vain > self.max_retries {
                return loss.fault;
            }
            match self.connect_again().await {
                Ok(link) => {
                    self.traffic.window.resume(link.kept, link.limits);
                    self.link = Some(link);
                }
                Err(fault) => return fault,
            }
        }
    }

    /// At once, and only when somebody waits for it: there is no pause between two attempts, so their number is bounded.
    async fn connect_again(&mut self) -> Result<Link, TargetFault> {
        let traffic = &mut self.traffic;
        if traffic.window.is_idle() {
            traffic.in_vain_since = None;
            match traffic.runs.recv().await {
                Some(run) => traffic.window.take(run),
                None => return Err(interrupted("the sink is gone")),
            }
        }
        let until = *traffic.in_vain_since.get_or_insert_with(Instant::now) + RECONNECT_WITHIN;
        let is_worn_out = traffic.window.is_worn_out();
        loop {
            let connecting = async { if is_worn_out { self.dialer.open().await } else { self.dialer.resume().await } };
            match tokio::time::timeout_at(until, connecting).await {
                Ok(Err(fault)) if fault.kind == TargetFaultKind::Down && traffic.in_vain < self.max_retries => {
                    traffic.in_vain += 1;
                }
                Ok(ended) => return ended,
                Err(_) => {
                    let message = format!("no connection and no answer within {} s", RECONNECT_WITHIN.as_secs());
                    return Err(down(message));
                }
            }
        }
    }

    /// Until the connection is lost.
    async fn converse(&mut self) -> Lost {
        let Some(link) = &mut self.link else { return Lost::Link(Loss::of(down("there is no connection"))) };
        let traffic = &mut self.traffic;
        let mut pulse = Pulse::new(link.keepalive);
        loop {
            if let Err(lost) = traffic.read_answers(&mut link.inbox, &mut pulse) {
                return lost;
            }
            traffic.take_waiting();
            let is_writing = traffic.out.is_writing();
            let due = pulse.due(traffic.window.oldest_unanswered(&traffic.out), is_writing);
            tokio::select! {
                biased;
                read = link.reader.read_buf(&mut link.inbox), if traffic.out.takes_answers() => match read {
                    Ok(0) => return Lost::Link(Loss::closed(down("the target closed the connection"))),
                    Ok(_) => {}
                    Err(error) => return Lost::Link(Loss::broken(&error)),
                },
                written = traffic.out.write(&mut link.writer), if is_writing => match written {
                    Ok(()) => {
                        pulse.wrote();
                        traffic.window.handed_over(&traffic.out);
                    }
                    Err(error) => return Lost::Link(Loss::broken(&error)),
                },
                run = traffic.runs.recv(), if traffic.window.wants_run() => match run {
                    Some(run) => traffic.window.take(run),
                    None => return Lost::Sink(interrupted("the sink is gone")),
                },
                () = tokio::time::sleep_until(due) => {
                    if let Some(fault) = pulse.beat(&mut traffic.out) {
                        return Lost::Link(Loss::of(fault));
                    }
                }
            }
        }
    }

    /// What a person may look at first.
    fn explained(&self, mut loss: Loss) -> Loss {
        let is_mute = !self.traffic.has_ever_answered && !self.traffic.window.is_idle();
        if is_mute && self.dialer.qos() == 2 && self.dialer.version() != ProtocolVersion::V5 {
            loss.fault.message = format!("{}; does it speak QoS 2?", loss.fault.message).into();
        }
        loss
    }
}

impl Traffic {
    /// Fills the outbox with what waits, without waiting for it: many small runs leave in one write.
    fn take_waiting(&mut self) {
        self.window.fill(&mut self.out);
        while self.window.wants_run() {
            let Ok(run) = self.runs.try_recv() else { return };
            self.window.take(run);
            self.window.fill(&mut self.out);
        }
    }

    fn read_answers(&mut self, inbox: &mut BytesMut, pulse: &mut Pulse) -> Result<(), Lost> {
        while let Some(received) =
            wire::decode(self.version, inbox).map_err(|error| Lost::Link(Loss::of(unreadable(&error))))?
        {
            pulse.hear();
            let has_answered = match received {
                Received::Acknowledged(answer) => self.window.acknowledged(&answer),
                Received::Taken(answer) => self.window.taken(&answer, &mut self.out),
                Received::Completed(answer) => self.window.completed(&answer),
                Received::Closing { reason, words } => {
                    return Err(match answers::closing(reason, words.as_deref()) {
                        Closing::Final(fault) => Lost::Sink(fault),
                        Closing::Passing(loss) => Lost::Link(loss),
                    });
                }
                Received::Pong | Received::Connected(_) | Received::Other => false,
            };
            if has_answered {
                self.in_vain = 0;
                self.in_vain_since = None;
                self.has_ever_answered = true;
            }
        }
        Ok(())
    }
}

impl Loss {
    /// Without a word that a message could have been the cause of.
    fn of(fault: TargetFault) -> Self {
        Self { fault, cause: Cause::Unrelated }
    }

    fn closed(fault: TargetFault) -> Self {
        Self { fault, cause: Cause::Closed }
    }

    fn broken(error: &std::io::Error) -> Self {
        let cause = match error.kind() {
            // The target did that; TLS misses its last word then.
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => Cause::Closed,
            _ => Cause::Unrelated,
        };
        Self { fault: broken(error), cause }
    }
}

fn interrupted(message: &'static str) -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, message)
}

impl Pulse {
    fn new(keepalive: Duration) -> Self {
        let now = Instant::now();
        Self { keepalive, sent: now, heard: now, taken: now, pinged: None, oldest: None }
    }

    fn hear(&mut self) {
        self.heard = Instant::now();
        self.pinged = None;
    }

    fn wrote(&mut self) {
        self.sent = Instant::now();
        self.taken = self.sent;
    }

    /// When something has to be done.
    fn due(&mut self, oldest: Option<u64>, is_writing: bool) -> Instant {
        let now = Instant::now();
        if self.oldest.map(|(serial, _)| serial) != oldest {
            self.oldest = oldest.map(|serial| (serial, now));
        }
        if !is_writing {
            self.taken = now;
        }
        let alive = match self.pinged {
            Some(pinged) => pinged + self.keepalive,
            None => self.ping_due(),
        };
        alive.min(self.answer_due())
    }

    /// Early enough that a late timer does not cost the connection; a target that says nothing is asked as well.
    fn ping_due(&self) -> Instant {
        self.sent.min(self.heard) + self.keepalive * 3 / 4
    }

    fn answer_due(&self) -> Instant {
        self.oldest.map_or(self.taken, |(_, since)| since.min(self.taken)) + ANSWER_WITHIN
    }

    /// Asks whether the target is there, or finds that it is not.
    fn beat(&mut self, out: &mut Outbox) -> Option<TargetFault> {
        let now = Instant::now();
        if now >= self.answer_due() {
            return Some(down(format!("no answer to a message within {} s", ANSWER_WITHIN.as_secs())));
        }
        match self.pinged {
            Some(pinged) if now >= pinged + self.keepalive => {
                Some(down(format!("no answer to a PINGREQ within {} s", self.keepalive.as_secs())))
            }
            Some(_) => None,
            None => {
                if now >= self.ping_due() {
                    wire::ping(&mut out.bytes);
                    self.pinged = Some(now);
                }
                None
            }
        }
    }
}
