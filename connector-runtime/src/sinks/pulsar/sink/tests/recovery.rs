//! Topics that move, brokers that go and come, and a sink that has to stop.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::*;
use crate::sink::ABORT_WITHIN;

#[tokio::test]
async fn a_topic_that_is_unloaded_is_found_again() {
    let server = server().await;
    server.create_deduplicating("public/moving").await.expect("makes the namespace");
    let topic = "public/moving/unloaded";
    let sink = opened(server.config(topic, &json!({}))).await;
    for round in 0..5 {
        delivers(&*sink, &numbered(round * 10..round * 10 + 10)).await;
        server.unload(topic).await.expect("unloads");
    }
    assert_eq!(texts(&server, topic).await, as_texts(0..50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_unloaded_under_load_loses_nothing_and_repeats_nothing() {
    const COUNT: u64 = 10_000;
    let server = server().await;
    server.create_deduplicating("public/busy").await.expect("makes the namespace");
    let topic = "public/busy/unloaded";
    let more = json!({"max_records_per_second": 4_000});
    let sink = node().sink_for(NAME, "pulsar", server.config(topic, &more));
    let queue = MemoryQueue::numbered(COUNT);
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    for part in 1..=3 {
        let some = wait::until(LIMIT, "some are delivered", async || {
            let sent = task.report().counters.send_success_total;
            ensure!(sent > part * COUNT / 5, "{sent}");
            Ok(())
        });
        some.await.expect("delivers");
        server.unload(topic).await.expect("unloads");
    }
    queue.all_committed().await;
    assert_eq!(texts(&server, topic).await, (0..COUNT).map(|number| format!("p{number}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_in_the_middle_and_comes_back_has_everything() {
    const COUNT: u64 = 10_000;
    let mut server = Pulsar::start().await.expect("Pulsar starts");
    server.create_deduplicating("public/once").await.expect("makes the namespace");
    let more = json!({"connection_timeout_secs": 2, "max_records_per_second": 3_000});
    let topics = ["killed", "public/once/killed"];
    let running: Vec<_> = topics
        .map(|topic| {
            let sink = node().sink_for(NAME, "pulsar", server.config(topic, &more));
            let queue = MemoryQueue::numbered(COUNT);
            let setup = Setup { order: sink.order, ..Setup::default() };
            let task = setup.start_with(&queue, sink.opener, sink.options);
            (topic, queue, task)
        })
        .into();
    let (_, _, first) = &running[0];
    let some = wait::until(LIMIT, "some are delivered", async || {
        let sent = first.report().counters.send_success_total;
        ensure!(sent > COUNT / 10, "{sent}");
        Ok(sent)
    });
    let sent = some.await.expect("delivers");
    server.kill().expect("kills");
    assert!(sent < COUNT, "all were sent before");
    let noticed = wait::until(LIMIT, "the loss is shown", async || {
        let reason = first.report().health_reason;
        ensure!(reason.as_deref() == Some("TARGET_UNREACHABLE"), "{reason:?}");
        Ok(())
    });
    noticed.await.expect("is shown");
    server.start_again().await.expect("starts again");
    for (topic, queue, task) in &running {
        queue.all_committed().await;
        assert_eq!(task.report().counters.send_success_total, COUNT);
        let mut times: BTreeMap<String, u32> = BTreeMap::new();
        for text in texts(&server, topic).await {
            *times.entry(text).or_default() += 1;
        }
        let repeated = times.values().filter(|count| **count > 1).count();
        println!("measured: {topic}: killed at {sent}, {repeated} of {COUNT} stand there twice");
        assert_eq!(times.len() as u64, COUNT, "{topic}");
        // The one batch that was under way, where nobody drops it.
        let at_most = if topic.contains("once") { 0 } else { 100 };
        assert!(repeated <= at_most, "{topic}: {repeated} repeated");
    }
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_sink_is_silent_at_once() {
    let server = Pulsar::start().await.expect("Pulsar starts");
    let sink = Arc::<dyn Sink>::from(opened(server.config("aborted", &json!({}))).await);
    delivered(&*sink, &numbered(1..=2)).await;
    server.signal(Signal::STOP).expect("stops");
    // More than the kernel takes for a process that reads nothing.
    let large: Vec<Record> = (3..40).map(|number| record(number, vec![b'x'; 1 << 20])).collect();
    let delivering = {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { deliver(&*sink, &large).await })
    };
    let sent = wait::until(LIMIT, "some of it is sent", async || {
        ensure!(ports::holds_unread(server.port()), "nothing");
        Ok(())
    });
    sent.await.expect("is sent");
    let started = Instant::now();
    sink.abort();
    let outcomes = delivering.await.expect("ends");
    assert!(started.elapsed() < ABORT_WITHIN, "{:?}", started.elapsed());
    assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted), "{outcomes:?}");
    let after = deliver(&*sink, &numbered(50..=50)).await;
    assert_eq!(fault(&after[0]).kind, TargetFaultKind::Interrupted);
    server.signal(Signal::CONT).expect("continues");
    connections_become(server.port(), 0).await;
    // An entry that was cut in the middle is none.
    assert_eq!(texts(&server, "aborted").await, as_texts(1..=2));
    server.finish();
}

#[tokio::test]
async fn closing_gives_producers_and_connections_back() {
    let server = Pulsar::start().await.expect("Pulsar starts");
    for end in ["close", "drop"] {
        let sink = opened(server.config("closed", &json!({}))).await;
        delivers(&*sink, &numbered(1..=3)).await;
        assert_eq!(ports::connections_to(server.port()).expect("counts"), 1, "{end}");
        if end == "close" {
            sink.close().await;
            let after = deliver(&*sink, &numbered(4..=4)).await;
            assert_eq!(fault(&after[0]).kind, TargetFaultKind::Interrupted);
        } else {
            drop(sink);
        }
        connections_become(server.port(), 0).await;
        let gone = wait::until(LIMIT, "the producer is gone", async || {
            let stats = server.stats("closed").await?;
            ensure!(stats["publishers"].as_array().is_some_and(Vec::is_empty), "{}", stats["publishers"]);
            Ok(())
        });
        gone.await.expect("is gone");
    }
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_half_way_does_no_harm_to_the_next() {
    let server = Pulsar::start().await.expect("Pulsar starts");
    server.create_deduplicating("public/once").await.expect("makes the namespace");
    let topic = "public/once/dropped";
    let sink = opened(server.config(topic, &json!({}))).await;
    delivered(&*sink, &numbered(1..=2)).await;
    server.signal(Signal::STOP).expect("stops");
    let records = numbered(3..=10);
    {
        let dropped = deliver(&*sink, &records);
        let sent = wait::until(LIMIT, "it is sent", async || {
            ensure!(ports::holds_unread(server.port()), "nothing");
            Ok(())
        });
        tokio::select! {
            outcomes = dropped => panic!("{outcomes:?}"),
            sent = sent => sent.expect("is sent"),
        }
    }
    server.signal(Signal::CONT).expect("continues");
    // With other bounds than those of what is still under way.
    delivers(&*sink, &numbered(3..=7)).await;
    delivers(&*sink, &numbered(8..=12)).await;
    assert_eq!(texts(&server, topic).await, as_texts(1..=12));
    server.finish();
}
