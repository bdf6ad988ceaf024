//! `GET types`: the 17 kinds with the schema of their configuration, and who offers them.

use api_types::Reason;
use connector_runtime::config;
use connector_runtime::registry::{self, KindEntry};
use meta_service::state::{ClusterState, NodeState};
use serde_json::{Value, json};

use super::Api;
use super::answer::{Answer, Failure, Outcome};
use super::request::Input;
use super::words::shortened;

pub fn types(api: &Api, input: &Input) -> Outcome {
    let warnings = input.unknown_keys(&["connector_type"], true);
    let entries: &[KindEntry] = match input.get("connector_type") {
        None => registry::KINDS,
        Some(_) => {
            let name = input.required_text("connector_type")?;
            let entry = registry::kind(&name)
                .map_err(|unknown| Failure::new(Reason::KindNotFound, shortened(&unknown.to_string())))?;
            std::slice::from_ref(entry)
        }
    };
    let state = api.control.local_state();
    let rows: Vec<Value> = entries.iter().map(|entry| row(entry, &state)).collect();
    Ok(Answer::new(json!({ "data": rows, "total_count": rows.len() })).with_warnings(warnings))
}

fn row(entry: &KindEntry, state: &ClusterState) -> Value {
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
}
