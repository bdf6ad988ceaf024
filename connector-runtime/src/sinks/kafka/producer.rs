//! One producer of librdkafka, and the thread that serves its events.
//!
//! ```text
//! send ──► librdkafka's queue ──► its threads ──► brokers
//!                                      │ delivery reports, errors, log lines
//!                   the thread here ◄──┘ ──► tickets of calls, target
//! ```
//!
//! Whatever may block happens on that thread: waiting for what is under way at the end, and taking the producer down.

use std::sync::mpsc::{self, TryRecvError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{MetadataBroker, MetadataTopic};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, PurgeConfig};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::call::Ticket;
use super::fault::{outcome, target_fault};
use super::message::Message;
use super::target::{Events, Target};
use crate::sink::{Outcome, RecordFault, TargetFault, TargetFaultKind};

/// How long the first question for the brokers waits for an answer; each further one waits twice as long.
const ANSWER_AT_FIRST: Duration = Duration::from_millis(250);
/// How soon the thread notices that it is to end; events are served as they come.
const POLL: Duration = Duration::from_millis(100);
/// The same while it waits for the last call that is just sending.
const LAST_POLL: Duration = Duration::from_millis(1);

type Inner = BaseProducer<Events>;

pub(super) struct Producer {
    /// The thread owns it: what takes it down may block.
    inner: Weak<Inner>,
    target: Arc<Target>,
    /// Tells the thread to end, after waiting so long for what is under way.
    end: mpsc::SyncSender<Duration>,
    ended: CancellationToken,
}

impl Producer {
    /// Starts threads, and reads nothing but what `settings` says.
    pub(super) fn start(settings: &ClientConfig, target: Arc<Target>) -> Result<Self, TargetFault> {
        let inner = Inner::from_config_and_context(settings, Events(Arc::clone(&target))).map_err(unusable)?;
        let inner = Arc::new(inner);
        // The first word counts: an end is told once.
        let (end, told) = mpsc::sync_channel(1);
        let ended = CancellationToken::new();
        let producer = Self { inner: Arc::downgrade(&inner), target: Arc::clone(&target), end, ended: ended.clone() };
        let ends = ended.drop_guard();
        let serving = std::thread::Builder::new().name("sluice-kafka".to_owned());
        serving
            .spawn(move || serve(inner, &target, &told, ends))
            .map_err(|error| TargetFault::new(TargetFaultKind::Down, format!("no thread: {error}")))?;
        Ok(producer)
    }

    /// Hands a message over; waits for room in the queue until `deadline`.
    pub(super) async fn send(
        &self,
        topic: &str,
        message: Message<'_>,
        ticket: Box<Ticket>,
        deadline: Instant,
    ) -> Result<(), Outcome> {
        let Message { key, value, headers, timestamp_ms } = message;
        let record = BaseRecord::with_opaque_to(topic, ticket)
            .key(&key[..])
            .payload(&value[..])
            .headers(headers)
            .timestamp(timestamp_ms);
        let mut record = match self.offer(record)? {
            None => return Ok(()),
            Some(record) => record,
        };
        let waiting = self.target.waiting();
        loop {
            let room = waiting.room();
            tokio::pin!(room);
            room.as_mut().enable();
            record = match self.offer(record)? {
                None => return Ok(()),
                Some(record) => record,
            };
            let ended = self.target.aborted.cancelled();
            let waited = async {
                tokio::select! { () = room => {}, () = ended => {} }
            };
            if timeout_at(deadline, waited).await.is_err() {
                record.delivery_opaque.give_back();
                let full = outcome(RDKafkaErrorCode::QueueFull, self.target.reason().as_ref());
                return Err(full);
            }
        }
    }

