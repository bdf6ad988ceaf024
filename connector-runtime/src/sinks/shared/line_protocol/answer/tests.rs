//! Answers as the servers give them.

use reqwest::header::{HeaderValue, RETRY_AFTER};
use serde_json::json;

use super::*;

const LINES: [&str; 3] = ["m,topic=a t=1 1", "m,topic=b t=\"x\" 2", "m,topic=c u=1 3"];

fn judged(status: u16, body: &str) -> Verdict {
    verdict(StatusCode::from_u16(status).expect("a status"), &HeaderMap::new(), body, &LINES)
}

fn culprits(status: u16, body: &Value) -> (String, Culprits) {
    match judged(status, &body.to_string()) {
        Verdict::Refused(fault, culprits) => {
            assert!(!fault.offline);
            (fault.class.to_string(), culprits)
        }
        other @ (Verdict::Stored | Verdict::Target(_)) => panic!("{body}: {other:?}"),
    }
}

fn target(status: u16, body: &str) -> TargetFaultKind {
    match judged(status, body) {
        Verdict::Target(fault) => fault.kind,
        other @ (Verdict::Stored | Verdict::Refused(..)) => panic!("{status} {body}: {other:?}"),
    }
}

#[test]
fn lines_that_could_not_be_read_are_named() {
    let first = format!("unable to parse '{}': bad timestamp", LINES[2]);
    let second = format!("unable to parse '{}': max key length exceeded: 70000 > 65535", LINES[0]);
    let error = json!({"error": format!("partial write: {first}\n{second} dropped=0")});
    let (_, found) = culprits(400, &error);
    assert_eq!(found, Culprits::Lines(vec![0, 2]));
    let (class, found) = culprits(400, &json!({"code": "invalid", "message": first}));
    assert_eq!((&*class, found), ("unparsable", Culprits::Lines(vec![2])));
    // A line that is none of ours, or that the answer cut short, is nobody's fault yet.
    let (_, found) = culprits(400, &json!({"error": "partial write: unable to parse 'm,topic=a t=1': x dropped=0"}));
    assert_eq!(found, Culprits::Unknown);
}

#[test]
fn a_conflict_of_types_names_field_and_measurement() {
    let reason =
        "field type conflict: input field \"t\" on measurement \"m\" is type string, already exists as type float";
    let conflict = Culprits::Conflicting { measurement: "m".into(), field: "t".into(), type_name: "string".into() };
    let (class, found) = culprits(400, &json!({"error": format!("partial write: {reason} dropped=1")}));
    assert_eq!((&*class, &found), ("field_type_conflict", &conflict));
    let message = format!("failure writing points to database: partial write: {reason} dropped=1");
    let (_, found) = culprits(422, &json!({"code": "unprocessable entity", "message": message}));
    assert_eq!(found, conflict);
    let (_, found) = culprits(400, &json!({"error": format!("partial write: {reason} dropped=3")}));
    assert_eq!(found, Culprits::All, "all three were dropped");
    let (class, found) = culprits(400, &json!({"error": "field type conflict"}));
    assert_eq!((&*class, found), ("field_type_conflict", Culprits::Unknown));
}

#[test]
fn what_is_too_old_is_the_records_fault() {
    let old =
        |dropped: u32| json!({"error": format!("partial write: points beyond retention policy dropped={dropped}")});
    assert_eq!(culprits(400, &old(2)), ("beyond_retention".to_owned(), Culprits::Unknown));
    assert_eq!(culprits(400, &old(3)), ("beyond_retention".to_owned(), Culprits::All));
    assert_eq!(culprits(413, &json!({"error": "Request Entity Too Large"})).1, Culprits::Unknown);
}

#[test]
fn what_influxdb_2_says_of_lines_is_the_records_fault() {
    const BEFORE: &str = "failure writing points to database: partial write: ";
    let said = |message: &str| json!({"code": "unprocessable entity", "message": message});
    let old = |dropped: u32| {
        let point = "home,room=Living\\ Room at 1970-01-01T00:00:01.541Z dropped because it violates a Retention Policy \
                     Lower Bound at 2025-05-20T19:06:17.612973Z";
        said(&format!(
            "{BEFORE}dropped {dropped} points outside retention policy of duration 24h0m0s - oldest point {point}, \
             newest point {point} dropped={dropped} for database: 9f282d63c7d3a5c0 for retention policy: autogen"
        ))
    };
    assert_eq!(culprits(422, &old(2)), ("beyond_retention".to_owned(), Culprits::Unknown));
    assert_eq!(culprits(422, &old(3)), ("beyond_retention".to_owned(), Culprits::All));
    let too_long = "input field \"x\" on measurement \"m\" is too long, 1048580 > 1048576";
    for message in [too_long.to_owned(), format!("{BEFORE}{too_long} dropped=1"), format!("{PARTIAL}{too_long}")] {
        assert_eq!(culprits(422, &said(&message)), ("field_too_long".to_owned(), Culprits::Unknown), "{message}");
    }
    let (class, _) = culprits(422, &said(&format!("{BEFORE}a reason that is not listed dropped=1")));
    assert_eq!(class, "partial_write");
    // Older ones.
    let unexpected = |dropped: u32| {
        let reason = "partial write: points beyond retention policy";
        let message = format!("unexpected error writing points to database: {reason} dropped={dropped}");
        json!({"code": "internal error", "message": message})
    };
    assert_eq!(culprits(500, &unexpected(1)), ("beyond_retention".to_owned(), Culprits::Unknown));
    assert_eq!(culprits(500, &unexpected(3)), ("beyond_retention".to_owned(), Culprits::All));
}

