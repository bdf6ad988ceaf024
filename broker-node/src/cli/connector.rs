//! `sluice connector …`.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use connector_runtime::config::read_unique;
use serde_json::{Map, Value, json};

use super::client::{CliError, Client};
use super::schema::fields_text;
use super::table::{cell, pairs, table};
use super::{ClientOptions, WaitArgs};

const PREFIX: &str = "/api/mqtt/connector";
/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum ConnectorCommand {
    /// Connectors with their status and health.
    List(ListArgs),
    /// One connector: specification, status, health, counters, lag per node.
    Show { name: String },
    /// Create a connector from flags or from a JSON file.
    Create(CreateArgs),
    /// Delete a connector and what waits in its queues.
    Delete(DeleteArgs),
    /// The kinds of connectors, or the fields of one.
    Types { kind: Option<String> },
    /// Why a connector runs where it runs, or why it does not.
    Explain { name: String },
}

#[derive(Clone, Debug, Args)]
pub struct ListArgs {
    /// Exact name.
    #[arg(long)]
    pub name: Option<String>,
    #[arg(long = "type", value_name = "KIND", conflicts_with = "filter")]
    pub kind: Option<String>,
    /// A field of the row and a part of its text.
    #[arg(long, value_name = "FIELD=TEXT")]
    pub filter: Option<String>,
    /// The filter's text is the whole text.
    #[arg(long, requires = "filter")]
    pub exact: bool,
    #[arg(long, value_name = "FIELD")]
    pub sort: Option<String>,
    /// Sort downwards.
    #[arg(long)]
    pub desc: bool,
    #[arg(long)]
    pub limit: Option<u32>,
    #[arg(long)]
    pub page: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    #[arg(required_unless_present = "file")]
    pub name: Option<String>,
    #[arg(long = "type", value_name = "KIND", required_unless_present = "file")]
    pub kind: Option<String>,
    /// MQTT topic filter.
    #[arg(long, value_name = "FILTER", required_unless_present = "file")]
    pub topic: Option<String>,
    /// The kind's configuration: JSON, or @FILE.
    #[arg(long, value_name = "JSON", required_unless_present = "file")]
    pub config: Option<String>,
    /// The failure strategy as JSON.
    #[arg(long, value_name = "JSON")]
    pub failure_strategy: Option<String>,
    /// The whole request as JSON; - for standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = ["name", "kind", "topic", "config", "failure_strategy"])]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    pub name: String,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Only when no record waits anywhere.
    #[arg(long)]
    pub if_empty: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
}

pub async fn run(options: &ClientOptions, command: &ConnectorCommand) -> Result<(), CliError> {
    let client = Client::new(options)?;
    match command {
        ConnectorCommand::List(args) => list(&client, args).await,
        ConnectorCommand::Show { name } => show(&client, name).await,
        ConnectorCommand::Create(args) => create(&client, args).await,
        ConnectorCommand::Delete(args) => delete(&client, args).await,
        ConnectorCommand::Types { kind } => types(&client, kind.as_deref()).await,
        ConnectorCommand::Explain { name } => explain(&client, name).await,
    }
}

