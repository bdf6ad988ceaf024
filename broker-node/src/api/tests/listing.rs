//! Filter, sort and page.

use std::sync::Arc;

use serde_json::{Value, json};

use super::plane::{Plane, get, post, send};
use axum::body::Body;
use axum::http::Request;

/// Five connectors: two webhooks, three files; `c` is assigned.
async fn plane() -> Arc<Plane> {
    let plane = Plane::new();
    let webhook = |url: &str| json!({"url": url, "auth_type": "basic", "username": "u", "password": "hunter2"});
    let file = json!({"local_file_path": "/tmp/x"});
    for (name, kind, topic, config) in [
        ("b", "webhook", "plant/1", webhook("http://one.example/")),
        ("a", "file", "plant/#", file.clone()),
        ("d", "file", "Office/+", file.clone()),
        ("c", "webhook", "plant/2", webhook("http://two.example/")),
        ("e", "file", "x,y", file),
    ] {
        let body = json!({
            "connector_name": name, "connector_type": kind, "topic_name": topic, "config": config,
            "labels": {"team": name}, "failure_strategy": {"strategy": "discard", "on_target_down": "wait"},
        });
        let seen = post(&plane, "/api/mqtt/connector/create", body.to_string()).await;
        assert_eq!(seen.status, 200, "{}", seen.text);
    }
    plane.assign("c", 2);
    plane
}

fn names(body: &Value) -> Vec<String> {
    let rows = body["data"]["data"].as_array().expect("rows");
    rows.iter().map(|row| row["connector_name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn check(plane: &Arc<Plane>, query: &str, expect: &str, total: u64) {
    let seen = get(plane, &format!("/api/mqtt/connector/list?{query}")).await;
    assert_eq!(seen.status, 200, "{query}: {}", seen.text);
    assert_eq!(names(&seen.body).concat(), expect, "{query}");
    assert_eq!(seen.body["data"]["total_count"], total, "{query}");
}

#[tokio::test]
async fn filters_sorts_and_pages() {
    let plane = plane().await;
    for (query, expect, total) in [
        ("", "abcde", 5),
        ("connector_name=c", "c", 1),
        ("connector_name=C", "", 0),
        ("sort_by=desc", "edcba", 5),
        ("sort_field=connector_type", "adebc", 5),
        ("sort_field=connector_type&sort_by=desc", "bcade", 5),
        ("sort_field=revision", "badce", 5),
        ("sort_field=broker_id", "cabde", 5),
        ("limit=2", "ab", 5),
        ("limit=2&page=2", "cd", 5),
        ("limit=2&page=3", "e", 5),
        ("limit=2&page=4", "", 5),
        ("limit=10000&page=4294967295", "", 5),
        ("filter_field=connector_type&filter_values=file", "ade", 3),
        ("filter_field=connector_type&filter_values=FIL", "ade", 3),
        ("filter_field=connector_type&filter_values=FILE&exact_match=true", "ade", 3),
        ("filter_field=connector_type&filter_values=FIL&exact_match=true", "", 0),
        ("filter_field=connector_name&filter_values=a,c", "ac", 2),
        ("filter_field=connector_name&filter_values=a&filter_values=c", "ac", 2),
        ("filter_field=connector_name&filter_values=%5B%22a%22%2C%22c%22%5D", "ac", 2),
        ("filter_field=topic_name&filter_values=%5B%22x,y%22%5D&exact_match=true", "e", 1),
        ("filter_field=topic_name&filter_values=office", "d", 1),
        ("filter_field=status&filter_values=running&exact_match=true", "c", 1),
        ("filter_field=broker_name&filter_values=n2", "c", 1),
        ("filter_field=labels&filter_values=%22team%22:%22b%22", "b", 1),
        ("filter_field=failure_strategy&filter_values=discard", "abcde", 5),
        ("filter_field=state_reason&filter_values=placed", "abde", 4),
        ("filter_field=config&filter_values=one.example", "b", 1),
        ("filter_field=config_effective&filter_values=timeout_ms", "bc", 2),
        ("connector_name=b&filter_field=connector_type&filter_values=file", "", 0),
        ("filter_field=connector_type&filter_values=file&sort_by=desc&limit=1&page=2", "d", 3),
    ] {
        check(&plane, query, expect, total).await;
    }
}

#[tokio::test]
async fn every_field_of_a_row_sorts_and_filters() {
    let plane = plane().await;
    for field in super::super::ROW_FIELDS {
        let sorted = get(&plane, &format!("/api/mqtt/connector/list?sort_field={field}&sort_by=desc")).await;
        assert_eq!((sorted.status.as_u16(), names(&sorted.body).len()), (200, 5), "{field}");
        let filtered = get(&plane, &format!("/api/mqtt/connector/list?filter_field={field}&filter_values=%00")).await;
        assert_eq!((filtered.status.as_u16(), names(&filtered.body).len()), (200, 0), "{field}");
        let row = &sorted.body["data"]["data"][0];
        assert!(row.get(field).is_some(), "{field} is in the row");
    }
}

#[tokio::test]
async fn secrets_are_masked_and_invisible_to_filters_and_sorts() {
    let plane = plane().await;
    for query in [
        "",
        "sort_field=config",
        "filter_field=config&filter_values=hunter2",
        "filter_field=config_effective&filter_values=hunter2",
    ] {
        let seen = get(&plane, &format!("/api/mqtt/connector/list?{query}")).await;
        assert!(!seen.text.contains("hunter2"), "{query}");
        assert_eq!(names(&seen.body).is_empty(), query.contains("hunter2"), "{query}");
    }
    let seen = get(&plane, "/api/mqtt/connector/list?connector_name=b").await;
    let config = seen.body["data"]["data"][0]["config"].as_str().unwrap_or_default();
    assert_eq!(config, r#"{"url":"http://one.example/","auth_type":"basic","username":"u","password":"******"}"#);
    for path in ["show", "detail", "explain"] {
        let seen = get(&plane, &format!("/api/mqtt/connector/{path}?connector_name=b")).await;
        assert!(!seen.text.contains("hunter2"), "{path}");
    }
}

#[tokio::test]
async fn the_query_wins_over_the_body() {
    let plane = plane().await;
    let body = r#"{"connector_name":"a","limit":"1","filter_field":"connector_type","filter_values":"webhook,x","exact_match":true,"page":null}"#;
    let with = |uri: &str| Request::get(uri).body(Body::from(body)).expect("a request");
    let seen = send(&plane, with("/api/mqtt/connector/list?connector_name=b")).await;
    assert_eq!(names(&seen.body), ["b"], "{}", seen.text);
    let seen = send(&plane, with("/api/mqtt/connector/list")).await;
    assert_eq!(seen.body["data"]["total_count"], 0, "{}", seen.text);
}

#[tokio::test]
async fn unknown_parameters_are_ignored_and_named() {
    let plane = plane().await;
    let seen = get(&plane, "/api/mqtt/connector/list?colour=red&colour=blue&limit=1").await;
    assert_eq!(seen.warnings(), ["unknown parameter colour was ignored"]);
    assert_eq!(names(&seen.body), ["a"]);
    let seen = get(&plane, "/api/mqtt/connector/list?filter_field=status").await;
    assert_eq!(seen.warnings(), ["filter_field has no effect without filter_values"]);
    let seen = get(&plane, "/api/mqtt/connector/list?filter_values=a").await;
    assert_eq!(seen.warnings(), ["filter_values has no effect without filter_field"]);
    assert!(get(&plane, "/api/mqtt/connector/list").await.body.get("warnings").is_none());
}
