//! The envelope, around everything that leaves: success, failure, unknown path, wrong method.

use api_types::api::success;
use api_types::{ApiError, Reason};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::control::Unavailable;

/// A leader change takes about one second.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What a handler returns: data and what the caller should know beside it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub data: Value,
    pub warnings: Vec<String>,
}

impl Answer {
    pub fn new(data: impl Into<Value>) -> Self {
        Self { data: data.into(), warnings: Vec::new() }
    }

    pub fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }

    /// The seed's answer to a change.
    pub fn done(warnings: Vec<String>) -> Self {
        Self { data: Value::from("success"), warnings }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        Json(success(self.data, &self.warnings)).into_response()
    }
}

/// A failure of a handler, as the API tells it.
#[derive(Debug)]
pub struct Failure(pub ApiError);

pub type Outcome = Result<Answer, Failure>;

impl Failure {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(ApiError::new(reason, message))
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        let reason = match error {
            Unavailable::NoLeader => Reason::NoLeader,
            Unavailable::NotReady => Reason::NotReady,
            Unavailable::OutcomeUnknown => Reason::OutcomeUnknown,
        };
        Self::new(reason, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        failure(&self.0, self.0.body())
    }
}

/// A failure whose body says more than the error itself.
pub fn failure(error: &ApiError, body: Value) -> Response {
    if error.reason == Reason::Internal {
        tracing::error!(%error, "request failed");
    }
    let status = StatusCode::from_u16(error.reason.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}

/// Marks the answer to a path that is no route.
#[derive(Clone, Copy)]
pub struct NoSuchPath;

pub async fn path_not_found(uri: axum::http::Uri) -> Response {
    let path = super::words::shortened(uri.path());
    let mut response = Failure::new(Reason::PathNotFound, format!("path {path} does not exist")).into_response();
    response.extensions_mut().insert(NoSuchPath);
    response
}

/// The router adds `Allow`.
pub async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> Failure {
    Failure::new(Reason::MethodNotAllowed, format!("method {method} is not allowed for {}", uri.path()))
}
