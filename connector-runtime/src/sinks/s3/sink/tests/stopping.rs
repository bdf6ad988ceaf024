//! Stops and hand-overs, and how much is under way at once.

use std::time::Instant;

use rustix::process::Signal;

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
    let more = json!({"part_bytes": PART_BYTES, "batch_bytes": 64 << 20});
    let task = run(&queue, server.config(BUCKET, &more));
    double::until("an upload is begun", || server.unfinished(BUCKET).expect("counts") > 0).await;
    stop(task).await;
    queue.all_committed().await;
    let objects = server.objects(BUCKET).expect("reads");
    assert_eq!(array(only(&objects).1).len(), batch.len());
    assert_eq!(server.unfinished(BUCKET).expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn no_more_objects_are_open_than_was_asked_for() {
    let server = server().await;
    let sink = open(&server, &json!({"max_open_objects": 1, "timeout_secs": 1})).await;
    server.signal(Signal::STOP).expect("pauses");
    let batches = [records(1), records(2), records(3)];
    let outcomes =
        futures::future::join_all(batches.iter().map(|batch| async { deliver(&*sink, batch).await.remove(0) })).await;
    // When the first one is given up, one of the others may take its place; not both.
    let waiting: Vec<&Outcome> =
        outcomes.iter().filter(|outcome| kind(outcome) == TargetFaultKind::Interrupted).collect();
    assert!((1..=2).contains(&waiting.len()), "{outcomes:?}");
    assert!(waiting.iter().all(|outcome| fault(outcome).message.contains("max_open_objects")), "{waiting:?}");
    assert!(waiting.iter().all(|outcome| !fault(outcome).reopen), "they come again to the same sink: {waiting:?}");
    server.signal(Signal::CONT).expect("continues");
    for batch in &batches {
        assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; batch.len()]);
    }
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 3);
    server.finish();
}
