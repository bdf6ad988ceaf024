//! Prometheus collectors of the tasks that run, or lately ran, on this node.
//!
//! A connector's series stay 10 minutes, unchanged, after its task left the node, so that the last scrape interval is
//! never lost; then they are removed, so that labels stay bounded.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use tokio::time::Instant;

/// How long a connector's series stay after its task left.
pub const KEEP_AFTER_LEAVE: Duration = Duration::from_secs(600);

const CONNECTOR_LABELS: [&str; 2] = ["connector", "type"];
/// Requests take from below a millisecond (local file) to the longest timeout of a sink.
const SEND_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// End to end reaches from a few milliseconds to the hours that a target was down.
const END_TO_END_BUCKETS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3600.0];
const BATCH_BUCKETS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 10_000.0];

#[derive(Clone)]
pub struct RuntimeMetrics {
    inner: Arc<Inner>,
}

struct Inner {
    send_success: IntCounterVec,
    send_fail: IntCounterVec,
    retry: IntCounterVec,
    discarded: IntCounterVec,
    dead_lettered: IntCounterVec,
    bytes: IntCounterVec,
    in_flight: IntGaugeVec,
    restarts: IntCounterVec,
    possible_duplicates: IntCounterVec,
    detached: IntCounter,
    send_duration: HistogramVec,
    end_to_end: HistogramVec,
    batch_records: HistogramVec,
    per_connector_histograms: bool,
    present: Mutex<BTreeMap<(String, String), Presence>>,
}

#[derive(Clone, Copy)]
enum Presence {
    Running,
    LeftAt(Instant),
}

/// The collectors of one task, with its labels applied.
#[derive(Clone)]
pub(crate) struct TaskMetrics {
    pub(crate) send_success: IntCounter,
    pub(crate) send_fail: IntCounter,
    pub(crate) retry: IntCounter,
    pub(crate) dead_lettered: IntCounter,
    pub(crate) bytes: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) restarts: IntCounter,
    pub(crate) possible_duplicates: IntCounter,
    pub(crate) send_duration: Histogram,
    pub(crate) end_to_end: Histogram,
    pub(crate) batch_records: Histogram,
    discarded: IntCounterVec,
    labels: [String; 2],
}

impl TaskMetrics {
    /// `reason` is one of a small fixed set of ours.
    pub(crate) fn discarded(&self, reason: &str) -> IntCounter {
        self.discarded.with_label_values(&[&self.labels[0], &self.labels[1], reason])
    }
}

