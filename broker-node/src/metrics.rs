//! The node's metrics: one registry, the handles of what the node itself counts, and what is computed when somebody
//! looks.
//!
//! ```text
//! parts of the node ─► handles ──────────────┐
//! replica, reports, queues ─► ClusterView ───┼─► Registry ─► text
//! process (CPU, memory, descriptors) ────────┘
//! ```
//!
//! The tasks' own counters (`sluice_connector_send_success_total`, …) belong to the runtime, which registers them here.

use std::sync::Arc;

use api_types::status::{Health, Status};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// From a memory copy (0.1 ms) to a disk that hangs (10 s).
const SYNC_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// A fail-over takes about four seconds; longer ones are what the alert is for.
const FAILOVER_BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 30.0, 60.0];

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One connector as the replica and the last reports have it.
#[derive(Clone, Debug)]
pub struct ConnectorFacts {
    pub connector: String,
    pub kind: String,
    pub status: Status,
    /// Known on the owner for its own and on the leader for all.
    pub health: Option<Health>,
}

/// One queue of this node.
#[derive(Clone, Debug)]
pub struct QueueFacts {
    pub connector: String,
    pub kind: String,
    pub records: u64,
    pub bytes: u64,
    pub oldest_age_seconds: f64,
    /// Records dropped since the queue exists, by reason.
    pub dropped: Vec<(String, u64)>,
}

/// What is computed at every scrape.
pub trait ClusterView: Send + Sync {
    fn connectors(&self) -> Vec<ConnectorFacts>;
    fn queues(&self) -> Vec<QueueFacts>;
    /// Sets the gauges that describe this moment: Raft, lease, disk, connections.
    fn refresh(&self, metrics: &Metrics);
}

/// Handles of the node's own metrics; a clone is cheap and counts into the same registry.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    pub queue_sync_seconds: Histogram,
    pub queue_disk_free_bytes: IntGauge,
    pub raft_is_leader: IntGauge,
    pub raft_term: IntGauge,
    pub raft_applied_index: IntGauge,
    pub raft_propose_seconds: Histogram,
    pub scheduler_moves: IntCounterVec,
    pub scheduler_failover_seconds: Histogram,
    pub node_lease_remaining_seconds: Gauge,
    pub rpc_refused: IntCounter,
    pub api_requests: IntCounterVec,
    pub api_request_seconds: HistogramVec,
    view: Arc<std::sync::OnceLock<Arc<dyn ClusterView>>>,
}

/// Makes a metric and puts it into the registry.
fn registered<T: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<T>,
) -> prometheus::Result<T> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// What runs here, and what the operating system says of it.
fn describe_process(registry: &Registry, version: &str, commit: &str) -> prometheus::Result<()> {
    let options = Opts::new("sluice_build_info", "Version and commit of this binary, always 1");
    let build = registered(registry, IntGaugeVec::new(options, &["version", "commit"]))?;
    build.with_label_values(&[version, commit]).set(1);
    #[cfg(target_os = "linux")]
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(())
}

