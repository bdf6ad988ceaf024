//! Create and delete: refusals, warnings, barrier, outcome unknown.

use api_types::connector::WhenFull;
use api_types::failure::{FailurePolicy, FailureStrategy, OnTargetDown, RetryPlan};
use api_types::{NodeName, RaftId};
use meta_service::state::CommandBody;
use serde_json::{Value, json};

use super::plane::{Plane, create, get, post};
use crate::api::TARGET_DOWN_WARNING;
use crate::api::control::Unavailable;

const CREATE: &str = "/api/mqtt/connector/create";
const DELETE: &str = "/api/mqtt/connector/delete";

fn body(name: &str, more: Value) -> String {
    let mut body = json!({
        "connector_name": name,
        "connector_type": "file",
        "config": {"local_file_path": "/tmp/x.log"},
        "topic_name": "a/#",
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body.to_string()
}

async fn policy(strategy: Value) -> (FailurePolicy, Vec<String>) {
    let plane = Plane::new();
    let seen = post(&plane, CREATE, body("a", json!({ "failure_strategy": strategy }))).await;
    assert_eq!(seen.status, 200, "{}", seen.text);
    let policy = plane.state().connector("a").expect("created").spec.failure.clone();
    (policy, seen.warnings().into_iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn failure_strategies_get_the_defaults_of_the_specification() {
    let retry = |retry_total_times, wait_time_ms| RetryPlan { retry_total_times, wait_time_ms };
    let letters = |topic: &str, retry| FailureStrategy::DeadMessageQueue { topic_name: topic.into(), retry };
    let down = TARGET_DOWN_WARNING;
    let unused = |key: &str, strategy: &str| format!("failure_strategy.{key} has no effect with strategy {strategy}");
    let cases: Vec<(Value, FailureStrategy, OnTargetDown, Vec<String>)> = vec![
        (Value::Null, FailureStrategy::Absent, OnTargetDown::Wait, vec![]),
        (json!({"strategy": "discard"}), FailureStrategy::Discard, OnTargetDown::Strategy, vec![down.into()]),
        (
            json!({"strategy": "discard", "on_target_down": "wait"}),
            FailureStrategy::Discard,
            OnTargetDown::Wait,
            vec![],
        ),
        (
            json!({"strategy": "discard", "retry_total_times": 0, "wait_time_ms": "x", "topic_name": "", "on_target_down": "wait"}),
            FailureStrategy::Discard,
            OnTargetDown::Wait,
            vec![
                unused("retry_total_times", "discard"),
                unused("wait_time_ms", "discard"),
                unused("topic_name", "discard"),
            ],
        ),
        (
            json!({"strategy": "discard_after_retry", "retry_total_times": 5, "wait_time_ms": 2000, "topic_name": "t"}),
            FailureStrategy::DiscardAfterRetry { retry: retry(5, 2000) },
            OnTargetDown::Strategy,
            vec![unused("topic_name", "discard_after_retry"), down.into()],
        ),
        (
            json!({"strategy": "dead_message_queue"}),
            letters("dead_letter_queue", retry(3, 1000)),
            OnTargetDown::Strategy,
            vec![down.into()],
        ),
        (
            json!({"strategy": "dead_message_queue", "topic_name": "x".repeat(256), "retry_total_times": 1, "wait_time_ms": 1, "on_target_down": "wait"}),
            letters(&"x".repeat(256), retry(1, 1)),
            OnTargetDown::Wait,
            vec![],
        ),
    ];
    for (sent, strategy, on_target_down, warnings) in cases {
        let seen = policy(sent.clone()).await;
        assert_eq!(seen, (FailurePolicy { strategy, on_target_down }, warnings), "{sent}");
    }
}

#[test]
fn the_warning_is_the_specifications_to_the_letter() {
    let text = "records are ended by the failure strategy while the target is down; set failure_strategy.on_target_down to wait";
    assert_eq!(TARGET_DOWN_WARNING, text);
}

#[tokio::test]
async fn the_ends_of_every_range_are_accepted() {
    let plane = Plane::new();
    let labels: serde_json::Map<String, Value> = (0..16).map(|at| (format!("l{at}"), json!("v"))).collect();
    let long_config = format!("{{\"local_file_path\":\"/tmp/{}\"}}", "x".repeat(200));
    let padded = format!("{}{long_config}", " ".repeat(4096 - long_config.len()));
    for (name, more) in [
        ("n".repeat(128), json!({})),
        ("ü".repeat(128), json!({ "description": "d".repeat(1024) })),
        ("a b".into(), json!({ "topic_name": "t".repeat(256) })),
        ("c1".into(), json!({ "config": padded })),
        ("c2".into(), json!({ "labels": labels })),
        ("c3".into(), json!({ "queue": {"bytes_max": "64MiB", "age_max": "24h", "when_full": "drop_oldest"} })),
        (
            "c4".into(),
            json!({ "queue": null, "placement": null, "desired": null, "labels": null, "description": null }),
        ),
        ("c5".into(), json!({ "placement": {"nodes": ["n1"], "zones": ["z1"]} })),
    ] {
        let seen = post(&plane, CREATE, body(&name, more)).await;
        assert_eq!(seen.status, 200, "{name}: {}", seen.text);
        assert!(seen.warnings().is_empty(), "{name}: {}", seen.text);
    }
    let queue = plane.state().connector("c3").expect("created").spec.queue.clone();
    assert_eq!(
        (queue.bytes_max, queue.age_max_ms, queue.when_full),
        (Some(64 << 20), Some(86_400_000), Some(WhenFull::DropOldest))
    );
}

#[tokio::test]
async fn a_masked_secret_is_no_secret() {
    let plane = Plane::new();
    let config = json!({"url": "http://h/", "auth_type": "bearer", "bearer_token": "******"});
    let more = json!({ "connector_type": "webhook", "config": config });
    let seen = post(&plane, CREATE, body("a", more)).await;
    assert_eq!((seen.status.as_u16(), seen.fields()), (422, vec!["config.bearer_token"]), "{}", seen.text);
}

#[tokio::test]
async fn create_warns_of_what_will_not_run() {
    let plane = Plane::new();
    let kafka = json!({ "connector_type": "kafka", "config": {"bootstrap_servers": "h:9092", "topic": "t"} });
    let seen = post(&plane, CREATE, body("k", kafka)).await;
    assert!(seen.warnings()[0].contains("no node offers kind kafka"), "{}", seen.text);
    assert!(seen.warnings()[1].contains("drops its oldest records"), "{}", seen.text);
    let stopped = post(&plane, CREATE, body("s", json!({ "desired": "stopped" }))).await;
    assert!(stopped.warnings()[0].contains("drops its oldest records"), "{}", stopped.text);
    let block = post(&plane, CREATE, body("b", json!({ "desired": "stopped", "queue": {"when_full": "block"} }))).await;
    assert!(block.warnings().is_empty(), "{}", block.text);
    let nowhere = post(&plane, CREATE, body("p", json!({ "placement": {"nodes": ["n9"], "zones": ["moon"]} }))).await;
    assert!(nowhere.warnings()[0].contains("n9") && nowhere.warnings()[1].contains("moon"), "{}", nowhere.text);
}

#[tokio::test]
async fn nodes_that_have_not_confirmed_are_named_and_no_error() {
    let plane = Plane::new();
    plane.set(|script| script.not_confirmed = vec![NodeName::from("n3")]);
    let seen = create(&plane, "a").await;
    assert_eq!(seen.body["data"], "success");
    assert!(seen.warnings()[0].contains("n3"), "{}", seen.text);
}

#[tokio::test]
async fn an_unknown_outcome_is_never_a_conflict() {
    let plane = Plane::new();
    plane.set(|script| script.propose_outcome_unknown = true);
    let seen = create(&plane, "a").await;
    assert_eq!((seen.status.as_u16(), seen.reason()), (503, "OUTCOME_UNKNOWN"));
    assert_eq!(seen.headers["retry-after"], "1");
}

#[tokio::test]
async fn without_a_leader_reads_and_changes_say_so() {
    let plane = Plane::new();
    create(&plane, "a").await;
    for (error, reason) in [(Unavailable::NoLeader, "NO_LEADER"), (Unavailable::NotReady, "NOT_READY")] {
        plane.set(|script| script.unavailable = Some(error));
        let all = [
            create(&plane, "b").await,
            post(&plane, DELETE, r#"{"connector_name":"a"}"#).await,
            get(&plane, "/api/mqtt/connector/list").await,
            get(&plane, "/api/mqtt/connector/detail?connector_name=a").await,
            get(&plane, "/api/mqtt/connector/show?connector_name=a").await,
            get(&plane, "/api/mqtt/connector/explain?connector_name=a").await,
        ];
        for seen in all {
            assert_eq!((seen.status.as_u16(), seen.reason()), (503, reason), "{}", seen.text);
            assert!(seen.headers.contains_key("retry-after"));
        }
        for path in ["/api/cluster/status", "/api/cluster/node/list", "/api/mqtt/connector/types"] {
            assert_eq!(get(&plane, path).await.status, 200, "{path} answers from the replica");
        }
    }
    assert!(plane.state().connector("b").is_none());
}

#[tokio::test]
async fn delete_stops_a_running_task_and_names_what_is_dropped() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.assign("a", 2);
    plane.set(|script| {
        script.pending.insert(RaftId(1), 7);
        script.pending.insert(RaftId(2), 5);
        script.unreachable.push(RaftId(3));
    });
    let seen = post(&plane, DELETE, r#"{"connector_name":"a"}"#).await;
    assert_eq!(seen.body["data"], "success", "{}", seen.text);
    assert_eq!(seen.warnings()[0], "12 undelivered records were dropped: 7 on n1, 5 on n2");
    assert!(seen.warnings()[1].starts_with("node n3 cannot be asked"), "{}", seen.text);
    assert!(plane.state().connectors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_takes_too_long_says_that_it_goes_on() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.set(|script| script.keep_deleting = true);
    let start = tokio::time::Instant::now();
    let seen = post(&plane, DELETE, r#"{"connector_name":"a"}"#).await;
    assert_eq!((seen.status.as_u16(), seen.reason()), (503, "DELETE_PENDING"), "{}", seen.text);
    assert!((13..14).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let again = create(&plane, "a").await;
    assert_eq!((again.status.as_u16(), again.reason()), (409, "CONNECTOR_DELETING"));
    let row = get(&plane, "/api/mqtt/connector/list").await;
    assert_eq!(row.body["data"]["data"][0]["state_reason"], "a delete is under way");
}

#[tokio::test]
async fn if_empty_puts_the_connector_back_when_records_wait() {
    type Change = fn(&mut super::plane::Script);
    let cases: [(Change, &str); 3] = [
        (|script| script.pending.extend([(RaftId(2), 4)]), "n2 (4)"),
        (|script| script.unreachable.push(RaftId(3)), "n3 (cannot be asked)"),
        (|script| script.not_confirmed.push(NodeName::from("n1")), "n1 (not confirmed)"),
    ];
    for (change, named) in cases {
        let plane = Plane::new();
        create(&plane, "a").await;
        plane.set(change);
        let seen = post(&plane, DELETE, r#"{"connector_name":"a","if_empty":true}"#).await;
        assert_eq!((seen.status.as_u16(), seen.reason()), (409, "CONNECTOR_HAS_RECORDS"), "{}", seen.text);
        assert!(seen.message().contains(named), "{}", seen.message());
        assert!(!plane.state().connector("a").expect("it is back").deleting);
    }
}

#[tokio::test]
async fn if_empty_takes_the_filter_out_before_it_counts() {
    let plane = Plane::new();
    create(&plane, "a").await;
    let seen = post(&plane, DELETE, r#"{"connector_name":"a","if_empty":true}"#).await;
    assert_eq!(seen.body["data"], "success", "{}", seen.text);
    let mut order = Vec::new();
    plane.set(|script| {
        order = script
            .proposals
            .iter()
            .map(|body| format!("{body:?}").split([' ', '{']).next().unwrap_or_default().to_owned())
            .collect();
    });
    assert_eq!(order, ["CreateConnector", "HoldConnector", "DeleteHeld"]);
    let held_first = matches!(&plane.script.lock().expect("script").proposals[1], CommandBody::HoldConnector { .. });
    assert!(held_first);
}

#[tokio::test]
async fn if_empty_counts_again_when_another_request_ended_its_hold() {
    let put_back = |incarnation| CommandBody::RestoreConnector { incarnation };
    let delete = |_| CommandBody::DeleteConnector { name: "a".into(), incarnation: None };
    type Meddling = fn(api_types::Incarnation) -> CommandBody;
    let check = async |meddling: &[Meddling], status: u16, reason: &str, deleting: Option<bool>| {
        let plane = Plane::new();
        create(&plane, "a").await;
        plane.set(|script| script.before_delete_held = meddling.to_vec());
        let seen = post(&plane, DELETE, r#"{"connector_name":"a","if_empty":true}"#).await;
        assert_eq!((seen.status.as_u16(), seen.reason()), (status, reason), "{}", seen.text);
        assert_eq!(plane.state().connector("a").map(|connector| connector.deleting), deleting);
    };
    check(&[put_back], 200, "", None).await;
    check(&[put_back, put_back], 409, "CONNECTOR_HAS_RECORDS", Some(false)).await;
    check(&[delete], 409, "CONNECTOR_DELETING", Some(true)).await;
}

#[tokio::test(start_paused = true)]
async fn if_empty_puts_back_even_when_the_caller_hangs_up_and_the_leader_is_away() {
    let plane = Plane::new();
    create(&plane, "a").await;
    plane.set(|script| {
        script.pending.insert(RaftId(1), 1);
        script.restore_failures = 3;
    });
    let request = post(&plane, DELETE, r#"{"connector_name":"a","if_empty":true}"#);
    // Long enough to take the filter out, too short for an answer.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(500), request).await.is_err());
    assert!(plane.state().connector("a").expect("held").deleting);
    let mut applied = crate::api::control::ControlPlane::applied(&*plane);
    while plane.state().connector("a").expect("it is there").deleting {
        applied.changed().await.expect("the plane lives");
    }
}
