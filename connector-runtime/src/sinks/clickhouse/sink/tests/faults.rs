//! What is the target's fault, and what it waits for.

use ::tests::wait;
use anyhow::ensure;
use rand::Rng;

use super::*;
use crate::pipeline::tests::double::until;

#[tokio::test]
async fn a_target_that_wants_a_person_says_so() {
    let server = server().await;
    run(&server, &format!("CREATE VIEW {DATABASE}.view AS SELECT * FROM {DATABASE}.{TABLE}")).await;
    for (more, expect, words) in [
        (json!({"table": "nowhere"}), TargetFaultKind::Missing, "Table sluice.nowhere doesn't exist"),
        (json!({"database": "nowhere"}), TargetFaultKind::Missing, "Database nowhere doesn't exist"),
        (json!({"table": "view"}), REFUSES, "Method write is not supported by storage View"),
        (json!({"url": format!("{}/?no_such_setting=1", server.url())}), REFUSES, "Unknown setting no_such_setting"),
    ] {
        let outcomes = deliver(&*open(&server, &more).await, &records(2)).await;
        assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}");
        assert_eq!(outcomes[0], outcomes[1]);
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    server.finish();
}

#[tokio::test]
async fn who_may_only_read_is_told_in_the_middle_of_a_run() {
    let server = server().await;
    let queue = numbered(10);
    let task = start(&queue, server.config(TABLE, &json!({})));
    queue.all_committed().await;
    for (reason, words, broken) in
        [("TARGET_PERMISSION", "readonly mode", true), ("TARGET_AUTH", "Wrong password", false)]
    {
        if broken {
            server.set_readonly(true).await.expect("takes the right away");
        } else {
            server.set_password("another one").await.expect("changes the password");
        }
        let first = queue.position() / 10 + 1;
        queue.append((first..first + 10).map(|number| message(number, number.to_string())));
        until("it is refused", || task.report().health_reason.as_deref() == Some(reason)).await;
        assert!(task.report().last_error.is_some_and(|error| error.contains(words)));
        server.set_readonly(false).await.expect("gives it back");
        queue.all_committed().await;
    }
    assert_eq!(queue.ends().len(), 0);
    all_are_there_once(&server, TABLE, 30).await;
    server.finish();
}

#[tokio::test]
async fn too_many_parts_are_waited_for() {
    let server = server().await;
    let columns = "payload String";
    run(
        &server,
        &format!(
            "CREATE TABLE {DATABASE}.busy ({columns}) ENGINE = MergeTree ORDER BY tuple() \
         SETTINGS parts_to_delay_insert = 1, parts_to_throw_insert = 3, max_delay_to_insert = 0"
        ),
    )
    .await;
    run(&server, "SYSTEM STOP MERGES").await;
    let queue = numbered(6);
    let task = start(&queue, server.config("busy", &json!({"batch_records": 1, "max_in_flight": 1})));
    until("it slows down", || task.report().health_reason.as_deref() == Some("TARGET_THROTTLED")).await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("Too many parts (3)")));
    assert_eq!(count(&server, "busy").await, 3);
    run(&server, "SYSTEM START MERGES").await;
    let merged = wait::until(Duration::from_secs(120), "there is room for all parts", async || {
        run(&server, &format!("OPTIMIZE TABLE {DATABASE}.busy")).await;
        let sent = task.report().counters.send_success_total;
        ensure!(sent == 6, "{sent} of 6");
        Ok(())
    });
    merged.await.expect("goes on");
    queue.all_committed().await;
    assert_eq!(queue.ends().len(), 0);
    all_are_there_once(&server, "busy", 6).await;
    server.finish();
}

#[tokio::test]
async fn a_memory_limit_slows_a_small_insert_down_and_cuts_a_large_one() {
    let server = server().await;
    // Each column costs two megabytes, whatever is in it.
    make(&server, "large", "id String, payload String").await;
    // Eight megabytes are too much for what this user may have for a query, and two are not.
    let queue = MemoryQueue::with((0..800).map(|number| message(number, format!("{number:010000}"))));
    let task = start(&queue, server.config("large", &json!({"username": SMALL})));
    queue.all_committed().await;
    assert_eq!((queue.ends().len(), task.report().counters.send_success_total), (0, 800));
    all_are_there_once(&server, "large", 800).await;
    assert!(!queue.splits().is_empty(), "each half was sealed before it was sent");
    let profile = "<max_memory_usage>1000</max_memory_usage>".to_owned();
    let low = server_with(ClickHouseOptions { profile, ..ClickHouseOptions::default() }).await;
    let outcomes = deliver(&*open(&low, &json!({})).await, &records(10)).await;
    assert_eq!(outcomes, vec![outcomes[0].clone(); 10]);
    assert_eq!(kind(&outcomes[0]), THROTTLED);
    assert!(format!("{outcomes:?}").contains("Memory limit (for query) exceeded"), "{outcomes:?}");
    low.finish();
    server.finish();
}

#[tokio::test]
async fn an_error_that_comes_late_in_a_success_is_found() {
    let server = server().await;
    // The insert becomes a query whose result begins well and ends in an exception: the server has said 200 by then.
    let lines = format!(
        r#"location / {{ if ($arg_query) {{ rewrite ^ /late last; }} proxy_pass {0}; }}
           location = /late {{
             internal;
             set $args "query=SELECT+throwIf(number+%3D+1000000)+FROM+system.numbers+LIMIT+2000000";
             proxy_method GET;
             proxy_pass_request_body off;
             proxy_set_header Content-Length "";
             proxy_set_header Content-Encoding "";
             proxy_pass {0}/;
           }}"#,
        server.url()
    );
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let outcomes = deliver(&*open(&server, &json!({"url": front.url()})).await, &records(2)).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Unclear(_))), "{outcomes:?}");
    assert!(format!("{outcomes:?}").contains("Value passed to 'throwIf' function is non zero"), "{outcomes:?}");
    let passed = front.passed_are(5).await.expect("columns and settings, twice, and the insert");
    assert!(passed.iter().all(|request| request.status == 200), "the status was a success: {passed:?}");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_success_that_somebody_else_says_is_none() {
    let server = server().await;
    let lines =
        format!(r#"location / {{ if ($arg_query) {{ return 200 "welcome"; }} proxy_pass {0}; }}"#, server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let outcomes = deliver(&*open(&server, &json!({"url": front.url()})).await, &records(2)).await;
    assert_eq!(kind(&outcomes[0]), REFUSES);
    assert!(format!("{outcomes:?}").contains("welcome"), "{outcomes:?}");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_proxy_that_bounds_bodies_gets_smaller_ones() {
    let server = server().await;
    let lines = format!("location / {{ proxy_pass {}; client_max_body_size 4k; }}", server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    // No compression makes the last one small.
    let noise = |number: u64| -> Vec<u8> {
        let mut bytes = vec![0; if number == 99 { 8_000 } else { 100 }];
        rand::rng().fill(&mut bytes[..]);
        bytes
    };
    let queue = MemoryQueue::with((0..100).map(|number| message(number, noise(number))));
    let task = start(&queue, server.config(TABLE, &json!({"url": front.url()})));
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), [99]);
    assert!(format!("{ends:?}").contains("too_large"), "{ends:?}");
    assert_eq!((count(&server, TABLE).await, task.report().counters.send_success_total), (99, 99));
    front.finish();
    server.finish();
}