async fn list(client: &Client, args: &ListArgs) -> Result<(), CliError> {
    let mut query: Vec<(&str, String)> = Vec::new();
    let mut add = |key, value: Option<String>| query.extend(value.map(|value| (key, value)));
    add("connector_name", args.name.clone());
    add("sort_field", args.sort.clone());
    add("sort_by", args.desc.then(|| "desc".to_owned()));
    add("limit", args.limit.map(|limit| limit.to_string()));
    add("page", args.page.map(|page| page.to_string()));
    if let Some(kind) = &args.kind {
        add("filter_field", Some("connector_type".to_owned()));
        add("filter_values", Some(json!([kind]).to_string()));
        add("exact_match", Some("true".to_owned()));
    }
    if let Some(filter) = &args.filter {
        let (field, text) = filter
            .split_once('=')
            .ok_or_else(|| CliError::Usage("--filter must have the form FIELD=TEXT".to_owned()))?;
        add("filter_field", Some(field.to_owned()));
        add("filter_values", Some(json!([text]).to_string()));
        add("exact_match", Some(args.exact.to_string()));
    }
    let data = client.get(&format!("{PREFIX}/list"), &query).await?;
    client.print(&data, |data| {
        let rows = data["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let keys = ["connector_name", "connector_type", "topic_name", "status", "health", "broker_name"];
        let cells: Vec<Vec<String>> =
            rows.iter().map(|row| keys.iter().map(|key| cell(&row[*key])).chain([why(row)]).collect()).collect();
        let titles = ["NAME", "TYPE", "TOPIC", "STATUS", "HEALTH", "NODE", "WHY"];
        let total = data["total_count"].as_u64().unwrap_or_default();
        let more = if total as usize > rows.len() { format!("{} of {total}\n", rows.len()) } else { String::new() };
        table(&titles, &cells) + &more
    })
}

/// What keeps it from running well, if anything.
fn why(row: &Value) -> String {
    let reason = if row["state_reason"].is_null() { &row["health_reason"] } else { &row["state_reason"] };
    cell(reason)
}

async fn show(client: &Client, name: &str) -> Result<(), CliError> {
    let data = client.get(&format!("{PREFIX}/show"), &[("connector_name", name.to_owned())]).await?;
    client.print(&data, show_text)
}

fn show_text(data: &Value) -> String {
    let health = match data["health_reason"].as_str() {
        Some(reason) => format!("{} ({reason})", cell(&data["health"])),
        None => cell(&data["health"]),
    };
    let counters = &data["counters"];
    let facts = pairs(&[
        ("name", cell(&data["connector_name"])),
        ("type", cell(&data["connector_type"])),
        ("topic", cell(&data["topic_name"])),
        ("config", cell(&data["config"])),
        ("status", cell(&data["status"])),
        ("health", health),
        ("node", cell(&data["broker_name"])),
        ("why", cell(&data["why"])),
        ("delivery", cell(&data["delivery"])),
        ("failure", cell(&data["failure_strategy"])),
        ("sent, failed", format!("{}, {}", cell(&counters["send_success_total"]), cell(&counters["send_fail_total"]))),
        ("last message", cell(&counters["last_msg"])),
        ("last error", cell(&data["task"]["last_error"])),
        ("waiting", cell(&data["lag_records"])),
        ("lifetime", cell(&data["lifetime"])),
        ("created", cell(&data["create_time"])),
    ]);
    let rows: Vec<Vec<String>> = data["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            ["broker_name", "lag_records", "lag_bytes", "lag_seconds"].iter().map(|key| cell(&node[*key])).collect()
        })
        .collect();
    format!("{facts}\n{}", table(&["NODE", "WAITING", "BYTES", "OLDEST_S"], &rows))
}

async fn create(client: &Client, args: &CreateArgs) -> Result<(), CliError> {
    let body = create_body(args)?;
    client.post(&format!("{PREFIX}/create"), &body).await?;
    let name = body["connector_name"].as_str().unwrap_or_default();
    if let Some(wait) = args.wait.wait {
        wait_for(wait, &format!("{name} was created, but its health is not ok"), async || {
            let data = client.get(&format!("{PREFIX}/show"), &[("connector_name", name.to_owned())]).await?;
            Ok(data["health"] == "ok" || data["desired"] == "stopped")
        })
        .await?;
    }
    client.print(&json!({ "created": name }), |_| format!("{name} was created"))
}

fn create_body(args: &CreateArgs) -> Result<Value, CliError> {
    if let Some(path) = &args.file {
        return parse("--file", &read(path)?);
    }
    let mut body = Map::new();
    body.insert("connector_name".into(), json!(args.name));
    body.insert("connector_type".into(), json!(args.kind));
    body.insert("topic_name".into(), json!(args.topic));
    let config = args.config.as_deref().unwrap_or_default();
    let config = match config.strip_prefix('@') {
        Some(path) => read(Path::new(path))?,
        None => config.to_owned(),
    };
    body.insert("config".into(), parse("--config", &config)?);
    if let Some(strategy) = &args.failure_strategy {
        body.insert("failure_strategy".into(), parse("--failure-strategy", strategy)?);
    }
    Ok(Value::Object(body))
}

fn read(path: &Path) -> Result<String, CliError> {
    let read = || {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            return Ok(text);
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|error: std::io::Error| CliError::Usage(format!("{} cannot be read: {error}", path.display())))
}

