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
            client.print(&data, status_text);
        }
        ClusterCommand::Nodes => {
            let data = client.get("/api/cluster/node/list", &[]).await?;
            client.print(&data, |data| node_table(&data["data"]));
        }
    }
    Ok(())
}

fn status_text(data: &Value) -> String {
    let facts = pairs(&[
        ("cluster", cell(&data["cluster_id"])),
        ("answered by", cell(&data["answered_by"])),
        ("leader", cell(&data["leader_name"])),
        ("term", cell(&data["term"])),
        ("applied", cell(&data["applied_index"])),
        ("connectors", cell(&data["connectors"])),
        ("versions", cell(&data["versions"])),
    ]);
    format!("{facts}\n{}", node_table(&data["nodes"]))
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
