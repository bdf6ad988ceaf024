//! The one task that owns the connection of a sink: moves bytes, keeps the link alive, connects again.
//!
//! ```text
//!   deliver ─Run─► channel ─► window ─► outbox ─► socket
//!   deliver ◄─outcomes──────── window ◄─ inbox ◄── socket
//! ```

use std::time::Duration;

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connect::{Dialer, Link, down, open_channel, unreadable};
use super::pulse::Pulse;
use super::refusal::Close;
use super::window::{Run, Verdict, Window};
use super::wire;
use crate::sink::{Outcome, TargetFault, TargetFaultKind};
use crate::sinks::shared::driven::Signals;
use crate::sinks::shared::outbox::Outbox;
use crate::sinks::shared::stream::broken;

/// A server that blocks publishers for longer says so to the pipeline, which shows it and asks again later. Many alarms
/// are over before.
const BLOCKED_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Driver {
    dialer: Dialer,
    link: Option<Link>,
    traffic: Traffic,
    signals: Signals,
}

/// What goes over the link and comes back.
struct Traffic {
    confirms: bool,
    confirm_timeout: Duration,
    window: Window,
    out: Outbox,
    runs: mpsc::Receiver<Run>,
    blocked: Option<Blocked>,
    /// Without confirmations: the server refused messages that count as delivered. The next run is told.
    unheard: Option<TargetFault>,
}

struct Blocked {
    reason: String,
    since: Instant,
}

impl Blocked {
    fn is_long(&self, now: Instant) -> bool {
        now >= self.since + BLOCKED_WITHIN
    }

    fn fault(&self) -> TargetFault {
        let message = format!("the server blocks publishers: {}", self.reason);
        TargetFault::new(TargetFaultKind::Full, message)
    }
}

/// The connection is lost.
enum Lost {
    /// The server waits for a last word.
    Closed(TargetFault),
    Broken(TargetFault),
}

impl Driver {
    pub(super) fn new(
        dialer: Dialer,
        link: Link,
        confirm_timeout: Duration,
        runs: mpsc::Receiver<Run>,
        signals: Signals,
    ) -> Self {
        let confirms = dialer.confirms;
        let mut window = Window::new(confirms);
        window.begin(link.limits);
        let traffic =
            Traffic { confirms, confirm_timeout, window, out: Outbox::default(), runs, blocked: None, unheard: None };
        Self { dialer, link: Some(link), traffic, signals }
    }

    pub(super) async fn run(mut self) {
        let signals = self.signals.clone();
        let fault = tokio::select! {
            biased;
            () = signals.aborted.cancelled() => interrupted("the sink was aborted"),
            () = signals.closing.cancelled() => {
                self.close().await;
                interrupted("the sink was closed")
            }
            fault = self.work() => fault,
        };
        self.end(fault).await;
    }

    /// Whoever asks from now on gets this fault, and so does everybody who waits.
    async fn end(mut self, fault: TargetFault) {
        self.link = None;
        let outcome = Outcome::TargetFault(fault.clone());
        // Nobody else sets it.
        let _ = self.signals.ended.set(fault);
        self.traffic.runs.close();
        self.traffic.window.end_all(&outcome);
        while let Some(run) = self.traffic.runs.recv().await {
            run.answer(&outcome);
        }
    }

    /// Sends nothing more of what was asked. In the middle of a frame there is no polite word.
    async fn close(&mut self) {
        if let Some(link) = self.link.take()
            && !self.traffic.out.is_writing()
        {
            link.goodbye().await;
        }
    }

    /// Until nobody can ask anything any more.
    async fn work(&mut self) -> TargetFault {
        loop {
            let lost = match &mut self.link {
                Some(link) => self.traffic.converse(link).await,
                None => Lost::Broken(down("there is no connection")),
            };
            let fault = match lost {
                Lost::Broken(fault) => fault,
                Lost::Closed(fault) => {
                    self.agree().await;
                    fault
                }
            };
            self.link = None;
            self.traffic.end(fault);
            if !self.connect_again().await {
                return interrupted("the sink is gone");
            }
        }
    }

    async fn agree(&mut self) {
        if let Some(link) = self.link.take()
            && !self.traffic.out.is_writing()
        {
            link.agree().await;
        }
    }

    /// Only when somebody waits for it, and once for all who do: the pipeline decides when to try again.
    async fn connect_again(&mut self) -> bool {
        let traffic = &mut self.traffic;
        loop {
            let Some(run) = traffic.runs.recv().await else { return false };
            let connected = match traffic.unheard.take() {
                Some(fault) => Err(fault),
                None => self.dialer.connect().await,
            };
            match connected {
                Ok(link) => {
                    traffic.window.begin(link.limits);
                    self.link = Some(link);
                    traffic.window.take(run);
                    return true;
                }
                Err(fault) => {
                    let outcome = Outcome::TargetFault(fault);
                    run.answer(&outcome);
                    while let Ok(run) = traffic.runs.try_recv() {
                        run.answer(&outcome);
                    }
                }
            }
        }
    }
}