fn parse(what: &str, text: &str) -> Result<Value, CliError> {
    let read = read_unique(text.as_bytes()).map_err(|error| CliError::Usage(format!("{what} is not JSON: {error}")))?;
    match read.twice.as_slice() {
        [] => Ok(read.value),
        keys => Err(CliError::Usage(format!("{what} has more than one value for {}", keys.join(", ")))),
    }
}

async fn delete(client: &Client, args: &DeleteArgs) -> Result<(), CliError> {
    let name = &args.name;
    if !args.yes && !args.if_empty && !confirmed(name)? {
        return Err(CliError::Usage("nothing was deleted".to_owned()));
    }
    let body = json!({ "connector_name": name, "if_empty": args.if_empty });
    match client.post(&format!("{PREFIX}/delete"), &body).await {
        Ok(_) => {}
        Err(CliError::Api { reason, .. }) if reason == "DELETE_PENDING" && args.wait.wait.is_some() => {
            let wait = args.wait.wait.unwrap_or_default();
            wait_for(wait, &format!("{name} is still being deleted"), async || {
                match client.get(&format!("{PREFIX}/show"), &[("connector_name", name.clone())]).await {
                    Ok(_) => Ok(false),
                    Err(CliError::Api { status: 404, .. }) => Ok(true),
                    Err(error) => Err(error),
                }
            })
            .await?;
        }
        Err(error) => return Err(error),
    }
    client.print(&json!({ "deleted": name }), |_| format!("{name} was deleted"))
}

/// Asks on a terminal; elsewhere only `--yes` is a yes.
fn confirmed(name: &str) -> Result<bool, CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(format!(
            "deleting {name} drops what waits in its queues; say --yes or --if-empty"
        )));
    }
    let mut answer = String::new();
    let question = format!("Delete {name} and drop what waits in its queues? [y/N] ");
    let asked = std::io::stderr().write_all(question.as_bytes()).and_then(|()| stdin.lock().read_line(&mut answer));
    asked.map_err(|error| CliError::Usage(format!("the answer cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn types(client: &Client, kind: Option<&str>) -> Result<(), CliError> {
    let data = client.get(&format!("{PREFIX}/types"), &[]).await?;
    let rows = data["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(kind) = kind else {
        return client.print(&data, |_| {
            let keys = ["connector_type", "title", "category", "order", "offered_by"];
            let cells: Vec<Vec<String>> =
                rows.iter().map(|row| keys.iter().map(|key| cell(&row[*key])).collect()).collect();
            table(&["TYPE", "NAME", "CATEGORY", "ORDER", "OFFERED BY"], &cells)
        });
    };
    let known = || rows.iter().filter_map(|row| row["connector_type"].as_str()).collect::<Vec<_>>().join(", ");
    let entry = rows
        .iter()
        .find(|row| row["connector_type"] == kind)
        .ok_or_else(|| CliError::Usage(format!("unknown kind {kind}; known: {}", known())))?;
    client.print(entry, |entry| fields_text(&entry["config_schema"]))
}

async fn explain(client: &Client, name: &str) -> Result<(), CliError> {
    let data = client.get(&format!("{PREFIX}/explain"), &[("connector_name", name.to_owned())]).await?;
    client.print(&data, |data| {
        let facts = pairs(&[
            ("status", cell(&data["status"])),
            ("node", cell(&data["broker_name"])),
            ("since", cell(&data["since"])),
            ("why", cell(&data["why"])),
        ]);
        let rows: Vec<Vec<String>> = data["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|node| ["broker_name", "eligible", "tasks", "obstacles"].iter().map(|key| cell(&node[*key])).collect())
            .collect();
        format!("{facts}\n{}", table(&["NODE", "ELIGIBLE", "TASKS", "OBSTACLES"], &rows))
    })
}

/// Looks until it is so, or the time is over.
async fn wait_for(
    wait: Duration,
    otherwise: &str,
    is_so: impl AsyncFn() -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let deadline = tokio::time::Instant::now() + wait;
    while !is_so().await? {
        if tokio::time::Instant::now() >= deadline {
            return Err(CliError::TimedOut(format!("{otherwise} after {}", crate::config::show_duration(wait))));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
