//! What an answer to `/api/put` means for the points of a request.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::point::Point;
use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::sinks::shared::http::{self, Answer, BodyEnd};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Stored,
    /// Some points are refused: those that are known by now, and why. Whose fault it is when none is known shows when
    /// each is asked alone.
    Refused(RecordFault, Vec<(usize, RecordFault)>),
    Target(TargetFault),
}

const NOT_IN_PARTS: &str = "Chunked request not supported";

/// `None`: the answer broke off before it said what became of the points.
pub(super) fn verdict(answer: &Answer, points: &[Point]) -> Option<Verdict> {
    match (answer.end, answer.status.as_u16()) {
        (BodyEnd::Broken, 200 | 400) => None,
        // Only errors are so many.
        (BodyEnd::Cut, 400) => Some(refused("refused_point", answer.status, "more errors than can be read")),
        _ => Some(judge(answer.status, &answer.headers, &answer.text(), points)),
    }
}

fn judge(status: StatusCode, headers: &HeaderMap, body: &str, points: &[Point]) -> Verdict {
    let said: Value = serde_json::from_str(body).unwrap_or_default();
    let message = said["error"]["message"].as_str().unwrap_or(body);
    let words = http::shortened(message);
    let target = |kind, words: &str| Verdict::Target(TargetFault::new(kind, http::status_message(status, words)));
    match status.as_u16() {
        204 => Verdict::Stored,
        200 | 400 if said["failed"].is_u64() => counted(status, &said, points),
        413 => refused("too_large", status, &words),
        // Without chunked requests its HTTP server takes no body that is larger than its buffer, and says so on a page.
        400 if message.contains(NOT_IN_PARTS) => refused("too_large", status, NOT_IN_PARTS),
        400 if message.contains("data points had errors") => refused("refused_point", status, &words),
        400 if message.contains("timedout") => target(TargetFaultKind::Down, &words),
        200..=299 => target(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"), &words),
        _ => Verdict::Target(http::status_fault(status, headers, &words)),
    }
}

fn refused(class: &str, status: StatusCode, words: &str) -> Verdict {
    Verdict::Refused(RecordFault::refused(class, http::status_message(status, words)), Vec::new())
}

/// `{"success":1,"failed":2,"timeouts":0,"errors":[{"datapoint":{…},"error":"…"}]}`, with `summary` or `details`.
fn counted(status: StatusCode, said: &Value, points: &[Point]) -> Verdict {
    let count = |name: &str| said[name].as_u64().unwrap_or_default();
    let (failed, timeouts) = (count("failed"), count("timeouts"));
    if status == StatusCode::OK && failed == 0 && timeouts == 0 {
        return Verdict::Stored;
    }
    let counts = format!("{} stored, {failed} failed, {timeouts} timed out", count("success"));
    let no_errors = Vec::new();
    let errors = said["errors"].as_array().unwrap_or(&no_errors);
    let mut known = Vec::new();
    for error in errors {
        let words = error["error"].as_str().unwrap_or_default();
        if let Some(kind) = about_storage(words) {
            return Verdict::Target(TargetFault::new(kind, http::shortened(words)));
        }
        let class = if words == "Unknown metric" { "unknown_metric" } else { "refused_point" };
        let fault = RecordFault::refused(class, http::shortened(words));
        let same = points.iter().enumerate().filter(|(_, point)| is_same(point, &error["datapoint"]));
        known.extend(same.map(|(at, _)| (at, fault.clone())));
    }
    // HBase has not answered, or has failed a point that was in order.
    if timeouts > 0 || (status == StatusCode::OK && failed > 0) {
        return Verdict::Target(TargetFault::new(TargetFaultKind::Down, counts));
    }
    let fault = RecordFault::refused("refused_point", http::status_message(status, &counts));
    if known.is_empty() && failed == points.len() as u64 {
        known = (0..points.len()).map(|at| (at, fault.clone())).collect();
    }
    known.sort_by_key(|(at, _)| *at);
    known.dedup_by_key(|(at, _)| *at);
    Verdict::Refused(fault, known)
}

/// Errors of a point that say something of what is behind the server; an unknown one is not the record's.
fn about_storage(words: &str) -> Option<TargetFaultKind> {
    if words.contains("Please throttle") {
        return Some(TargetFaultKind::Throttled { retry_after: None });
    }
    let phrases = ["Timeout exception", "Write timedout", "Storage exception", "Unexpected exception"];
    phrases.iter().any(|phrase| words.contains(phrase)).then_some(TargetFaultKind::Down)
}

/// The server gives the point back as it read it, its value as a text.
fn is_same(point: &Point, given: &Value) -> bool {
    given["metric"] == point.metric.as_str()
        && given["timestamp"] == point.timestamp_ms
        && given["value"] == point.value.as_str()
        && given["tags"].as_object().is_some_and(|tags| *tags == point.tags)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn point(value: &str) -> Point {
        let tags = Map::from_iter([("site".to_owned(), json!("n"))]);
        Point { text: String::new(), metric: "t".into(), value: value.into(), timestamp_ms: 7, tags }
    }

    fn judged(status: u16, body: &Value) -> Verdict {
        let points = [point("1"), point("2"), point("3")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        judge(StatusCode::from_u16(status).expect("a status"), &HeaderMap::new(), &body, &points)
    }

    fn error(value: &str, words: &str) -> Value {
        json!({"datapoint": {"metric": "t", "timestamp": 7, "value": value, "tags": {"site": "n"}}, "error": words})
    }

    fn known(verdict: Verdict) -> Vec<(usize, String)> {
        match verdict {
            Verdict::Refused(_, known) => known.into_iter().map(|(at, fault)| (at, fault.class.to_string())).collect(),
            other @ (Verdict::Stored | Verdict::Target(_)) => panic!("{other:?}"),
        }
    }

    fn kind(verdict: Verdict) -> TargetFaultKind {
        match verdict {
            Verdict::Target(fault) => fault.kind,
            other @ (Verdict::Stored | Verdict::Refused(..)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn points_that_are_named_are_known() {
        let details = |errors: &[Value]| json!({"success": 3 - errors.len(), "failed": errors.len(), "errors": errors});
        let found = known(judged(400, &details(&[error("3", "Unknown metric"), error("1", "Invalid tag value")])));
        assert_eq!(found, [(0, "refused_point".to_owned()), (2, "unknown_metric".to_owned())]);
        assert_eq!(known(judged(400, &details(&[error("4", "Invalid tag value")]))), [], "none of ours");
        assert_eq!(known(judged(400, &json!({"success": 2, "failed": 1}))), []);
        assert_eq!(known(judged(400, &json!({"success": 0, "failed": 3}))).len(), 3);
        let one = json!({"error": {"code": 400, "message": "One or more data points had errors"}});
        assert_eq!(known(judged(400, &one)), []);
        let page = json!(format!("<!DOCTYPE html>{}Chunked request not supported.</html>", " ".repeat(2_000)));
        assert_eq!(known(judged(400, &page)), []);
        assert_eq!(known(judged(413, &Value::Null)), []);
    }

    #[test]
    fn only_a_yes_to_all_points_is_one() {
        assert_eq!(judged(204, &Value::Null), Verdict::Stored);
        assert_eq!(judged(200, &json!({"success": 3, "failed": 0, "errors": []})), Verdict::Stored);
        // OpenTSDB answers 200 when HBase failed some.
        assert_eq!(kind(judged(200, &json!({"success": 2, "failed": 1}))), TargetFaultKind::Down);
        assert_eq!(kind(judged(200, &json!({"success": 2, "failed": 0, "timeouts": 1}))), TargetFaultKind::Down);
        let refuses = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");
        assert_eq!(kind(judged(200, &Value::Null)), refuses);
        assert_eq!(kind(judged(200, &json!("log in first"))), refuses);
        assert_eq!(kind(judged(400, &json!({"error": {"message": "something new"}}))), refuses);
    }

    #[test]
    fn what_is_behind_the_server_is_not_the_records_fault() {
        for (words, expect) in [
            ("Write timedout", TargetFaultKind::Down),
            ("Storage exception: no region server", TargetFaultKind::Down),
            ("Unexpected exception", TargetFaultKind::Down),
            ("Please throttle", TargetFaultKind::Throttled { retry_after: None }),
        ] {
            let body = json!({"success": 1, "failed": 1, "timeouts": 1, "errors": [error("1", words)]});
            assert_eq!(kind(judged(400, &body)), expect, "{words}");
        }
        assert_eq!(kind(judged(400, &json!({"success": 0, "failed": 0, "timeouts": 3}))), TargetFaultKind::Down);
        let late = json!({"error": {"message": "The put call has timedout with 0 successful writes"}});
        assert_eq!(kind(judged(400, &late)), TargetFaultKind::Down);
        assert_eq!(kind(judged(404, &Value::Null)), TargetFaultKind::Missing);
        assert_eq!(kind(judged(500, &Value::Null)), TargetFaultKind::Down);
    }
}
