//! A control plane in memory: the real `ClusterState`, applied at once, with a leader that does what a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::assignment::AssignmentState;
use api_types::heartbeat::NodeLoad;
use api_types::status::{Health, TaskCounters, TaskReport};
use api_types::{ClusterId, DiskId, Incarnation, LogIndex, NodeEpoch, NodeName, RaftId, RequestId};
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use connector_runtime::secrets::SecretFences;
use meta_service::state::{ClusterState, Command, CommandBody, Disk, NodeRegistration, PlanStep, Reply, ReplyBody};
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

use crate::api::control::{
    ControlPlane, Observed, ObservedNode, ObservedTask, OwnerSilent, QueueHolding, QueueShare, RaftView, Unavailable,
    View,
};
use crate::api::{ApiOptions, router};
use crate::health::{Parts, Watchdog};
use crate::metrics::Metrics;

const TERM: u64 = 2;
/// 2024-01-01 10:00:00 UTC, the seed's.
pub const CREATED_MS: u64 = 1_704_103_200_000;
pub const BODY_BYTES_MAX: usize = 128 * 1024;

/// What a test can set.
#[derive(Default)]
pub struct Script {
    pub unavailable: Option<Unavailable>,
    pub propose_outcome_unknown: bool,
    pub not_confirmed: Vec<NodeName>,
    /// The leader does not carry deletes out.
    pub keep_deleting: bool,
    pub live: BTreeMap<Incarnation, TaskReport>,
    pub owner_silent: bool,
    pub pending: BTreeMap<RaftId, u64>,
    pub unreachable: Vec<RaftId>,
    pub observed: Observed,
    pub parts: Option<Parts>,
    pub proposals: Vec<CommandBody>,
    /// So many proposals to put a connector back fail for want of a leader.
    pub restore_failures: u32,
    /// What another request does just before a held connector is deleted, one at each try.
    pub before_delete_held: Vec<fn(Incarnation) -> CommandBody>,
}

pub struct Plane {
    state: Mutex<Arc<ClusterState>>,
    applied: watch::Sender<LogIndex>,
    pub script: Mutex<Script>,
}

pub fn well() -> Parts {
    Parts {
        replica: Ok(()),
        listeners: Ok(()),
        queue_disk: Ok(()),
        lease: Ok(()),
        leader: Ok(()),
        stopping: Ok(()),
        ingest_without_lease: true,
    }
}

impl Plane {
    /// Three registered nodes that offer file and webhook.
    pub fn new() -> Arc<Self> {
        let plane = Self {
            state: Mutex::new(Arc::new(ClusterState::default())),
            applied: watch::Sender::new(LogIndex(0)),
            script: Mutex::new(Script::default()),
        };
        let disk = |id: u64| Disk {
            disk_id: DiskId(u128::from(id)),
            name: NodeName(format!("n{id}")),
            rpc_address: format!("127.0.0.1:748{id}"),
        };
        let members = (1..=3).map(|id| (RaftId(id), disk(id))).collect();
        plane.apply(CommandBody::FoundCluster { cluster_id: ClusterId(0xc1), members });
        for id in 1..=3 {
            plane.register(id, disk(id), &["file", "webhook"]);
        }
        Arc::new(plane)
    }

    fn register(&self, id: u64, disk: Disk, kinds: &[&str]) {
        let registration = NodeRegistration {
            raft_id: RaftId(id),
            disk_id: disk.disk_id,
            name: disk.name,
            rpc_address: disk.rpc_address,
            api_address: format!("127.0.0.1:808{id}"),
            mqtt_address: format!("127.0.0.1:188{id}"),
            zone: format!("z{id}"),
            version: "0.1.0".into(),
            kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
            boot_nonce: id,
            lock_proof: true,
            last_log: LogIndex(0),
        };
        self.apply(CommandBody::RegisterNode { registration });
    }

    pub fn apply(&self, body: CommandBody) -> Reply {
        let mut slot = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = (**slot).clone();
        let index = LogIndex(state.applied.0 + 1);
        let command = Command { request_id: RequestId(u128::from(index.0)), time_ms: CREATED_MS, body };
        let reply = state.apply(index, TERM, &command);
        *slot = Arc::new(state);
        self.applied.send_replace(index);
        reply
    }

