//! The HTTP API as a client sees it: status, envelope, and short words for the calls that tests make.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use api_types::status::Ledger;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Longer than anything the API may take: a create waits 3.5 s for its barrier, a delete for `stop_timeout`.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// A client that keeps no connection: a killed node must not leave dead ones in a pool.
pub fn http_client() -> Result<reqwest::Client> {
    Ok(builder().pool_max_idle_per_host(0).build()?)
}

/// One for many requests to somebody who stays.
pub fn http_client_that_keeps_connections() -> Result<reqwest::Client> {
    Ok(builder().tcp_nodelay(true).build()?)
}

fn builder() -> reqwest::ClientBuilder {
    // Nothing is encrypted here, but the client asks for a provider all the same. A second call is refused: fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(REQUEST_LIMIT).no_proxy()
}

#[derive(Clone)]
pub struct ApiClient {
    http: reqwest::Client,
    base: String,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub allow: Option<String>,
    pub retry_after: Option<String>,
}

impl Answer {
    /// `data` of a success.
    pub fn data(self) -> Result<Value> {
        ensure!(self.status == 200 && self.body["code"] == 0, "status {}: {}", self.status, self.body);
        ensure!(self.body["message"] == "success", "message of a success: {}", self.body);
        Ok(self.body["data"].clone())
    }

    /// Checks a failure's envelope and gives its message.
    pub fn failure(&self, status: u16, reason: &str) -> Result<String> {
        ensure!(self.status == status, "status {} instead of {status}: {}", self.status, self.body);
        ensure!(self.body["code"] == 1, "code of a failure: {}", self.body);
        ensure!(self.body["reason"] == reason, "reason is not {reason}: {}", self.body);
        Ok(self.body["message"].as_str().context("a failure has a message")?.to_owned())
    }

    pub fn warnings(&self) -> Vec<String> {
        let texts = self.body["warnings"].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

impl ApiClient {
    pub fn new(port: u16) -> Result<Self> {
        Ok(Self { http: http_client()?, base: format!("http://127.0.0.1:{port}") })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Any request at all, as bad as wanted.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).body(body);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        answer(request.send().await?).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None, "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(Method::POST, path, Some("application/json"), body.to_string()).await
    }

    pub async fn create(&self, connector: &Value) -> Result<Answer> {
        self.post("/api/mqtt/connector/create", connector).await
    }

    pub async fn delete(&self, name: &str) -> Result<Answer> {
        self.post("/api/mqtt/connector/delete", &json!({ "connector_name": name })).await
    }

    /// The row of one connector in the list.
    pub async fn row(&self, name: &str) -> Result<Value> {
        let path = format!("/api/mqtt/connector/list?connector_name={name}");
        let data = self.get(&path).await?.data()?;
        data["data"].get(0).cloned().with_context(|| format!("{name} is not in the list"))
    }

    /// Names of all connectors, sorted.
    pub async fn names(&self) -> Result<Vec<String>> {
        let data = self.get("/api/mqtt/connector/list?limit=10000").await?.data()?;
        let rows = data["data"].as_array().context("list without rows")?;
        ensure!(data["total_count"] == rows.len(), "total_count: {data}");
        Ok(rows.iter().filter_map(|row| row["connector_name"].as_str()).map(str::to_owned).collect())
    }

    pub async fn detail(&self, name: &str) -> Result<Value> {
        self.get(&format!("/api/mqtt/connector/detail?connector_name={name}")).await?.data()
    }

    /// The lifetime ledger of a connector, over all nodes; fails while a node's share is unknown.
    pub async fn ledger(&self, name: &str) -> Result<Ledger> {
        let detail = self.detail(name).await?;
        let unreachable = detail["unreachable_nodes"].as_array().map_or(0, Vec::len);
        ensure!(unreachable == 0, "unreachable nodes: {}", detail["unreachable_nodes"]);
        serde_json::from_value(detail["lifetime"].clone()).with_context(|| format!("lifetime of {detail}"))
    }

    /// Text of a page that is not in the envelope.
    pub async fn text(&self, path: &str) -> Result<String> {
        let response = self.http.get(format!("{}{path}", self.base)).send().await?;
        ensure!(response.status() == StatusCode::OK, "{path}: {}", response.status());
        Ok(response.text().await?)
    }

    /// Sum of the series of one metric whose labels contain all of `labels` (such as `connector="x"`).
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let page = self.text("/metrics").await?;
        sum_of_metric(&page, name, labels).with_context(|| format!("no series {name}{labels:?}"))
    }
}

async fn answer(response: reqwest::Response) -> Result<Answer> {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (allow, retry_after) = (header("allow"), header("retry-after"));
    let text = response.text().await?;
    match serde_json::from_str(&text) {
        Ok(body) => Ok(Answer { status, body, allow, retry_after }),
        Err(error) => bail!("status {status}, not in the envelope ({error}): {text}"),
    }
}

/// Sum of the series on a page of metrics whose labels contain all of `labels`.
pub fn sum_of_metric(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut found = None;
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
        if series_name != name || !labels.iter().all(|label| series_labels.contains(label)) {
            continue;
        }
        if let Ok(value) = value.parse::<f64>() {
            *found.get_or_insert(0.0) += value;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_labels() {
        let page = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 9\nb 1.5\n";
        assert_eq!(sum_of_metric(page, "a", &["x=\"1\""]), Some(7.0));
        assert_eq!(sum_of_metric(page, "a", &["y=\"3\""]), Some(4.0));
        assert_eq!(sum_of_metric(page, "b", &[]), Some(1.5));
        assert_eq!(sum_of_metric(page, "c", &[]), None);
    }
}
