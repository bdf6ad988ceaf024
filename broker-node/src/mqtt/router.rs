//! From a publication to everybody who subscribed to it, on this node and on the others.

use std::sync::Arc;

use super::cluster::Cluster;
use super::metrics::{Dropped, MqttMetrics};
use super::publication::Publication;
use super::session::Posted;
use super::subscriptions::Subscriptions;

#[derive(Clone)]
pub struct Router {
    subscriptions: Arc<Subscriptions>,
    cluster: Option<Arc<Cluster>>,
    metrics: MqttMetrics,
}

impl Router {
    pub fn new(subscriptions: Arc<Subscriptions>, cluster: Option<Arc<Cluster>>, metrics: MqttMetrics) -> Self {
        Self { subscriptions, cluster, metrics }
    }

    /// Whether anybody would get a message with this topic now.
    pub fn has_subscriber(&self, topic: &str) -> bool {
        self.subscriptions.has_subscriber(topic)
            || self.cluster.as_ref().is_some_and(|cluster| cluster.has_subscriber(topic))
    }

    pub fn publish(&self, publication: Publication) {
        let publication = Arc::new(publication);
        deliver_here(&self.subscriptions, &publication, &self.metrics);
        if let Some(cluster) = &self.cluster {
            cluster.forward(&publication);
        }
    }
}

/// Puts the publication into the mailboxes of the sessions of this node that want it.
pub fn deliver_here(subscriptions: &Subscriptions, publication: &Arc<Publication>, metrics: &MqttMetrics) {
    subscriptions.route(publication, |session, letter| match session.post(letter) {
        Posted::Accepted | Posted::Closed => {}
        Posted::Full => metrics.dropped(Dropped::SubscriberQueueFull, 1),
    });
}
