//! The API's view of this node: the metadata service from the start, the rest once the node has an identity.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use api_types::status::TaskReport;
use api_types::{Incarnation, LogIndex, NodeName, RaftId};
use async_trait::async_trait;
use connector_runtime::supervisor::Supervisor;
use meta_service::leader::Reports;
use meta_service::rpc::RpcClient;
use meta_service::state::{ClusterState, CommandBody, Reply};
use meta_service::{Handle, ProposeError, ReadError};
use tokio::sync::watch;

use crate::agent::lease::LeaseKeeper;
use crate::api::ask::{self, LocalView};
use crate::api::control::{
    ControlPlane, Observed, ObservedNode, ObservedTask, OwnerSilent, QueueHolding, QueueShare, RaftView, Unavailable,
    View,
};
use crate::health::{Part, Parts};
use crate::mqtt::MqttServer;
use crate::queue::Queues;

/// The parts that exist once the disk belongs to a cluster.
#[derive(Clone)]
pub struct Rooms {
    pub queues: Queues,
    pub supervisor: Arc<Supervisor>,
    pub mqtt: Arc<MqttServer>,
}

pub struct Control {
    pub handle: Handle,
    pub rpc: RpcClient,
    pub lease: Arc<LeaseKeeper>,
    pub rooms: OnceLock<Rooms>,
    /// What the opening of the queues waits for.
    pub opening: Mutex<Option<String>>,
    pub stopping: AtomicBool,
    /// `mqtt.ingest_without_lease = accept`.
    pub ingest_without_lease: bool,
    pub observed: LastObserved,
}

/// The reports that were read last, in the API's terms: many reads share them.
#[derive(Default)]
pub struct LastObserved(Mutex<Option<(Arc<Reports>, Arc<Observed>)>>);

impl LastObserved {
    fn of(&self, reports: &Arc<Reports>) -> Arc<Observed> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            // Held here, so its address is nobody else's.
            Some((of, observed)) if Arc::ptr_eq(of, reports) => Arc::clone(observed),
            Some(_) | None => {
                let observed = Arc::new(observed(reports));
                *last = Some((Arc::clone(reports), Arc::clone(&observed)));
                observed
            }
        }
    }
}

impl Control {
    fn own_id(&self) -> Option<RaftId> {
        self.handle.identity().map(|identity| identity.raft_id)
    }

    fn listeners(&self) -> Part {
        match self.rooms.get() {
            Some(rooms) if rooms.mqtt.is_listening() => Ok(()),
            Some(_) => Err("mqtt does not listen: it opens with the first lease".to_owned()),
            None => Err("mqtt does not listen: the queues are not open yet".to_owned()),
        }
    }

    /// Raft remembers a leader that is gone until there is another; a lease is the proof that it answers.
    fn leader(&self) -> Part {
        match self.handle.leader() {
            Some(_) if self.lease.lease().is_held() => Ok(()),
            Some(_) => Err("the leader has not answered for the length of a lease".to_owned()),
            None => Err("no leader is known".to_owned()),
        }
    }

    fn queue_disk(&self) -> Part {
        match self.rooms.get() {
            Some(rooms) => rooms.queues.writable().map_err(|reason| reason.to_string()),
            None => {
                let opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
                Err(opening.clone().unwrap_or_else(|| "the queue store is not open yet".to_owned()))
            }
        }
    }
}

#[async_trait]
impl ControlPlane for Control {
    async fn read(&self) -> Result<View, Unavailable> {
        let view = self.handle.read().await.map_err(unreadable)?;
        Ok(View { state: view.state, observed: self.observed.of(&view.reports) })
    }

    fn local_state(&self) -> Arc<ClusterState> {
        self.handle.state()
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.handle.applied()
    }

    async fn propose(&self, body: CommandBody) -> Result<Reply, Unavailable> {
        self.handle.propose(body).await.map_err(|error| match error {
            ProposeError::NoLeader => Unavailable::NoLeader,
            ProposeError::NotReady => Unavailable::NotReady,
            ProposeError::OutcomeUnknown => Unavailable::OutcomeUnknown,
        })
    }

    async fn barrier(&self, index: LogIndex) -> Result<Vec<NodeName>, Unavailable> {
        self.handle.barrier(index).await.map_err(unreadable)
    }

    async fn live_task(&self, owner: RaftId, incarnation: Incarnation) -> Result<Option<TaskReport>, OwnerSilent> {
        if self.own_id() == Some(owner) {
            return Ok(self.task(incarnation));
        }
        let state = self.handle.state();
        let node = state.nodes.get(&owner).ok_or(OwnerSilent)?;
        ask::task(&self.rpc, node, incarnation).await.map_err(|error| {
            tracing::debug!(%owner, %incarnation, %error, "owner did not tell how its task goes");
            OwnerSilent
        })
    }

