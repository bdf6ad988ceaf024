//! Detail, show, explain, types, cluster, health and metrics.

use std::time::Duration;

use api_types::RaftId;
use api_types::status::Health;
use serde_json::{Value, json};

use super::plane::{Plane, create, get, well};
use crate::api::control::Unavailable;
use crate::health::Parts;

#[tokio::test]
async fn a_silent_owner_is_replaced_by_the_leaders_memory() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.assign("a", 1);
    plane.observe("a", plane.report("a", Health::Ok), Duration::from_secs(7));
    plane.set(|script| script.owner_silent = true);
    let seen = get(&plane, "/api/mqtt/connector/detail?connector_name=a").await;
    let data = &seen.body["data"];
    assert_eq!((&data["stale"], &data["send_success_total"]), (&json!(true), &json!(10_245)), "{}", seen.text);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let age = now - data["as_of"].as_u64().expect("as_of");
    assert!((6..=9).contains(&age), "{age}");
}

#[tokio::test]
async fn a_report_of_an_earlier_epoch_does_not_count() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.assign("a", 1);
    let mut old = plane.report("a", Health::Ok);
    old.epoch.0 -= 1;
    plane.observe("a", old.clone(), Duration::ZERO);
    plane.set(|script| {
        script.live.insert(old.incarnation, old);
    });
    let seen = get(&plane, "/api/mqtt/connector/detail?connector_name=a").await;
    assert_eq!(
        (&seen.body["data"]["health"], &seen.body["data"]["send_success_total"]),
        (&json!("starting"), &json!(0))
    );
    let row = get(&plane, "/api/mqtt/connector/list").await;
    assert_eq!(row.body["data"]["data"][0]["health"], "unknown");
    plane.set(|script| script.owner_silent = true);
    let silent = get(&plane, "/api/mqtt/connector/detail?connector_name=a").await;
    assert_eq!((silent.status.as_u16(), silent.reason()), (409, "CONNECTOR_NOT_RUNNING"));
}

#[tokio::test]
async fn lifetime_is_summed_and_the_silent_are_named() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.assign("a", 1);
    let report = plane.report("a", Health::Blocked);
    plane.set(|script| {
        script.live.insert(report.incarnation, report);
        script.pending.insert(RaftId(1), 3);
        script.pending.insert(RaftId(2), 4);
        script.unreachable.push(RaftId(3));
    });
    let seen = get(&plane, "/api/mqtt/connector/detail?connector_name=a").await;
    let data = &seen.body["data"];
    assert_eq!(
        data["lifetime"],
        json!({"queued": 7, "sent": 0, "discarded": 0, "dead_lettered": 0, "dropped": 0, "pending": 7})
    );
    assert_eq!((&data["lag_records"], &data["lag_seconds"]), (&json!(7), &json!(2)));
    assert_eq!(data["unreachable_nodes"], json!(["n3"]));
    assert_eq!(data["health"], "blocked");
    let show = get(&plane, "/api/mqtt/connector/show?connector_name=a").await;
    let nodes = &show.body["data"]["nodes"];
    assert_eq!((&nodes[0]["lag_records"], &nodes[2]["lag_records"]), (&json!(3), &json!("unknown")), "{}", show.text);
}

#[tokio::test]
async fn show_answers_in_every_state() {
    let plane = Plane::new();
    create(&plane, "a").await;
    let idle = get(&plane, "/api/mqtt/connector/show?connector_name=a").await;
    let data = &idle.body["data"];
    assert_eq!(
        (&data["status"], &data["health"], &data["counters"]),
        (&json!("Idle"), &json!("unassigned"), &Value::Null)
    );
    plane.assign("a", 3);
    let running = get(&plane, "/api/mqtt/connector/show?connector_name=a").await;
    let data = &running.body["data"];
    assert_eq!(
        (&data["status"], &data["health"], &data["broker_name"]),
        (&json!("Running"), &json!("starting"), &json!("n3"))
    );
    assert_eq!(data["why"], "n3 has the fewest tasks");
    assert_eq!(data["counters"]["send_success_total"], 0);
}

