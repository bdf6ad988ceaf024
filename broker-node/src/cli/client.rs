//! One request to any node, and what it answered.

use std::time::Duration;

use api_types::FieldProblem;
use serde_json::Value;

use super::{ClientOptions, Output, terminal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the longest delete: stop timeout, lease and barrier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The API's own words.
    #[error("{}", told(.message, .reason, .errors))]
    Api { status: u16, reason: String, message: String, errors: Vec<FieldProblem> },
    #[error("{url} cannot be reached: {}", innermost(.source))]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{url} does not speak like Sluice (HTTP status {status})")]
    Foreign { url: String, status: u16 },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    TimedOut(String),
    #[error("standard output cannot be written: {0}")]
    Output(#[source] std::io::Error),
}

fn told(message: &str, reason: &str, errors: &[FieldProblem]) -> String {
    if errors.len() < 2 {
        return format!("{message} ({reason})");
    }
    let lines: Vec<String> = errors.iter().map(|error| format!("\n  {}: {}", error.field, error.problem)).collect();
    format!("{} fields are wrong ({reason}){}", errors.len(), lines.concat())
}

/// The cause that a person can act on: "connection refused", not "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

pub struct Client {
    http: reqwest::Client,
    api: String,
    token: Option<String>,
    pub output: Output,
}

impl Client {
    pub fn new(options: &ClientOptions) -> Result<Self, CliError> {
        // The first one stays; there is nothing to do about a second.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = options.api.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| CliError::Unreachable { url: api.clone(), source })?;
        Ok(Self { http, api, token: options.token.clone(), output: options.output })
    }

    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, CliError> {
        let mut url = format!("{}{path}", self.api);
        for (at, (name, value)) in query.iter().enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(&format!("{name}={}", escaped(value)));
        }
        self.send(self.http.get(url)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        self.send(self.http.post(format!("{}{path}", self.api)).json(body)).await
    }

    /// The data of a success; its warnings go to stderr.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, CliError> {
        let unreachable = |source| CliError::Unreachable { url: self.api.clone(), source };
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.map_err(unreachable)?;
        let foreign = || CliError::Foreign { url: self.api.clone(), status };
        let mut envelope: Value = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
        match envelope.get("code").and_then(Value::as_u64) {
            Some(0) => {
                for warning in envelope["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    terminal::tell(&format!("warning: {warning}"));
                }
                Ok(envelope["data"].take())
            }
            Some(_) => {
                let text = |key: &str| envelope[key].as_str().unwrap_or_default().to_owned();
                let errors = serde_json::from_value(envelope["data"]["errors"].clone()).unwrap_or_default();
                Err(CliError::Api { status, reason: text("reason"), message: text("message"), errors })
            }
            None => Err(foreign()),
        }
    }

    /// JSON as it came, or what `table` makes of it.
    pub fn print(&self, data: &Value, table: impl FnOnce(&Value) -> String) -> Result<(), CliError> {
        let text = match self.output {
            Output::Json => format!("{data:#}\n"),
            Output::Table => format!("{}\n", table(data).trim_end()),
        };
        terminal::print(&text).map_err(CliError::Output)
    }
}

/// Everything but unreserved characters as `%XX`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_in_urls() {
        assert_eq!(escaped("a b&c=ü/#"), "a%20b%26c%3D%C3%BC%2F%23");
    }

    #[test]
    fn every_field_gets_its_line() {
        let errors = vec![FieldProblem::new("a", "is required"), FieldProblem::new("b", "must be true or false")];
        let text = told("joined", "INVALID_FIELDS", &errors);
        assert_eq!(text, "2 fields are wrong (INVALID_FIELDS)\n  a: is required\n  b: must be true or false");
        assert_eq!(
            told("Connector a does not exist.", "CONNECTOR_NOT_FOUND", &[]),
            "Connector a does not exist. (CONNECTOR_NOT_FOUND)"
        );
    }
}
