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
