//! A target that goes and comes, and a sink that has to stop.

use std::time::Instant;

use ::tests::ports;
use rustix::process::Signal;

use super::*;

const COUNT: u64 = 3_000;

fn numbered() -> std::sync::Arc<MemoryQueue> {
    MemoryQueue::with((0..COUNT).map(|number| message(number, &json!({"n": number}))))
}

async fn all_are_there_once(server: &InfluxDb, task: &RunningTask) {
    let rows = server.rows("SELECT count(n), sum(n) FROM mqtt").await.expect("reads");
    assert_eq!((&rows[0]["count"], rows[0]["sum"].as_u64()), (&json!(COUNT), Some(COUNT * (COUNT - 1) / 2)));
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything_once() {
    let mut server = server().await;
    let queue = numbered();
    let task = run(&queue, server.config(&json!({"batch_records": 20})));
    double::until("it is in the middle", || queue.position() > 3_000).await;
    server.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    let at = queue.position() / 10;
    assert!((300..COUNT).contains(&at), "killed at {at} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    all_are_there_once(&server, &task).await;
    server.finish();
}

#[tokio::test]
async fn a_server_that_is_paused_in_the_middle_has_everything_once() {
    let server = server().await;
    let queue = numbered();
    let task = run(&queue, server.config(&json!({"batch_records": 20, "timeout_secs": 1})));
    double::until("it is in the middle", || queue.position() > 3_000).await;
    server.signal(Signal::STOP).expect("pauses");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("no answer within 1000 ms")));
    server.signal(Signal::CONT).expect("continues");
    queue.all_committed().await;
    all_are_there_once(&server, &task).await;
    server.finish();
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let mut server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 300})).await;
    server.kill().expect("kills");
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    server.finish();
}

#[tokio::test]
async fn an_abort_ends_a_request_at_once_and_for_good() {
    let server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 300})).await;
    assert_eq!(deliver(&*sink, &[record(1, "{\"n\":1}")]).await, [Outcome::Delivered]);
    server.signal(Signal::STOP).expect("pauses");
    let records = [record(2, "{\"n\":2}")];
    let (outcomes, aborted) = tokio::join!(
        async {
            let outcomes = deliver(&*sink, &records).await;
            (outcomes, Instant::now())
        },
        async {
            double::until("the request waits at the server", || ports::holds_unread(server.port())).await;
            let aborted = Instant::now();
            sink.abort();
            aborted
        }
    );
    let (outcomes, ended) = outcomes;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    println!("measured: aborted after {:?}", ended - aborted);
    assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted);
    server.signal(Signal::CONT).expect("continues");
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted, "an aborted sink stays aborted");
    // The first, and perhaps the one that was at the server when it was aborted.
    let requests = server.writes().expect("reads the log").len();
    assert!(requests <= 2, "{requests}");
    server.finish();
}

#[tokio::test]
async fn a_deliver_that_is_dropped_can_be_asked_again() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let records: Vec<Record> = (0..100).map(|number| record(number, "{\"n\":1}")).collect();
    server.signal(Signal::STOP).expect("pauses");
    tokio::select! {
        outcomes = deliver(&*sink, &records) => panic!("the server is paused: {outcomes:?}"),
        () = double::until("the request waits at the server", || ports::holds_unread(server.port())) => {}
    }
    server.signal(Signal::CONT).expect("continues");
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
    assert_eq!(server.count("mqtt", "n").await.expect("counts"), 100);
    server.finish();
}
