//! What all connections of the node share, and publishing on behalf of nobody.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_types::Message;
use connector_runtime::lease::Lease;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::auth::Auth;
use super::cluster::Cluster;
use super::connection::io::READ_BYTES;
use super::ingest::{Ingest, SubmitRefusal, TicketError};
use super::metrics::{MqttMetrics, Refused};
use super::publication::Publication;
use super::router::Router;
use super::session::Registry;
use super::subscriptions::Subscriptions;

/// Attempts to publish a will while queues are full; nobody can be told to send it again.
const WILL_ATTEMPTS: usize = 5;
const WILL_PAUSE: Duration = Duration::from_secs(1);

/// What a node without a lease does with a PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutLease {
    /// Takes it for the connectors it knows; QoS 1 and 2 that match none are refused.
    #[default]
    Accept,
    Refuse,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Publishes of one connection that may wait for the disk, and the receive maximum told to MQTT 5 clients.
    pub window: NonZeroU16,
    pub packet_bytes_max: u32,
    pub connections_max: usize,
    /// Bytes of publishes of all connections that may wait for the disk.
    pub inflight_bytes_max: usize,
    pub without_lease: WithoutLease,
}

impl Limits {
    /// The budget holds at least one packet of the largest size, or that packet could never be read.
    pub fn budget_bytes(&self) -> usize {
        let largest = self.packet_bytes_max as usize + READ_BYTES;
        self.inflight_bytes_max.max(largest).min(Semaphore::MAX_PERMITS)
    }
}

pub struct Hub {
    pub limits: Limits,
    pub auth: Auth,
    pub ingest: Arc<dyn Ingest>,
    pub lease: Lease,
    pub sessions: Registry,
    pub subscriptions: Arc<Subscriptions>,
    pub cluster: Option<Arc<Cluster>>,
    pub router: Router,
    pub metrics: MqttMetrics,
    /// One permit per byte of `inflight_bytes_max`.
    pub budget: Arc<Semaphore>,
    pub connected: AtomicUsize,
    /// Ends what is not yet a session; sessions are told through the registry.
    pub stopping: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("refused by the queues")]
    Refused(#[from] SubmitRefusal),
    #[error("not stored")]
    NotStored(#[from] TicketError),
}

impl Hub {
    /// Publishes a message of the broker itself: to the queues of the connectors that match it, and once it is stored
    /// to the subscribers.
    pub async fn publish_internal(&self, message: Message) -> Result<(), PublishError> {
        let publication = self.router.has_subscriber(&message.topic).then(|| Publication::internal(&message));
        self.publish(message, publication).await
    }

    async fn publish(&self, message: Message, publication: Option<Publication>) -> Result<(), PublishError> {
        self.ingest.submit(vec![message])?.await?;
        if let Some(publication) = publication {
            self.router.publish(publication);
        }
        Ok(())
    }

    /// Publishes the will of a session that ended without saying goodbye.
    pub async fn publish_will(&self, message: Message, publication: Publication) {
        for attempt in 1..=WILL_ATTEMPTS {
            let publication = self.router.has_subscriber(&message.topic).then(|| publication.clone());
            let error = match self.publish(message.clone(), publication).await {
                Ok(()) => return,
                Err(error) => error,
            };
            let reason = match &error {
                PublishError::Refused(refusal) => refused(*refusal),
                PublishError::NotStored(error) => not_stored(*error),
            };
            if reason == Refused::QueueFull && attempt < WILL_ATTEMPTS {
                tokio::time::sleep(WILL_PAUSE).await;
                continue;
            }
            self.metrics.refused(reason, 1);
            warn!(client_id = %message.client_id, topic = %message.topic, %error, "a will could not be published");
            return;
        }
    }

    /// The permits for that many bytes; never more than there are.
    pub fn budget_share(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.limits.budget_bytes())).unwrap_or(u32::MAX)
    }

    /// Counts a connection in as long as there is room.
    pub fn admit(self: &Arc<Self>, takes_over: bool) -> Option<Admission> {
        let allowed = self.limits.connections_max + usize::from(takes_over);
        let counted = self
            .connected
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |connected| (connected < allowed).then_some(connected + 1));
        counted.ok()?;
        self.metrics.connections.inc();
        Some(Admission { hub: self.clone() })
    }
}

/// The place of one connection among `connections_max`.
pub struct Admission {
    hub: Arc<Hub>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.hub.connected.fetch_sub(1, Ordering::SeqCst);
        self.hub.metrics.connections.dec();
    }
}

pub fn refused(refusal: SubmitRefusal) -> Refused {
    match refusal {
        SubmitRefusal::QueueFull => Refused::QueueFull,
        SubmitRefusal::DiskFull => Refused::DiskFull,
        SubmitRefusal::Failed => Refused::Failed,
        SubmitRefusal::Closed => Refused::Closed,
    }
}

pub fn not_stored(error: TicketError) -> Refused {
    match error {
        TicketError::DiskFull => Refused::DiskFull,
        TicketError::Failed => Refused::Failed,
        TicketError::Closed => Refused::Closed,
    }
}

/// Milliseconds since the Unix epoch.
pub fn wall_clock_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
