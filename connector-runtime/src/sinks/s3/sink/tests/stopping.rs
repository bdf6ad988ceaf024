//! Stops and hand-overs, and how much is under way at once.

use std::time::Instant;

use ::tests::ports;
use rustix::process::Signal;

use super::held::Held;
use super::*;

/// Finishes what is under way.
async fn stop(task: RunningTask) {
    task.drain.cancel();
    task.end().await;
}

#[tokio::test]
async fn a_stop_writes_no_object_before_its_time_and_loses_nothing() {
    let server = server().await;
    let queue = numbered(250);
    let config = server.config(BUCKET, &json!({"batch_records": 100, "linger_ms": 600_000}));
    let task = run(&queue, config.clone());
    double::until("the full ones are there", || queue.position() == 1_991).await;
    double::until("the rest waits for more", || queue.lingering() > 0).await;
    let started = Instant::now();
    stop(task).await;
    assert!(started.elapsed() < Duration::from_secs(20), "a batch that waits holds no stop: {:?}", started.elapsed());
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 2);
    // The next owner seals what has come meanwhile with what was there.
    queue.append((250..300).map(|number| message(number, format!("{{\"n\":{number}}}"))));
    let next = run(&queue, config);
    queue.all_committed().await;
    all_are_there_once(&server, 300);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 3);
    stop(next).await;
    server.finish();
}

#[tokio::test]
async fn an_object_under_way_is_finished_before_a_stop() {
    let server = server().await;
    let batch = large(30 << 20);
    let queue = MemoryQueue::with(batch.iter().map(|record| record.message.clone()));
    let held = Held::before(&server.url()).await;
    let more = json!({"endpoint": held.url(), "part_bytes": PART_BYTES, "batch_bytes": 64 << 20});
    let task = run(&queue, server.config(BUCKET, &more));
    held.holds(1).await;
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 1);
    task.drain.cancel();
    held.let_go();
    task.end().await;
    queue.all_committed().await;
    let objects = server.objects(BUCKET).expect("reads");
    assert_eq!(array(only(&objects).1).len(), batch.len());
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 0);
    held.finish();
    server.finish();
}

#[tokio::test]
async fn no_more_objects_are_open_than_was_asked_for() {
    for most in [1, 3] {
        let server = server().await;
        let sink = open(&server, &json!({"max_open_objects": most})).await;
        server.signal(Signal::STOP).expect("pauses");
        let batches = [records(1), records(2), records(3)];
        let deliveries = batches.iter().map(|batch| deliver(&*sink, batch));
        let (outcomes, ()) = tokio::join!(futures::future::join_all(deliveries), async {
            double::until("as many requests wait at the server", || ports::unread(server.port()) == most).await;
            assert_eq!(ports::connections_to(server.port()).expect("counts"), most);
            server.signal(Signal::CONT).expect("continues");
        });
        assert!(outcomes.iter().flatten().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
        assert_eq!(server.objects(BUCKET).expect("reads").len(), 3);
        server.finish();
    }
}

#[tokio::test]
async fn an_object_that_finds_no_place_comes_again_to_the_same_sink() {
    let server = server().await;
    let sink = open(&server, &json!({"max_open_objects": 1, "timeout_secs": 1, "part_bytes": PART_BYTES})).await;
    server.signal(Signal::STOP).expect("pauses");
    // Its first request is sent when two parts of it are made: after the other one has begun to wait.
    let (large, small) = (large(20 << 20), records(1));
    let mut first = Box::pin(deliver(&*sink, &large));
    assert!(futures::poll!(&mut first).is_pending(), "it has the place");
    let (waited, first) = tokio::join!(deliver(&*sink, &small), first);
    assert_eq!(kind(&first[0]), TargetFaultKind::Down, "{:?}", first[0]);
    assert_eq!(kind(&waited[0]), TargetFaultKind::Interrupted, "{waited:?}");
    assert!(fault(&waited[0]).message.contains("max_open_objects"), "{waited:?}");
    assert!(!fault(&waited[0]).reopen, "{waited:?}");
    server.signal(Signal::CONT).expect("continues");
    assert_eq!(deliver(&*sink, &small).await, [Outcome::Delivered]);
    server.finish();
}
