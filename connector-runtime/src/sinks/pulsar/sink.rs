//! Writes to a topic of Apache Pulsar.
//!
//! ```text
//! deliver ──► messages ──by key──► partition 0…n ──► seat of (queue, partition) ──► entries ──► the partition's broker
//!    ▲                                                                                 │
//!    └──────────────────── one outcome per record, by the receipt of its entry ◄───────┘
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::{ClusterId, Incarnation, RaftId};
use async_trait::async_trait;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::auth::Auth;
use super::cluster::{Cluster, servers};
use super::config::Config;
use super::connect::Dialer;
use super::fault::{EARLIER_OWNER_WITHIN, interrupted};
use super::message::Message;
use super::partition::partition_of;
use super::seat::{Publishing, Seat};
use crate::config::Resolved;
use crate::config::payload::PayloadFormat;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::stream::Trust;

pub(crate) const OFFERED: Offered =
    Offered { kind: "pulsar", open: |resolved, context| Box::pin(open(resolved, context)) };

/// A goodbye to the brokers, all together.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
const TLS_SCHEME: &str = "pulsar+ssl://";

struct PulsarSink {
    publishing: Publishing,
    format: PayloadFormat,
    cluster: ClusterId,
    seats: Mutex<HashMap<SeatKey, Arc<tokio::sync::Mutex<Seat>>>>,
    aborted: CancellationToken,
    closing: CancellationToken,
}

/// The records of one queue disk on one partition of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SeatKey {
    queue: Queue,
    partitions: u32,
    partition: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Queue {
    raft_id: RaftId,
    incarnation: Incarnation,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let aborted = CancellationToken::new();
    let unopened = aborted.clone().drop_guard();
    let has_tls = config.server.get(..TLS_SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(TLS_SCHEME));
    let auth = Auth::new(&config, context, aborted.clone())?;
    let unreadable = || {
        let message = format!("{}: one of its addresses cannot be read", config.server);
        TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), message)
    };
    let servers = servers(&config.server, has_tls).ok_or_else(unreadable)?;
    let trust = if has_tls { Some(Trust::read(config.tls).await?) } else { None };
    let dialer = Dialer {
        trust,
        auth,
        deny_networks: Arc::clone(&context.deny_networks),
        connect_timeout: Duration::from_secs(config.connection_timeout_secs),
        aborted: aborted.clone(),
    };
    let pending_max = usize::try_from(config.max_pending_messages).unwrap_or(usize::MAX);
    let operation_timeout = Duration::from_secs(config.operation_timeout_secs);
    let sink = PulsarSink {
        publishing: Publishing {
            cluster: Cluster::new(dialer, servers, config.topic, operation_timeout),
            compression: config.compression,
            send_timeout: Duration::from_secs(config.send_timeout_secs),
            pending: Semaphore::new(pending_max.min(Semaphore::MAX_PERMITS)),
            pending_max,
            connector: context.connector.0.to_string(),
            earlier_owner_within: EARLIER_OWNER_WITHIN,
        },
        format: config.payload_format,
        cluster: context.cluster,
        seats: Mutex::default(),
        aborted,
        closing: CancellationToken::new(),
    };
    sink.look_up().await?;
    unopened.disarm();
    Ok(Box::new(sink))
}

