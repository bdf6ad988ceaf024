//! Produces to a topic of Kafka.
//!
//! ```text
//! deliver (one per lane and batch) ──► librdkafka, which batches by partition over all lanes ──► brokers
//!    ▲                                                                                              │
//!    └─────────────── one outcome per record, by its delivery report ◄──────────────────────────────┘
//! ```
//!
//! A broker that refuses a batch for a message in it does not always say for which: never for one that is too large, and
//! older brokers never at all. Those that may have been in company – they stand in batches with those of other lanes –
//! go once more, each in a batch of its own. Nothing of a refused batch was taken.

use std::sync::Arc;
use std::time::Duration;

use api_types::Record;
use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::OnceCell;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout};

use super::addresses;
use super::call::Call;
use super::config::Config;
use super::fault::{is_about_a_record, outcome, target_fault};
use super::message::Messages;
use super::producer::Producer;
use super::settings;
use super::target::Target;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, tls_unusable, unusable};
use crate::sinks::shared::network::Network;

pub(crate) const OFFERED: Offered =
    Offered { kind: "kafka", open: |resolved, context| Box::pin(open(resolved, context)) };

/// How long opening may take, unless a message may take less.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// A topic that the broker creates when it is asked for it is there by then.
const TOPIC_WITHIN: Duration = Duration::from_secs(3);
const TOPIC_EVERY: Duration = Duration::from_millis(100);
/// librdkafka looks once a second for what has timed out. Whoever has no report so long after the time is over gets none.
const REPORT_GRACE: Duration = Duration::from_secs(10);

struct KafkaSink {
    topic: String,
    messages: Messages,
    producer: Arc<Producer>,
    /// For messages that have to go one by one; there when the first of them comes.
    alone: OnceCell<Producer>,
    alone_settings: ClientConfig,
    target: Arc<Target>,
    /// A larger message has a batch to itself.
    batch_bytes: usize,
    message_timeout: Duration,
    cleanup_timeout: Duration,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let messages = Messages::new(&config).map_err(|error| unusable(&error))?;
    let topic = config.topic.clone();
    let message_timeout = Duration::from_millis(config.message_timeout_ms);
    let cleanup_timeout = Duration::from_secs(config.cleanup_timeout_secs);
    let batch_bytes = usize::try_from(config.batch_size).unwrap_or(usize::MAX);
    let within = OPEN_WITHIN.min(message_timeout);
    let deny_networks = Arc::clone(&context.deny_networks);
    let late = |_| TargetFault::new(TargetFaultKind::Down, format!("the target cannot be opened within {within:?}"));

    timeout(within, addresses::check_servers(&config.bootstrap_servers, &deny_networks)).await.map_err(late)??;
    let servers = config.bootstrap_servers.split(',').count();
    let target = Target::new(context.connector.0.clone(), servers, Arc::clone(&deny_networks));
    // Whatever was begun ends when this fails, or is given up half-way.
    let unopened = target.aborted.clone().drop_guard();
    let client_id = format!("sluice/{}", context.connector.0);
    let (producer, settings) = started(config, client_id, Arc::clone(&target)).await?;
    let opened = tokio::select! {
        biased;
        refusal = target.refusal() => Err(refusal),
        checked = check(&producer, &topic, within, &deny_networks) => checked,
    };
    opened?;
    unopened.disarm();
    Ok(Box::new(KafkaSink {
        topic,
        messages,
        producer,
        alone: OnceCell::new(),
        alone_settings: settings::alone(settings),
        target,
        batch_bytes,
        message_timeout,
        cleanup_timeout,
    }))
}

async fn started(
    config: Config,
    client_id: String,
    target: Arc<Target>,
) -> Result<(Arc<Producer>, ClientConfig), TargetFault> {
    let watches_connections = target.denies_networks();
    let starting = tokio::task::spawn_blocking(move || {
        let settings =
            settings::settings(&config, &client_id, watches_connections).map_err(|error| tls_unusable(&error))?;
        let producer = Producer::start(&settings, target)?;
        Ok::<_, TargetFault>((Arc::new(producer), settings))
    });
    starting.await.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?
}

/// A broker answers, the topic is there, and no broker of the cluster stands where we may not go.
async fn check(
    producer: &Arc<Producer>,
    topic: &str,
    within: Duration,
    deny_networks: &[Network],
) -> Result<(), TargetFault> {
    let started = Instant::now();
    loop {
        let (asked, name) = (Arc::clone(producer), topic.to_owned());
        let asking = tokio::task::spawn_blocking(move || asked.look_up(&name, within));
        let found = asking.await.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))??;
        for (host, port) in &found.brokers {
            addresses::check(host, *port, deny_networks).await?;
        }
        let Some(code) = found.topic_error else { return Ok(()) };
        let may_come = matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::LeaderNotAvailable);
        if !may_come || started.elapsed() > TOPIC_WITHIN.min(within) {
            return Err(target_fault(code, &format!("topic {topic}: {code}")));
        }
        sleep(TOPIC_EVERY).await;
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut ends = self.send(&self.producer, batch.records).await;
        let suspects: Vec<usize> = (0..ends.len()).filter(|place| ends[*place].is_open()).collect();
        if !suspects.is_empty() {
            let records: Vec<&Record> = suspects.iter().map(|place| batch.records[*place]).collect();
            for (place, end) in suspects.into_iter().zip(self.send_alone(&records).await) {
                ends[place] = end;
            }
        }
        ends.into_iter().map(End::into_outcome).collect()
    }

    fn abort(&self) {
        self.target.aborted.cancel();
        for producer in self.producers() {
            producer.abort();
        }
    }

    async fn close(&self) {
        self.target.closing.cancel();
        for producer in self.producers() {
            producer.end(self.cleanup_timeout);
        }
        for producer in self.producers() {
            producer.ended().await;
        }
    }
}

