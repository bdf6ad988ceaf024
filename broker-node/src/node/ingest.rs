//! Between the listener and the queues: every socket read is matched with the catalogue in use at that moment.

use std::sync::Arc;

use api_types::Message;
use async_trait::async_trait;
use connector_runtime::lease::Lease;
use futures::FutureExt;

use crate::catalogue::SharedCatalogue;
use crate::mqtt::{Ingest, MqttServer};
use crate::mqtt::{SubmitRefusal as Refusal, Ticket, TicketError as TicketFailure};
use crate::queue::{LetterPublisher, PublishError, Queues, Submission, SubmitRefusal, TicketError};

pub struct QueueIngest {
    pub queues: Queues,
    pub catalogue: SharedCatalogue,
}

impl Ingest for QueueIngest {
    fn submit(&self, messages: Vec<Message>) -> Result<Ticket, Refusal> {
        let submissions = messages.into_iter().map(|message| Submission { message }).collect();
        let ticket = self.queues.submit(submissions, &self.catalogue.load()).map_err(|refusal| match refusal {
            SubmitRefusal::QueueFull => Refusal::QueueFull,
            SubmitRefusal::DiskFull => Refusal::DiskFull,
            SubmitRefusal::Failed => Refusal::Failed,
            SubmitRefusal::Closed => Refusal::Closed,
        })?;
        Ok(ticket.map(|synced| synced.map_err(failure)).boxed())
    }

    fn wanted(&self, topic: &str) -> bool {
        self.catalogue.load().wanted(topic)
    }
}

fn failure(error: TicketError) -> TicketFailure {
    match error {
        TicketError::DiskFull => TicketFailure::DiskFull,
        TicketError::Failed => TicketFailure::Failed,
        TicketError::Closed => TicketFailure::Closed,
    }
}

/// Dead letters take the way of every publish: to the queues that match, then to subscribers. A letter waits for the
/// lease: only then is the catalogue known to be new enough, and a letter that matches nothing is passed for ever.
pub struct Letters {
    pub mqtt: Arc<MqttServer>,
    pub lease: Lease,
}

#[async_trait]
impl LetterPublisher for Letters {
    async fn publish(&self, letter: Message) -> Result<(), PublishError> {
        self.lease.gained().await;
        self.mqtt.publish_internal(letter).await.map_err(PublishError::from)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::mqtt::{Auth, Limits, MqttMetrics, MqttOptions, WithoutLease};

    #[derive(Default)]
    struct Counting {
        submitted: AtomicUsize,
    }

    impl Ingest for Counting {
        fn submit(&self, messages: Vec<Message>) -> Result<Ticket, Refusal> {
            self.submitted.fetch_add(messages.len(), Ordering::SeqCst);
            Ok(std::future::ready(Ok(())).boxed())
        }

        fn wanted(&self, _topic: &str) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dead_letters_wait_for_the_lease_before_they_are_published() {
        let limits = Limits {
            window: NonZeroU16::MIN,
            packet_bytes_max: 1 << 20,
            connections_max: 1,
            inflight_bytes_max: 1 << 20,
            without_lease: WithoutLease::Accept,
        };
        let options = MqttOptions { auth: Auth::new(None, true), limits, cluster: None };
        let (ingest, lease) = (Arc::new(Counting::default()), Lease::new(false));
        let metrics = MqttMetrics::new(&prometheus::Registry::new()).expect("fresh registry");
        let mqtt = Arc::new(MqttServer::start(options, ingest.clone(), lease.clone(), metrics));
        let letters = Letters { mqtt, lease: lease.clone() };

        let mut letter = std::pin::pin!(letters.publish(Message::default()));
        // The clock stands still for everybody but those who wait for it: an hour passes only once nothing else can.
        let hour = std::time::Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, &mut letter).await.is_err(), "published without a lease");
        assert_eq!(ingest.submitted.load(Ordering::SeqCst), 0);
        lease.set(true);
        assert!(letter.await.is_ok());
        assert_eq!(ingest.submitted.load(Ordering::SeqCst), 1);
    }
}
