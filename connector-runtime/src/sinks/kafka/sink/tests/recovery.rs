//! Brokers that go and come, and a sink that has to stop.

use std::time::Instant;

use api_types::Message;
use rustix::process::Signal;

use super::*;

/// Message `number` of twenty devices; its payload is its number.
fn numbered(count: u64) -> impl Iterator<Item = Message> {
    (0..count).map(|number| Message {
        topic: "numbers".into(),
        client_id: format!("device-{}", number % 20),
        payload: number.to_string().into_bytes().into(),
        timestamp_ms: 1_700_000_000_000,
        ..Message::default()
    })
}

/// How often each number arrived; the first arrivals of each device are in order.
async fn arrivals_in_order(server: &Kafka, topic: &str) -> BTreeMap<u64, u32> {
    let mut times = BTreeMap::new();
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for received in messages(server, topic).await {
        let number: u64 = received.text().parse().expect("a number");
        let count = times.entry(number).or_insert(0);
        *count += 1;
        if *count == 1 {
            let before = last.insert(number % 20, number);
            assert!(before < Some(number), "{topic}: {number} came after {before:?}");
        }
    }
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_in_the_middle_and_comes_back_has_everything_in_order() {
    const COUNT: u64 = 20_000;
    let options = KafkaOptions {
        settings: vec![("auto.create.topics.enable".to_owned(), "true".to_owned())],
        ..KafkaOptions::default()
    };
    let mut server = Kafka::with(options).await.expect("Kafka starts");
    for acks in ["1", "all"] {
        // Nobody made it: the broker does when it is asked.
        let topic = format!("restart-{acks}");
        let more = json!({"acks": acks, "batch_records": 200, "max_records_per_second": 5_000});
        let sink = node().sink_for(NAME, "kafka", server.config(&topic, &more));
        let queue = MemoryQueue::with(numbered(COUNT));
        let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
        until("a part is committed", || queue.position() > 20_000).await;
        server.kill(0).expect("kills");
        let at = queue.position() / 10;
        assert!(at < COUNT - 1, "too fast to be interrupted");
        server.start_again(0).await.expect("starts again");
        queue.all_committed().await;
        let times = arrivals_in_order(&server, &topic).await;
        let repeated = times.values().filter(|count| **count > 1).count();
        println!("measured: acks {acks}: killed at {at}, {repeated} of {COUNT} arrived twice");
        assert_eq!(times.len() as u64, COUNT);
        // A message whose confirmation was lost is sent again; an idempotent producer's is known to the broker.
        assert!(repeated == 0 || acks == "1", "{repeated} repeated");
        assert_eq!(task.report().counters.send_success_total, COUNT);
    }
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broker_of_three_is_killed_and_nothing_is_lost_or_repeated() {
    const COUNT: u64 = 20_000;
    let options = KafkaOptions { brokers: 3, ..KafkaOptions::default() };
    let mut server = Kafka::with(options).await.expect("Kafka starts");
    server.create_topic("cluster", 6, &[("min.insync.replicas", "2")]).await.expect("makes the topic");
    server.create_topic("demanding", 1, &[("min.insync.replicas", "3")]).await.expect("makes the topic");
    let more = json!({"acks": "all", "batch_records": 200, "max_records_per_second": 5_000});
    let sink = node().sink_for(NAME, "kafka", server.config("cluster", &more));
    let queue = MemoryQueue::with(numbered(COUNT));
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    until("a part is committed", || queue.position() > 20_000).await;
    let leaders = server.leaders("cluster").await.expect("reads the leaders");
    assert!(leaders.contains(&0), "{leaders:?}");
    server.kill(0).expect("kills");
    let (at, killed) = (queue.position() / 10, Instant::now());
    assert!(at < COUNT - 1, "too fast to be interrupted");
    queue.all_committed().await;
    println!("measured: killed at {at} of {COUNT}, all committed {:?} later", killed.elapsed());
    acks_all_waits_for_the_replicas_that_the_topic_demands(&server).await;
    server.start_again(0).await.expect("starts again");
    // What was taken with fewer replicas than the topic demands is read once they are back.
    assert_eq!(server.arrived("demanding", 2, LIMIT).await.expect("arrive").len(), 2);
    let times = arrivals_in_order(&server, "cluster").await;
    let repeated = times.values().filter(|count| **count > 1).count();
    assert_eq!((times.len() as u64, repeated), (COUNT, 0));
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    server.finish();
}

/// While one of three is away.
async fn acks_all_waits_for_the_replicas_that_the_topic_demands(server: &Kafka) {
    for acks in ["0", "1"] {
        let sink = opened(server.config("demanding", &json!({"acks": acks}))).await;
        assert_eq!(deliver(&*sink, &[record(1, acks)]).await, [Outcome::Delivered], "{acks}");
        sink.close().await;
    }
    let mut took = Vec::new();
    for retries in [0, 8] {
        let sink = opened(server.config("demanding", &json!({"acks": "all", "retries": retries}))).await;
        let started = Instant::now();
        let outcomes = deliver(&*sink, &[record(2, "all")]).await;
        took.push(started.elapsed());
        let fault = fault(&outcomes[0]);
        assert_eq!(fault.kind, TargetFaultKind::Down);
        assert!(fault.message.contains("Not enough in-sync replicas"), "{}", fault.message);
    }
    println!("measured: not enough replicas with 0 and 8 retries after {took:?}");
    // The client pauses a hundredth of a second before its first retry, and doubles that up to a second.
    assert!(took[1] > took[0] + Duration::from_millis(1_000), "{took:?}");
}

/// Only requests with messages are longer.
const MORE_THAN_ANY_QUESTION: u64 = 10_000;

/// A broker that keeps its connections and answers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still() {
    let server = Kafka::start().await.expect("Kafka starts");
    server.create_topic("still", 1, &[]).await.expect("makes the topic");
    times_out(&server).await;
    closes_within_the_cleanup_timeout(&server).await;
    is_aborted(&server).await;
    is_dropped(&server).await;
    waits_for_room(&server).await;
    server.finish();
}

async fn paused<T>(server: &Kafka, body: impl Future<Output = T>) -> T {
    server.signal(0, Signal::STOP).expect("stops");
    let value = body.await;
    server.signal(0, Signal::CONT).expect("continues");
    value
}

async fn times_out(server: &Kafka) {
    let sink = opened(server.config("still", &json!({"message_timeout_ms": 1_000}))).await;
    assert_eq!(deliver(&*sink, &[record(1, "before")]).await, [Outcome::Delivered]);
    let (outcomes, took) = paused(server, async {
        let started = Instant::now();
        (deliver(&*sink, &[record(2, "timed out")]).await, started.elapsed())
    })
    .await;
    println!("measured: message_timeout_ms 1000: given up after {took:?}");
    assert_eq!((fault(&outcomes[0]).kind, fault(&outcomes[0]).reopen), (TargetFaultKind::Down, false));
    assert!(fault(&outcomes[0]).message.contains("timed out"), "{outcomes:?}");
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(10), "{took:?}");
    let works = ::tests::wait::until(LIMIT, "it goes on", async || {
        let outcomes = deliver(&*sink, &[record(3, "after")]).await;
        anyhow::ensure!(outcomes[0] == Outcome::Delivered, "{outcomes:?}");
        Ok(())
    });
    works.await.expect("goes on");

    // Who wants no confirmation waits for none.
    let sink = opened(server.config("still", &json!({"acks": "0"}))).await;
    assert_eq!(deliver(&*sink, &[record(4, "before")]).await, [Outcome::Delivered]);
    let outcomes = paused(server, deliver(&*sink, &[record(5, "unconfirmed")])).await;
    assert_eq!(outcomes, [Outcome::Delivered]);
}