impl Metrics {
    pub fn new(version: &str, commit: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let r = &registry;
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help));
        let counters =
            |name: &str, help: &str, labels: &[&str]| registered(r, IntCounterVec::new(Opts::new(name, help), labels));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            registered(r, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        describe_process(r, version, commit)?;
        let request_options =
            HistogramOpts::new("sluice_api_request_seconds", "Time from a request of the HTTP API to its answer");
        Ok(Self {
            queue_sync_seconds: histogram(
                "sluice_queue_sync_seconds",
                "Time of one sync of the queues' log",
                &SYNC_BUCKETS,
            )?,
            queue_disk_free_bytes: gauge(
                "sluice_queue_disk_free_bytes",
                "Free bytes of the disk that holds the queues",
            )?,
            raft_is_leader: gauge("sluice_raft_is_leader", "Whether this node leads the metadata service")?,
            raft_term: gauge("sluice_raft_term", "Term of the metadata service")?,
            raft_applied_index: gauge("sluice_raft_applied_index", "Last log index that this node applied")?,
            raft_propose_seconds: histogram(
                "sluice_raft_propose_seconds",
                "Time from a proposal to its outcome",
                &SYNC_BUCKETS,
            )?,
            scheduler_moves: counters(
                "sluice_scheduler_moves_total",
                "Tasks given to another node, counted by the leader",
                &["reason"],
            )?,
            scheduler_failover_seconds: histogram(
                "sluice_scheduler_failover_seconds",
                "Time from the last sign of life of a node to the new assignment of its tasks",
                &FAILOVER_BUCKETS,
            )?,
            node_lease_remaining_seconds: registered(
                r,
                Gauge::new(
                    "sluice_node_lease_remaining_seconds",
                    "Time that this node may still act; 0 without a lease",
                ),
            )?,
            rpc_refused: registered(
                r,
                IntCounter::new("sluice_rpc_refused_total", "Node RPCs refused for a wrong or missing cluster secret"),
            )?,
            api_requests: counters("sluice_api_requests_total", "Requests of the HTTP API", &["path", "status"])?,
            api_request_seconds: registered(r, HistogramVec::new(request_options, &["path"]))?,
            view: Arc::default(),
            registry,
        })
    }

    /// Tells where the facts of a scrape come from; once, when the node is up.
    pub fn set_view(&self, view: Arc<dyn ClusterView>) {
        // A second view would be a second node in one registry: the first stays.
        let _ = self.view.set(view);
    }

    /// The Prometheus text format.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut families = Vec::new();
        if let Some(view) = self.view.get() {
            view.refresh(self);
            families = facts(view.as_ref())?;
        }
        families.extend(self.registry.gather());
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }

    pub fn respond(&self) -> Response {
        match self.text() {
            Ok(text) => ([(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

fn facts(view: &dyn ClusterView) -> prometheus::Result<Vec<MetricFamily>> {
    let ids = ["connector", "type"];
    let gauges = |name: &str, help: &str, label: &[&str]| {
        let labels: Vec<&str> = ids.iter().chain(label).copied().collect();
        IntGaugeVec::new(Opts::new(name, help), &labels)
    };
    let status = gauges("sluice_connector_status", "Status of a connector, 1 for the one it has", &["status"])?;
    let health = gauges(
        "sluice_connector_health",
        "Health of a connector, 1 for the one it has; on its owner and on the leader",
        &["health"],
    )?;
    for facts in view.connectors() {
        let (name, kind) = (facts.connector.as_str(), facts.kind.as_str());
        for each in Status::ALL {
            status.with_label_values(&[name, kind, each.as_str()]).set(i64::from(each == facts.status));
        }
        if let Some(known) = facts.health {
            for each in Health::ALL {
                health.with_label_values(&[name, kind, each.as_str()]).set(i64::from(each == known));
            }
        }
    }
    let records = gauges("sluice_connector_queue_records", "Records on this node that wait for the connector", &[])?;
    let bytes = gauges("sluice_connector_queue_bytes", "Bytes on this node that wait for the connector", &[])?;
    let age = GaugeVec::new(
        Opts::new(
            "sluice_connector_oldest_record_age_seconds",
            "Age of the oldest record on this node that waits for the connector",
        ),
        &ids,
    )?;
    let dropped = IntCounterVec::new(
        Opts::new("sluice_queue_dropped_total", "Records dropped from this node's queues without a delivery"),
        &["connector", "type", "reason"],
    )?;
    for facts in view.queues() {
        let (name, kind) = (facts.connector.as_str(), facts.kind.as_str());
        records.with_label_values(&[name, kind]).set(signed(facts.records));
        bytes.with_label_values(&[name, kind]).set(signed(facts.bytes));
        age.with_label_values(&[name, kind]).set(facts.oldest_age_seconds);
        for (reason, count) in &facts.dropped {
            dropped.with_label_values(&[name, kind, reason]).inc_by(*count);
        }
    }
    let all: [&dyn Collector; 6] = [&status, &health, &records, &bytes, &age, &dropped];
    Ok(all.iter().flat_map(|metric| metric.collect()).collect())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl ClusterView for Fixed {
        fn connectors(&self) -> Vec<ConnectorFacts> {
            vec![ConnectorFacts {
                connector: "a\"b".into(),
                kind: "file".into(),
                status: Status::Running,
                health: Some(Health::Blocked),
            }]
        }

        fn queues(&self) -> Vec<QueueFacts> {
            vec![QueueFacts {
                connector: "c".into(),
                kind: "webhook".into(),
                records: 7,
                bytes: 70,
                oldest_age_seconds: 1.5,
                dropped: vec![("full".into(), 3)],
            }]
        }

        fn refresh(&self, metrics: &Metrics) {
            metrics.raft_term.set(4);
        }
    }

    #[test]
    fn a_scrape_shows_the_facts_of_this_moment() {
        let metrics = Metrics::new("1.2.3", "abc").expect("metrics");
        metrics.set_view(Arc::new(Fixed));
        let text = metrics.text().expect("text");
        for line in [
            "sluice_build_info{commit=\"abc\",version=\"1.2.3\"} 1",
            "sluice_connector_status{connector=\"a\\\"b\",status=\"Running\",type=\"file\"} 1",
            "sluice_connector_status{connector=\"a\\\"b\",status=\"Idle\",type=\"file\"} 0",
            "sluice_connector_health{connector=\"a\\\"b\",health=\"blocked\",type=\"file\"} 1",
            "sluice_connector_queue_records{connector=\"c\",type=\"webhook\"} 7",
            "sluice_connector_oldest_record_age_seconds{connector=\"c\",type=\"webhook\"} 1.5",
            "sluice_queue_dropped_total{connector=\"c\",reason=\"full\",type=\"webhook\"} 3",
            "sluice_raft_term 4",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "));
    }

    #[test]
    fn every_family_has_help_and_type_and_a_good_name() {
        let metrics = Metrics::new("1", "c").expect("metrics");
        metrics.set_view(Arc::new(Fixed));
        let text = metrics.text().expect("text");
        let mut families = 0;
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let mut words = line.split(' ').skip(2);
            let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            families += 1;
        }
        assert!(families > 15, "{families}");
    }

    #[test]
    fn every_metric_is_documented() {
        let docs = include_str!("../../docs/operations.md");
        let sources = [
            include_str!("metrics.rs"),
            include_str!("mqtt/metrics.rs"),
            include_str!("../../connector-runtime/src/metrics.rs"),
        ];
        let quoted = sources.iter().flat_map(|source| source.split("\"sluice_").skip(1));
        let names = quoted.filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for name in
            names.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        {
            assert!(docs.contains(&format!("| `sluice_{name}` |")), "docs/operations.md lacks sluice_{name}");
            count += 1;
        }
        assert!(count >= 35, "{count}");
    }
}
