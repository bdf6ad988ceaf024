//! A target that goes and comes, and a sink that has to stop.

use rustix::process::Signal;

use super::*;

#[tokio::test]
async fn a_server_that_is_killed_in_the_middle_and_comes_back_has_everything_in_order() {
    let mut server = server_with(&[("appendfsync", "always")]).await;
    const COUNT: u64 = 20_000;
    let config = server.config(&json!({"command_template": "RPUSH of:${client_id} {payload}", "batch_records": 100}));
    let queue = MemoryQueue::with((0..COUNT).map(message));
    let task = start(&queue, config);
    double::until("it is in the middle", || queue.position() > 10_000).await;
    server.kill().expect("kills");
    let at = queue.position() / 10;
    assert!(at < COUNT, "killed at {at} of {COUNT}");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    server.start_again().await.expect("starts again");
    queue.all_committed().await;
    let mut twice = 0;
    for of in 0..9 {
        let key = format!("of:c{of}");
        let found = server.cli(&["LRANGE", &key, "0", "-1"]).await.expect("reads");
        let found: Vec<String> = found.lines().map(str::to_owned).collect();
        assert_ordered(&key, &found);
        let expect: std::collections::BTreeSet<String> =
            (0..COUNT).filter(|number| number % 9 == of).map(|number| number.to_string()).collect();
        let once: std::collections::BTreeSet<String> = found.iter().cloned().collect();
        assert!(once == expect, "{key}: {} of {}", once.len(), expect.len());
        twice += found.len() - once.len();
    }
    println!("measured: killed at {at} of {COUNT}: {twice} came twice");
    // What was under way when it was killed, and no more: the batches in flight.
    assert!(twice <= 400, "{twice} came twice");
    assert_eq!(task.report().counters.discard_total, 0);
    server.finish();
}

/// Waits until so many bytes lie in the sockets of a server that is paused.
async fn sent(server: &Redis, bytes: u64) {
    let sent = wait::until(LIMIT, "commands are on their way", async || {
        let unread = server.unread_bytes()?;
        ensure!(unread >= bytes, "{unread} of {bytes} bytes");
        Ok(())
    });
    sent.await.expect("sent");
}

/// Delivers while the server is paused; gives what it answers to `then` and how long that took.
async fn while_paused(server: &Redis, sink: &dyn Sink, then: impl Future<Output = ()>) -> (Vec<Outcome>, Duration) {
    server.signal(Signal::STOP).expect("pauses");
    let records = [record(1, "x"), record(2, "y")];
    let (outcomes, started) = tokio::join!(deliver(sink, &records), async {
        sent(server, 80).await;
        let started = Instant::now();
        then.await;
        started
    });
    (outcomes, started.elapsed())
}

#[tokio::test]
async fn a_paused_server_confirms_when_it_goes_on_and_an_abort_does_not_wait_for_it() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let (outcomes, _) = while_paused(&server, &*sink, async { server.signal(Signal::CONT).expect("goes on") }).await;
    assert_eq!(outcomes, vec![Outcome::Delivered; 2]);
    assert_eq!(server.list().await.expect("reads"), ["x", "y"]);

    let (outcomes, took) = while_paused(&server, &*sink, async { sink.abort() }).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    println!("measured: aborted after {took:?}");
    assert!(took < crate::sink::ABORT_WITHIN * 10, "{took:?}");
    let outcomes = deliver(&*sink, &[record(3, "z")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted, "an aborted sink stays aborted");
    drop(sink);
    server.signal(Signal::CONT).expect("goes on");
    connections_become(&server, 0).await;
    server.finish();
}

/// More than sockets hold, so that much of it is still here when the sink is aborted.
#[tokio::test]
async fn what_was_not_written_yet_never_leaves_after_an_abort() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1})).await;
    server.signal(Signal::STOP).expect("pauses");
    let records = [record(1, vec![b'x'; 64 << 20])];
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        sent(&server, 1 << 16).await;
        sink.abort();
    });
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Interrupted);
    server.signal(Signal::CONT).expect("goes on");
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(server.count().await.expect("counts"), 0);
    }
    drop(sink);
    connections_become(&server, 0).await;
    assert_eq!(server.count().await.expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn a_deliver_that_is_dropped_costs_the_others_nothing() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1})).await;
    server.signal(Signal::STOP).expect("pauses");
    let dropped = [record(1, "dropped")];
    let kept = [record(2, "kept")];
    let mut kept = std::pin::pin!(deliver(&*sink, &kept));
    tokio::select! {
        _ = deliver(&*sink, &dropped) => panic!("the server is paused"),
        _ = &mut kept => panic!("the server is paused"),
        // Both.
        () = sent(&server, 90) => {}
    }
    server.signal(Signal::CONT).expect("goes on");
    assert_eq!(kept.await, [Outcome::Delivered]);
    assert_eq!(deliver(&*sink, &[record(3, "next")]).await, [Outcome::Delivered]);
    let found = server.list().await.expect("reads");
    assert!(found.contains(&"kept".to_owned()) && found.last().is_some_and(|last| last == "next"), "{found:?}");
    assert_eq!(connections(&server).await.expect("counts"), 1, "the connection was kept");
    server.finish();
}

#[tokio::test]
async fn nothing_is_sent_behind_a_record_that_has_to_wait() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await.expect("fills");
    // Two windows: the second one is held.
    let records: Vec<Record> = (0..1_500).map(|number| record(number, number.to_string())).collect();
    let outcomes = deliver(&*sink, &records).await;
    let (full, held) = outcomes.split_at(1_000);
    assert!(full.iter().all(|outcome| kind(outcome) == TargetFaultKind::Full));
    assert!(held.iter().map(fault).all(|fault| fault.kind == TargetFaultKind::Interrupted && !fault.reopen));
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("makes room");
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 1_500]);
    let expect: Vec<String> = (0..1_500).map(|number| number.to_string()).collect();
    assert_eq!(server.list().await.expect("reads"), expect);
    server.finish();
}

#[tokio::test]
async fn nothing_is_sent_behind_a_record_that_is_refused_before_that_has_ended() {
    let server = server().await;
    server.cli(&["SET", "text", "x"]).await.expect("sets");
    let sink = open(&server, &json!({"command_template": "RPUSH ${topic[1]} {payload}"})).await;
    let mut records: Vec<Record> = (0..1_500).map(|number| record(number, number.to_string())).collect();
    records[10].message.topic = "plant/text".into();
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(class(&outcomes[10]), "redis_wrongtype");
    let delivered = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert_eq!(delivered, 999, "its own pipeline");
    assert!(outcomes[1_000..].iter().all(|outcome| kind(outcome) == TargetFaultKind::Interrupted));
    server.finish();
}
