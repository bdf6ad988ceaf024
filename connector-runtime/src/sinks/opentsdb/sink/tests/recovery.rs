//! A target that goes and comes, refuses, and is behind TLS.

use std::time::Instant;

use ::tests::ports;
use rustix::process::Signal;

use super::*;

/// What it had confirmed VictoriaMetrics may lose; everything else is sent again. What it has twice at the same time is
/// there once.
#[tokio::test]
async fn what_a_server_had_not_confirmed_when_it_was_killed_is_there_in_the_end() {
    const COUNT: u64 = 3_000;
    let mut server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| message(number, &json!({"metric": "t", "value": number}))));
    let task = run(&queue, &server.url(), &json!({"batch_records": 10, "max_records_per_second": 2_000}));
    double::until("it is in the middle", || queue.position() > 3_000).await;
    server.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    let confirmed = queue.position().div_ceil(10);
    assert!((300..COUNT).contains(&confirmed), "killed at {confirmed} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    let points = server.series().await.expect("reads").remove(0).points;
    println!("measured: it lost {} of the {confirmed} that it had confirmed", COUNT - points.len() as u64);
    let point = |number| (1_700_000_000_000 + number, number as f64);
    let expect: Vec<(u64, f64)> = (confirmed..COUNT).map(point).collect();
    assert!(points.ends_with(&expect), "{} of {COUNT} are there", points.len());
    server.finish();
}

#[tokio::test]
async fn nothing_is_sent_after_a_request_that_failed() {
    let front = FrontOptions { lines: "location /api/put { return 503; }".to_owned(), ..FrontOptions::default() };
    let front = Front::start(front).await.expect("nginx starts");
    let sink = open(&front.url(), &json!({"request_bytes": 1_024})).await;
    let records: Vec<Record> =
        (0..1_000).map(|number| record(number, format!("{{\"metric\":\"t\",\"value\":{number}}}"))).collect();
    let outcomes = deliver(&*sink, &records).await;
    let down = outcomes.iter().filter(|outcome| kind(outcome) == TargetFaultKind::Down).count();
    let held: Vec<&Outcome> = outcomes.iter().filter(|outcome| kind(outcome) == TargetFaultKind::Interrupted).collect();
    assert!(down > 10 && held.len() > 500 && down + held.len() == 1_000, "{down} {}", held.len());
    assert!(held.iter().all(|outcome| matches!(outcome, Outcome::TargetFault(fault) if !fault.reopen)));
    let passed = front.passed().expect("reads the log").len();
    assert!(passed <= 2 * REQUESTS_AT_ONCE, "{passed} requests");
    front.finish();
}

#[tokio::test]
async fn a_batch_too_large_for_what_is_in_between_is_halved_until_it_fits() {
    let server = server().await;
    let lines = format!("client_max_body_size 1k; location /api/put {{ proxy_pass {}; }}", server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let queue = MemoryQueue::with((0..100).map(|number| {
        let site = if number == 50 { "x".repeat(2_000) } else { "n".to_owned() };
        message(number, &json!({"metric": "t", "value": number, "site": site}))
    }));
    let task = run(&queue, &front.url(), &json!({}));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [50]);
    assert_eq!(task.report().counters.send_success_total, 99);
    assert_eq!(server.series().await.expect("reads")[0].points.len(), 99);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_lost_connection_is_tried_again_as_often_as_is_allowed() {
    let server = server().await;
    // nginx closes the connection without an answer.
    let front = FrontOptions { lines: "location /api/put { return 444; }".to_owned(), ..FrontOptions::default() };
    let front = Front::start(front).await.expect("nginx starts");
    let mut asked = 0;
    for retries in [0, 3] {
        let sink = open(&front.url(), &json!({"max_retries": retries})).await;
        let outcomes = deliver(&*sink, &[record(1, r#"{"metric":"t","value":1}"#)]).await;
        assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
        asked += retries + 1;
        front.passed_are(asked).await.expect("as many requests");
    }
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_slow_server_is_given_up_once_and_an_abort_is_at_once() {
    let server = server().await;
    let records = [record(1, r#"{"metric":"t","value":1}"#)];
    server.signal(Signal::STOP).expect("pauses");
    let started = Instant::now();
    let outcomes = deliver(&*open(&server.url(), &json!({"timeout_secs": 1})).await, &records).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    let took = started.elapsed();
    assert!((1_000..3_500).contains(&took.as_millis()), "a late answer is not tried again: {took:?}");
    let sink = open(&server.url(), &json!({"timeout_secs": 300})).await;
    let (outcomes, aborted) = tokio::join!(async { (deliver(&*sink, &records).await, Instant::now()) }, async {
        double::until("the request waits at the server", || ports::holds_unread(server.put_port())).await;
        let aborted = Instant::now();
        sink.abort();
        aborted
    });
    let (outcomes, ended) = outcomes;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    println!("measured: aborted after {:?}", ended - aborted);
    assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted);
    server.signal(Signal::CONT).expect("continues");
    assert_eq!(kind(&deliver(&*sink, &records).await[0]), TargetFaultKind::Interrupted, "it stays aborted");
    server.finish();
}

#[tokio::test]
async fn statuses_of_a_server_or_of_what_is_in_between_are_understood() {
    let lines = "location /a/api/put { return 401; }
                 location /b/api/put { return 403; }
                 location /c/api/put { return 404; }
                 location /d/api/put { add_header Retry-After 7 always; return 503; }
                 location /e/api/put { return 200 'log in first'; }
                 location /f/api/put { return 302 http://127.0.0.1/; }";
    let front =
        Front::start(FrontOptions { lines: lines.to_owned(), ..FrontOptions::default() }).await.expect("starts");
    for (path, expect) in [
        ("a", TargetFaultKind::Auth),
        ("b", TargetFaultKind::Permission),
        ("c", TargetFaultKind::Missing),
        ("d", TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(7)) }),
        ("e", TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
        ("f", TargetFaultKind::Misconfigured("TARGET_REDIRECTS")),
    ] {
        let sink = open(&format!("{}/{path}", front.url()), &json!({})).await;
        let outcomes = deliver(&*sink, &[record(1, r#"{"metric":"t","value":1}"#)]).await;
        assert_eq!(kind(&outcomes[0]), expect, "{path}");
    }
    front.finish();
}

#[tokio::test]
async fn tls_verifies_chain_and_name_and_shows_a_certificate() {
    let server = server().await;
    let lines = format!("location /api/put {{ proxy_pass {}; }}", server.url());
    let names = Some("DNS:tsdb.example.org".to_owned());
    let front =
        Front::start(FrontOptions { lines, tls_names: names, client_certificate: true, ..FrontOptions::default() })
            .await
            .expect("starts");
    let certificates = front.certificates().expect("speaks TLS");
    let whole = json!({
        "ca_cert_path": certificates.ca, "tls_server_name": "tsdb.example.org",
        "client_cert_path": certificates.client, "client_key_path": certificates.client_key,
    });
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    for (change, expect) in [
        (json!({}), None),
        (json!({"tls_server_name": "other.example.org"}), untrusted),
        (json!({"ca_cert_path": null}), untrusted),
        (json!({"ca_cert_path": null, "tls_verify": false}), None),
    ] {
        let mut config = whole.clone();
        for (field, value) in change.as_object().expect("an object") {
            config[field] = value.clone();
        }
        let outcomes = deliver(&*open(&front.url(), &config).await, &[record(1, r#"{"metric":"t","value":1}"#)]).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{change}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{change} {outcomes:?}"),
        }
    }
    front.finish();
    server.finish();
}