    /// Gives the record back when there is no room for it.
    fn offer<'m>(&self, record: Record<'m>) -> Result<Option<Record<'m>>, Outcome> {
        let inner = if self.target.takes_nothing() { None } else { self.inner.upgrade() };
        let Some(inner) = inner else {
            record.delivery_opaque.give_back();
            return Err(Outcome::TargetFault(self.target.end()));
        };
        let sent = inner.send(record);
        // An abort that has just passed by has not seen this one.
        if self.target.aborted.is_cancelled() {
            purge(&inner);
        }
        let (error, record) = match sent {
            Ok(()) => return Ok(None),
            Err(refused) => refused,
        };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code == RDKafkaErrorCode::QueueFull {
            return Ok(Some(record));
        }
        record.delivery_opaque.give_back();
        let size = record.payload.map_or(0, <[u8]>::len);
        Err(match code {
            RDKafkaErrorCode::MessageSizeTooLarge => {
                let message = format!("{size} bytes are more than a request to Kafka may have");
                Outcome::RecordFault(RecordFault::offline("message_too_large", message))
            }
            RDKafkaErrorCode::Fatal => Outcome::TargetFault(fatal(&inner).unwrap_or_else(|| self.target.end())),
            _ => outcome(code, self.target.reason().as_ref()),
        })
    }

    /// Why librdkafka itself takes nothing any more.
    pub(super) fn fatal(&self) -> Option<TargetFault> {
        let inner = self.inner.upgrade()?;
        fatal(&inner)
    }

    /// Asks a broker for the others and for the topic. Blocks; asks anew now and then, so that it ends soon after the
    /// sink does.
    pub(super) fn look_up(&self, topic: &str, within: Duration) -> Result<Found, TargetFault> {
        let Some(inner) = self.inner.upgrade() else { return Err(self.target.end()) };
        let started = std::time::Instant::now();
        let mut wait = ANSWER_AT_FIRST;
        let metadata = loop {
            let left = within.saturating_sub(started.elapsed());
            let error = match inner.client().fetch_metadata(Some(topic), wait.min(left)) {
                Ok(metadata) => break metadata,
                Err(error) => error,
            };
            if self.target.takes_nothing() {
                return Err(self.target.end());
            }
            if wait >= left {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                let silent = || target_fault(code, &format!("no broker answers: {code}"));
                return Err(self.target.reason().unwrap_or_else(silent));
            }
            wait *= 2;
        };
        let address = |broker: &MetadataBroker| {
            let port = u16::try_from(broker.port()).unwrap_or_default();
            (broker.host().to_owned(), port)
        };
        let error = metadata.topics().iter().find(|found| found.name() == topic).and_then(MetadataTopic::error);
        Ok(Found { brokers: metadata.brokers().iter().map(address).collect(), topic_error: error.map(Into::into) })
    }

    /// Without I/O and without waiting: what is not yet written never is, and nothing is sent again.
    pub(super) fn abort(&self) {
        if let Some(inner) = self.inner.upgrade() {
            purge(&inner);
        }
        self.end(Duration::ZERO);
    }

    /// Begins to end; waits at most so long for what is under way.
    pub(super) fn end(&self, within: Duration) {
        // It may have ended before.
        let _ = self.end.try_send(within);
    }

    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What a broker says of its cluster.
pub(super) struct Found {
    /// Host and port, as the brokers advertise them.
    pub(super) brokers: Vec<(String, u16)>,
    pub(super) topic_error: Option<RDKafkaErrorCode>,
}

type Record<'m> = BaseRecord<'m, [u8], [u8], Box<Ticket>>;

fn serve(inner: Arc<Inner>, target: &Target, told: &mpsc::Receiver<Duration>, _ends: DropGuard) {
    let within = loop {
        inner.poll(POLL);
        if target.aborted.is_cancelled() {
            break Duration::ZERO;
        }
        match told.try_recv() {
            Ok(within) => break within,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break Duration::ZERO,
        }
    };
    if !within.is_zero()
        && let Err(error) = inner.flush(within)
    {
        warn!(%error, "not everything that was on its way to kafka could be waited for");
    }
    purge(&inner);
    // Whoever is just sending has a moment left, and needs the reports.
    while Arc::strong_count(&inner) > 1 {
        inner.poll(LAST_POLL);
    }
}

fn purge(inner: &Inner) {
    inner.purge(PurgeConfig::default().queue().inflight().non_blocking());
}

fn fatal(inner: &Inner) -> Option<TargetFault> {
    let (code, words) = inner.client().fatal_error()?;
    Some(target_fault(code, &format!("the producer cannot go on: {code}: {words}")).reopening())
}

/// A setting is named without its value, which may be a secret.
fn unusable(error: KafkaError) -> TargetFault {
    let (reason, message) = match error {
        KafkaError::ClientConfig(_, words, setting, _) => ("CONFIG_UNUSABLE", format!("{setting}: {words}")),
        KafkaError::ClientCreation(words) if words.contains("ssl.") => ("TLS_UNUSABLE", words),
        KafkaError::ClientCreation(words) => ("CONFIG_UNUSABLE", words),
        _ => ("CONFIG_UNUSABLE", "librdkafka refuses the configuration".to_owned()),
    };
    TargetFault::new(TargetFaultKind::Misconfigured(reason), message)
}