async fn closes_within_the_cleanup_timeout(server: &Kafka) {
    for (cleanup_timeout_secs, least, most) in [(0, 0, 2_000), (3, 2_900, 20_000)] {
        let more = json!({"cleanup_timeout_secs": cleanup_timeout_secs});
        let sink = opened(server.config("still", &more)).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
        let (outcomes, took) = paused(server, async {
            let records = [record(2, "x")];
            tokio::join!(deliver(&*sink, &records), async {
                let started = Instant::now();
                sink.close().await;
                started.elapsed()
            })
        })
        .await;
        println!("measured: cleanup_timeout_secs {cleanup_timeout_secs}: closed after {took:?}");
        assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted);
        assert!((least..most).contains(&took.as_millis()), "{took:?}");
    }
    // What is on its way is waited for when it can be confirmed.
    let sink = opened(server.config("still", &json!({"linger_ms": 500}))).await;
    let records = [record(3, "x")];
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), sink.close());
    assert_eq!(outcomes, [Outcome::Delivered]);
    assert_eq!(fault(&deliver(&*sink, &records).await[0]).kind, TargetFaultKind::Interrupted);
}

async fn is_aborted(server: &Kafka) {
    for acks in ["1", "all"] {
        let topic = format!("aborted-{acks}");
        server.create_topic(&topic, 1, &[]).await.expect("makes the topic");
        let sink = opened(server.config(&topic, &json!({"acks": acks}))).await;
        assert_eq!(deliver(&*sink, &[record(1, "before")]).await, [Outcome::Delivered]);
        // More than a broker that stands still can have been sent: what its kernel takes, and no more.
        let records: Vec<Record> = (0..64).map(|number| record(number, vec![b'x'; 900_000])).collect();
        let (outcomes, took) = paused(server, async {
            let (outcomes, aborted) = tokio::join!(
                async {
                    let outcomes = deliver(&*sink, &records).await;
                    (outcomes, Instant::now())
                },
                async {
                    until("some of it is written", || server.unread_bytes(0).expect("reads") > MORE_THAN_ANY_QUESTION)
                        .await;
                    let aborted = Instant::now();
                    sink.abort();
                    assert!(aborted.elapsed() < crate::sink::ABORT_WITHIN, "{:?}", aborted.elapsed());
                    aborted
                }
            );
            (outcomes.0, outcomes.1.saturating_duration_since(aborted))
        })
        .await;
        println!("measured: acks {acks}: aborted after {took:?}");
        assert!(took < crate::sink::ABORT_WITHIN * 10, "{took:?}");
        let interrupted = outcomes.iter().filter(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted).count();
        assert_eq!(interrupted, 64);
        assert_eq!(fault(&deliver(&*sink, &records[..1]).await[0]).kind, TargetFaultKind::Interrupted);
        // The broker reads what had been written before; a second sink's message comes behind all of that.
        let second = opened(server.config(&topic, &json!({"acks": acks}))).await;
        assert_eq!(deliver(&*second, &[record(2, "after")]).await, [Outcome::Delivered]);
        let arrived = messages(server, &topic).await.len();
        println!("measured: acks {acks}: {} of 64 arrived after the abort", arrived - 2);
        assert!(arrived - 2 < 16, "{arrived}");
    }
}

