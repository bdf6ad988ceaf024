//! The seed document's own examples, letter for letter, on every node.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use tests::api::ApiClient;
use tests::cluster::{Cluster, ClusterOptions};
use tests::{process, wait};

use crate::LIMIT;

/// Every `curl` command of the document, in its order.
const COMMANDS: &str = include_str!("seed/curl.txt");
/// Every example of a configuration: one per kind.
const CONFIGS: &str = include_str!("seed/configs.jsonl");

#[tokio::test]
async fn every_curl_line_works_on_every_node() -> Result<()> {
    let cluster = Cluster::start().await?;
    for index in 0..cluster.nodes.len() {
        check_commands(&cluster, index).await.with_context(|| format!("on node {index}"))?;
    }
    cluster.finish().await
}

async fn check_commands(cluster: &Cluster, index: usize) -> Result<()> {
    let api = cluster.api(index);
    let commands: Vec<&str> = COMMANDS.split("\n\n").collect();
    let (creates, others): (Vec<&str>, Vec<&str>) = commands.iter().partition(|line| line.contains("/create"));
    ensure!((creates.len(), others.len()) == (7, 3), "{} commands", commands.len());
    for command in &creates {
        let answer = curl(api, command).await?;
        ensure!(answer["code"] == 0 && answer["message"] == "success" && answer["data"] == "success", "{answer}");
    }
    wait::until(LIMIT, "kafka_bridge runs", async || api.detail("kafka_bridge").await.map(drop)).await?;
    for command in others {
        let answer = curl(api, command).await?;
        if command.contains("/list") {
            ensure!(answer["data"]["total_count"] == 7, "{answer}");
        } else if command.contains("/detail") {
            check_detail(&answer)?;
        } else {
            ensure!(answer["code"] == 1 && answer["message"] == "Connector old_connector does not exist.", "{answer}");
        }
    }
    for node in 0..cluster.nodes.len() {
        cluster.owner_seen_by(node, "kafka_bridge").await?;
        check_row(&cluster.api(node).row("kafka_bridge").await?)?;
    }
    for name in api.names().await? {
        ensure!(api.delete(&name).await?.data()? == "success");
    }
    Ok(())
}

/// Runs a command as it is printed, but for the address.
async fn curl(api: &ApiClient, command: &str) -> Result<Value> {
    let here = command.replace("http://localhost:8080", api.base());
    ensure!(here != command, "no address in {command}");
    let finished = process::run(tokio::process::Command::new("bash").args(["-c", &here]), LIMIT).await?.success()?;
    serde_json::from_str(&finished.stdout).with_context(|| format!("answer to {here}: {}", finished.stdout))
}

/// Nothing was published.
fn check_detail(answer: &Value) -> Result<()> {
    ensure!(answer["code"] == 0 && answer["message"] == "success", "{answer}");
    let data = &answer["data"];
    ensure!(data["send_success_total"] == 0 && data["send_fail_total"] == 0, "{answer}");
    ensure!(data["last_send_time"] == 0 && data.get("last_msg").is_some(), "{answer}");
    Ok(())
}

