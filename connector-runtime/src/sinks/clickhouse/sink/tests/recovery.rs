//! A target that goes and comes, and a sink that has to stop.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ::tests::ports;
use rustix::process::Signal;

use super::*;
use crate::pipeline::tests::double::until;

const COUNT: u64 = 3_000;
const BATCH: u64 = 20;

/// A server without tokens has no more than the batches under way twice.
async fn all_are_there(server: &ClickHouse, queue: &MemoryQueue, task: &RunningTask, interruptions: u64) {
    let query = format!("SELECT count() AS all, uniqExact(payload) AS different FROM {DATABASE}.{TABLE}");
    let row = rows(server, &query).await.remove(0);
    assert_eq!(row["different"], COUNT);
    let all = row["all"].as_u64().expect("a number");
    println!("measured: {} came again", all - COUNT);
    assert!(all - COUNT <= interruptions * 4 * BATCH, "{row}");
    assert_eq!(queue.ends(), BTreeMap::new());
    assert_eq!(task.report().counters.send_success_total, COUNT);
}

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything() {
    let mut server = server().await;
    let queue = numbered(COUNT);
    let task = start(&queue, server.config(TABLE, &json!({"batch_records": BATCH})));
    until("it is in the middle", || queue.position() > 3_000).await;
    server.kill().expect("kills");
    until("it is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE")).await;
    let at = queue.position() / 10;
    assert!((300..COUNT).contains(&at), "killed at {at} of {COUNT}");
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    all_are_there(&server, &queue, &task, 1).await;
    server.finish();
}

#[tokio::test]
async fn a_server_that_is_paused_in_the_middle_has_everything() {
    let server = server().await;
    let queue = numbered(COUNT);
    let task = start(&queue, server.config(TABLE, &json!({"batch_records": BATCH, "timeout_secs": 1})));
    until("it is in the middle", || queue.position() > 3_000).await;
    server.signal(Signal::STOP).expect("pauses");
    until("it is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE")).await;
    assert!(task.report().last_error.is_some_and(|error| error.contains("no answer within 1000 ms")));
    server.signal(Signal::CONT).expect("continues");
    queue.all_committed().await;
    // While it stands still, it is asked again and again.
    all_are_there(&server, &queue, &task, 5).await;
    server.finish();
}

#[tokio::test]
async fn a_refused_connection_is_told_at_once() {
    let mut server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 300})).await;
    server.kill().expect("kills");
    let started = Instant::now();
    let outcomes = deliver(&*sink, &records(1)).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down);
    assert!(format!("{outcomes:?}").contains("refused"), "{outcomes:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    server.finish();
}

#[tokio::test]
async fn an_abort_ends_a_request_at_once_and_for_good() {
    let server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 300, "pool_size": 1})).await;
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    server.signal(Signal::STOP).expect("pauses");
    let sent = [record(2, "2")];
    let both = async { (deliver(&*sink, &sent).await, deliver(&*sink, &sent).await, Instant::now()) };
    let (outcomes, aborted) = tokio::join!(both, async {
        until("the request waits at the server", || ports::holds_unread(server.port())).await;
        let aborted = Instant::now();
        sink.abort();
        aborted
    });
    let (under_way, waiting, ended) = outcomes;
    assert_eq!(kind(&under_way[0]), TargetFaultKind::Interrupted);
    assert_eq!(kind(&waiting[0]), TargetFaultKind::Interrupted, "an aborted sink stays aborted");
    println!("measured: aborted after {:?}", ended - aborted);
    assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted);
    server.signal(Signal::CONT).expect("continues");
    server.finish();
}

#[tokio::test]
async fn a_deliver_that_is_dropped_can_be_asked_again() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1})).await;
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    let sent = records(100);
    server.signal(Signal::STOP).expect("pauses");
    tokio::select! {
        outcomes = deliver(&*sink, &sent) => panic!("the server is paused: {outcomes:?}"),
        () = until("the request waits at the server", || ports::holds_unread(server.port())) => {}
    }
    server.signal(Signal::CONT).expect("continues");
    // Its connection is free again, and so is its place in the pool.
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 100]);
    server.finish();
}