impl Traffic {
    /// The connection is lost, and with it everything that is under way.
    fn end(&mut self, fault: TargetFault) {
        self.out = Outbox::default();
        self.blocked = None;
        // Neither a server that is gone nor one that has no room has refused what it took.
        let is_refusal = !matches!(fault.kind, TargetFaultKind::Down | TargetFaultKind::Full);
        if !self.confirms && self.window.is_idle() && is_refusal {
            self.unheard = Some(fault.clone());
        }
        self.window.end_all(&Outcome::TargetFault(fault));
    }

    /// Until the connection is lost.
    async fn converse(&mut self, link: &mut Link) -> Lost {
        let mut pulse = Pulse::new(link.heartbeat, Instant::now());
        loop {
            if let Err(lost) = self.read_answers(link).and_then(|()| self.keep_time(&pulse)) {
                return lost;
            }
            let now = Instant::now();
            self.take_waiting(now);
            let is_writing = self.out.is_writing() && self.blocked.is_none();
            let wants_run = self.wants_run(now);
            let due = self.due(&pulse, is_writing, now);
            tokio::select! {
                biased;
                read = link.reader.read_buf(&mut link.inbox), if self.out.takes_answers() => match read {
                    Ok(0) => return Lost::Broken(down("the server closed the connection")),
                    Ok(_) => pulse.hear(Instant::now()),
                    Err(error) => return Lost::Broken(broken(&error)),
                },
                written = self.out.write(&mut link.writer), if is_writing => match written {
                    Ok(()) => {
                        pulse.wrote(Instant::now());
                        self.window.handed_over(&self.out);
                    }
                    Err(error) => return Lost::Broken(broken(&error)),
                },
                run = self.runs.recv(), if wants_run => match run {
                    Some(run) => self.take(run, Instant::now()),
                    None => return Lost::Broken(interrupted("the sink is gone")),
                },
                () = sleep_until(due) => {}
            }
        }
    }

    fn wants_run(&self, now: Instant) -> bool {
        match &self.blocked {
            // They are told so.
            Some(blocked) => blocked.is_long(now),
            None => self.window.wants_run(),
        }
    }

    fn take(&mut self, run: Run, now: Instant) {
        if let Some(blocked) = self.blocked.as_ref().filter(|blocked| blocked.is_long(now)) {
            run.answer(&Outcome::TargetFault(blocked.fault()));
        } else if let Some(fault) = self.unheard.take() {
            run.answer(&Outcome::TargetFault(fault));
        } else {
            self.window.take(run);
        }
    }

    /// Fills the outbox with what waits, without waiting for it: many small runs leave in one write.
    fn take_waiting(&mut self, now: Instant) {
        if self.blocked.is_some() {
            return;
        }
        self.window.fill(&mut self.out, now);
        while self.window.wants_run() {
            let Ok(run) = self.runs.try_recv() else { return };
            self.take(run, now);
            self.window.fill(&mut self.out, now);
        }
    }

    /// When something has to be done that nobody asks for.
    fn due(&self, pulse: &Pulse, is_writing: bool, now: Instant) -> Option<Instant> {
        let answer = self.window.waiting_since().map(|since| since + self.confirm_timeout);
        let (answer, blocked) = match &self.blocked {
            Some(blocked) if !blocked.is_long(now) => (None, Some(blocked.since + BLOCKED_WITHIN)),
            Some(_) | None => (answer, None),
        };
        let may_beat = !is_writing && self.blocked.is_none();
        let beat = pulse.beat_due().filter(|_| may_beat);
        [answer, blocked, beat, pulse.is_lost_at()].into_iter().flatten().min()
    }

    fn keep_time(&mut self, pulse: &Pulse) -> Result<(), Lost> {
        let now = Instant::now();
        if pulse.is_lost_at().is_some_and(|lost| now >= lost) {
            let message =
                format!("not a word of the server within {} s: heartbeats are missed", pulse.silence().as_secs());
            return Err(Lost::Broken(down(message)));
        }
        match &self.blocked {
            Some(blocked) if blocked.is_long(now) => {
                let fault = blocked.fault();
                let outcome = Outcome::TargetFault(fault.clone());
                self.window.end_unsent(&outcome);
                // What the server has is its own; it confirms it when the alarm is over, and nobody waits for that. What
                // is still here must not leave then: it is tried again.
                if let Some(before) = now.checked_sub(self.confirm_timeout)
                    && self.window.end_sent_before(before, &outcome, self.out.handed_over)
                {
                    return Err(Lost::Broken(fault));
                }
            }
            Some(_) => {}
            None if self.window.waiting_since().is_some_and(|since| now >= since + self.confirm_timeout) => {
                let what = if self.confirms { "confirmation" } else { "room for a message" };
                return Err(Lost::Broken(down(format!("no {what} within {} s", self.confirm_timeout.as_secs()))));
            }
            None => {}
        }
        let may_beat = !self.out.is_writing() && self.blocked.is_none();
        if may_beat && pulse.beat_due().is_some_and(|due| now >= due) {
            wire::heartbeat(&mut self.out.bytes);
        }
        Ok(())
    }

