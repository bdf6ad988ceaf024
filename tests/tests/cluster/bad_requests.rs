//! The table of bad requests.

use reqwest::Method;
use serde_json::{Value, json};

/// `api.body_bytes_max` of the cluster under test.
pub const BODY_BYTES_MAX: usize = 128 * 1024;

const CREATE: &str = "/api/mqtt/connector/create";
const DELETE: &str = "/api/mqtt/connector/delete";
const LIST: &str = "/api/mqtt/connector/list";
const JSON: Option<&str> = Some("application/json");

pub struct Bad {
    pub what: String,
    pub method: Method,
    pub path: String,
    pub content_type: Option<&'static str>,
    pub body: Vec<u8>,
    pub status: u16,
    pub reason: &'static str,
    /// The field (422), or a text of the message.
    pub names: &'static str,
}

pub fn table() -> Vec<Bad> {
    [envelope(), fields(), strategies(), extras(), configs(), queries(), deletes()].into_iter().flatten().collect()
}

/// What is wrong before any field is looked at.
fn envelope() -> Vec<Bad> {
    let bad = |what: &str, method, path: &str, content_type, body: &[u8], status, reason, names| Bad {
        what: what.to_owned(),
        method,
        path: path.to_owned(),
        content_type,
        body: body.to_vec(),
        status,
        reason,
        names,
    };
    let post = |what, body: &[u8], reason| bad(what, Method::POST, CREATE, JSON, body, 400, reason, "");
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let huge = json!({ "connector_name": "x".repeat(3 * BODY_BYTES_MAX) }).to_string();
    let good = webhook().to_string();
    let typed = |content_type| {
        bad(
            "content type",
            Method::POST,
            CREATE,
            Some(content_type),
            good.as_bytes(),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "",
        )
    };
    let method = |method, path| bad("wrong method", method, path, None, b"", 405, "METHOD_NOT_ALLOWED", "");
    let path = |path| bad("unknown path", Method::GET, path, None, b"", 404, "PATH_NOT_FOUND", "");
    vec![
        post("no body", b"", "INVALID_JSON"),
        post("half an object", b"{", "INVALID_JSON"),
        post("no value", br#"{"connector_name":}"#, "INVALID_JSON"),
        post("trailing text", br#"{"connector_name":"a"} x"#, "INVALID_JSON"),
        post("single quotes", b"{'connector_name':'a'}", "INVALID_JSON"),
        post("not UTF-8", b"{\"connector_name\":\"\xff\xfe\"}", "INVALID_JSON"),
        post("deeply nested", deep.as_bytes(), "INVALID_JSON"),
        post("an array", b"[]", "BODY_NOT_OBJECT"),
        post("a text", br#""create""#, "BODY_NOT_OBJECT"),
        post("a number", b"3", "BODY_NOT_OBJECT"),
        bad("huge body", Method::POST, CREATE, JSON, huge.as_bytes(), 413, "BODY_TOO_LARGE", ""),
        typed("text/plain"),
        typed("application/xml"),
        typed("application/x-www-form-urlencoded"),
        typed("application/jsonp"),
        method(Method::GET, CREATE),
        method(Method::PUT, CREATE),
        method(Method::DELETE, DELETE),
        method(Method::POST, LIST),
        method(Method::POST, "/api/mqtt/connector/detail"),
        path("/"),
        path("/api/mqtt/connector"),
        path("/api/mqtt/connector/create/"),
        path("/api/mqtt/connectors/list"),
        path("/api/mqtt/connector/list/all"),
    ]
}

/// One field of `create` at a time.
fn fields() -> Vec<Bad> {
    let long = |length: usize| json!("n".repeat(length));
    vec![
        changed("name missing", "connector_name", Value::Null),
        changed("name empty", "connector_name", json!("")),
        changed("name of 129 characters", "connector_name", long(129)),
        changed("name of 5,000 characters", "connector_name", long(5_000)),
        changed("name a number", "connector_name", json!(7)),
        changed("name with a control character", "connector_name", json!("a\u{0007}b")),
        changed("name with a space before", "connector_name", json!(" a")),
        changed("name with a space behind", "connector_name", json!("a ")),
        changed("type missing", "connector_type", Value::Null),
        changed("type empty", "connector_type", json!("")),
        changed("type unknown", "connector_type", json!("kafkaa")),
        changed("type in capitals", "connector_type", json!("Webhook")),
        changed("type of 51 characters", "connector_type", long(51)),
        changed("type a list", "connector_type", json!(["webhook"])),
        changed("config missing", "config", Value::Null),
        changed("config empty", "config", json!("")),
        changed("config not JSON", "config", json!("{url:1}")),
        changed("config a JSON array", "config", json!("[]")),
        changed("config a number", "config", json!(1)),
        changed("config of 4,097 characters", "config", json!(padded_config(4_097))),
        changed("topic missing", "topic_name", Value::Null),
        changed("topic empty", "topic_name", json!("")),
        changed("topic of 257 characters", "topic_name", long(257)),
        changed("topic with # inside", "topic_name", json!("a/#/b")),
        changed("topic with # in a level", "topic_name", json!("a/b#")),
        changed("topic with + in a level", "topic_name", json!("a/b+/c")),
        changed("topic with NUL", "topic_name", json!("a/\u{0}")),
        changed("topic shared", "topic_name", json!("$share/group/a")),
        changed("topic a number", "topic_name", json!(5)),
        changed("unknown key", "conector_name", json!("a")),
        changed("key of the wrong case", "Connector_Name", json!("a")),
    ]
}

fn strategies() -> Vec<Bad> {
    let strategy = |what: &str, value: Value, names| Bad { names, ..changed(what, "failure_strategy", value) };
    let retry = |times: Value, wait: Value| json!({ "strategy": "discard_after_retry", "retry_total_times": times, "wait_time_ms": wait });
    let letters = |topic: Value| json!({ "strategy": "dead_message_queue", "topic_name": topic });
    vec![
        strategy("strategy a text", json!("discard"), "failure_strategy"),
        strategy("strategy missing", json!({}), "failure_strategy.strategy"),
        strategy("strategy unknown", json!({ "strategy": "retry" }), "failure_strategy.strategy"),
        strategy("strategy a number", json!({ "strategy": 1 }), "failure_strategy.strategy"),
        strategy("no retries", retry(json!(0), json!(10)), "failure_strategy.retry_total_times"),
        strategy("negative retries", retry(json!(-1), json!(10)), "failure_strategy.retry_total_times"),
        strategy("retries a text", retry(json!("3"), json!(10)), "failure_strategy.retry_total_times"),
        strategy("retries a fraction", retry(json!(1.5), json!(10)), "failure_strategy.retry_total_times"),
        strategy("retries missing", retry(Value::Null, json!(10)), "failure_strategy.retry_total_times"),
        strategy("no wait", retry(json!(1), json!(0)), "failure_strategy.wait_time_ms"),
        strategy("wait missing", retry(json!(1), Value::Null), "failure_strategy.wait_time_ms"),
        strategy("letters nowhere", letters(json!("")), "failure_strategy.topic_name"),
        strategy("letters to a filter", letters(json!("dead/#")), "failure_strategy.topic_name"),
        strategy("letters to 257 characters", letters(json!("d".repeat(257))), "failure_strategy.topic_name"),
        strategy(
            "unknown target_down",
            json!({ "strategy": "discard", "on_target_down": "drop" }),
            "failure_strategy.on_target_down",
        ),
        strategy("unknown strategy key", json!({ "strategy": "discard", "retries": 1 }), "failure_strategy.retries"),
    ]
}

/// What this system adds to the seed.
fn extras() -> Vec<Bad> {
    let nested = |what: &str, key: &'static str, value: Value, names| Bad { names, ..changed(what, key, value) };
    let labels: serde_json::Map<String, Value> = (0..17).map(|n| (format!("l{n}"), json!("x"))).collect();
    vec![
        nested("queue a number", "queue", json!(1), "queue"),
        nested("unknown queue key", "queue", json!({ "size": 1 }), "queue.size"),
        nested("unknown when_full", "queue", json!({ "when_full": "drop" }), "queue.when_full"),
        nested("negative bytes_max", "queue", json!({ "bytes_max": -1 }), "queue.bytes_max"),
        nested("unknown placement key", "placement", json!({ "racks": [] }), "placement.racks"),
        nested("placement nodes a number", "placement", json!({ "nodes": 1 }), "placement.nodes"),
        nested("desired unknown", "desired", json!("paused"), "desired"),
        nested("17 labels", "labels", Value::Object(labels), "labels"),
        nested("labels a list", "labels", json!([1]), "labels"),
        nested("description a number", "description", json!(1), "description"),
    ]
}

/// One configuration field at a time, ranges missed by one.
fn configs() -> Vec<Bad> {
    let hook = |what: &str, key: &str, value: Value, names| {
        let mut config = json!({ "url": "http://127.0.0.1:9/" });
        config[key] = value;
        configured(what, "webhook", &config, names)
    };
    let kafka = |what: &str, key: &str, value: Value, names| {
        let mut config = json!({ "bootstrap_servers": "localhost:9092", "topic": "t" });
        config[key] = value;
        configured(what, "kafka", &config, names)
    };
    let file = |what: &str, key: &str, value: Value, names| {
        let mut config = json!({ "local_file_path": "/tmp/x.log" });
        config[key] = value;
        configured(what, "file", &config, names)
    };
    vec![
        hook("url missing", "url", Value::Null, "config.url"),
        hook("url of another scheme", "url", json!("ftp://x/"), "config.url"),
        hook("url of 2,049 characters", "url", json!(format!("http://{}", "h".repeat(2_042))), "config.url"),
        hook("timeout 0", "timeout_ms", json!(0), "config.timeout_ms"),
        hook("timeout 60,001", "timeout_ms", json!(60_001), "config.timeout_ms"),
        hook("timeout a text", "timeout_ms", json!("5000"), "config.timeout_ms"),
        hook("method get", "method", json!("get"), "config.method"),
        hook("auth unknown", "auth_type", json!("digest"), "config.auth_type"),
        hook("bearer without token", "auth_type", json!("bearer"), "config.bearer_token"),
        hook("basic without user", "auth_type", json!("basic"), "config.username"),
        hook("headers a list", "headers", json!([]), "config.headers"),
        hook("a misspelt key", "time_out_ms", json!(1), "config.time_out_ms"),
        hook("a masked secret", "bearer_token", json!("******"), "config.bearer_token"),
        hook("a secret of our own", "bearer_token", json!("${env:SLUICE__CLUSTER__SECRET}"), "config.bearer_token"),
        hook("a file outside", "bearer_token", json!("${file:/etc/passwd}"), "config.bearer_token"),
        kafka("servers missing", "bootstrap_servers", Value::Null, "config.bootstrap_servers"),
        kafka("batch 0", "batch_size", json!(0), "config.batch_size"),
        kafka("batch too large", "batch_size", json!(1_048_577), "config.batch_size"),
        kafka("acks 2", "acks", json!("2"), "config.acks"),
        kafka("retries 101", "retries", json!(101), "config.retries"),
        kafka("timeout 999", "message_timeout_ms", json!(999), "config.message_timeout_ms"),
        kafka("key of 257", "key", json!("k".repeat(257)), "config.key"),
        kafka("key with an unknown placeholder", "key", json!("${nobody}"), "config.key"),
        kafka("compression unknown", "compression_type", json!("brotli"), "config.compression_type"),
        file("path missing", "local_file_path", Value::Null, "config.local_file_path"),
        file("rotation unknown", "rotation_strategy", json!("weekly"), "config.rotation_strategy"),
        file("size 0", "max_size_gb", json!(0), "config.max_size_gb"),
        file("size 11", "max_size_gb", json!(11), "config.max_size_gb"),
    ]
}

fn queries() -> Vec<Bad> {
    let list = |query: &str, names| Bad {
        what: format!("list?{query}"),
        method: Method::GET,
        path: format!("{LIST}?{query}"),
        content_type: None,
        body: Vec::new(),
        status: 400,
        reason: "INVALID_QUERY",
        names,
    };
    vec![
        list("limit=0", "limit"),
        list("limit=10001", "limit"),
        list("limit=ten", "limit"),
        list("page=0", "page"),
        list("page=-1", "page"),
        list("sort_field=colour", "sort_field"),
        list("sort_by=up", "sort_by"),
        list("filter_field=colour&filter_values=red", "filter_field"),
        list("exact_match=perhaps", "exact_match"),
    ]
}

fn deletes() -> Vec<Bad> {
    let delete = |what: &str, body: Value, status, reason, names| Bad {
        what: what.to_owned(),
        method: Method::POST,
        path: DELETE.to_owned(),
        content_type: JSON,
        body: body.to_string().into_bytes(),
        status,
        reason,
        names,
    };
    vec![
        delete("delete without name", json!({}), 422, "INVALID_FIELDS", "connector_name"),
        delete("delete null", json!({ "connector_name": null }), 422, "INVALID_FIELDS", "connector_name"),
        delete("delete a number", json!({ "connector_name": 1 }), 422, "INVALID_FIELDS", "connector_name"),
        delete(
            "delete with a key too many",
            json!({ "connector_name": "taken", "force": true }),
            422,
            "INVALID_FIELDS",
            "force",
        ),
        delete("delete nobody", json!({ "connector_name": "nobody" }), 404, "CONNECTOR_NOT_FOUND", "nobody"),
        delete("delete by filter", json!({ "connector_name": "tak*" }), 404, "CONNECTOR_NOT_FOUND", "tak*"),
    ]
}

/// A connector that would be accepted.
fn webhook() -> Value {
    json!({
        "connector_name": "bad", "connector_type": "webhook", "config": "{\"url\":\"http://127.0.0.1:9/\"}",
        "topic_name": "bad/#",
    })
}

/// `create` with one key changed; the key is the field at fault.
fn changed(what: &str, key: &'static str, value: Value) -> Bad {
    let mut body = webhook();
    body[key] = value;
    Bad {
        what: what.to_owned(),
        method: Method::POST,
        path: CREATE.to_owned(),
        content_type: JSON,
        body: body.to_string().into_bytes(),
        status: 422,
        reason: "INVALID_FIELDS",
        names: key,
    }
}

fn configured(what: &str, kind: &str, config: &Value, names: &'static str) -> Bad {
    let mut body = webhook();
    body["connector_type"] = json!(kind);
    body["config"] = json!(config.to_string());
    Bad {
        what: format!("{kind}: {what}"),
        body: body.to_string().into_bytes(),
        names,
        ..changed(what, "config", json!(""))
    }
}

fn padded_config(length: usize) -> String {
    let empty = r#"{"url":"http://127.0.0.1:9/"}"#;
    let padding = " ".repeat(length - empty.len());
    empty.replace('}', &format!("{padding}}}"))
}