fn check_row(row: &Value) -> Result<()> {
    ensure!(row["connector_name"] == "kafka_bridge" && row["connector_type"] == "kafka", "{row}");
    ensure!(row["config"] == r#"{"bootstrap_servers":"localhost:9092","topic":"mqtt_messages"}"#, "{row}");
    ensure!(row["topic_name"] == "sensor/+", "{row}");
    ensure!(row["status"] == "Running", "{row}");
    ensure!(row["broker_id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()), "{row}");
    for key in ["create_time", "update_time"] {
        let time = row[key].as_str().context("a time")?;
        ensure!(time.len() == "2024-01-01 10:00:00".len() && time.as_bytes()[10] == b' ', "{key}: {time}");
    }
    Ok(())
}

#[tokio::test]
async fn the_documents_json_is_taken_as_printed() -> Result<()> {
    // Every kind but one.
    let offered = CONFIGS.lines().map(kind_of).collect::<Result<Vec<String>>>()?;
    let offered: Vec<String> = offered.into_iter().filter(|kind| kind != "cassandra").collect();
    let set = vec![format!("connectors.kinds={}", offered.join(","))];
    let cluster = Cluster::with(ClusterOptions { set, ..ClusterOptions::default() }).await?;
    for (index, line) in CONFIGS.lines().enumerate() {
        let mut connector: Value = serde_json::from_str(line)?;
        let kind = kind_of(line)?;
        connector["connector_name"] = json!(format!("{kind}_connector"));
        connector["topic_name"] = json!("topic_001");
        let sent = connector["config"].clone();
        let api = cluster.api(index % 3);
        api.create(&connector).await?.data().with_context(|| kind.clone())?;
        let row = api.row(&format!("{kind}_connector")).await?;
        if !sent.as_str().is_some_and(|text| text.contains("password") || text.contains("token")) {
            ensure!(row["config"] == sent, "{kind}: {} is not {sent}", row["config"]);
        } else {
            ensure!(row["config"].as_str().is_some_and(|text| text.contains("******")), "{kind}: {row}");
        }
    }
    for node in &cluster.nodes {
        check_idle_row(&node.api().row("cassandra_connector").await?)?;
    }
    check_list_body(&cluster).await?;
    check_nulls(&cluster).await?;
    cluster.finish().await
}

fn kind_of(line: &str) -> Result<String> {
    let connector: Value = serde_json::from_str(line)?;
    Ok(connector["connector_type"].as_str().context("a kind")?.to_owned())
}

/// A kind that no node offers is kept, and says why it does not run.
fn check_idle_row(row: &Value) -> Result<()> {
    ensure!(row["connector_name"] == "cassandra_connector" && row["connector_type"] == "cassandra", "{row}");
    ensure!(row["status"] == "Idle" && row["broker_id"] == "-", "{row}");
    ensure!(row["state_reason"] == "no node offers kind cassandra", "{row}");
    Ok(())
}

/// The document prints the parameters of `list` and `detail` as JSON bodies of a GET.
async fn check_list_body(cluster: &Cluster) -> Result<()> {
    let body = json!({
        "connector_name": "cassandra_connector", "limit": 20, "page": 1, "sort_field": "connector_name",
        "sort_by": "asc", "filter_field": "connector_type", "filter_values": ["cassandra"], "exact_match": "false",
    });
    for node in &cluster.nodes {
        let send = |path: &'static str, body: &Value| {
            node.api().send(Method::GET, path, Some("application/json"), body.to_string())
        };
        let data = send("/api/mqtt/connector/list", &body).await?.data()?;
        ensure!(data["total_count"] == 1 && data["data"][0]["connector_name"] == "cassandra_connector", "{data}");
        let detail = send("/api/mqtt/connector/detail", &json!({ "connector_name": "cassandra_connector" })).await?;
        let message = detail.failure(409, "CONNECTOR_NOT_RUNNING")?;
        ensure!(message == "Connector thread cassandra_connector does not exist.", "{message}");
        let detail = send("/api/mqtt/connector/detail", &json!({ "connector_name": "nobody" })).await?;
        let message = detail.failure(404, "CONNECTOR_NOT_FOUND")?;
        ensure!(message == "Connector nobody does not exist.", "{message}");
    }
    Ok(())
}

/// `create` as printed in the document, with its nulls; then `delete` as printed.
async fn check_nulls(cluster: &Cluster) -> Result<()> {
    let created = r#"{
"connector_name": "new_connector",
"connector_type": "kafka",
"config": "{\"bootstrap_servers\":\"localhost:9092\",\"topic\":\"mqtt_messages\"}",
"topic_name": "sensor/+",
"failure_strategy": {
"strategy": "discard",
"retry_total_times": null,
"wait_time_ms": null,
"topic_name": null
}
}"#;
    for node in &cluster.nodes {
        let post = |path: &'static str, body: &str| {
            node.api().send(Method::POST, path, Some("application/json"), body.to_owned())
        };
        ensure!(post("/api/mqtt/connector/create", created).await?.data()? == "success");
        let again = post("/api/mqtt/connector/create", created).await?;
        let message = again.failure(409, "CONNECTOR_EXISTS")?;
        ensure!(message == "Connector new_connector already exists.", "{message}");
        let deleted = post("/api/mqtt/connector/delete", r#"{"connector_name": "new_connector"}"#).await?;
        ensure!(deleted.data()? == "success");
    }
    Ok(())
}
