//! `GET types`: the 17 kinds with the schema of their configuration, and who offers them.

use connector_runtime::{config, registry};
use meta_service::state::NodeState;
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Outcome};
use super::request::Input;

pub fn types(api: &Api, input: &Input) -> Outcome {
    let warnings = input.unknown_keys(&[], true);
    let state = api.control.local_state();
    let rows: Vec<Value> = registry::KINDS
        .iter()
        .map(|entry| {
            let offering = state
                .nodes
                .values()
                .filter(|node| node.state == NodeState::Up && node.kinds.iter().any(|kind| kind == entry.name));
            let nodes: Vec<&str> = offering.map(|node| node.name.as_str()).collect();
            json!({
                "connector_type": entry.name,
                "title": entry.title,
                "category": entry.category,
                "order": entry.order.as_str(),
                "offered_by": nodes,
                "config_schema": config::json_schema(entry),
                "ddl": entry.ddl,
            })
        })
        .collect();
    Ok(Answer::new(json!({ "data": rows, "total_count": registry::KINDS.len() })).with_warnings(warnings))
}