    fn read_answers(&mut self, link: &mut Link) -> Result<(), Lost> {
        let frame_bytes_max = link.limits.frame_bytes_max;
        while let Some(frame) =
            wire::decode(&mut link.inbox, frame_bytes_max).map_err(|error| Lost::Broken(unreadable(&error)))?
        {
            match frame {
                AMQPFrame::Method(0, AMQPClass::Connection(method)) => self.hear_of_connection(method)?,
                AMQPFrame::Method(channel, AMQPClass::Channel(method)) => self.hear_of_channel(channel, method)?,
                AMQPFrame::Method(channel, AMQPClass::Basic(method)) => self.hear_of_message(channel, method),
                AMQPFrame::Header(channel, header) => self.window.returned_properties(channel, &header),
                AMQPFrame::Body(channel, body) => self.window.returned_body(channel, body.len()),
                // Answers that nobody waits for, and heartbeats.
                _ => {}
            }
        }
        Ok(())
    }

    fn hear_of_connection(&mut self, method: connection::AMQPMethod) -> Result<(), Lost> {
        match method {
            connection::AMQPMethod::Close(close) => {
                let close = Close { code: close.reply_code, text: close.reply_text.to_string() };
                return Err(Lost::Closed(close.of_connection()));
            }
            connection::AMQPMethod::Blocked(blocked) => self.block(blocked.reason.to_string()),
            connection::AMQPMethod::Unblocked(_) => self.unblock(),
            _ => {}
        }
        Ok(())
    }

    fn hear_of_channel(&mut self, channel: u16, method: channel::AMQPMethod) -> Result<(), Lost> {
        let answered = match method {
            channel::AMQPMethod::Close(close) => {
                let close = Close { code: close.reply_code, text: close.reply_text.to_string() };
                if !self.confirms {
                    // Nobody knows what of it is lost. The next connection looks whether the exchange is there.
                    return Err(Lost::Broken(close.of_channel()));
                }
                self.window.channel_closed(channel, &close);
                self.answer(channel, channel::AMQPMethod::CloseOk(channel::CloseOk {}), true)
            }
            channel::AMQPMethod::Flow(flow) if flow.active => {
                self.answer(channel, channel::AMQPMethod::FlowOk(channel::FlowOk { active: true }), false)
            }
            // It has to be obeyed at once, in the middle of what waits for the socket. RabbitMQ never asks for it.
            channel::AMQPMethod::Flow(_) => {
                let message = "the server asks for a pause (channel.flow)";
                return Err(Lost::Broken(TargetFault::new(TargetFaultKind::Full, message)));
            }
            _ => Ok(()),
        };
        answered.map_err(|error| Lost::Broken(unreadable(&error)))
    }

    fn hear_of_message(&mut self, channel: u16, method: basic::AMQPMethod) {
        let taken = self.out.taken;
        match method {
            basic::AMQPMethod::Ack(ack) => {
                self.window.confirmed(channel, ack.delivery_tag, ack.multiple, Verdict::Ack, taken);
            }
            basic::AMQPMethod::Nack(nack) => {
                self.window.confirmed(channel, nack.delivery_tag, nack.multiple, Verdict::Nack, taken);
            }
            basic::AMQPMethod::Return(method) => self.window.returned(channel, &method),
            _ => {}
        }
    }

    fn answer(&mut self, channel: u16, method: channel::AMQPMethod, open_again: bool) -> Result<(), wire::WireError> {
        let confirms = self.confirms;
        let mut written = Ok(());
        self.out.answer(|out| {
            written = wire::method(channel, AMQPClass::Channel(method), out);
            if open_again && written.is_ok() {
                written = open_channel(channel, confirms, out);
            }
        });
        written
    }

    fn block(&mut self, reason: String) {
        self.blocked.get_or_insert_with(|| Blocked { reason, since: Instant::now() });
    }

    /// Nothing is late for the time of the alarm.
    fn unblock(&mut self) {
        if let Some(blocked) = self.blocked.take() {
            self.window.shift(blocked.since.elapsed().min(self.confirm_timeout));
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn interrupted(message: &'static str) -> TargetFault {
    TargetFault::new(TargetFaultKind::Interrupted, message)
}
