//! Bad requests: each gets its status, its reason and the name of the field, in the envelope, and changes nothing.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::plane::{BODY_BYTES_MAX, Plane, create, send};

const CREATE: &str = "/api/mqtt/connector/create";
const DELETE: &str = "/api/mqtt/connector/delete";
const LIST: &str = "/api/mqtt/connector/list";
const DETAIL: &str = "/api/mqtt/connector/detail";

struct Case {
    request: Request<Body>,
    status: u16,
    reason: &'static str,
    /// Fields of `data.errors`; for other failures a part of the message.
    names: Vec<String>,
    shown: String,
}

fn case(method: &str, path: &str, body: &str, status: u16, reason: &'static str, names: &[&str]) -> Case {
    let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).expect("a request");
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let shown = format!("{method} {path} {}", body.chars().take(200).collect::<String>());
    Case { request, status, reason, names, shown }
}

/// A good body of `create` with one field changed; `null` takes it out.
fn changed(key: &str, value: Value) -> String {
    let mut body = json!({
        "connector_name": "good",
        "connector_type": "file",
        "config": "{\"local_file_path\":\"/tmp/good.log\"}",
        "topic_name": "good/#",
    });
    body[key] = value;
    body.to_string()
}

fn wrong_field(key: &str, value: Value, names: &[&str]) -> Case {
    case("POST", CREATE, &changed(key, value), 422, "INVALID_FIELDS", names)
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

fn http() -> Vec<Case> {
    let huge = format!("{{\"connector_name\":\"{}\"}}", long(BODY_BYTES_MAX));
    let mut cases = vec![
        case("GET", "/", "", 404, "PATH_NOT_FOUND", &["/"]),
        case("GET", "/api/mqtt/connector", "", 404, "PATH_NOT_FOUND", &["/api/mqtt/connector"]),
        case("POST", "/api/mqtt/connector/create/", "{}", 404, "PATH_NOT_FOUND", &["create/"]),
        case("PUT", CREATE, "{}", 405, "METHOD_NOT_ALLOWED", &["PUT"]),
        case("GET", CREATE, "", 405, "METHOD_NOT_ALLOWED", &["GET"]),
        case("POST", LIST, "{}", 405, "METHOD_NOT_ALLOWED", &["POST"]),
        case("DELETE", DELETE, "", 405, "METHOD_NOT_ALLOWED", &["DELETE"]),
        case("POST", "/health/live", "", 405, "METHOD_NOT_ALLOWED", &["POST"]),
        case("POST", "/metrics", "", 405, "METHOD_NOT_ALLOWED", &["POST"]),
        case("POST", CREATE, &huge, 413, "BODY_TOO_LARGE", &["api.body_bytes_max"]),
        case("GET", LIST, &huge, 413, "BODY_TOO_LARGE", &["api.body_bytes_max"]),
        case("POST", CREATE, "", 400, "INVALID_JSON", &["empty"]),
        case("POST", CREATE, "{", 400, "INVALID_JSON", &["not JSON"]),
        case("POST", CREATE, "{\"connector_name\":}", 400, "INVALID_JSON", &["not JSON"]),
        case("POST", CREATE, "{} {}", 400, "INVALID_JSON", &["not JSON"]),
        case("POST", CREATE, "connector_name=a", 400, "INVALID_JSON", &["not JSON"]),
        case("POST", CREATE, "[]", 400, "BODY_NOT_OBJECT", &["an array"]),
        case("POST", CREATE, "\"a\"", 400, "BODY_NOT_OBJECT", &["a string"]),
        case("POST", CREATE, "null", 400, "BODY_NOT_OBJECT", &["null"]),
        case("POST", DELETE, "7", 400, "BODY_NOT_OBJECT", &["a number"]),
        case("GET", LIST, "[]", 400, "BODY_NOT_OBJECT", &["an array"]),
        case("GET", LIST, "{", 400, "INVALID_JSON", &["not JSON"]),
        case("POST", CREATE, &"[".repeat(10_000), 400, "INVALID_JSON", &["not JSON"]),
    ];
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "application/xml; q=application/json"]
    {
        let mut wrong = case("POST", CREATE, &changed("desired", Value::Null), 415, "UNSUPPORTED_MEDIA_TYPE", &[kind]);
        wrong.request.headers_mut().insert("content-type", kind.parse().expect("a header"));
        wrong.shown.push_str(kind);
        cases.push(wrong);
    }
    cases
}

