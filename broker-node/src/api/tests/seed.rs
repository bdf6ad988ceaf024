//! The seed's examples, letter for letter.

use std::time::Duration;

use api_types::status::Health;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::plane::{Plane, create, get, post, send};

/// The bodies of the seed's `curl` lines and of its create example.
const CREATES: [&str; 8] = [
    r#"{
        "connector_name": "new_connector",
        "connector_type": "kafka",
        "config": "{\"bootstrap_servers\":\"localhost:9092\",\"topic\":\"mqtt_messages\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard",
        "retry_total_times": null,
        "wait_time_ms": null,
        "topic_name": null
        }
    }"#,
    r#"{
        "connector_name": "kafka_bridge",
        "connector_type": "kafka",
        "config": "{\"bootstrap_servers\":\"localhost:9092\",\"topic\":\"mqtt_messages\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard"
        }
    }"#,
    r#"{
        "connector_name": "kafka_bridge_retry",
        "connector_type": "kafka",
        "config": "{\"bootstrap_servers\":\"localhost:9092\",\"topic\":\"mqtt_messages\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard_after_retry",
        "retry_total_times": 5,
        "wait_time_ms": 2000
        }
    }"#,
    r#"{
        "connector_name": "kafka_bridge_dlq",
        "connector_type": "kafka",
        "config": "{\"bootstrap_servers\":\"localhost:9092\",\"topic\":\"mqtt_messages\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "dead_message_queue",
        "topic_name": "dead_letter_queue",
        "retry_total_times": 5,
        "wait_time_ms": 2000
        }
    }"#,
    r#"{
        "connector_name": "redis_bridge",
        "connector_type": "redis",
        "config": "{\"server\":\"127.0.0.1:6379\",\"command_template\":\"LPUSH mqtt_messages {payload}\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard"
        }
    }"#,
    r#"{
        "connector_name": "webhook_bridge",
        "connector_type": "webhook",
        "config": "{\"url\":\"https://example.com/webhook\",\"method\":\"post\",\"auth_type\":\"bearer\",\"bearer_token\":\"my-token\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard"
        }
    }"#,
    r#"{
        "connector_name": "influxdb_bridge",
        "connector_type": "influxdb",
        "config": "{\"server\":\"http://localhost:8086\",\"version\":\"v2\",\"token\":\"my-token\",\"org\":\"my-org\",\"bucket\":\"mqtt\",\"measurement\":\"sensor_data\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard"
        }
    }"#,
    r#"{
        "connector_name": "s3_bridge",
        "connector_type": "s3",
        "config": "{\"bucket\":\"my-mqtt-bucket\",\"region\":\"us-east-1\",\"object_key_prefix\":\"mqtt\"}",
        "topic_name": "sensor/+",
        "failure_strategy": {
        "strategy": "discard"
        }
    }"#,
];

#[tokio::test]
async fn every_create_of_the_seed_answers_success() {
    let plane = Plane::new();
    for body in CREATES {
        let seen = post(&plane, "/api/mqtt/connector/create", body).await;
        assert_eq!(seen.status, 200, "{body}: {}", seen.text);
        let (code, message, data) = (&seen.body["code"], &seen.body["message"], &seen.body["data"]);
        assert_eq!((code, message, data), (&json!(0), &json!("success"), &json!("success")));
    }
    let seen = get(&plane, "/api/mqtt/connector/list?limit=10&page=1").await;
    assert_eq!(seen.body["data"]["total_count"], 8);
    assert!(!seen.text.contains("my-token"), "{}", seen.text);
}