#[tokio::test]
async fn explain_judges_every_node() {
    let plane = Plane::new();
    let body = json!({
        "connector_name": "k", "connector_type": "file", "topic_name": "a", "config": {"local_file_path": "/tmp/x"},
        "placement": {"nodes": ["n2"]},
    });
    super::plane::post(&plane, "/api/mqtt/connector/create", body.to_string()).await;
    plane.assign("k", 2);
    let seen = get(&plane, "/api/mqtt/connector/explain?connector_name=k").await;
    let data = &seen.body["data"];
    assert_eq!(data["why"], "n2 has the fewest tasks");
    let eligible: Vec<bool> = (0..3).map(|at| data["nodes"][at]["eligible"] == true).collect();
    assert_eq!(eligible, [false, true, false], "{}", seen.text);
    assert_eq!(data["nodes"][0]["obstacles"], json!(["placement.nodes does not name it"]));
    assert_eq!((&data["nodes"][1]["owner"], &data["nodes"][1]["tasks"]), (&json!(true), &json!(1)));
}

#[tokio::test]
async fn types_are_the_seeds_seventeen() {
    let plane = Plane::new();
    let seen = get(&plane, "/api/mqtt/connector/types").await;
    assert_eq!(seen.body["data"]["total_count"], 17);
    let rows = seen.body["data"]["data"].as_array().expect("rows");
    for row in rows {
        assert!(row["config_schema"]["properties"].is_object(), "{row}");
    }
    let file = rows.iter().find(|row| row["connector_type"] == "file").expect("file");
    assert_eq!(file["offered_by"], json!(["n1", "n2", "n3"]));
    let kafka = rows.iter().find(|row| row["connector_type"] == "kafka").expect("kafka");
    assert_eq!(kafka["offered_by"], json!([]));
}

#[tokio::test]
async fn one_type_can_be_asked_for() {
    let plane = Plane::new();
    let seen = get(&plane, "/api/mqtt/connector/types?connector_type=webhook").await;
    assert_eq!(
        (&seen.body["data"]["total_count"], &seen.body["data"]["data"][0]["connector_type"]),
        (&json!(1), &json!("webhook"))
    );
    let unknown = get(&plane, "/api/mqtt/connector/types?connector_type=pigeon").await;
    assert_eq!((unknown.status.as_u16(), unknown.reason()), (404, "KIND_NOT_FOUND"), "{}", unknown.text);
    assert!(unknown.message().contains("webhook"), "the known ones are named: {}", unknown.message());
}

#[tokio::test]
async fn the_cluster_shows_its_nodes() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.assign("a", 1);
    plane.observe("a", plane.report("a", Health::Ok), Duration::from_millis(200));
    let status = get(&plane, "/api/cluster/status").await;
    let data = &status.body["data"];
    assert_eq!((&data["leader_name"], &data["term"]), (&json!("n1"), &json!(2)), "{}", status.text);
    assert_eq!(data["connectors"], json!({"Idle": 0, "Running": 1, "Stopped": 0}));
    assert_eq!(data["versions"], json!({"0.1.0": 3}));
    let nodes = get(&plane, "/api/cluster/node/list").await;
    assert_eq!(nodes.body["data"]["total_count"], 3);
    let rows = &nodes.body["data"]["data"];
    assert_eq!((&rows[0]["role"], &rows[1]["role"]), (&json!("leader"), &json!("voter")));
    assert_eq!((&rows[0]["lease_remaining_ms"], &rows[1]["lease_remaining_ms"]), (&json!(1500), &json!("unknown")));
    assert_eq!((&rows[0]["tasks"], &rows[0]["zone"]), (&json!(1), &json!("z1")));
}