#[test]
fn faults_of_the_server_are_not_the_records() {
    let error = |text: &str| json!({"error": text}).to_string();
    let refuses = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");
    for (status, body, expect) in [
        (400, error("partial write: max-series-per-database limit exceeded: (1) dropped=1"), TargetFaultKind::Full),
        (400, error("partial write: max-values-per-tag limit exceeded (1/1): x dropped=1"), TargetFaultKind::Full),
        (400, error("partial write: shard 3 is pending deletion dropped=3"), TargetFaultKind::Down),
        (500, error("write /var/lib/influxdb/wal: no space left on device"), TargetFaultKind::Full),
        (500, error("engine: cache-max-memory-size exceeded: (1/1)"), TargetFaultKind::Full),
        (500, error("hinted handoff queue not empty"), TargetFaultKind::Down),
        (500, error("retention policy not found: x"), TargetFaultKind::Missing),
        (500, error("timeout"), TargetFaultKind::Down),
        (500, error("unexpected error writing points to database: timeout"), TargetFaultKind::Down),
        (400, error("database is required"), refuses),
        (400, "<html>bad request</html>".to_owned(), refuses),
        (200, "<html>log in first</html>".to_owned(), refuses),
        (404, error("database not found: \"x\""), TargetFaultKind::Missing),
        (401, json!({"code": "unauthorized", "message": "unauthorized access"}).to_string(), TargetFaultKind::Auth),
        (403, error("not authorized"), TargetFaultKind::Permission),
        (503, String::new(), TargetFaultKind::Down),
    ] {
        assert_eq!(target(status, &body), expect, "{status} {body}");
    }
}

#[test]
fn words_of_a_publisher_say_nothing_of_the_server() {
    let names = "input field \"no space left on device\" on measurement \"shard 1 is pending deletion\" is type string";
    let reason = format!("field type conflict: {names}, already exists as type float");
    let (class, found) = culprits(400, &json!({"error": format!("partial write: {reason} dropped=1")}));
    assert_eq!(class, "field_type_conflict");
    assert!(matches!(found, Culprits::Conflicting { field, .. } if field == "no space left on device"));
    let line = "m,topic=max-series-per-database\\ limit\\ exceeded,partial\\ write:\\ shard\\ 1 t=1 1";
    let (class, _) = culprits(400, &json!({"error": format!("unable to parse '{line}': bad timestamp")}));
    assert_eq!(class, "unparsable");
}

#[test]
fn words_of_a_publisher_blame_nobody_else() {
    let read = format!("unable to parse '{}': bad timestamp", LINES[1]);
    let error = format!("{read}\nunable to parse 'm,topic=x t=\"a dropped=99999\" x': bad timestamp");
    assert_eq!(culprits(400, &json!({"error": error})).1, Culprits::Lines(vec![1]));
    let is_float = "is type string, already exists as type float";
    let of_another = format!("t\" on measurement \"m\" {is_float}");
    for (field, measurement) in
        [(&*of_another, "m"), ("t", &*of_another), ("t\" on measurement \"m", "m"), ("t\" on measurement ", "m")]
    {
        let names = format!("input field \"{field}\" on measurement \"{measurement}\"");
        let conflict = format!("partial write: field type conflict: {names} {is_float} dropped=1");
        assert_eq!(culprits(400, &json!({"error": conflict})).1, Culprits::Unknown, "{conflict}");
        let too_long = format!("partial write: {names} is too long, 1048580 > 1048576 dropped=1");
        assert_eq!(culprits(400, &json!({"error": too_long})).1, Culprits::Unknown, "{too_long}");
    }
}

#[test]
fn a_server_that_wants_a_pause_gets_it() {
    let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
    for status in [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE] {
        let Verdict::Target(fault) = verdict(status, &headers, "", &LINES) else { panic!("{status}") };
        assert_eq!(fault.retry_after(), Some(Duration::from_secs(7)));
    }
}

#[test]
fn greptime_says_it_by_numbers() {
    let said = |code: u32| json!({"code": code, "error": "it says so", "execution_time_ms": 0}).to_string();
    for (status, code, expect) in [
        (400, 4004, TargetFaultKind::Missing),
        (400, 4001, TargetFaultKind::Missing),
        (400, 4005, TargetFaultKind::Down),
        (401, 4007, TargetFaultKind::Down),
        (503, 5000, TargetFaultKind::Down),
        (429, 6001, TargetFaultKind::Throttled { retry_after: None }),
        (401, 7002, TargetFaultKind::Auth),
        (403, 7005, TargetFaultKind::Permission),
        (500, 1003, TargetFaultKind::Down),
    ] {
        assert_eq!(target(status, &said(code)), expect, "{code}");
    }
    for code in [1004, 4002] {
        let Verdict::Refused(fault, Culprits::Unknown) = judged(400, &said(code)) else { panic!("{code}") };
        assert_eq!((&*fault.class, &*fault.message), ("refused", "HTTP 400 Bad Request: it says so"));
    }
}
