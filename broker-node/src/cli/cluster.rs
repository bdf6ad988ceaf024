//! `sluice cluster …`.

use clap::Subcommand;
use serde_json::Value;

use super::ClientOptions;
use super::client::{CliError, Client};
use super::table::{cell, pairs, table};

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Leader, indexes, versions and nodes.
    Status,
    /// Every node with its state and load.
    Nodes,
}

const COLUMNS: [(&str, &str); 9] = [
    ("ID", "broker_id"),
    ("NAME", "broker_name"),
    ("STATE", "state"),
    ("ROLE", "role"),
    ("TASKS", "tasks"),
    ("QUEUED", "queue_records"),
    ("LEASE_MS", "lease_remaining_ms"),
    ("VERSION", "version"),
    ("API", "api_address"),
];

pub async fn run(options: &ClientOptions, command: &ClusterCommand) -> Result<(), CliError> {
    let client = Client::new(options)?;
    match command {
        ClusterCommand::Status => {
            let data = client.get("/api/cluster/status", &[]).await?;
            client.print(&data, status_text)
        }
        ClusterCommand::Nodes => {
            let data = client.get("/api/cluster/node/list", &[]).await?;
            client.print(&data, |data| node_table(&data["data"]))
        }
    }
}

fn status_text(data: &Value) -> String {
    let leader = if data["leader"].is_null() { "none is known".to_owned() } else { cell(&data["leader_name"]) };
    let facts = pairs(&[
        ("cluster", cell(&data["cluster_id"])),
        ("answered by", cell(&data["answered_by"])),
        ("leader", leader),
        ("term", cell(&data["term"])),
        ("applied", format!("{} of {} log entries", cell(&data["applied_index"]), cell(&data["last_log_index"]))),
        ("voters", cell(&data["voters"])),
        ("learners", cell(&data["learners"])),
        ("connectors", counted(&data["connectors"], |status, count| format!("{count} {status}"))),
        ("versions", counted(&data["versions"], |version, count| format!("{version} on {count}"))),
    ]);
    format!("{facts}\n{}", node_table(&data["nodes"]))
}

/// A map from words to numbers as a phrase.
fn counted(map: &Value, phrase: impl Fn(&str, u64) -> String) -> String {
    let entries = map.as_object().into_iter().flatten();
    let phrases: Vec<String> = entries.map(|(word, count)| phrase(word, count.as_u64().unwrap_or_default())).collect();
    if phrases.is_empty() { "-".to_owned() } else { phrases.join(", ") }
}

fn node_table(rows: &Value) -> String {
    let titles: Vec<&str> = COLUMNS.iter().map(|(title, _)| *title).collect();
    let rows: Vec<Vec<String>> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| COLUMNS.iter().map(|(_, key)| cell(&row[*key])).collect())
        .collect();
    table(&titles, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_lines_for_people() {
        let data = json!({
            "cluster_id": "c1", "answered_by": "n1", "leader": "1", "leader_name": "n1", "term": 2, "applied_index": 57,
            "last_log_index": 58, "voters": ["1", "2"], "learners": [], "connectors": {"Idle": 0, "Running": 3},
            "versions": {"0.1.0": 2}, "nodes": [{"broker_id": "1", "broker_name": "n1", "state": "Up"}],
        });
        let text = status_text(&data);
        for line in [
            "leader       n1",
            "applied      57 of 58 log entries",
            "voters       1,2",
            "connectors   0 Idle, 3 Running",
            "versions     0.1.0 on 2",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line}: {text}");
        }
        assert!(!text.contains('{'), "{text}");
        let lost = status_text(&json!({ "leader": null, "leader_name": null }));
        assert!(lost.contains("leader       none is known"), "{lost}");
    }
}