#[tokio::test]
async fn a_row_has_the_seeds_eight_fields_with_the_seeds_forms() {
    let plane = Plane::new();
    let body = r#"{"connector_name":"kafka_connector","connector_type":"kafka","topic_name":"topic_001",
        "config":"{\"topic\":\"t\",\"bootstrap_servers\":\"localhost:9092\"}"}"#;
    assert_eq!(post(&plane, "/api/mqtt/connector/create", body).await.status, 200);
    plane.assign("kafka_connector", 1);
    // The seed prints its parameters as a JSON body of a GET.
    let query = r#"{
        "connector_name": "kafka_connector",
        "limit": 20,
        "page": 1,
        "sort_field": "connector_name",
        "sort_by": "asc",
        "filter_field": "connector_type",
        "filter_values": ["kafka"],
        "exact_match": "false"
    }"#;
    let request = Request::get("/api/mqtt/connector/list").header("content-type", "application/json");
    let seen = send(&plane, request.body(Body::from(query)).expect("a request")).await;
    assert_eq!(seen.body["data"]["total_count"], 1, "{}", seen.text);
    let row = &seen.body["data"]["data"][0];
    let seeds: Vec<(&str, Value)> = vec![
        ("connector_name", json!("kafka_connector")),
        ("connector_type", json!("kafka")),
        ("config", json!("{\"topic\":\"t\",\"bootstrap_servers\":\"localhost:9092\"}")),
        ("topic_name", json!("topic_001")),
        ("status", json!("Running")),
        ("broker_id", json!("1")),
        ("create_time", json!("2024-01-01 10:00:00")),
        ("update_time", json!("2024-01-01 10:00:00")),
    ];
    for (field, value) in seeds {
        assert_eq!(row[field], value, "{field}");
    }
    let first: Vec<&String> = row.as_object().expect("a row").keys().take(8).collect();
    assert_eq!(first, super::super::ROW_FIELDS[..8].iter().collect::<Vec<_>>(), "the seed's fields come first");
}

#[tokio::test]
async fn detail_answers_the_seeds_numbers() {
    let plane = Plane::new();
    create(&plane, "kafka_connector").await;
    plane.assign("kafka_connector", 1);
    let report = plane.report("kafka_connector", Health::Ok);
    plane.set(|script| {
        script.live.insert(report.incarnation, report);
    });
    for request in [
        Request::get("/api/mqtt/connector/detail?connector_name=kafka_connector").body(Body::empty()),
        Request::get("/api/mqtt/connector/detail").body(Body::from(r#"{"connector_name": "kafka_connector"}"#)),
    ] {
        let seen = send(&plane, request.expect("a request")).await;
        let start = r#"{"code":0,"message":"success","data":{"last_send_time":1698765432,"send_success_total":10245,"send_fail_total":3,"last_msg":"Batch sent successfully","#;
        assert!(seen.text.starts_with(start), "{}", seen.text);
    }
}

#[tokio::test]
async fn detail_fails_in_the_seeds_words() {
    let plane = Plane::new();
    create(&plane, "idle").await;
    let unknown = get(&plane, "/api/mqtt/connector/detail?connector_name=kafka_connector").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text.starts_with(r#"{"code":1,"message":"Connector kafka_connector does not exist.","#));
    let idle = get(&plane, "/api/mqtt/connector/detail?connector_name=idle").await;
    assert_eq!(idle.status, 409);
    assert!(idle.text.starts_with(r#"{"code":1,"message":"Connector thread idle does not exist.","#));
}

#[tokio::test]
async fn delete_answers_success_and_frees_the_name() {
    let plane = Plane::new();
    create(&plane, "old_connector").await;
    let seen = post(&plane, "/api/mqtt/connector/delete", r#"{"connector_name": "old_connector"}"#).await;
    assert_eq!(seen.text, r#"{"code":0,"message":"success","data":"success"}"#);
    assert!(plane.state().connector("old_connector").is_none());
    assert_eq!(create(&plane, "old_connector").await.status, 200);
}

#[tokio::test]
async fn status_is_one_of_the_seeds_three_words() {
    let plane = Plane::new();
    create(&plane, "idle").await;
    create(&plane, "running").await;
    plane.assign("running", 2);
    let stopped = r#"{"connector_name":"stopped","connector_type":"file","topic_name":"a",
        "config":{"local_file_path":"/tmp/x"},"desired":"stopped"}"#;
    assert_eq!(post(&plane, "/api/mqtt/connector/create", stopped).await.status, 200);
    plane.observe("running", plane.report("running", Health::Retrying), Duration::from_millis(100));
    let seen = get(&plane, "/api/mqtt/connector/list").await;
    let rows = seen.body["data"]["data"].as_array().expect("rows").clone();
    let of = |key: &str| rows.iter().map(|row| row[key].as_str().unwrap_or("null").to_owned()).collect::<Vec<_>>();
    assert_eq!(of("connector_name"), ["idle", "running", "stopped"]);
    assert_eq!(of("status"), ["Idle", "Running", "Stopped"]);
    assert_eq!(of("broker_id"), ["-", "2", "-"]);
    assert_eq!(of("health"), ["unassigned", "retrying", "stopped"]);
    assert_eq!(of("state_reason"), ["not placed yet", "null", "desired is stopped"]);
}
