//! `GET explain`: why a connector runs where it runs, or why it does not, with a verdict on every node.

use api_types::connector::{Desired, Placement};
use meta_service::state::{ClusterState, Node, NodeState};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Outcome};
use super::detail::named;
use super::request::Input;
use super::row::{Row, desired_name, find, time_text};

pub async fn explain(api: &Api, input: Input) -> Outcome {
    let (name, warnings) = named(&input)?;
    let view = api.control.read().await?;
    let row = find(&view, &name)?;
    let spec = &row.connector.spec;
    let assignment = row.assignment();
    let nodes: Vec<Value> = view
        .state
        .nodes
        .values()
        .map(|node| {
            let obstacles = obstacles(node, &spec.kind, &spec.placement);
            json!({
                "broker_id": node.raft_id.to_string(),
                "broker_name": node.name,
                "eligible": obstacles.is_empty(),
                "obstacles": obstacles,
                "tasks": tasks_of(&view.state, node),
                "owner": assignment.and_then(|task| task.owner()).is_some_and(|owner| owner.node == node.raft_id),
            })
        })
        .collect();
    let data = json!({
        "connector_name": name,
        "status": row.status().as_str(),
        "desired": desired_name(spec.desired),
        "broker_id": row.broker_id(),
        "broker_name": row.broker_name(),
        "epoch": assignment.map(|task| task.epoch),
        "since": assignment.map(|task| time_text(task.since_ms)),
        "why": why(&row),
        "nodes": nodes,
    });
    Ok(Answer::new(data).with_warnings(warnings))
}

fn why(row: &Row<'_>) -> String {
    if row.connector.spec.desired == Desired::Stopped || row.connector.deleting {
        return row.state_reason().unwrap_or_default();
    }
    row.assignment().map(|task| task.why.clone()).unwrap_or_default()
}

/// What keeps a task of this kind and placement from a node; nothing when it may run there.
fn obstacles(node: &Node, kind: &str, placement: &Placement) -> Vec<String> {
    let mut obstacles = Vec::new();
    match &node.state {
        NodeState::Up => {}
        NodeState::Admitted => obstacles.push("it has not registered yet".to_owned()),
        NodeState::Fenced { reason } => obstacles.push(format!("it is fenced: {reason}")),
        NodeState::Left => obstacles.push("it was stopped".to_owned()),
    }
    if !node.kinds.iter().any(|offered| offered == kind) {
        obstacles.push(format!("it does not offer kind {kind}"));
    }
    if !placement.nodes.is_empty() && !placement.nodes.iter().any(|name| name == node.name.as_str()) {
        obstacles.push("placement.nodes does not name it".to_owned());
    }
    if !placement.zones.is_empty() && !placement.zones.contains(&node.zone) {
        obstacles.push("placement.zones does not name its zone".to_owned());
    }
    obstacles
}

/// Tasks that a node holds.
pub fn tasks_of(state: &ClusterState, node: &Node) -> usize {
    let owners = state.assignments.values().filter_map(|task| task.owner());
    owners.filter(|owner| owner.node == node.raft_id).count()
}
