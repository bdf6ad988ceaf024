//! Topics that move, and calls that end before their answers come.

use super::relay::{Change, Relay};
use super::*;

#[tokio::test]
async fn a_topic_that_is_unloaded_is_found_again() {
    let server = server().await;
    server.create_deduplicating("public/moving").await.expect("makes the namespace");
    let topic = "public/moving/unloaded";
    let sink = opened(server.config(topic, &json!({}))).await;
    // The broker says that it has closed the producer while nothing comes: no attempt is lost by it.
    for round in 0..5 {
        delivered(&*sink, &numbered(round * 10..round * 10 + 10)).await;
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

#[tokio::test]
async fn a_producer_that_nobody_waited_for_keeps_nobody_out() {
    let server = server().await;
    let relay = Relay::start(server.port(), Change::HoldsProducers).await;
    let sink = opened(relay.config("left-behind")).await;
    let records = numbered(1..=3);
    tokio::select! {
        outcomes = deliver(&*sink, &records) => panic!("{outcomes:?}"),
        () = relay.holds() => {}
    }
    // The broker has a producer of this name by now or has it soon, and it is ours.
    relay.let_go();
    delivered(&*sink, &records).await;
    assert_eq!(texts(&server, "left-behind").await, as_texts(1..=3));
    let stats = server.stats("left-behind").await.expect("reads");
    assert_eq!(stats["publishers"].as_array().map(Vec::len), Some(1));
}
