//! Answers as Elasticsearch 8.19 gave them, and some that others give.

use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

use super::*;
use crate::sink::RecordFault;

const DOWN: TargetFaultKind = TargetFaultKind::Down;
const THROTTLED: TargetFaultKind = TargetFaultKind::Throttled { retry_after: None };

fn answer(status: u16, body: &str) -> Answer {
    let status = StatusCode::from_u16(status).expect("is a status");
    Answer::of(status, HeaderMap::new(), body.as_bytes(), BodyEnd::Whole)
}

fn item(status: u16, class: &str, reason: &str, cause: &str) -> Outcome {
    let mut error = json!({"type": class, "reason": reason});
    if !cause.is_empty() {
        error["caused_by"] = json!({"reason": cause});
    }
    let body = json!({"items": [{"create": {"status": status, "error": error}}]});
    outcomes(&answer(200, &body.to_string()), 1).remove(0)
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

#[test]
fn each_document_has_its_own_outcome() {
    let conflict = json!({"type": "version_conflict_engine_exception", "reason": "[a]: version conflict"});
    let unreadable = json!({
        "type": "document_parsing_exception",
        "reason": "[1:6] failed to parse field [n] of type [long] in document with id 'b'. Preview of field's value: 'warm'",
        "caused_by": {"reason": "For input string: \"warm\""},
    });
    let body = json!({"items": [
        {"create": {"status": 201}},
        {"create": {"status": 409, "error": conflict}},
        {"create": {"status": 400, "error": unreadable}},
        {"create": {"status": 503, "error": {"type": "unavailable_shards_exception"}}},
        {"create": {"status": 500}},
    ]});
    let outcomes = outcomes(&answer(200, &body.to_string()), 5);
    assert_eq!(outcomes[..2], [Outcome::Delivered, Outcome::Delivered]);
    let Outcome::RecordFault(RecordFault { class, message, offline: false }) = &outcomes[2] else {
        panic!("{:?}", outcomes[2])
    };
    assert_eq!(&**class, "document_parsing_exception");
    assert!(message.contains("field [n] of type [long]") && message.contains("For input string"), "{message}");
    assert_eq!((kind(&outcomes[3]), kind(&outcomes[4])), (DOWN, DOWN));
}

#[test]
fn what_is_wrong_with_the_index_is_not_the_documents_fault() {
    for (status, class, reason, cause, expect) in [
        (
            403,
            "cluster_block_exception",
            "index [a] blocked by: [FORBIDDEN/8/index write (api)];",
            "",
            TargetFaultKind::Permission,
        ),
        (
            429,
            "cluster_block_exception",
            "index [a] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded",
            "",
            TargetFaultKind::Full,
        ),
        (503, "cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/1/state not recovered", "", DOWN),
        (429, "es_rejected_execution_exception", "rejected execution of TimedRunnable{…}", "", THROTTLED),
        (429, "circuit_breaking_exception", "[parent] Data too large", "", THROTTLED),
        (503, "circuit_breaking_exception", "as versions before 7 have it", "", THROTTLED),
        (
            404,
            "index_not_found_exception",
            "no such index [a] and [action.auto_create_index] is [false]",
            "",
            TargetFaultKind::Missing,
        ),
        (400, "index_closed_exception", "closed", "", TargetFaultKind::Missing),
        (
            403,
            "security_exception",
            "action [indices:data/write/bulk[s]] is unauthorized",
            "",
            TargetFaultKind::Permission,
        ),
        (
            400,
            "illegal_argument_exception",
            "no write index is defined for alias [a]. The",
            "",
            TargetFaultKind::Missing,
        ),
        (400, "illegal_argument_exception", "pipeline with id [a] does not exist", "", TargetFaultKind::Missing),
        (
            400,
            "illegal_argument_exception",
            "Number of documents in shard [[a][0]] exceeds the limit",
            "",
            TargetFaultKind::Full,
        ),
        (
            400,
            "validation_exception",
            "Validation Failed: 1: this action would add [2] shards, but",
            "",
            TargetFaultKind::Full,
        ),
        (400, "validation_exception", "Validation Failed: 1: something new", "", REFUSES),
        (400, "routing_missing_exception", "routing is required for [a]/[1]", "", REFUSES),
        (400, "invalid_index_name_exception", "Invalid index name [A], must be lowercase", "", REFUSES),
        (
            400,
            "document_parsing_exception",
            "[1:51] failed to parse: _id must",
            "_id must be unset or set to [x] but",
            REFUSES,
        ),
        (409, "something_new_exception", "", "", REFUSES),
        (500, "something_new_exception", "", "", DOWN),
    ] {
        assert_eq!(kind(&item(status, class, reason, cause)), expect, "{status} {class} {reason}");
    }
}

#[test]
fn what_is_wrong_with_a_document_is_its_own_fault_whatever_it_says() {
    for (class, reason, cause) in [
        (
            "document_parsing_exception",
            "[1:12] object mapping for [payload] tried to parse field [payload] as object",
            "",
        ),
        ("strict_dynamic_mapping_exception", "[1:6] mapping set to strict", ""),
        ("mapper_parsing_exception", "failed to parse field [t] of type [long]", "For input string"),
        ("illegal_argument_exception", "Limit of total fields [1000] has been exceeded", ""),
        ("illegal_argument_exception", "mapper [a] cannot be changed from type [long] to [text]", ""),
        // A publisher's own words, where the value is shown.
        (
            "document_parsing_exception",
            "[1:6] … Preview: 'pipeline with id [a] does not exist'",
            "For input string: \"_id must be unset or set to [\"",
        ),
    ] {
        let outcome = item(400, class, reason, cause);
        let Outcome::RecordFault(fault) = &outcome else { panic!("{class} {reason}: {outcome:?}") };
        assert_eq!((&*fault.class, fault.offline), (class, false));
    }
    let outcome = item(500, "fail_processor_exception", "not wanted", "");
    assert!(matches!(outcome, Outcome::RecordFault(_)), "{outcome:?}");
}

#[test]
fn an_answer_about_the_request_is_everybodys() {
    let refusal = json!({"error": {"type": "security_exception", "reason": "unable to authenticate user [x]"}});
    for (status, body, expect) in [
        (401, refusal.clone(), TargetFaultKind::Auth),
        (403, refusal.clone(), TargetFaultKind::Permission),
        (429, refusal.clone(), THROTTLED),
        (503, refusal.clone(), DOWN),
        (400, json!({"error": "no handler found for uri [/x/_bulk]"}), REFUSES),
        (200, json!({"items": []}), REFUSES),
        (200, json!({"took": 1}), REFUSES),
        (200, json!("log in first"), REFUSES),
        (201, Value::Null, REFUSES),
    ] {
        let all = outcomes(&answer(status, &body.to_string()), 2);
        assert_eq!((kind(&all[0]), &all[0]), (expect, &all[1]), "{status} {body}");
    }
    let says = format!("{:?}", outcomes(&answer(401, &refusal.to_string()), 1));
    assert!(says.contains("HTTP 401 Unauthorized: security_exception: unable to authenticate user [x]"), "{says}");
    let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static("7"))]);
    let later = Answer::of(StatusCode::TOO_MANY_REQUESTS, headers, b"", BodyEnd::Whole);
    let wait = Some(std::time::Duration::from_secs(7));
    assert_eq!(kind(&outcomes(&later, 1)[0]), TargetFaultKind::Throttled { retry_after: wait });
}

#[test]
fn what_was_too_much_is_asked_for_in_parts() {
    let class = |answer: &Answer| match outcomes(answer, 2).remove(1) {
        Outcome::Unclear(fault) => fault.class.to_string(),
        other @ (Outcome::Delivered | Outcome::RecordFault(_) | Outcome::TargetFault(_)) => panic!("{other:?}"),
    };
    assert_eq!(class(&answer(413, "")), "too_large");
    let half = |end| Answer::of(StatusCode::OK, HeaderMap::new(), b"{\"items\":[", end);
    assert_eq!(class(&half(BodyEnd::Cut)), "answer_too_large");
    assert_eq!(kind(&outcomes(&half(BodyEnd::Broken), 1)[0]), DOWN);
}
