//! The sinks that were compiled in: one line per kind, and how a task gets its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api_types::{ClusterId, Connector, ConnectorName, Epoch, Incarnation};
use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::shared::network::Network;
use crate::config::{PipelineOptions, Resolved, resolve};
use crate::registry::{self, KindEntry, OrderClass};
use crate::secrets::SecretFences;
use crate::sink::{OpenSink, Sink, TargetFault, TargetFaultKind};
use crate::source::BatchLimits;
use crate::supervisor::RuntimeOptions;

/// One compiled-in sink.
pub(crate) struct Offered {
    pub(crate) kind: &'static str,
    pub(crate) open: OpenFn,
}

/// Takes a configuration whose secrets were just read.
pub(crate) type OpenFn = for<'a> fn(Resolved, &'a SinkContext) -> BoxFuture<'a, Result<Box<dyn Sink>, TargetFault>>;

const OFFERED: &[Offered] = &[
    #[cfg(feature = "cassandra")]
    super::cassandra::sink::OFFERED,
    #[cfg(feature = "clickhouse")]
    super::clickhouse::sink::OFFERED,
    #[cfg(feature = "elasticsearch")]
    super::elasticsearch::sink::OFFERED,
    #[cfg(feature = "file")]
    super::file::sink::OFFERED,
    #[cfg(feature = "greptime")]
    super::greptime::sink::OFFERED,
    #[cfg(feature = "influxdb")]
    super::influxdb::sink::OFFERED,
    #[cfg(feature = "kafka")]
    super::kafka::sink::OFFERED,
    #[cfg(feature = "mongodb")]
    super::mongodb::sink::OFFERED,
    #[cfg(feature = "mqtt")]
    super::mqtt::sink::OFFERED,
    #[cfg(feature = "mysql")]
    super::mysql::sink::OFFERED,
    #[cfg(feature = "opentsdb")]
    super::opentsdb::sink::OFFERED,
    #[cfg(feature = "postgres")]
    super::postgres::sink::OFFERED,
    #[cfg(feature = "pulsar")]
    super::pulsar::sink::OFFERED,
    #[cfg(feature = "rabbitmq")]
    super::rabbitmq::sink::OFFERED,
    #[cfg(feature = "redis")]
    super::redis::sink::OFFERED,
    #[cfg(feature = "s3")]
    super::s3::sink::OFFERED,
    #[cfg(feature = "webhook")]
    super::webhook::sink::OFFERED,
];

/// What the node tells every sink.
#[derive(Clone, Debug)]
pub(crate) struct SinkContext {
    pub(crate) cluster: ClusterId,
    pub(crate) connector: ConnectorName,
    pub(crate) incarnation: Incarnation,
    /// Of the assignment under which the task runs.
    pub(crate) epoch: Epoch,
    pub(crate) fences: SecretFences,
    pub(crate) file_roots: Arc<[PathBuf]>,
    pub(crate) data_dir: PathBuf,
    pub(crate) deny_networks: Arc<[Network]>,
    #[cfg(feature = "file")]
    pub(crate) file_writers: super::file::writers::Writers,
    #[cfg(feature = "s3")]
    pub(crate) s3_objects: super::s3::open_objects::OpenObjects,
}

/// Makes the sink of one task.
pub(crate) trait SinkMaker: Send + Sync {
    fn sink_for(&self, connector: &Connector, epoch: Epoch) -> TaskSink;
}

pub(crate) struct TaskSink {
    pub(crate) opener: Arc<dyn OpenSink>,
    pub(crate) order: OrderClass,
    pub(crate) options: PipelineOptions,
}

/// The sinks of this binary.
pub(crate) struct CompiledSinks {
    context: SinkContext,
}

impl CompiledSinks {
    pub(crate) fn new(options: &RuntimeOptions) -> Self {
        let context = SinkContext {
            cluster: options.cluster,
            connector: ConnectorName::default(),
            incarnation: Incarnation::default(),
            epoch: Epoch::default(),
            fences: options.fences.clone(),
            file_roots: options.file_roots.clone().into(),
            data_dir: options.data_dir.clone(),
            deny_networks: options.deny_networks.clone().into(),
            #[cfg(feature = "file")]
            file_writers: super::file::writers::Writers::default(),
            #[cfg(feature = "s3")]
            s3_objects: super::s3::open_objects::OpenObjects::default(),
        };
        Self { context }
    }

