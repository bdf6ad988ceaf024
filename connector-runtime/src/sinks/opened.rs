//! For the tests of sinks: a node that opens them from configurations as users write them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api_types::connector::{ConnectorSpec, Delivery, Desired, Placement, QueueOptions};
use api_types::failure::FailurePolicy;
use api_types::topic::TopicFilter;
use api_types::{
    ClusterId, Connector, ConnectorName, Epoch, Incarnation, Message, RaftId, Record, RecordId, Revision, Sequence,
};
use async_trait::async_trait;
use serde_json::Value;

use super::offered::{CompiledSinks, SinkContext, SinkMaker, TaskSink};
use crate::config::validate;
use crate::registry;
use crate::secrets::SecretFences;
use crate::sink::{Batch, BatchId, OpenSink, Outcome, RecordFault, Sink, TargetFault};
use crate::sinks::shared::network::Network;

pub(crate) struct TestNode {
    sinks: CompiledSinks,
    fences: SecretFences,
}

impl TestNode {
    pub(crate) fn new(file_roots: &[PathBuf], data_dir: PathBuf, deny_networks: &[&str]) -> Self {
        let secret_dirs = file_roots.to_vec();
        let fences = SecretFences { env_prefix: "SLUICE_SECRET_".into(), secret_dirs };
        let deny_networks: Vec<Network> =
            deny_networks.iter().map(|network| network.parse().expect("is a network")).collect();
        let context = SinkContext {
            cluster: ClusterId(7),
            connector: ConnectorName::default(),
            incarnation: Incarnation::default(),
            epoch: Epoch::default(),
            fences: fences.clone(),
            file_roots: file_roots.into(),
            data_dir,
            deny_networks: deny_networks.into(),
            file_writers: super::file::writers::Writers::default(),
            #[cfg(feature = "s3")]
            s3_objects: super::s3::open_objects::OpenObjects::default(),
        };
        Self { sinks: CompiledSinks::with_context(context), fences }
    }

    #[cfg(any(
        feature = "cassandra",
        feature = "clickhouse",
        feature = "elasticsearch",
        feature = "mysql",
        feature = "postgres",
        feature = "s3"
    ))]
    pub(crate) fn of_cluster(mut self, cluster: ClusterId) -> Self {
        self.sinks = CompiledSinks::with_context(SinkContext { cluster, ..self.sinks.context().clone() });
        self
    }

    #[cfg(feature = "s3")]
    pub(crate) fn context(&self) -> &SinkContext {
        self.sinks.context()
    }

    pub(crate) fn sink_for(&self, name: &str, kind: &str, config: Value) -> TaskSink {
        let Value::Object(config) = config else { panic!("a configuration is an object") };
        let entry = registry::kind(kind).expect("is a kind");
        let valid = validate(entry, &config, &self.fences).expect("is a valid configuration");
        let connector = Connector {
            incarnation: Incarnation(7),
            revision: Revision(7),
            spec: ConnectorSpec {
                name: ConnectorName::from(name),
                kind: kind.to_owned(),
                config_sent: String::new(),
                config_effective: Value::Object(valid.effective).to_string(),
                filter: TopicFilter::parse("#").expect("is a filter"),
                failure: FailurePolicy::default(),
                queue: QueueOptions::default(),
                placement: Placement::default(),
                desired: Desired::Running,
                labels: BTreeMap::new(),
                description: String::new(),
                delivery: Delivery::AtLeastOnce,
            },
            created_at_ms: 0,
            updated_at_ms: 0,
            deleting: false,
        };
        self.sinks.sink_for(&connector, Epoch(7))
    }

    pub(crate) async fn open(&self, name: &str, kind: &str, config: Value) -> Result<Box<dyn Sink>, TargetFault> {
        let opener = Arc::clone(&self.sink_for(name, kind, config).opener);
        opener.open().await
    }
}

/// Counts what the pipeline asks of a sink.
pub(crate) struct Counted<T> {
    inner: T,
    requests: Arc<AtomicUsize>,
}

impl Counted<Arc<dyn OpenSink>> {
    /// The same sink, and how often it was asked.
    pub(crate) fn new(inner: Arc<dyn OpenSink>) -> (Arc<Self>, Arc<AtomicUsize>) {
        let requests = Arc::new(AtomicUsize::new(0));
        (Arc::new(Self { inner, requests: Arc::clone(&requests) }), requests)
    }
}

#[async_trait]
impl OpenSink for Counted<Arc<dyn OpenSink>> {
    async fn open(&self) -> Result<Box<dyn Sink>, TargetFault> {
        let inner = self.inner.open().await?;
        Ok(Box::new(Counted { inner, requests: Arc::clone(&self.requests) }))
    }
}

#[async_trait]
impl Sink for Counted<Box<dyn Sink>> {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.inner.deliver(batch).await
    }

    fn abort(&self) {
        self.inner.abort();
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Record `number` with this payload.
pub(crate) fn record(number: u64, payload: impl Into<Vec<u8>>) -> Record {
    let id = RecordId { raft_id: RaftId(1), incarnation: Incarnation(7), sequence: Sequence(number) };
    let message = Message {
        topic: "plant/one".into(),
        client_id: format!("device-{number}"),
        payload: payload.into().into(),
        timestamp_ms: 1_700_000_000_000 + number,
        ..Message::default()
    };
    Record { id, message }
}

pub(crate) async fn deliver(sink: &dyn Sink, records: &[Record]) -> Vec<Outcome> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else { panic!("a batch is never empty") };
    let id = BatchId {
        raft_id: first.id.raft_id,
        incarnation: first.id.incarnation,
        from: first.id.sequence,
        to: last.id.sequence.next(),
    };
    let records: Vec<&Record> = records.iter().collect();
    sink.deliver(&Batch { id, records: &records }).await
}

pub(crate) fn fault(outcome: &Outcome) -> &TargetFault {
    match outcome {
        Outcome::TargetFault(fault) => fault,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

pub(crate) fn record_fault(outcome: &Outcome) -> &RecordFault {
    match outcome {
        Outcome::RecordFault(fault) => fault,
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => {
            panic!("{outcome:?} is no record's fault")
        }
    }
}
