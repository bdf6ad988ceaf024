//! From an HTTP request to its parameters: query string, JSON body, or both.

use api_types::{ApiError, FieldProblem, Reason};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, header};
use connector_runtime::config::read_unique;
use futures::StreamExt;
use serde_json::{Map, Value};

use super::answer::Failure;
use super::words::{shortened, type_name};

/// Far more than all parameters and values of a reasonable filter; the work on them grows with their square.
const QUERY_PAIRS_MAX: usize = 1000;

/// What is wrong with a key of which only one value could be kept.
pub const TWICE: &str = "has more than one value: every key may stand once";

/// The parameters of one request.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Keys with their values in the order they came; a key may repeat.
    pub query: Vec<(String, String)>,
    /// The JSON body without its `null`s; empty when there was none.
    pub body: Map<String, Value>,
}

/// A value from the query string (text) or from a body (JSON).
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Text(Vec<String>),
    Json(Value),
}

impl Input {
    /// Reads the request. A GET may come without a body; a POST may not.
    pub async fn read(request: Request<Body>, body_bytes_max: usize) -> Result<Self, Failure> {
        let (head, body) = request.into_parts();
        let query = parse_query(head.uri.query().unwrap_or_default());
        if query.len() > QUERY_PAIRS_MAX {
            let message = format!("the query string has more than {QUERY_PAIRS_MAX} parameters");
            return Err(Failure::new(Reason::InvalidQuery, message));
        }
        let bytes = read_body(&head.headers, body, body_bytes_max).await?;
        let body_optional = head.method == Method::GET || head.method == Method::HEAD;
        if bytes.is_empty() && body_optional {
            return Ok(Self { query, body: Map::new() });
        }
        require_json(&head.headers)?;
        let read = read_unique(&bytes).map_err(|error| invalid_json(&bytes, &error))?;
        if !read.twice.is_empty() {
            let problem = |key| FieldProblem::new(key, TWICE);
            return Err(Failure(ApiError::invalid_fields(read.twice.into_iter().map(problem).collect())));
        }
        let value = read.value;
        match value {
            Value::Object(body) => Ok(Self { query, body: without_nulls(body) }),
            Value::Null if body_optional => Ok(Self { query, body: Map::new() }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(Failure::new(
                Reason::BodyNotObject,
                format!("the body must be a JSON object, not {}", type_name(&value)),
            )),
        }
    }

    /// The query wins over the body.
    pub fn get(&self, key: &str) -> Option<Given> {
        let texts: Vec<String> =
            self.query.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect();
        if !texts.is_empty() {
            return Some(Given::Text(texts));
        }
        self.body.get(key).cloned().map(Given::Json)
    }

    /// Warnings for query keys that mean nothing here, and for body keys of a GET, whose body is a query in JSON.
    pub fn unknown_keys(&self, known: &[&str], body_too: bool) -> Vec<String> {
        let body = self.body.keys().filter(|_| body_too);
        let mut unknown: Vec<&String> = Vec::new();
        for key in self.query.iter().map(|(key, _)| key).chain(body) {
            if !known.contains(&key.as_str()) && !unknown.contains(&key) {
                unknown.push(key);
            }
        }
        unknown.into_iter().map(|key| format!("unknown parameter {} was ignored", shortened(key))).collect()
    }

    /// A text that must be there: `connector_name` of detail, show, delete.
    pub fn required_text(&self, key: &str) -> Result<String, Failure> {
        let problem = |text: &str| Failure(ApiError::invalid_fields(vec![FieldProblem::new(key, text)]));
        match self.get(key) {
            None => Err(problem("is required")),
            Some(Given::Text(values)) => match values.as_slice() {
                [value] => Ok(value.clone()),
                _ => Err(problem("must be given once")),
            },
            Some(Given::Json(Value::String(value))) => Ok(value),
            Some(Given::Json(value)) => Err(problem(&format!("must be a string, not {}", type_name(&value)))),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Stops at the bound: what is longer is never held in memory.
async fn read_body(headers: &HeaderMap, body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    let too_large = || {
        Failure::new(Reason::BodyTooLarge, format!("the body is larger than {bytes_max} bytes (api.body_bytes_max)"))
    };
    if content_length(headers).is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Failure::new(Reason::InvalidJson, "the body broke off"))?;
        if bytes.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// Absent means JSON; parameters such as `charset` are ignored.
fn require_json(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("(not readable)");
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = format!("Content-Type {} is not JSON; send application/json", shortened(text));
    Err(Failure::new(Reason::UnsupportedMediaType, message))
}

fn invalid_json(bytes: &[u8], error: &serde_json::Error) -> Failure {
    if bytes.is_empty() {
        return Failure::new(Reason::InvalidJson, "the body is empty; a JSON object is expected");
    }
    Failure::new(Reason::InvalidJson, format!("the body is not JSON: {error}"))
}

fn without_nulls(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` an `A`.
fn parse_query(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(QUERY_PAIRS_MAX + 1);
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key), unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_unescaped() {
        let pairs = parse_query("a=1&a=2&b=x+y&c=%7B%22%7d&d&=e&f=%zz&g=%C3%A4");
        let expect =
            [("a", "1"), ("a", "2"), ("b", "x y"), ("c", "{\"}"), ("d", ""), ("", "e"), ("f", "%zz"), ("g", "ä")];
        let seen: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(seen, expect);
    }
}
