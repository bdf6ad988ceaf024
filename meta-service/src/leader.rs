//! Stand-in until the leader's part is merged: the interface, and what needs no scheduler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad};
use api_types::status::TaskReport;
use api_types::{Incarnation, LogIndex, NodeEpoch, NodeName, RaftId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::state::{ClusterState, CommandBody, Reply};
use crate::timings::Timings;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the leader")]
pub struct NotLeader;

#[async_trait]
pub trait LeaderPort: Send + Sync {
    fn state(&self) -> Arc<ClusterState>;
    async fn propose(&self, body: CommandBody) -> Result<Reply, NotLeader>;
    async fn prove(&self) -> Result<u64, NotLeader>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    pub term: u64,
    pub tasks: BTreeMap<Incarnation, (RaftId, TaskReport, u64)>,
    pub nodes: BTreeMap<RaftId, NodeReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub load: NodeLoad,
    pub catalogue_index: LogIndex,
    pub lease_remaining_ms: u64,
    pub age_ms: u64,
}

pub struct LeaderService {
    port: Arc<dyn LeaderPort>,
    timings: Timings,
    reports: Mutex<Reports>,
}

impl LeaderService {
    pub fn new(port: Arc<dyn LeaderPort>, _clock: Arc<dyn Clock>, timings: Timings) -> Arc<Self> {
        Arc::new(Self { port, timings, reports: Mutex::default() })
    }

    pub fn elected(&self, term: u64, _by_transfer: bool) {
        *self.reports.lock().unwrap_or_else(PoisonError::into_inner) = Reports { term, ..Reports::default() };
    }

    pub fn deposed(&self) {}

    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<HeartbeatAnswer, NotLeader> {
        let term = self.port.prove().await?;
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let lease_ms = self.timings.lease.as_millis() as u64;
        let report = NodeReport {
            load: heartbeat.load,
            catalogue_index: heartbeat.catalogue_index,
            lease_remaining_ms: lease_ms,
            age_ms: 0,
        };
        reports.nodes.insert(heartbeat.node, report);
        Ok(HeartbeatAnswer::Renewed { term, lease_ms })
    }

    pub async fn barrier(&self, _index: LogIndex) -> Result<Vec<NodeName>, NotLeader> {
        self.port.prove().await?;
        Ok(Vec::new())
    }

    pub fn reports(&self) -> Arc<Reports> {
        Arc::new(self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub fn node_said_goodbye(&self, _node: RaftId, _node_epoch: NodeEpoch) {}

    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        cancel.cancelled().await;
    }
}
