//! A target that goes and comes, and a sink that has to stop.

use std::time::Instant;

use rustix::process::Signal;

use super::*;

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything() {
    const COUNT: u64 = 20_000;
    let mut server = server_alone().await;
    let queue = MemoryQueue::with((0..COUNT).map(numbered_message));
    let task = run(&queue, server.config(TABLE, &json!({ "batch_records": 100, "timeout_secs": 5 })));
    double::until("it is in the middle", || queue.position() > COUNT / 10).await;
    server.kill().expect("kills");
    let sent = task.report().counters.send_success_total;
    assert!(sent < COUNT, "killed too late");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    assert_eq!(server.count(TABLE).await.expect("counts"), COUNT);
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_and_has_everything() {
    let server = server_alone().await;
    let sink = open(&server, TABLE, &json!({ "timeout_secs": 60 })).await;
    let sent = numbered(0..1_000);
    server.signal(Signal::STOP).expect("stops");
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &sent), async {
        waits_at(&server).await;
        server.signal(Signal::CONT).expect("continues");
    });
    assert_eq!(outcomes, vec![Outcome::Delivered; 1_000]);
    assert_eq!(server.count(TABLE).await.expect("counts"), 1_000);
}

/// Something of ours has come to the server, which stands still.
async fn waits_at(server: &Cassandra) {
    let waits = wait::until(LIMIT, "the records wait at the server", async || {
        ensure!(ports::holds_unread(server.port()), "nothing has come");
        Ok(())
    });
    waits.await.expect("waits");
}

#[tokio::test]
async fn after_an_abort_nothing_more_leaves() {
    let server = server_alone().await;
    let sink = open(&server, TABLE, &json!({ "timeout_secs": 300 })).await;
    // More than the buffers on the way hold.
    let large: Vec<Record> = records((0..300).map(|_| vec![b'x'; 100 << 10]));
    server.signal(Signal::STOP).expect("stops");
    let ((outcomes, ended), aborted) = tokio::join!(
        async {
            let outcomes = deliver(&*sink, &large).await;
            (outcomes, Instant::now())
        },
        async {
            waits_at(&server).await;
            let aborted = Instant::now();
            sink.abort();
            aborted
        }
    );
    assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted), "{:?}", outcomes[0]);
    println!("measured: aborted after {:?}", ended - aborted);
    assert!(ended - aborted < crate::sink::ABORT_WITHIN * 10, "{:?}", ended - aborted);
    server.signal(Signal::CONT).expect("continues");
    connections_become(server.port(), 0).await;
    let written = server.count(TABLE).await.expect("counts");
    assert!(written < 200, "{written} of 300 left");
    let outcomes = deliver(&*sink, &large[..1]).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted, "an aborted sink stays aborted");
}

#[tokio::test]
async fn a_closed_sink_has_no_connections_and_delivers_nothing() {
    let server = server_alone().await;
    let sink = open(&server, TABLE, &json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered]);
    assert_eq!(ports::connections_to(server.port()).expect("counts"), 2);
    sink.close().await;
    connections_become(server.port(), 0).await;
    let outcomes = deliver(&*sink, &numbered(1..2)).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted);
    assert_eq!(server.count(TABLE).await.expect("counts"), 1);

    // A batch that was under way is not the target's failure.
    let sink = open(&server, TABLE, &json!({})).await;
    server.signal(Signal::STOP).expect("stops");
    let sent = numbered(10..20);
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &sent), async {
        waits_at(&server).await;
        sink.close().await;
    });
    assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted), "{outcomes:?}");
    server.signal(Signal::CONT).expect("continues");
}
