//! `GET /api/cluster/status` and `node/list`. Both answer without a leader, too, from this node's replica: that is
//! when they are needed most.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::RaftId;
use api_types::status::Status;
use meta_service::state::{Node, NodeState};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Outcome};
use super::control::{Observed, RaftView, View};
use super::explain::tasks_of;
use super::request::Input;
use super::row::{NOBODY, UNKNOWN, time_text};

pub async fn status(api: &Api, input: Input) -> Outcome {
    let mut warnings = input.unknown_keys(&[], true);
    let (view, raft) = view_or_replica(api, &mut warnings).await;
    let state = &view.state;
    let mut counts: BTreeMap<&str, usize> = Status::ALL.iter().map(|status| (status.as_str(), 0)).collect();
    for connector in state.connectors.values() {
        *counts.entry(state.status(connector).as_str()).or_default() += 1;
    }
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for node in state.nodes.values().filter(|node| node.state == NodeState::Up) {
        *versions.entry(node.version.as_str()).or_default() += 1;
    }
    let leader_name = raft.leader.and_then(|leader| state.nodes.get(&leader)).map(|node| node.name.as_str());
    let data = json!({
        "cluster_id": state.cluster_id,
        "answered_by": api.options.node_name,
        "broker_id": raft.raft_id.map_or_else(|| NOBODY.to_owned(), |id| id.to_string()),
        "role": raft.role,
        "leader": raft.leader.map(|id| id.to_string()),
        "leader_name": leader_name,
        "term": raft.term,
        "last_log_index": raft.last_log,
        "committed_index": raft.committed,
        "applied_index": raft.applied,
        "snapshot_index": raft.snapshot,
        "catalogue_index": state.catalogue_index,
        "voters": texts(&raft.voters),
        "learners": texts(&raft.learners),
        "versions": versions,
        "connectors": counts,
        "nodes": node_rows(&view, &raft),
    });
    Ok(Answer::new(data).with_warnings(warnings))
}

pub async fn nodes(api: &Api, input: Input) -> Outcome {
    let mut warnings = input.unknown_keys(&[], true);
    let (view, raft) = view_or_replica(api, &mut warnings).await;
    let rows = node_rows(&view, &raft);
    Ok(Answer::new(json!({ "data": rows, "total_count": rows.len() })).with_warnings(warnings))
}

/// Without a linearizable read nobody has confirmed the leader that this node last heard of: it may be dead.
async fn view_or_replica(api: &Api, warnings: &mut Vec<String>) -> (View, RaftView) {
    match api.control.read().await {
        Ok(view) => (view, api.control.raft()),
        Err(error) => {
            warnings.push(format!("{error}: this is the replica of the node that answers, which may be old"));
            let view = View { state: api.control.local_state(), observed: Arc::new(Observed::default()) };
            (view, RaftView { leader: None, ..api.control.raft() })
        }
    }
}

fn node_rows(view: &View, raft: &RaftView) -> Vec<Value> {
    view.state.nodes.values().map(|node| node_row(view, raft, node)).collect()
}

fn node_row(view: &View, raft: &RaftView, node: &Node) -> Value {
    let (state, reason) = match &node.state {
        NodeState::Admitted => ("Admitted", None),
        NodeState::Up => ("Up", None),
        NodeState::Fenced { reason } => ("Fenced", Some(reason.as_str())),
        NodeState::Left => ("Left", None),
    };
    let role = role_of(raft, node.raft_id);
    let seen = view.observed.nodes.get(&node.raft_id);
    let known = |value: Option<Value>| value.unwrap_or_else(|| json!(UNKNOWN));
    json!({
        "broker_id": node.raft_id.to_string(),
        "broker_name": node.name,
        "state": state,
        "state_reason": reason,
        "role": role,
        "zone": node.zone,
        "version": node.version,
        "kinds": node.kinds,
        "api_address": node.api_address,
        "mqtt_address": node.mqtt_address,
        "rpc_address": node.rpc_address,
        "disk_id": node.disk_id,
        "node_epoch": node.node_epoch,
        "log_synced": node.log_synced,
        "since": time_text(node.since_ms),
        "tasks": tasks_of(&view.state, node),
        "queue_records": known(seen.map(|seen| json!(seen.load.queue_records))),
        "queue_bytes": known(seen.map(|seen| json!(seen.load.queue_bytes))),
        "mqtt_connections": known(seen.map(|seen| json!(seen.load.mqtt_connections))),
        "catalogue_index": known(seen.map(|seen| json!(seen.catalogue_index))),
        "lease_remaining_ms": known(seen.map(|seen| json!(seen.lease_remaining.map(|left| left.as_millis() as u64)))),
        "heard_ms_ago": known(seen.map(|seen| json!(seen.age.as_millis() as u64))),
    })
}

/// While no leader is known, every other voter may have become it.
fn role_of(raft: &RaftView, id: RaftId) -> &'static str {
    if raft.leader == Some(id) {
        "leader"
    } else if raft.learners.contains(&id) {
        "learner"
    } else if !raft.voters.contains(&id) {
        "none"
    } else if raft.leader.is_none() && raft.raft_id != Some(id) {
        UNKNOWN
    } else {
        "voter"
    }
}

fn texts(ids: &[RaftId]) -> Vec<String> {
    ids.iter().map(|id| id.to_string()).collect()
}
