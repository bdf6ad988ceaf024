//! What is computed when Prometheus looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_types::status::{Health, Status};
use api_types::{Incarnation, RaftId};
use arc_swap::ArcSwap;
use meta_service::leader::Reports;
use meta_service::rpc::Secrets;
use meta_service::state::ClusterState;

use super::control::Control;
use crate::metrics::{ClusterView, ConnectorFacts, Metrics, QueueFacts};

/// The age of the oldest record costs a look at the disk, so it is not looked up during the scrape.
const AGES_EVERY: Duration = Duration::from_secs(5);

pub struct Scrape {
    control: Arc<Control>,
    secrets: Secrets,
    ages_ms: ArcSwap<BTreeMap<Incarnation, u64>>,
}

impl Scrape {
    pub fn new(control: Arc<Control>, secrets: Secrets) -> Self {
        Self { control, secrets, ages_ms: ArcSwap::default() }
    }

    /// Runs for the life of the node.
    pub async fn sample_ages(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(AGES_EVERY);
        loop {
            ticks.tick().await;
            let Some(rooms) = self.control.rooms.get() else { continue };
            // A store that is being opened again has no ages; the next look will find them.
            let Ok(reports) = rooms.queues.report().await else { continue };
            let ages = reports
                .into_iter()
                .filter_map(|report| Some((report.stats.incarnation, report.oldest_age_ms?)))
                .collect();
            self.ages_ms.store(Arc::new(ages));
        }
    }

    /// The owner knows its own tasks, the leader what all nodes told it.
    fn health(&self, seen: &Seen, incarnation: Incarnation, status: Status) -> Option<Health> {
        let owner = seen.state.assignment(incarnation).and_then(|assignment| assignment.owner());
        if owner.is_some_and(|owner| Some(owner.node) == seen.me) {
            return Some(seen.own.get(&incarnation).copied().unwrap_or(Health::Starting));
        }
        let reports = seen.reports.as_ref()?;
        match status {
            Status::Stopped => Some(Health::Stopped),
            Status::Idle => Some(Health::Unassigned),
            Status::Running => reports.tasks.get(&incarnation).map(|(_, report, _)| report.health),
        }
    }

    fn look(&self) -> Seen {
        let handle = &self.control.handle;
        let reports = self.control.rooms.get().map(|rooms| rooms.supervisor.reports()).unwrap_or_default();
        let leads = handle.raft_status().is_some_and(|raft| raft.leader == Some(raft.raft_id));
        Seen {
            state: handle.state(),
            me: handle.identity().map(|identity| identity.raft_id),
            own: reports.into_iter().map(|report| (report.incarnation, report.health)).collect(),
            reports: leads.then(|| handle.reports()),
        }
    }
}

/// One look at everything that the health of all connectors is told from.
struct Seen {
    state: Arc<ClusterState>,
    me: Option<RaftId>,
    own: BTreeMap<Incarnation, Health>,
    /// On the leader only.
    reports: Option<Arc<Reports>>,
}

impl ClusterView for Scrape {
    fn connectors(&self) -> Vec<ConnectorFacts> {
        let seen = self.look();
        let state = &seen.state;
        state
            .connectors
            .values()
            .map(|connector| {
                let status = state.status(connector);
                ConnectorFacts {
                    connector: connector.spec.name.to_string(),
                    kind: connector.spec.kind.clone(),
                    status,
                    health: self.health(&seen, connector.incarnation, status),
                }
            })
            .collect()
    }

    fn queues(&self) -> Vec<QueueFacts> {
        let Some(rooms) = self.control.rooms.get() else { return Vec::new() };
        let stats = rooms.queues.stats();
        let ages = self.ages_ms.load();
        stats
            .queues
            .into_iter()
            .map(|queue| QueueFacts {
                oldest_age_seconds: ages.get(&queue.incarnation).map_or(0.0, |age_ms| *age_ms as f64 / 1000.0),
                connector: queue.name,
                kind: queue.kind,
                records: queue.records,
                bytes: queue.bytes,
                dropped: queue.totals.dropped.into_iter().collect(),
            })
            .collect()
    }

    fn refresh(&self, metrics: &Metrics) {
        if let Some(raft) = self.control.handle.raft_status() {
            metrics.raft_is_leader.set(i64::from(raft.leader == Some(raft.raft_id)));
            metrics.raft_term.set(raft.term as i64);
            metrics.raft_applied_index.set(raft.applied.unwrap_or_default().0 as i64);
        }
        metrics.node_lease_remaining_seconds.set(self.control.lease.remaining().as_secs_f64());
        if let Some(rooms) = self.control.rooms.get() {
            metrics.queue_disk_free_bytes.set(rooms.queues.disk_free_bytes() as i64);
        }
        let leader = self.control.handle.take_leader_metrics();
        for (reason, total) in leader.moves_total {
            let counter = metrics.scheduler_moves.with_label_values(&[reason.as_str()]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        leader.failover_seconds.into_iter().for_each(|seconds| metrics.scheduler_failover_seconds.observe(seconds));
        let refused = self.secrets.refused_total();
        metrics.rpc_refused.inc_by(refused.saturating_sub(metrics.rpc_refused.get()));
    }
}
