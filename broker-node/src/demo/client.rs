//! The few API calls of the demo.

use std::time::Duration;

use api_types::status::Ledger;
use serde_json::{Value, json};

use super::DemoError;

/// A create waits up to 3.5 s for its barrier; a call to a node that was just killed fails at once.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

pub(super) struct ApiClient {
    http: reqwest::Client,
    base: String,
}

/// Where a connector runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub node: String,
    pub epoch: String,
    pub why: String,
}

impl ApiClient {
    pub fn new(port: u16) -> Result<Self, DemoError> {
        let http = reqwest::Client::builder().timeout(REQUEST_LIMIT).pool_max_idle_per_host(0).no_proxy().build()?;
        Ok(Self { http, base: format!("http://127.0.0.1:{port}") })
    }

    /// `Err` says what the node waits for.
    pub async fn ready(&self) -> Result<(), String> {
        let response = self.http.get(format!("{}/health/ready", self.base)).send().await;
        match response {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(response.text().await.unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        }
    }

    pub async fn create(&self, name: &str, kind: &str, topic: &str, config: &Value) -> Result<(), DemoError> {
        let body = json!({
            "connector_name": name, "connector_type": kind, "config": config.to_string(), "topic_name": topic,
        });
        let response = self.http.post(format!("{}/api/mqtt/connector/create", self.base)).json(&body).send().await?;
        data(&format!("create {name}"), response).await.map(drop)
    }

    /// The owner of a running connector, or why there is none.
    pub async fn owner(&self, name: &str) -> Result<Result<Owner, String>, DemoError> {
        let rows = self.get(&format!("/api/mqtt/connector/list?connector_name={name}")).await?;
        let row = &rows["data"][0];
        if row["status"] != "Running" {
            return Ok(Err(format!("{name} is {}: {}", row["status"], row["state_reason"])));
        }
        let Some(node) = row["broker_name"].as_str() else { return Ok(Err(format!("{name} has no owner"))) };
        let explained = self.get(&format!("/api/mqtt/connector/explain?connector_name={name}")).await?;
        let why = explained["why"].as_str().map_or_else(|| explained.to_string(), str::to_owned);
        Ok(Ok(Owner { node: node.to_owned(), epoch: row["epoch"].to_string(), why }))
    }

    /// The ledger over all nodes, or the nodes that could not be asked.
    pub async fn ledger(&self, name: &str) -> Result<Result<Ledger, String>, DemoError> {
        let detail = self.get(&format!("/api/mqtt/connector/detail?connector_name={name}")).await?;
        if let Some(nodes) = detail["unreachable_nodes"].as_array()
            && !nodes.is_empty()
        {
            return Ok(Err(format!("unreachable: {nodes:?}")));
        }
        Ok(serde_json::from_value(detail["lifetime"].clone()).map_err(|error| format!("lifetime: {error}")))
    }

    async fn get(&self, path: &str) -> Result<Value, DemoError> {
        data(path, self.http.get(format!("{}{path}", self.base)).send().await?).await
    }
}

async fn data(request: &str, response: reqwest::Response) -> Result<Value, DemoError> {
    let status = response.status();
    let body: Value = response.json().await?;
    if status.is_success() {
        return Ok(body["data"].clone());
    }
    let message = body["message"].as_str().unwrap_or("no message").to_owned();
    Err(DemoError::Refused { request: request.to_owned(), status: status.as_u16(), message })
}