fn queries() -> Vec<Case> {
    let bad = |query: &str, name: &str| case("GET", &format!("{LIST}?{query}"), "", 400, "INVALID_QUERY", &[name]);
    let bad_body = |body: &str, name: &str| case("GET", LIST, body, 400, "INVALID_QUERY", &[name]);
    vec![
        bad("limit=0", "limit"),
        bad("limit=10001", "limit"),
        bad("limit=-1", "limit"),
        bad("limit=ten", "limit"),
        bad("limit=", "limit"),
        bad("limit=1&limit=2", "limit"),
        bad("page=0", "page"),
        bad("page=1.5", "page"),
        bad("sort_field=color", "sort_field"),
        bad("sort_field=health", "sort_field"),
        bad("sort_by=up", "sort_by"),
        bad("sort_by=ASC", "sort_by"),
        bad("filter_field=password&filter_values=a", "filter_field"),
        bad("filter_field=health_reason&filter_values=a", "filter_field"),
        bad("exact_match=maybe", "exact_match"),
        bad_body(r#"{"limit":[1]}"#, "limit"),
        bad_body(r#"{"limit":1.5}"#, "limit"),
        bad_body(r#"{"page":-1}"#, "page"),
        bad_body(r#"{"exact_match":1}"#, "exact_match"),
        bad_body(r#"{"filter_field":"status","filter_values":{"a":1}}"#, "filter_values"),
        bad_body(r#"{"filter_field":"status","filter_values":[["a"]]}"#, "filter_values"),
        bad("filter_field=status&filter_values=[%22kafka%22", "filter_values"),
        bad("filter_field=status&filter_values=%20[", "filter_values"),
        bad_body(r#"{"filter_field":"status","filter_values":"[\"kafka\""}"#, "filter_values"),
        bad_body(r#"{"connector_name":{}}"#, "connector_name"),
        case("GET", "/health/ready?for=lunch", "", 400, "INVALID_QUERY", &["for"]),
    ]
}

fn names() -> Vec<Case> {
    let missing =
        |method: &str, path: &str, body: &str| case(method, path, body, 422, "INVALID_FIELDS", &["connector_name"]);
    let absent = |method: &str, path: &str, body: &str| {
        case(method, path, body, 404, "CONNECTOR_NOT_FOUND", &["Connector ghost does not exist."])
    };
    vec![
        missing("GET", DETAIL, ""),
        missing("GET", &format!("{DETAIL}?connector_name="), ""),
        missing("GET", &format!("{DETAIL}?connector_name={}", long(5000)), ""),
        missing("GET", &format!("{DETAIL}?connector_name=a&connector_name=b"), ""),
        missing("GET", DETAIL, r#"{"connector_name":null}"#),
        missing("GET", DETAIL, r#"{"connector_name":7}"#),
        missing("GET", "/api/mqtt/connector/show", ""),
        missing("GET", "/api/mqtt/connector/explain", "{}"),
        missing("POST", DELETE, "{}"),
        missing("POST", DELETE, r#"{"connector_name":""}"#),
        missing("POST", DELETE, r#"{"connector_name":["good"]}"#),
        missing("POST", DELETE, &json!({ "connector_name": long(5000) }).to_string()),
        case(
            "POST",
            CREATE,
            r#"{"config":{"local_file_path":"a","local_file_path":"b"}}"#,
            422,
            "INVALID_FIELDS",
            &["config.local_file_path"],
        ),
        missing("GET", DETAIL, r#"{"connector_name":"here","connector_name":"here"}"#),
        missing("POST", DELETE, r#"{"connector_name":"good","connector_name":"here"}"#),
        case("POST", DELETE, r#"{"connector_name":"good","if_empty":"yes"}"#, 422, "INVALID_FIELDS", &["if_empty"]),
        case("POST", DELETE, r#"{"connector_name":"good","force":true}"#, 422, "INVALID_FIELDS", &["force"]),
        absent("GET", &format!("{DETAIL}?connector_name=ghost"), ""),
        absent("GET", DETAIL, r#"{"connector_name":"ghost"}"#),
        absent("GET", "/api/mqtt/connector/show?connector_name=ghost", ""),
        absent("GET", "/api/mqtt/connector/explain?connector_name=ghost", ""),
        absent("POST", DELETE, r#"{"connector_name":"ghost"}"#),
        absent("POST", DELETE, r#"{"connector_name":"ghost","if_empty":true}"#),
        case(
            "GET",
            &format!("{DETAIL}?connector_name=here"),
            "",
            409,
            "CONNECTOR_NOT_RUNNING",
            &["Connector thread here does not exist."],
        ),
        case(
            "POST",
            CREATE,
            &changed("connector_name", json!("here")),
            409,
            "CONNECTOR_EXISTS",
            &["Connector here already exists."],
        ),
    ]
}

fn fields() -> Vec<Case> {
    let labels: serde_json::Map<String, Value> = (0..17).map(|at| (format!("l{at}"), json!("v"))).collect();
    let object = json!({ "local_file_path": format!("/tmp/{}", long(66_000)) });
    vec![
        wrong_field("connector_name", Value::Null, &["connector_name"]),
        wrong_field("connector_name", json!(""), &["connector_name"]),
        wrong_field("connector_name", json!(long(129)), &["connector_name"]),
        wrong_field("connector_name", json!(long(5000)), &["connector_name"]),
        wrong_field("connector_name", json!(" a"), &["connector_name"]),
        wrong_field("connector_name", json!("a\t"), &["connector_name"]),
        wrong_field("connector_name", json!("a\u{0}b"), &["connector_name"]),
        wrong_field("connector_name", json!(1), &["connector_name"]),
        wrong_field("connector_type", Value::Null, &["connector_type"]),
        wrong_field("connector_type", json!("carrier_pigeon"), &["connector_type"]),
        wrong_field("connector_type", json!("Kafka"), &["connector_type"]),
        wrong_field("connector_type", json!(""), &["connector_type"]),
        wrong_field("connector_type", json!(long(51)), &["connector_type"]),
        wrong_field("connector_type", json!(["file"]), &["connector_type"]),
        wrong_field("config", Value::Null, &["config"]),
        wrong_field("config", json!(""), &["config"]),
        wrong_field("config", json!("{"), &["config"]),
        wrong_field("config", json!("[]"), &["config"]),
        wrong_field("config", json!("\"x\""), &["config"]),
        wrong_field("config", json!(7), &["config"]),
        wrong_field("config", json!(["a"]), &["config"]),
        wrong_field("config", json!(format!("{{\"local_file_path\":\"/tmp/{}\"}}", long(4096))), &["config"]),
        wrong_field("config", object, &["config"]),
        wrong_field(
            "config",
            json!(r#"{"local_file_path":"/tmp/a","local_file_path":"/tmp/b"}"#),
            &["config.local_file_path"],
        ),
        wrong_field("config", json!({}), &["config.local_file_path"]),
        wrong_field("config", json!({"local_file_path": 7}), &["config.local_file_path"]),
        wrong_field("config", json!({"local_file_path": "/tmp/a", "rotation": "size"}), &["config.rotation"]),
        wrong_field(
            "config",
            json!({"local_file_path": "/tmp/a", "rotation_strategy": "weekly"}),
            &["config.rotation_strategy"],
        ),
        wrong_field(
            "config",
            json!({"local_file_path": "/tmp/a", "rotation_strategy": "size", "max_size_gb": 0}),
            &["config.max_size_gb"],
        ),
        wrong_field(
            "config",
            json!({"local_file_path": "/tmp/a", "rotation_strategy": "size", "max_size_gb": 11}),
            &["config.max_size_gb"],
        ),
        wrong_field("topic_name", Value::Null, &["topic_name"]),
        wrong_field("topic_name", json!(""), &["topic_name"]),
        wrong_field("topic_name", json!(long(257)), &["topic_name"]),
        wrong_field("topic_name", json!("a/#/b"), &["topic_name"]),
        wrong_field("topic_name", json!("a+/b"), &["topic_name"]),
        wrong_field("topic_name", json!("a/b#"), &["topic_name"]),
        wrong_field("topic_name", json!("a\u{0}"), &["topic_name"]),
        wrong_field("topic_name", json!("$share/group/a"), &["topic_name"]),
        wrong_field("topic_name", json!({"name": "a"}), &["topic_name"]),
        wrong_field("failure_strategy", json!("discard"), &["failure_strategy"]),
        wrong_field("failure_strategy", json!({}), &["failure_strategy.strategy"]),
        wrong_field("failure_strategy", json!({"strategy": "retry"}), &["failure_strategy.strategy"]),
        wrong_field("failure_strategy", json!({"strategy": 1}), &["failure_strategy.strategy"]),
        wrong_field("failure_strategy", json!({"strategy": "discard", "retries": 3}), &["failure_strategy.retries"]),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "discard_after_retry"}),
            &["failure_strategy.retry_total_times", "failure_strategy.wait_time_ms"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "discard_after_retry", "retry_total_times": 0, "wait_time_ms": 1}),
            &["failure_strategy.retry_total_times"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "discard_after_retry", "retry_total_times": 1, "wait_time_ms": 0}),
            &["failure_strategy.wait_time_ms"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "dead_message_queue", "retry_total_times": -1, "wait_time_ms": "1s"}),
            &["failure_strategy.retry_total_times", "failure_strategy.wait_time_ms"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "dead_message_queue", "topic_name": ""}),
            &["failure_strategy.topic_name"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "dead_message_queue", "topic_name": long(257)}),
            &["failure_strategy.topic_name"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "dead_message_queue", "topic_name": "dead/#"}),
            &["failure_strategy.topic_name"],
        ),
        wrong_field(
            "failure_strategy",
            json!({"strategy": "discard", "on_target_down": "panic"}),
            &["failure_strategy.on_target_down"],
        ),
        wrong_field("queue", json!([]), &["queue"]),
        wrong_field("queue", json!({"bytes_max": 0}), &["queue.bytes_max"]),
        wrong_field("queue", json!({"bytes_max": "64 parsecs"}), &["queue.bytes_max"]),
        wrong_field("queue", json!({"age_max": 60}), &["queue.age_max"]),
        wrong_field("queue", json!({"age_max": "0s"}), &["queue.age_max"]),
        wrong_field("queue", json!({"when_full": "explode"}), &["queue.when_full"]),
        wrong_field("queue", json!({"max_bytes": 1}), &["queue.max_bytes"]),
        wrong_field("placement", json!({"nodes": "n1"}), &["placement.nodes"]),
        wrong_field("placement", json!({"nodes": ["n1", 2]}), &["placement.nodes[1]"]),
        wrong_field("placement", json!({"racks": []}), &["placement.racks"]),
        wrong_field("desired", json!("paused"), &["desired"]),
        wrong_field("desired", json!(true), &["desired"]),
        wrong_field("labels", Value::Object(labels), &["labels"]),
        wrong_field("labels", json!({"team": 1}), &["labels.team"]),
        wrong_field("labels", json!(["team"]), &["labels"]),
        wrong_field("description", json!(long(1025)), &["description"]),
        wrong_field("description", json!(1), &["description"]),
        wrong_field("topicname", json!("a"), &["topicname"]),
        wrong_field("x", json!(1), &["x"]),
    ]
}

#[tokio::test]
async fn bad_requests_are_refused_by_name_and_change_nothing() {
    let plane = Plane::new();
    assert_eq!(create(&plane, "here").await.status, 200);
    let before = plane.state();
    let cases: Vec<Case> = [http(), queries(), names(), fields()].into_iter().flatten().collect();
    assert!(cases.len() >= 80, "{}", cases.len());
    for Case { request, status, reason, names, shown } in cases {
        let seen = send(&plane, request).await;
        assert_eq!((seen.status.as_u16(), seen.reason()), (status, reason), "{shown}: {}", seen.text);
        assert_eq!(seen.body["code"], 1, "{shown}");
        assert!(!seen.message().is_empty(), "{shown}");
        if reason == "INVALID_FIELDS" || (reason == "INVALID_QUERY" && !shown.contains("/health/")) {
            assert_eq!(seen.fields(), names, "{shown}: {}", seen.text);
        }
        for name in &names {
            assert!(seen.message().contains(name.as_str()), "{shown}: {}", seen.message());
        }
        assert!(seen.message().len() < 1500, "{shown}: {}", seen.message().len());
    }
    let after = plane.state();
    assert_eq!(after.names, before.names);
    assert_eq!(after.connectors, before.connectors);
    assert_eq!(after.assignments, before.assignments);
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let plane = Plane::new();
    for (method, path, allow) in [("GET", CREATE, "POST"), ("POST", LIST, "GET,HEAD"), ("PUT", "/metrics", "GET,HEAD")]
    {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("a request");
        let seen = send(&plane, request).await;
        let header = seen.headers.get("allow").and_then(|value| value.to_str().ok());
        assert_eq!(header, Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn every_problem_is_reported_at_once() {
    let plane = Plane::new();
    let body = json!({
        "connector_name": "",
        "connector_type": "file",
        "config": {"local_file_path": "/tmp/a", "max_size_gb": 99},
        "topic_name": "a/#/b",
        "failure_strategy": {"strategy": "discard_after_retry", "retry_total_times": 0},
        "queue": {"when_full": "no"},
        "lables": {},
    });
    let seen = super::plane::post(&plane, CREATE, body.to_string()).await;
    let mut fields = seen.fields();
    fields.sort_unstable();
    let expect = [
        "config.max_size_gb",
        "connector_name",
        "failure_strategy.retry_total_times",
        "failure_strategy.wait_time_ms",
        "lables",
        "queue.when_full",
        "topic_name",
    ];
    assert_eq!(fields, expect, "{}", seen.text);
    assert!(seen.message().contains("did you mean labels?"), "{}", seen.message());
}

#[tokio::test]
async fn an_absent_or_precise_content_type_is_json() {
    let plane = Plane::new();
    for (at, kind) in
        [None, Some("application/json"), Some("Application/JSON; charset=utf-8"), Some("application/vnd.x+json")]
            .into_iter()
            .enumerate()
    {
        let body = changed("connector_name", json!(format!("c{at}")));
        let mut request = Request::post(CREATE).body(Body::from(body)).expect("a request");
        if let Some(kind) = kind {
            request.headers_mut().insert("content-type", kind.parse().expect("a header"));
        }
        assert_eq!(send(&plane, request).await.status, 200, "{kind:?}");
    }
}