impl RuntimeMetrics {
    /// `per_connector_histograms` is `metrics.connector_histograms` of the configuration.
    pub fn new(per_connector_histograms: bool) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), &CONNECTOR_LABELS);
        let histogram_labels: &[&str] = if per_connector_histograms { &CONNECTOR_LABELS } else { &["type"] };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), histogram_labels)
        };
        let inner = Inner {
            send_success: counter("sluice_connector_send_success_total", "Records delivered.")?,
            send_fail: counter("sluice_connector_send_fail_total", "Records whose first attempt failed.")?,
            retry: counter("sluice_connector_retry_total", "Records that were sent again.")?,
            discarded: IntCounterVec::new(
                Opts::new("sluice_connector_discarded_total", "Records that ended without being delivered."),
                &["connector", "type", "reason"],
            )?,
            dead_lettered: counter("sluice_connector_dead_lettered_total", "Records that ended as dead letters.")?,
            bytes: counter("sluice_connector_bytes_total", "Payload bytes delivered.")?,
            in_flight: IntGaugeVec::new(
                Opts::new("sluice_connector_in_flight_records", "Records taken from queues and not yet settled."),
                &CONNECTOR_LABELS,
            )?,
            restarts: counter("sluice_connector_restarts_total", "Restarts of the task after a crash.")?,
            possible_duplicates: counter(
                "sluice_connector_possible_duplicates_total",
                "Records whose request was cut off: they may arrive twice.",
            )?,
            detached: IntCounter::new(
                "sluice_tasks_detached_total",
                "Tasks that could not be joined when they were stopped.",
            )?,
            send_duration: histogram(
                "sluice_send_duration_seconds",
                "Duration of one request to the target.",
                &SEND_BUCKETS_S,
            )?,
            end_to_end: histogram(
                "sluice_end_to_end_seconds",
                "Time from receiving a publish to its outcome.",
                &END_TO_END_BUCKETS_S,
            )?,
            batch_records: histogram("sluice_batch_records", "Records of one sealed batch.", &BATCH_BUCKETS)?,
            per_connector_histograms,
            present: Mutex::new(BTreeMap::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub fn register(&self, registry: &prometheus::Registry) -> Result<(), prometheus::Error> {
        let inner = &self.inner;
        for vector in [
            &inner.send_success,
            &inner.send_fail,
            &inner.retry,
            &inner.discarded,
            &inner.dead_lettered,
            &inner.bytes,
            &inner.restarts,
            &inner.possible_duplicates,
        ] {
            registry.register(Box::new(vector.clone()))?;
        }
        registry.register(Box::new(inner.in_flight.clone()))?;
        registry.register(Box::new(inner.detached.clone()))?;
        for vector in [&inner.send_duration, &inner.end_to_end, &inner.batch_records] {
            registry.register(Box::new(vector.clone()))?;
        }
        Ok(())
    }

    /// The series of a task that starts; they go on from where they were if it ran here lately.
    pub(crate) fn task_started(&self, connector: &str, kind: &str) -> TaskMetrics {
        let inner = &self.inner;
        self.present().insert((connector.to_owned(), kind.to_owned()), Presence::Running);
        let labels = [connector, kind];
        let histogram_labels: &[&str] = if inner.per_connector_histograms { &labels } else { &[kind] };
        TaskMetrics {
            send_success: inner.send_success.with_label_values(&labels),
            send_fail: inner.send_fail.with_label_values(&labels),
            retry: inner.retry.with_label_values(&labels),
            dead_lettered: inner.dead_lettered.with_label_values(&labels),
            bytes: inner.bytes.with_label_values(&labels),
            in_flight: inner.in_flight.with_label_values(&labels),
            restarts: inner.restarts.with_label_values(&labels),
            possible_duplicates: inner.possible_duplicates.with_label_values(&labels),
            send_duration: inner.send_duration.with_label_values(histogram_labels),
            end_to_end: inner.end_to_end.with_label_values(histogram_labels),
            batch_records: inner.batch_records.with_label_values(histogram_labels),
            discarded: inner.discarded.clone(),
            labels: labels.map(str::to_owned),
        }
    }

    pub(crate) fn task_left(&self, connector: &str, kind: &str) {
        self.inner.in_flight.with_label_values(&[connector, kind]).set(0);
        let left = Presence::LeftAt(Instant::now());
        self.present().insert((connector.to_owned(), kind.to_owned()), left);
    }

    pub(crate) fn task_detached(&self) {
        self.inner.detached.inc();
    }

    /// Removes the series of tasks that left long enough ago.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.present().retain(|(connector, kind), presence| match presence {
            Presence::Running => true,
            Presence::LeftAt(left) if now.duration_since(*left) < KEEP_AFTER_LEAVE => true,
            Presence::LeftAt(_) => {
                self.remove(connector, kind);
                false
            }
        });
    }

    fn remove(&self, connector: &str, kind: &str) {
        let inner = &self.inner;
        let labels = [connector, kind];
        // A series that was never touched is not there to be removed.
        for vector in [
            &inner.send_success,
            &inner.send_fail,
            &inner.retry,
            &inner.dead_lettered,
            &inner.bytes,
            &inner.restarts,
            &inner.possible_duplicates,
        ] {
            let _ = vector.remove_label_values(&labels);
        }
        let _ = inner.in_flight.remove_label_values(&labels);
        for reason in crate::pipeline::DISCARD_REASONS {
            let _ = inner.discarded.remove_label_values(&[connector, kind, reason]);
        }
        if inner.per_connector_histograms {
            for vector in [&inner.send_duration, &inner.end_to_end, &inner.batch_records] {
                let _ = vector.remove_label_values(&labels);
            }
        }
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<(String, String), Presence>> {
        self.inner.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(registry: &prometheus::Registry) -> String {
        let mut out = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut out).expect("encodes");
        String::from_utf8(out).expect("is text")
    }

    #[tokio::test(start_paused = true)]
    async fn series_stay_ten_minutes_after_the_task_left() {
        let registry = prometheus::Registry::new();
        let metrics = RuntimeMetrics::new(true).expect("names are valid");
        metrics.register(&registry).expect("registers once");
        let task = metrics.task_started("a", "file");
        task.send_success.inc_by(7);
        task.discarded("refused").inc();
        task.send_duration.observe(0.1);
        metrics.task_left("a", "file");

        tokio::time::advance(KEEP_AFTER_LEAVE - Duration::from_secs(1)).await;
        metrics.sweep();
        let line = "sluice_connector_send_success_total{connector=\"a\",type=\"file\"} 7";
        assert!(text(&registry).contains(line), "{}", text(&registry));

        tokio::time::advance(Duration::from_secs(2)).await;
        metrics.sweep();
        assert!(!text(&registry).contains("connector=\"a\""), "{}", text(&registry));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_came_back_keeps_its_series() {
        let registry = prometheus::Registry::new();
        let metrics = RuntimeMetrics::new(false).expect("names are valid");
        metrics.register(&registry).expect("registers once");
        metrics.task_started("a", "file").send_success.inc_by(7);
        metrics.task_left("a", "file");
        metrics.task_started("a", "file").send_success.inc();
        tokio::time::advance(KEEP_AFTER_LEAVE * 2).await;
        metrics.sweep();
        let line = "sluice_connector_send_success_total{connector=\"a\",type=\"file\"} 8";
        assert!(text(&registry).contains(line), "{}", text(&registry));
    }
}