impl KafkaSink {
    fn producers(&self) -> impl Iterator<Item = &Producer> {
        std::iter::once(&*self.producer).chain(self.alone.get())
    }

    async fn send_alone(&self, records: &[&Record]) -> Vec<End> {
        let start = || async {
            let (settings, target) = (self.alone_settings.clone(), Arc::clone(&self.target));
            let starting = tokio::task::spawn_blocking(move || Producer::start(&settings, target));
            starting.await.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?
        };
        match self.alone.get_or_try_init(start).await {
            Ok(producer) => {
                let ends = self.send(producer, records).await;
                ends.into_iter().map(|end| End::Outcome(end.into_outcome())).collect()
            }
            Err(fault) => vec![End::Outcome(Outcome::TargetFault(fault)); records.len()],
        }
    }

    /// In order; what stands behind a record that could not be handed over is not handed over either.
    async fn send(&self, producer: &Producer, records: &[&Record]) -> Vec<End> {
        let call = Call::of(records.len());
        let mut known: Vec<Option<Outcome>> = vec![None; records.len()];
        let mut may_have_company = vec![false; records.len()];
        let deadline = Instant::now() + self.message_timeout;
        for (place, record) in records.iter().enumerate() {
            let message = match self.messages.message(record) {
                Ok(message) => message,
                Err(fault) => {
                    known[place] = Some(Outcome::RecordFault(fault));
                    continue;
                }
            };
            may_have_company[place] = message.bytes_at_least() <= self.batch_bytes;
            let sent = producer.send(&self.topic, message, call.ticket(place), deadline).await;
            match sent {
                Ok(()) => {}
                Err(fault @ Outcome::RecordFault(_)) => known[place] = Some(fault),
                Err(fault) => {
                    known[place..].fill(Some(fault));
                    break;
                }
            }
            // Handing over ten thousand messages takes a while, and others have to get their turn.
            consume_budget().await;
        }
        self.wait_for(&call).await;
        let reason = self.target.reason();
        let end = |((report, known), may_have_company)| match (report, known) {
            (Some(Ok(())), _) => End::Outcome(Outcome::Delivered),
            (Some(Err(code)), _) if may_have_company && is_about_a_record(code) => End::RefusedInCompany(code),
            (Some(Err(code)), _) => End::Outcome(self.outcome(producer, code, reason.as_ref())),
            (None, Some(outcome)) => End::Outcome(outcome),
            (None, None) => End::Outcome(Outcome::TargetFault(self.unreported())),
        };
        call.reports().into_iter().zip(known).zip(may_have_company).map(end).collect()
    }

    async fn wait_for(&self, call: &Call) {
        tokio::select! {
            biased;
            () = call.completed() => {}
            // Whatever is not reported now is purged: here too, where it was not this sink's owner who ended it but an
            // address that it may not connect to.
            () = self.target.aborted.cancelled() => self.producers().for_each(Producer::abort),
            () = sleep(self.message_timeout + REPORT_GRACE) => {}
        }
    }

    /// A message is purged because this sink ends, or by librdkafka itself after an error that it cannot go on from.
    fn outcome(&self, producer: &Producer, code: RDKafkaErrorCode, reason: Option<&TargetFault>) -> Outcome {
        if !matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) {
            return outcome(code, reason);
        }
        let fatal = if self.target.takes_nothing() { None } else { producer.fatal() };
        Outcome::TargetFault(fatal.unwrap_or_else(|| self.target.end()))
    }

    fn unreported(&self) -> TargetFault {
        if self.target.takes_nothing() {
            return self.target.end();
        }
        let message = format!("no delivery report after {} s", (self.message_timeout + REPORT_GRACE).as_secs());
        TargetFault::new(TargetFaultKind::Down, message).reopening()
    }
}

/// What became of a record that was sent once.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Outcome(Outcome),
    /// Its batch was refused for a record in it, and it may not have been alone.
    RefusedInCompany(RDKafkaErrorCode),
}

impl End {
    fn is_open(&self) -> bool {
        match self {
            Self::Outcome(_) => false,
            Self::RefusedInCompany(_) => true,
        }
    }

    /// Of one that was alone after all.
    fn into_outcome(self) -> Outcome {
        match self {
            Self::Outcome(outcome) => outcome,
            Self::RefusedInCompany(code) => outcome(code, None),
        }
    }
}

#[cfg(test)]
mod tests;
