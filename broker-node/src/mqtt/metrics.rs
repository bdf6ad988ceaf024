//! The listener's metrics, by the names of the operations page.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub struct MqttMetrics {
    pub connections: IntGauge,
    /// By QoS.
    pub received: [IntCounter; 3],
    ack_seconds: Histogram,
    pub delivered: IntCounter,
    refused: IntCounterVec,
    dropped: IntCounterVec,
}

/// Why a PUBLISH was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    QueueFull,
    DiskFull,
    Failed,
    Closed,
    NoLease,
    Topic,
    ReceiveMaximum,
}

impl Refused {
    const ALL: [Self; 7] =
        [Self::QueueFull, Self::DiskFull, Self::Failed, Self::Closed, Self::NoLease, Self::Topic, Self::ReceiveMaximum];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DiskFull => "disk_full",
            Self::Failed => "failed",
            Self::Closed => "closed",
            Self::NoLease => "no_lease",
            Self::Topic => "topic",
            Self::ReceiveMaximum => "receive_maximum",
        }
    }
}

/// Why a message did not reach a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// The subscriber does not keep up.
    SubscriberQueueFull,
    /// Another node does not keep up or does not answer.
    PeerQueueFull,
    PeerUnreachable,
    Expired,
    /// Larger than the subscriber's maximum packet size.
    TooLarge,
}

impl Dropped {
    const ALL: [Self; 5] =
        [Self::SubscriberQueueFull, Self::PeerQueueFull, Self::PeerUnreachable, Self::Expired, Self::TooLarge];

    fn as_str(self) -> &'static str {
        match self {
            Self::SubscriberQueueFull => "subscriber_queue_full",
            Self::PeerQueueFull => "peer_queue_full",
            Self::PeerUnreachable => "peer_unreachable",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
        }
    }
}

impl MqttMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGauge::new("sluice_mqtt_connections", "Connected MQTT clients.")?;
        let received = IntCounterVec::new(
            Opts::new("sluice_mqtt_publish_received_total", "PUBLISH packets received, refused ones included."),
            &["qos"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new("sluice_mqtt_publish_refused_total", "PUBLISH packets that were not taken, by reason."),
            &["reason"],
        )?;
        let ack_seconds = Histogram::with_opts(
            HistogramOpts::new(
                "sluice_mqtt_publish_ack_seconds",
                "Time from the receipt of a PUBLISH of QoS 1 or 2 to its acknowledgement.",
            )
            .buckets(vec![0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
        )?;
        let delivered =
            IntCounter::new("sluice_mqtt_delivered_total", "Messages sent to subscribers connected to this node.")?;
        let dropped = IntCounterVec::new(
            Opts::new("sluice_mqtt_delivery_dropped_total", "Messages that did not reach a subscriber, by reason."),
            &["reason"],
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(received.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(ack_seconds.clone()))?;
        registry.register(Box::new(delivered.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        // Every series is there from the start, so that a rate over it has a beginning.
        Refused::ALL.iter().for_each(|reason| drop(refused.with_label_values(&[reason.as_str()])));
        Dropped::ALL.iter().for_each(|reason| drop(dropped.with_label_values(&[reason.as_str()])));
        let received = ["0", "1", "2"].map(|qos| received.with_label_values(&[qos]));
        Ok(Self { connections, received, ack_seconds, delivered, refused, dropped })
    }

    /// So many publishes of QoS 0, 1 and 2.
    pub fn received(&self, by_qos: [u64; 3]) {
        for (counter, count) in self.received.iter().zip(by_qos).filter(|(_, count)| *count > 0) {
            counter.inc_by(count);
        }
    }

    /// The acknowledgements of one batch took this long each. Counted aside and added at once: the counters are shared
    /// by all connections.
    pub fn acknowledged(&self, count: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        let batch = self.ack_seconds.local();
        (0..count).for_each(|_| batch.observe(seconds));
        batch.flush();
    }

    pub fn refused(&self, reason: Refused, publishes: usize) {
        self.refused.with_label_values(&[reason.as_str()]).inc_by(publishes as u64);
    }

    pub fn dropped(&self, reason: Dropped, messages: usize) {
        self.dropped.with_label_values(&[reason.as_str()]).inc_by(messages as u64);
    }

    pub fn acknowledged_total(&self) -> u64 {
        self.ack_seconds.get_sample_count()
    }

    pub fn refused_total(&self, reason: Refused) -> u64 {
        self.refused.with_label_values(&[reason.as_str()]).get()
    }

    pub fn dropped_total(&self, reason: Dropped) -> u64 {
        self.dropped.with_label_values(&[reason.as_str()]).get()
    }
}