#[tokio::test]
async fn a_leader_that_nobody_confirms_is_not_shown() {
    let plane = Plane::new();
    plane.set(|script| script.unavailable = Some(Unavailable::NoLeader));
    let status = get(&plane, "/api/cluster/status").await;
    let data = &status.body["data"];
    assert_eq!((status.status.as_u16(), &data["leader"], &data["leader_name"]), (200, &json!(null), &json!(null)));
    assert_eq!(status.warnings().len(), 1, "{}", status.text);
    for path in ["/api/cluster/status", "/api/cluster/node/list"] {
        let seen = get(&plane, path).await;
        let rows = if path.ends_with("list") { &seen.body["data"]["data"] } else { &seen.body["data"]["nodes"] };
        let roles: Vec<&str> = (0..3).filter_map(|at| rows[at]["role"].as_str()).collect();
        assert_eq!(roles, ["voter", "unknown", "unknown"], "{path}: the node that answers knows that it does not lead");
    }
}

#[tokio::test]
async fn readiness_names_the_part_that_is_not_well() {
    let plane = Plane::new();
    let router = plane.router();
    let ask = async |path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).expect("a request");
        super::plane::send_to(router.clone(), request).await
    };
    assert_eq!(ask("/health/live").await.text, r#"{"code":0,"message":"success","data":{"live":true}}"#);
    plane.set(|script| script.parts = Some(Parts { replica: Err("waits for n2".into()), ..well() }));
    let seen = ask("/health/ready").await;
    assert_eq!(
        (seen.status.as_u16(), seen.reason(), seen.message()),
        (503, "NOT_READY", "not ready: replica: waits for n2")
    );
    assert_eq!(seen.body["data"]["parts"]["replica"], "waits for n2");
    plane.set(|script| script.parts = None);
    assert_eq!(ask("/health/ready").await.status, 200);
    plane.set(|script| script.parts = Some(Parts { lease: Err("lost".into()), leader: Err("none".into()), ..well() }));
    assert_eq!(ask("/health/ready").await.status, 200, "a leader loss must not cut the devices");
    assert_eq!(ask("/health/ready?for=tasks").await.status, 503);
}

#[tokio::test]
async fn metrics_are_text_and_count_requests_by_route() {
    let plane = Plane::new();
    let router = plane.router();
    let ask = async |path: &str| {
        let request = axum::http::Request::get(path).body(axum::body::Body::empty()).expect("a request");
        super::plane::send_to(router.clone(), request).await
    };
    for path in ["/api/mqtt/connector/list", "/made/up/1", "/made/up/2"] {
        ask(path).await;
    }
    let seen = ask("/metrics").await;
    assert_eq!(seen.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        r#"sluice_api_requests_total{path="/api/mqtt/connector/list",status="200"} 1"#,
        r#"sluice_api_requests_total{path="unknown",status="404"} 2"#,
    ] {
        assert!(seen.text.lines().any(|have| have == line), "{line} is missing in\n{}", seen.text);
    }
}

#[tokio::test]
async fn the_metrics_listener_of_its_own_refuses_in_the_envelope() {
    let metrics = crate::metrics::Metrics::new("0.1.0", "test").expect("metrics");
    for (method, path, status, reason) in [
        ("GET", "/metrics", 200, ""),
        ("GET", "/", 404, "PATH_NOT_FOUND"),
        ("GET", "/api/cluster/status", 404, "PATH_NOT_FOUND"),
        ("POST", "/metrics", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let request = axum::http::Request::builder().method(method).uri(path);
        let request = request.body(axum::body::Body::empty()).expect("a request");
        let seen = super::plane::send_to(crate::api::metrics_router(metrics.clone()), request).await;
        assert_eq!((seen.status.as_u16(), seen.reason()), (status, reason), "{method} {path}: {}", seen.text);
        assert_eq!(seen.headers.contains_key("allow"), status == 405, "{method} {path}");
    }
}
