//! `/health/live` and `/health/ready`: open to all, in the API's envelope.

use api_types::{ApiError, Reason};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Api;
use super::answer::{Answer, Failure, failure};
use super::request::{Given, Input};
use super::words::shortened;

pub fn live(api: &Api) -> Response {
    if api.options.watchdog.is_live() {
        return Answer::new(json!({ "live": true })).into_response();
    }
    Failure::new(Reason::Internal, "the runtime is stuck: its ticker has not run for 10 seconds").into_response()
}

/// With `for=tasks` a leader and the lease count, too.
pub fn ready(api: &Api, input: &Input) -> Response {
    let for_tasks = match input.get("for") {
        None => false,
        Some(Given::Text(values)) if values == ["tasks"] => true,
        Some(Given::Text(values)) => {
            let text = format!("for: must be tasks, not {}", shortened(&values.join(",")));
            return Failure::new(Reason::InvalidQuery, text).into_response();
        }
        Some(Given::Json(_)) => {
            return Failure::new(Reason::InvalidQuery, "for: must be in the query string").into_response();
        }
    };
    let verdict = api.readiness.judge(&api.control.health(), for_tasks);
    if verdict.not_well.is_empty() {
        let warnings = input.unknown_keys(&["for"], true);
        return Answer::new(json!({ "ready": true, "parts": verdict.parts })).with_warnings(warnings).into_response();
    }
    let error = ApiError::new(Reason::NotReady, format!("not ready: {}", verdict.not_well.join("; ")));
    let mut body = error.body();
    body["data"] = json!({ "ready": false, "parts": verdict.parts });
    failure(&error, body)
}
