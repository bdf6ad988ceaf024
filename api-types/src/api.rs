//! Envelope and errors of the HTTP API.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldProblem {
    /// Path of the field, such as `config.port`.
    pub field: String,
    /// What is wrong and what would be allowed.
    pub problem: String,
}

impl FieldProblem {
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = ($text:literal, $status:literal),)+) => {
        /// Stable identifiers of failures, each with its HTTP status. `docs/api.md` explains every one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            pub fn http_status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)+
                }
            }
        }
    };
}

reasons! {
    /// The body is not JSON.
    InvalidJson = ("INVALID_JSON", 400),
    /// The body is JSON, but not an object.
    BodyNotObject = ("BODY_NOT_OBJECT", 400),
    /// A query parameter has a value that is not allowed.
    InvalidQuery = ("INVALID_QUERY", 400),
    /// No such path.
    PathNotFound = ("PATH_NOT_FOUND", 404),
    /// The path exists, but not with this method.
    MethodNotAllowed = ("METHOD_NOT_ALLOWED", 405),
    /// The connector does not exist.
    ConnectorNotFound = ("CONNECTOR_NOT_FOUND", 404),
    /// The kind of connector is not one of the known ones.
    KindNotFound = ("KIND_NOT_FOUND", 404),
    /// The name is taken.
    ConnectorExists = ("CONNECTOR_EXISTS", 409),
    /// A delete of this name is under way.
    ConnectorDeleting = ("CONNECTOR_DELETING", 409),
    /// The connector exists, but no task of it runs.
    ConnectorNotRunning = ("CONNECTOR_NOT_RUNNING", 409),
    /// `if_empty` was asked for, and a queue holds records.
    ConnectorHasRecords = ("CONNECTOR_HAS_RECORDS", 409),
    /// The request was made for another revision.
    StaleRevision = ("STALE_REVISION", 409),
    /// The body is larger than `api.body_bytes_max`.
    BodyTooLarge = ("BODY_TOO_LARGE", 413),
    /// The Content-Type is not JSON.
    UnsupportedMediaType = ("UNSUPPORTED_MEDIA_TYPE", 415),
    /// One or more fields are missing, unknown, of the wrong type, out of range or in conflict.
    InvalidFields = ("INVALID_FIELDS", 422),
    /// The metadata service has no leader at the moment.
    NoLeader = ("NO_LEADER", 503),
    /// This node has not joined or not caught up yet.
    NotReady = ("NOT_READY", 503),
    /// The change was proposed, but whether it happened is not known. Read before trying again.
    OutcomeUnknown = ("OUTCOME_UNKNOWN", 503),
    /// The delete was accepted, but the task has not stopped yet.
    DeletePending = ("DELETE_PENDING", 503),
    /// A failure of Sluice itself; the log names it.
    Internal = ("INTERNAL", 500),
}

/// A failure as the API tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub reason: Reason,
    pub message: String,
    pub errors: Vec<FieldProblem>,
}

impl ApiError {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), errors: Vec::new() }
    }

    /// All problems at once, joined in the message.
    pub fn invalid_fields(errors: Vec<FieldProblem>) -> Self {
        let parts: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.field, error.problem)).collect();
        Self { reason: Reason::InvalidFields, message: parts.join("; "), errors }
    }

    pub fn connector_not_found(name: &str) -> Self {
        Self::new(Reason::ConnectorNotFound, format!("Connector {name} does not exist."))
    }

    pub fn connector_not_running(name: &str) -> Self {
        Self::new(Reason::ConnectorNotRunning, format!("Connector thread {name} does not exist."))
    }

    pub fn connector_exists(name: &str) -> Self {
        Self::new(Reason::ConnectorExists, format!("Connector {name} already exists."))
    }

    pub fn body(&self) -> Value {
        let data = if self.errors.is_empty() { Value::Null } else { serde_json::json!({ "errors": self.errors }) };
        serde_json::json!({ "code": 1, "message": self.message, "reason": self.reason.as_str(), "data": data })
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.reason.as_str())
    }
}

impl std::error::Error for ApiError {}

/// The success envelope; `warnings` only when there are any.
pub fn success(data: Value, warnings: &[String]) -> Value {
    let mut body = serde_json::json!({ "code": 0, "message": "success", "data": data });
    if !warnings.is_empty() {
        body["warnings"] = serde_json::json!(warnings);
    }
    body
}