    #[cfg(all(
        test,
        any(
            feature = "cassandra",
            feature = "clickhouse",
            feature = "elasticsearch",
            feature = "mysql",
            feature = "postgres",
            feature = "s3"
        )
    ))]
    pub(crate) fn context(&self) -> &SinkContext {
        &self.context
    }

    #[cfg(test)]
    pub(crate) fn with_context(context: SinkContext) -> Self {
        Self { context }
    }
}

impl SinkMaker for CompiledSinks {
    fn sink_for(&self, connector: &Connector, epoch: Epoch) -> TaskSink {
        let spec = &connector.spec;
        let context = SinkContext {
            connector: spec.name.clone(),
            incarnation: connector.incarnation,
            epoch,
            ..self.context.clone()
        };
        let entry = match registry::kind(&spec.kind) {
            Ok(entry) => entry,
            Err(error) => return TaskSink::unavailable(error.to_string()),
        };
        let Some(offered) = OFFERED.iter().find(|offered| offered.kind == entry.name) else {
            return TaskSink::unavailable(format!("this node does not offer kind {}", entry.name));
        };
        let effective: Map<String, Value> = match serde_json::from_str(&spec.config_effective) {
            Ok(effective) => effective,
            Err(error) => return TaskSink::unavailable(format!("the stored configuration is not readable: {error}")),
        };
        let options = PipelineOptions::read(entry, &effective);
        let order = entry.order_of(&effective);
        let opener = Arc::new(ConfiguredSink { entry, effective, context, open: offered.open });
        TaskSink { opener, order, options }
    }
}

impl TaskSink {
    /// The scheduler gives a node only what it offers; this shows when the two disagree.
    fn unavailable(message: String) -> Self {
        let limits = BatchLimits { records_max: 1, bytes_max: 1024, linger: Duration::ZERO, sync_bounds: false };
        let options = PipelineOptions {
            limits,
            max_in_flight: 1,
            one_by_one: false,
            max_records_per_second: None,
            max_bytes_per_second: None,
        };
        Self { opener: Arc::new(Unavailable { message: message.into() }), order: OrderClass::Queue, options }
    }
}

struct Unavailable {
    message: Arc<str>,
}

#[async_trait]
impl OpenSink for Unavailable {
    async fn open(&self) -> Result<Box<dyn Sink>, TargetFault> {
        Err(TargetFault::new(TargetFaultKind::Misconfigured("KIND_NOT_OFFERED"), Arc::clone(&self.message)))
    }
}

/// Reads the secrets and opens the sink, every time anew.
struct ConfiguredSink {
    entry: &'static KindEntry,
    effective: Map<String, Value>,
    context: SinkContext,
    open: OpenFn,
}

#[async_trait]
impl OpenSink for ConfiguredSink {
    async fn open(&self) -> Result<Box<dyn Sink>, TargetFault> {
        let (entry, effective, fences) = (self.entry, self.effective.clone(), self.context.fences.clone());
        let resolved = tokio::task::spawn_blocking(move || resolve(entry, &effective, &fences)).await;
        match resolved {
            Ok(Ok(resolved)) => (self.open)(resolved, &self.context).await,
            Ok(Err(error)) => Err(unusable(&error)),
            Err(error) => Err(unusable(&error)),
        }
    }
}

/// A connector cannot work as it is configured.
pub(crate) fn unusable(error: &dyn std::error::Error) -> TargetFault {
    TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), chain(error))
}

/// The same of what it says of TLS.
pub(crate) fn tls_unusable(error: &dyn std::error::Error) -> TargetFault {
    TargetFault::new(TargetFaultKind::Misconfigured("TLS_UNUSABLE"), chain(error))
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::offered_kinds;

    #[test]
    fn every_offered_kind_has_a_sink() {
        let mut sinks: Vec<&str> = OFFERED.iter().map(|offered| offered.kind).collect();
        let mut kinds = offered_kinds();
        sinks.sort_unstable();
        kinds.sort_unstable();
        assert_eq!(sinks, kinds);
    }
}