async fn is_dropped(server: &Kafka) {
    server.create_topic("dropped", 1, &[]).await.expect("makes the topic");
    let sink = opened(server.config("dropped", &json!({}))).await;
    let records = [record(1, "x"), record(2, "y")];
    paused(server, async {
        let dropped = tokio::time::timeout(Duration::from_millis(300), deliver(&*sink, &records)).await;
        assert!(dropped.is_err(), "{dropped:?}");
    })
    .await;
    assert_eq!(deliver(&*sink, &records).await, [Outcome::Delivered, Outcome::Delivered]);
    let arrived = messages(server, "dropped").await;
    assert!(arrived.len() == 2 || arrived.len() == 4, "{arrived:?}");
}

/// Twice as much as the queue of the client may hold.
async fn waits_for_room(server: &Kafka) {
    server.create_topic("room", 1, &[]).await.expect("makes the topic");
    let records: Vec<Record> = (0..260).map(|number| record(number, vec![b'x'; 1_000_000])).collect();
    let sink = opened(server.config("room", &json!({"message_timeout_ms": 2_000}))).await;
    let outcomes = paused(server, deliver(&*sink, &records)).await;
    let full = outcomes.iter().filter(|outcome| fault(outcome).message.contains("Queue full")).count();
    println!("measured: {full} of 260 found no room within 2 s");
    assert!((50..250).contains(&full), "{full}");
    drop(sink);

    server.create_topic("more-room", 1, &[]).await.expect("makes the topic");
    let sink = opened(server.config("more-room", &json!({}))).await;
    assert_eq!(delivered(&deliver(&*sink, &records).await), 260);
    assert_eq!(messages(server, "more-room").await.len(), 260);
}