    pub fn state(&self) -> Arc<ClusterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn look<T>(&self, read: impl FnOnce(&Script) -> T) -> T {
        read(&self.script.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn incarnation(&self, name: &str) -> Incarnation {
        self.state().connector(name).expect("the connector exists").incarnation
    }

    /// What the scheduler would propose.
    pub fn assign(&self, name: &str, node: u64) {
        let (incarnation, state) = (self.incarnation(name), self.state());
        let task = state.assignment(incarnation).expect("a task");
        let node_epoch: NodeEpoch = state.nodes[&RaftId(node)].node_epoch;
        let why = format!("n{node} has the fewest tasks");
        let step = PlanStep::Assign { incarnation, expect_epoch: task.epoch, node: RaftId(node), node_epoch, why };
        self.apply(CommandBody::ApplyPlan { decided_term: TERM, steps: vec![step] });
    }

    /// A report under the present epoch.
    pub fn report(&self, name: &str, health: Health) -> TaskReport {
        let incarnation = self.incarnation(name);
        TaskReport {
            incarnation,
            epoch: self.state().assignment(incarnation).expect("a task").epoch,
            health,
            counters: TaskCounters {
                last_send_time_s: 1_698_765_432,
                send_success_total: 10_245,
                send_fail_total: 3,
                last_msg: Some("Batch sent successfully".into()),
                ..TaskCounters::default()
            },
            ..TaskReport::default()
        }
    }

    pub fn observe(&self, name: &str, report: TaskReport, age: Duration) {
        let incarnation = self.incarnation(name);
        self.set(|script| {
            script.observed.tasks.insert(incarnation, ObservedTask { node: RaftId(1), report, age });
            let node = ObservedNode {
                load: NodeLoad::default(),
                catalogue_index: LogIndex(5),
                lease_remaining: Some(Duration::from_millis(1500)),
                age,
            };
            script.observed.nodes.insert(RaftId(1), node);
        });
    }

    /// The leader: releases the task of a connector that goes, and removes it.
    fn carry_out_delete(&self, incarnation: Incarnation) {
        let state = self.state();
        let Some(task) = state.assignment(incarnation) else { return };
        if matches!(task.state, AssignmentState::Assigned(_)) {
            let step = PlanStep::Release { incarnation, expect_epoch: task.epoch, why: "deleted".into() };
            self.apply(CommandBody::ApplyPlan { decided_term: TERM, steps: vec![step] });
            self.apply(CommandBody::Released { incarnation, epoch: task.epoch });
        }
        self.apply(CommandBody::RemoveConnector { incarnation });
    }

    pub fn router(self: &Arc<Self>) -> Router {
        let options = ApiOptions {
            node_name: "n1".into(),
            body_bytes_max: BODY_BYTES_MAX,
            fences: SecretFences {
                env_prefix: "SLUICE_SECRET_".into(),
                secret_dirs: vec!["/etc/sluice/secrets".into()],
            },
            when_full_is_set: false,
            delete_wait: Duration::from_secs(13),
            serve_metrics: true,
            metrics: Metrics::new("0.1.0", "test").expect("metrics"),
            watchdog: Watchdog::new(),
        };
        router(self.clone(), options)
    }
}

#[async_trait]
impl ControlPlane for Plane {
    async fn read(&self) -> Result<View, Unavailable> {
        match self.look(|script| script.unavailable) {
            Some(error) => Err(error),
            None => Ok(View { state: self.state(), observed: Arc::new(self.look(|script| script.observed.clone())) }),
        }
    }

    fn local_state(&self) -> Arc<ClusterState> {
        self.state()
    }

    fn applied(&self) -> watch::Receiver<LogIndex> {
        self.applied.subscribe()
    }

    async fn propose(&self, body: CommandBody) -> Result<Reply, Unavailable> {
        if let Some(error) = self.look(|script| script.unavailable) {
            return Err(error);
        }
        let left = self.look(|script| script.restore_failures);
        if matches!(body, CommandBody::RestoreConnector { .. }) && left > 0 {
            self.set(|script| script.restore_failures -= 1);
            return Err(Unavailable::NoLeader);
        }
        if let CommandBody::DeleteHeld { incarnation, .. } = &body {
            let mut meddling = None;
            self.set(|script| meddling = script.before_delete_held.pop());
            if let Some(meddling) = meddling {
                self.apply(meddling(*incarnation));
            }
        }
        self.set(|script| script.proposals.push(body.clone()));
        let reply = self.apply(body.clone());
        if self.look(|script| script.propose_outcome_unknown) {
            return Err(Unavailable::OutcomeUnknown);
        }
        let deletes = matches!(body, CommandBody::DeleteConnector { .. } | CommandBody::DeleteHeld { .. });
        if let ReplyBody::Deleting { incarnation } = &reply.body
            && deletes
            && !self.look(|script| script.keep_deleting)
        {
            self.carry_out_delete(*incarnation);
        }
        Ok(reply)
    }

    async fn barrier(&self, _: LogIndex) -> Result<Vec<NodeName>, Unavailable> {
        Ok(self.look(|script| script.not_confirmed.clone()))
    }

    async fn live_task(&self, _: RaftId, incarnation: Incarnation) -> Result<Option<TaskReport>, OwnerSilent> {
        if self.look(|script| script.owner_silent) {
            return Err(OwnerSilent);
        }
        Ok(self.look(|script| script.live.get(&incarnation).cloned()))
    }

    async fn shares(&self, _: Incarnation) -> Vec<QueueShare> {
        let share = |id: u64| {
            let node = RaftId(id);
            let mut holding = QueueHolding::default();
            holding.ledger.pending = self.look(|script| script.pending.get(&node).copied().unwrap_or_default());
            holding.ledger.queued = holding.ledger.pending;
            holding.oldest_age_ms = (holding.ledger.pending > 0).then_some(2500);
            let silent = self.look(|script| script.unreachable.contains(&node));
            QueueShare { node, name: NodeName(format!("n{id}")), holds: (!silent).then_some(holding) }
        };
        (1..=3).map(share).collect()
    }

    fn raft(&self) -> RaftView {
        RaftView {
            raft_id: Some(RaftId(1)),
            role: "leader".into(),
            term: TERM,
            leader: Some(RaftId(1)),
            applied: self.state().applied,
            voters: vec![RaftId(1), RaftId(2), RaftId(3)],
            ..RaftView::default()
        }
    }

    fn health(&self) -> Parts {
        self.look(|script| script.parts.clone()).unwrap_or_else(well)
    }
}

/// What came back.
pub struct Seen {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Seen {
    pub fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or_default()
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }

    pub fn fields(&self) -> Vec<&str> {
        let errors = self.body["data"]["errors"].as_array();
        errors.into_iter().flatten().filter_map(|error| error["field"].as_str()).collect()
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.body["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

pub async fn send(plane: &Arc<Plane>, request: Request<Body>) -> Seen {
    send_to(plane.router(), request).await
}

pub async fn send_to(router: Router, request: Request<Body>) -> Seen {
    let response = router.oneshot(request).await.expect("the router is infallible");
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    let body = serde_json::from_str(&text).unwrap_or_default();
    Seen { status: head.status, headers: head.headers, text, body }
}

pub async fn get(plane: &Arc<Plane>, path: &str) -> Seen {
    send(plane, Request::get(path).body(Body::empty()).expect("a request")).await
}

pub async fn post(plane: &Arc<Plane>, path: &str, body: impl Into<Body>) -> Seen {
    let request = Request::post(path).header("content-type", "application/json").body(body.into());
    send(plane, request.expect("a request")).await
}

/// Creates a file connector.
pub async fn create(plane: &Arc<Plane>, name: &str) -> Seen {
    let body = serde_json::json!({
        "connector_name": name,
        "connector_type": "file",
        "config": r#"{"local_file_path":"/tmp/x.log"}"#,
        "topic_name": format!("{name}/#"),
    });
    post(plane, "/api/mqtt/connector/create", body.to_string()).await
}