#[async_trait]
impl Sink for PulsarSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        if self.closing.is_cancelled() || self.aborted.is_cancelled() {
            return batch.all(&Outcome::TargetFault(interrupted("the sink was closed")));
        }
        let partitions = match self.publishing.cluster.partitions().await {
            Ok(partitions) => partitions,
            Err(fault) => return batch.all(&Outcome::TargetFault(fault)),
        };
        let queue = Queue { raft_id: batch.id.raft_id, incarnation: batch.id.incarnation };
        self.leave_fewer_partitions(queue, partitions).await;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; batch.records.len()];
        let mut shares: BTreeMap<Option<u32>, (Vec<usize>, Vec<Message>)> = BTreeMap::new();
        for (place, record) in batch.records.iter().enumerate() {
            match Message::new(record, self.format) {
                Ok(message) => {
                    let (places, messages) = shares.entry(partition_of(message.key(), partitions)).or_default();
                    places.push(place);
                    messages.push(message);
                }
                Err(fault) => outcomes[place] = Some(Outcome::RecordFault(fault)),
            }
        }
        let delivering = shares.into_iter().map(|(partition, (places, messages))| async move {
            let seat = self.seat(SeatKey { queue, partitions, partition });
            let ends = seat.lock().await.deliver(&self.publishing, &messages).await;
            (places, ends)
        });
        for (places, ends) in join_all(delivering).await {
            for (place, end) in places.into_iter().zip(ends) {
                outcomes[place] = Some(end);
            }
        }
        let is_missing = |outcome: &Option<Outcome>| match outcome {
            Some(Outcome::TargetFault(fault)) => fault.kind == TargetFaultKind::Missing,
            Some(Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_)) | None => false,
        };
        if outcomes.iter().any(is_missing) {
            self.publishing.cluster.forget_partitions().await;
        }
        let unknown = || Outcome::TargetFault(interrupted("nothing is known of the record"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(unknown)).collect()
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    async fn close(&self) {
        self.closing.cancel();
        let seats: Vec<_> = self.lock().values().cloned().collect();
        let leaving = seats.iter().map(|seat| async {
            // Whoever publishes there still waits for a receipt: the connection ends below, and with it its producer.
            if let Ok(mut seat) = seat.try_lock() {
                seat.leave(&self.publishing).await;
            }
        });
        // A broker that is gone needs no goodbye, and is not waited for.
        let _ = tokio::time::timeout(GOODBYE_WITHIN, join_all(leaving)).await;
        self.aborted.cancel();
    }
}

impl PulsarSink {
    /// A broker answers, knows us, and says who has the topic. The right to write shows with the first message.
    async fn look_up(&self) -> Result<(), TargetFault> {
        let cluster = &self.publishing.cluster;
        let partitions = cluster.partitions().await?;
        let topic = cluster.topic((partitions > 0).then_some(0));
        cluster.owner(&topic).await.map(drop)
    }

    fn seat(&self, key: SeatKey) -> Arc<tokio::sync::Mutex<Seat>> {
        let make = || {
            let name = producer_name(self.cluster, &key);
            Arc::new(tokio::sync::Mutex::new(Seat::new(self.publishing.cluster.topic(key.partition), name)))
        };
        Arc::clone(self.lock().entry(key).or_insert_with(make))
    }

    /// Where partitions were added: what comes for the queue from now on is dealt to all of them, by other producers.
    async fn leave_fewer_partitions(&self, queue: Queue, partitions: u32) {
        let is_left = |key: &SeatKey| key.queue == queue && key.partitions != partitions;
        let left: Vec<_> = self.lock().extract_if(|key, _| is_left(key)).map(|(_, seat)| seat).collect();
        join_all(left.iter().map(|seat| async { seat.lock().await.leave(&self.publishing).await })).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SeatKey, Arc<tokio::sync::Mutex<Seat>>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unique among all clusters that share a topic, and the same wherever this queue is delivered from. Where a key belongs changes
/// with the number of partitions: a record that is tried again after that would stand below what the broker has of its new
/// partition under the same name, and be dropped as a repeat.
fn producer_name(cluster: ClusterId, key: &SeatKey) -> String {
    let SeatKey { queue: Queue { raft_id, incarnation }, partitions, .. } = key;
    format!("sluice-{cluster}-{raft_id}-{incarnation}-{partitions}")
}

impl Drop for PulsarSink {
    fn drop(&mut self) {
        self.aborted.cancel();
    }
}

#[cfg(test)]
mod tests;