    async fn shares(&self, incarnation: Incarnation) -> Vec<QueueShare> {
        ask::shares(&self.rpc, &self.handle.state(), self.own_id(), self, incarnation).await
    }

    fn raft(&self) -> RaftView {
        let Some(status) = self.handle.raft_status() else { return RaftView::default() };
        RaftView {
            raft_id: Some(status.raft_id),
            role: status.role.as_str().to_owned(),
            term: status.term,
            leader: status.leader,
            last_log: status.last_log.unwrap_or_default(),
            committed: status.committed.unwrap_or_default(),
            applied: status.applied.unwrap_or_default(),
            snapshot: status.snapshot.unwrap_or_default(),
            voters: status.voters.into_iter().collect(),
            learners: status.learners.into_iter().collect(),
        }
    }

    fn health(&self) -> Parts {
        let replica =
            if self.handle.recovered_and_caught_up() { Ok(()) } else { Err(self.handle.boot_status().to_string()) };
        Parts {
            replica,
            listeners: self.listeners(),
            queue_disk: self.queue_disk(),
            lease: if self.lease.lease().is_held() { Ok(()) } else { Err("no lease is held".to_owned()) },
            leader: self.leader(),
            stopping: if self.stopping.load(Ordering::SeqCst) { Err("the node stops".to_owned()) } else { Ok(()) },
            ingest_without_lease: self.ingest_without_lease,
        }
    }
}

#[async_trait]
impl LocalView for Control {
    fn task(&self, incarnation: Incarnation) -> Option<TaskReport> {
        let rooms = self.rooms.get()?;
        rooms.supervisor.reports().into_iter().find(|report| report.incarnation == incarnation)
    }

    async fn holding(&self, incarnation: Incarnation) -> Option<QueueHolding> {
        let lags = match self.rooms.get()?.queues.lag(vec![incarnation]).await {
            Ok(lags) => lags,
            Err(error) => {
                tracing::debug!(%incarnation, %error, "queue cannot say what it holds");
                return None;
            }
        };
        let held = lags.into_iter().find(|lag| lag.incarnation == incarnation);
        Some(held.map_or_else(QueueHolding::default, |lag| QueueHolding {
            ledger: lag.ledger,
            pending_bytes: lag.bytes,
            oldest_age_ms: lag.oldest_age_ms,
        }))
    }
}

fn unreadable(error: ReadError) -> Unavailable {
    match error {
        ReadError::NoLeader => Unavailable::NoLeader,
        ReadError::NotReady => Unavailable::NotReady,
    }
}

fn observed(reports: &Reports) -> Observed {
    let tasks: BTreeMap<Incarnation, ObservedTask> = reports
        .tasks
        .iter()
        .map(|(incarnation, (node, report, age_ms))| {
            let task = ObservedTask { node: *node, report: report.clone(), age: Duration::from_millis(*age_ms) };
            (*incarnation, task)
        })
        .collect();
    let nodes = reports
        .nodes
        .iter()
        .map(|(node, report)| {
            let lease = Duration::from_millis(report.lease_remaining_ms);
            let observed = ObservedNode {
                load: report.load.clone(),
                catalogue_index: report.catalogue_index,
                lease_remaining: (!lease.is_zero()).then_some(lease),
                age: Duration::from_millis(report.age_ms),
            };
            (*node, observed)
        })
        .collect();
    Observed { tasks, nodes }
}

#[cfg(test)]
mod tests {
    use meta_service::leader::NodeReport;

    use super::*;

    #[test]
    fn reports_are_put_into_the_apis_terms_once() {
        let report = |lease_remaining_ms| NodeReport { lease_remaining_ms, ..NodeReport::default() };
        let reports = |lease| Arc::new(Reports { nodes: [(RaftId(1), report(lease))].into(), ..Reports::default() });
        let (first, second) = (reports(700), reports(0));
        let last = LastObserved::default();
        let observed = last.of(&first);
        assert_eq!(observed.nodes[&RaftId(1)].lease_remaining, Some(Duration::from_millis(700)));
        assert!(Arc::ptr_eq(&observed, &last.of(&first)));
        assert_eq!(last.of(&second).nodes[&RaftId(1)].lease_remaining, None);
        assert!(!Arc::ptr_eq(&observed, &last.of(&first)), "only the last one is kept");
    }
}
