//! Answers as servers of 18.16 and 26.9 gave them.

use reqwest::header::HeaderValue;

use super::*;

const OLD_ROW: &str =
    "Code: 27, e.displayText() = DB::Exception: Cannot parse input: expected \\t before: x\\t1\\n: (at row 2)

Row 1:
Column 0,   name: id,        type: String,         parsed text: \"secret neighbour\"

Row 2:
Column 0,   name: id,        type: String,         parsed text: \"b\"
Column 1,   name: qos,       type: UInt8,          ERROR: text \"x<TAB>1\" is not like UInt8

, e.what() = DB::Exception
";
const NEW_ROW: &str =
    "Code: 72. DB::Exception: Code: 72. DB::Exception: Cannot read floating point value here: : (at row 3)
: 
Row 2:
Column 0,   name: id,        type: String,                 parsed text: \"secret neighbour\"

Row 3:
Column 0,   name: v,         type: Float64,                ERROR: text \"hot\" is not like Float64

: While executing TabSeparatedRowInputFormat: data for INSERT was parsed from file. (CANNOT_PARSE_NUMBER)";
const CONSTRAINT: &str = "Code: 469. DB::Exception: Constraint `believable` for table mq.t (2fec4053) is violated at row 3. \
                          Expression: (payload NOT LIKE '%poison%'). Column values: payload = 'poison'. (VIOLATED_CONSTRAINT)";

fn says(status: u16, text: &str) -> Verdict {
    judge(StatusCode::from_u16(status).expect("is a status"), &HeaderMap::new(), text, true, 100)
}

fn target(verdict: &Verdict) -> TargetFaultKind {
    match verdict {
        Verdict::Target(fault) | Verdict::OtherColumns(fault) | Verdict::OtherSettings(fault) => fault.kind,
        Verdict::Stored | Verdict::Refused(_) => panic!("{verdict:?} is not the target's"),
    }
}

fn refusal(verdict: Verdict) -> Refusal {
    match verdict {
        Verdict::Refused(refusal) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn only_an_empty_success_that_is_complete_is_one() {
    assert_eq!(says(200, ""), Verdict::Stored);
    let refuses = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");
    assert_eq!(target(&says(200, "welcome")), refuses);
    assert_eq!(target(&says(204, "")), refuses);
    assert_eq!(target(&judge(StatusCode::OK, &HeaderMap::new(), "", false, 100)), TargetFaultKind::Down);
    let mut headers = HeaderMap::new();
    headers.insert(EXCEPTION_CODE, HeaderValue::from_static("252"));
    let late = judge(StatusCode::OK, &headers, "", true, 100);
    assert_eq!(target(&late), TargetFaultKind::Throttled { retry_after: None });
}

#[test]
fn an_exception_behind_a_success_is_found() {
    for text in [
        "Code: 241, e.displayText() = DB::Exception: Memory limit (total) exceeded, e.what() = DB::Exception\n",
        "0\n0\nCode: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)",
        "\r\n__exception__\r\ntag\r\nCode: 241. DB::Exception: Memory limit (total) exceeded.\r\n29 tag\r\n__exception__\r\n",
    ] {
        let verdict = says(200, text);
        assert_eq!(target(&verdict), TargetFaultKind::Throttled { retry_after: None }, "{text}");
        assert!(format!("{verdict:?}").contains("HTTP 200 OK: Code: 241"), "{verdict:?}");
    }
}

#[test]
fn a_row_is_named_and_its_neighbours_are_not_repeated() {
    for (text, class, row) in
        [(OLD_ROW, "clickhouse_27", 2), (NEW_ROW, "clickhouse_72", 3), (CONSTRAINT, "clickhouse_469", 3)]
    {
        let refusal = refusal(says(500, text));
        assert_eq!((&*refusal.fault.class, refusal.row, refusal.fault.offline), (class, Some(row), false));
        assert!(!refusal.fault.message.contains("neighbour"), "{}", refusal.fault.message);
        assert!(refusal.fault.message.contains("at row"), "{}", refusal.fault.message);
    }
}

#[test]
fn a_row_that_two_texts_name_differently_is_unknown() {
    for (text, expect) in [
        ("Code: 6. DB::Exception: Cannot parse string 'x (at row 1)' as Float64: (at row 7)", None),
        ("Code: 6. DB::Exception: Cannot parse string 'x (at row 7)' as Float64: (at row 7)", Some(7)),
        ("Code: 6. DB::Exception: Cannot parse string 'x' as Float64", None),
        ("Code: 6. DB::Exception: (at row 99999999999999999999999999)", None),
        ("Code: 6. DB::Exception: (at row ) (at row x) at row 3 (at row 4", None),
    ] {
        assert_eq!(refusal(says(400, text)).row, expect, "{text}");
    }
}

#[test]
fn statuses_without_a_code_are_somebody_elses() {
    assert_eq!(&*refusal(says(413, "<html>Request Entity Too Large</html>")).fault.class, "too_large");
    for (status, expect) in [
        (401, TargetFaultKind::Auth),
        (403, TargetFaultKind::Permission),
        (404, TargetFaultKind::Missing),
        (429, TargetFaultKind::Throttled { retry_after: None }),
        (502, TargetFaultKind::Down),
        (301, TargetFaultKind::Misconfigured("TARGET_REDIRECTS")),
        (400, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
    ] {
        assert_eq!(target(&says(status, "Code: of conduct, not of ClickHouse")), expect, "{status}");
    }
}

#[test]
fn the_memory_limit_of_a_query_cuts_large_inserts_only() {
    let text = "Code: 241, e.displayText() = DB::Exception: Memory limit (for query) exceeded: would use 9.54 MiB";
    let judged = |bytes| judge(StatusCode::INTERNAL_SERVER_ERROR, &HeaderMap::new(), text, true, bytes);
    let throttled = TargetFaultKind::Throttled { retry_after: None };
    assert_eq!(target(&judged(MUCH_BYTES - 1)), throttled);
    let refusal = refusal(judged(MUCH_BYTES));
    assert_eq!(refusal.alone.map(|fault| fault.kind), Some(throttled), "one row alone is not at fault");
}

#[test]
fn who_asks_to_wait_is_left_alone_so_long() {
    let mut headers = HeaderMap::new();
    headers.insert("retry-after", HeaderValue::from_static("7"));
    let wait = TargetFaultKind::Throttled { retry_after: Some(std::time::Duration::from_secs(7)) };
    for (text, expect) in [
        ("Code: 202. DB::Exception: Too many simultaneous queries. Maximum: 100", wait),
        ("Code: 60. DB::Exception: Table mq.t doesn't exist", TargetFaultKind::Missing),
        ("no exception", wait),
    ] {
        let verdict = judge(StatusCode::SERVICE_UNAVAILABLE, &headers, text, true, 100);
        assert_eq!(target(&verdict), expect, "{text}");
    }
}

#[test]
fn the_header_is_believed_before_the_text() {
    let mut headers = HeaderMap::new();
    headers.insert(EXCEPTION_CODE, HeaderValue::from_static("516"));
    let verdict = judge(StatusCode::FORBIDDEN, &headers, "nobody", true, 100);
    assert_eq!(target(&verdict), TargetFaultKind::Auth);
}
