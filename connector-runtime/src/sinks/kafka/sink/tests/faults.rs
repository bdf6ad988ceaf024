//! Whose fault it is, and that nobody else pays for it.

use std::time::Instant;

use api_types::Message;

use super::*;
use crate::pipeline::tests::double::{discard_after, policy};
use api_types::failure::OnTargetDown;

/// Sends `messages` through the pipeline, which gives up on a record that is refused; gives the numbers of those.
async fn refused_of(server: &Kafka, topic: &str, more: &Value, messages: Vec<Message>) -> Vec<u64> {
    let sink = node().sink_for(NAME, "kafka", server.config(topic, more));
    let queue = MemoryQueue::with(messages);
    let setup =
        Setup { order: sink.order, policy: policy(discard_after(0, 1), OnTargetDown::Wait), ..Setup::default() };
    let task = setup.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    let counters = task.report().counters;
    println!("measured: {topic}: {} sent again", counters.retry_total);
    queue.ends().into_keys().collect()
}

fn numbered(count: u64, payload: impl Fn(u64) -> Vec<u8>) -> Vec<Message> {
    let message = |number: u64| Message {
        topic: "numbers".into(),
        client_id: format!("device-{}", number % 20),
        payload: payload(number).into(),
        timestamp_ms: 1_700_000_000_000,
        user_properties: vec![("number".into(), number.to_string())],
        ..Message::default()
    };
    (0..count).map(message).collect()
}

/// Each number but these is there once.
async fn all_but(server: &Kafka, topic: &str, count: u64, missing: &[u64]) {
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    for received in messages(server, topic).await {
        let number = received.header("number").and_then(|number| number.parse().ok()).expect("is numbered");
        *times.entry(number).or_default() += 1;
    }
    let expect: BTreeMap<u64, u32> = (0..count).filter(|number| !missing.contains(number)).map(|n| (n, 1)).collect();
    assert!(times == expect, "{topic}: {} of {}", times.len(), expect.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_too_large_for_the_topic_end_alone_among_a_thousand() {
    let server = server_with("too-large", 2, &[("max.message.bytes", "10000")]).await;
    // One is larger than a batch, and so alone in its own; one may stand in a batch with others.
    let messages = numbered(1_000, |number| match number {
        300 => vec![b'x'; 20_000],
        700 => vec![b'x'; 12_000],
        _ => b"small".to_vec(),
    });
    let more = json!({"batch_size": 16_384});
    assert_eq!(refused_of(&server, "too-large", &more, messages).await, [300, 700]);
    all_but(&server, "too-large", 1_000, &[300, 700]).await;

    let sink = opened(server.config("too-large", &more)).await;
    let outcomes = deliver(&*sink, &[record(1, vec![b'x'; 20_000]), record(2, "x")]).await;
    assert_eq!(record_fault(&outcomes[0]), ("message_too_large", true));
    assert!(format!("{outcomes:?}").contains("Broker: Message size too large"), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_too_large_is_nobodys_fault() {
    let server = server_with("large-batches", 1, &[("max.message.bytes", "3000")]).await;
    for (acks, count) in [("1", 500), ("all", 500)] {
        let more = json!({"batch_size": 100_000, "acks": acks});
        let sink = opened(server.config("large-batches", &more)).await;
        let records: Vec<Record> = (0..count).map(|number| record(number, vec![b'x'; 1_000])).collect();
        assert_eq!(delivered(&deliver(&*sink, &records).await), count as usize, "{acks}");
        sink.close().await;
    }
    assert_eq!(messages(&server, "large-batches").await.len(), 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_calls_invalid_ends_alone_among_a_thousand() {
    let server = server().await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    for acks in ["1", "all"] {
        let topic = format!("times-{acks}");
        let settings = [("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.type", "CreateTime")];
        server.create_topic(&topic, 2, &settings).await.expect("makes the topic");
        let mut messages = numbered(1_000, |_| b"x".to_vec());
        for (number, message) in messages.iter_mut().enumerate() {
            message.timestamp_ms = if number == 400 || number == 401 { 1_700_000_000_000 } else { now_ms as u64 };
        }
        assert_eq!(refused_of(&server, &topic, &json!({"acks": acks}), messages).await, [400, 401]);
        all_but(&server, &topic, 1_000, &[400, 401]).await;
    }
}

#[tokio::test]
async fn a_large_message_goes_where_the_topic_takes_it_and_one_beyond_any_request_is_not_sent() {
    let server = server_with("large", 1, &[("max.message.bytes", "30000000")]).await;
    let sink = opened(server.config("large", &json!({}))).await;
    let records = [record(1, vec![b'x'; 20_000_000]), record(2, vec![b'x'; 100_000_001]), record(3, "small")];
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(record_fault(&outcomes[1]), ("message_too_large", false));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    let bytes: Vec<usize> = messages(&server, "large").await.iter().map(|message| message.value.len()).collect();
    assert_eq!(bytes, [20_000_000, 5]);
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_the_targets_fault_at_once_and_later() {
    let server = server_with("goes-away", 1, &[]).await;
    let fault_of = refused(server.config("never-made", &json!({}))).await;
    assert_eq!(fault_of.kind, TargetFaultKind::Missing);
    assert!(fault_of.message.contains("topic never-made"), "{}", fault_of.message);
    let fault_of = refused(server.config("not a name", &json!({}))).await;
    assert_eq!(fault_of.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"));

    let sink = opened(server.config("goes-away", &json!({"message_timeout_ms": 20_000}))).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    server.delete_topic("goes-away").await.expect("deletes");
    let started = Instant::now();
    let missing = ::tests::wait::until(LIMIT, "the topic is missed", async || {
        let outcomes = deliver(&*sink, &[record(2, "x")]).await;
        anyhow::ensure!(outcomes[0] != Outcome::Delivered, "delivered");
        let fault = fault(&outcomes[0]).clone();
        // On the way, librdkafka may let go of the broker that led the partition: that alone says nothing.
        anyhow::ensure!(fault.kind != TargetFaultKind::Interrupted, "{}", fault.message);
        Ok(fault)
    });
    let missing = missing.await.expect("is missed");
    println!("measured: a deleted topic is missed after {:?}: {}", started.elapsed(), missing.message);
    assert_eq!((missing.kind, missing.reopen), (TargetFaultKind::Missing, true), "{}", missing.message);
    sink.close().await;
    server.create_topic("goes-away", 1, &[]).await.expect("makes the topic");
    let sink = opened(server.config("goes-away", &json!({}))).await;
    assert_eq!(deliver(&*sink, &[record(3, "x")]).await, [Outcome::Delivered]);
}

#[tokio::test]
async fn nobody_who_answers_is_told_at_once() {
    let port = ::tests::ports::free().expect("a free port");
    let started = Instant::now();
    let config = json!({"bootstrap_servers": format!("127.0.0.1:{port}"), "topic": "t"});
    let fault_of = refused(config).await;
    println!("measured: nobody listens: told after {:?}", started.elapsed());
    assert_eq!(fault_of.kind, TargetFaultKind::Down);
    assert!(fault_of.message.contains("refused"), "{}", fault_of.message);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    // One that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let server = silent.local_addr().expect("is bound").to_string();
    let started = Instant::now();
    let fault_of = refused(json!({"bootstrap_servers": server, "topic": "t", "message_timeout_ms": 1_000})).await;
    println!("measured: nobody answers within 1 s: told after {:?}: {}", started.elapsed(), fault_of.message);
    assert_eq!(fault_of.kind, TargetFaultKind::Down);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// Errors that no broker of today can be brought to give; librdkafka's own broker in memory gives what it is told.
#[tokio::test]
async fn a_producer_that_lost_count_with_the_broker_is_opened_anew() {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    let cluster = MockCluster::new(1).expect("starts");
    cluster.create_topic("t", 1, 1).expect("makes the topic");
    let sink = opened(json!({"bootstrap_servers": cluster.bootstrap_servers(), "topic": "t", "acks": "all"})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    let lost_count = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    cluster.request_errors(RDKafkaApiKey::Produce, &[lost_count; 4]);
    for number in [2, 3] {
        let outcomes = deliver(&*sink, &[record(number, "x")]).await;
        let fault = fault(&outcomes[0]);
        assert_eq!((fault.kind, fault.reopen), (TargetFaultKind::Down, true), "{fault:?}");
    }
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    sink.close().await;
    let sink = opened(json!({"bootstrap_servers": cluster.bootstrap_servers(), "topic": "t", "acks": "all"})).await;
    assert_eq!(deliver(&*sink, &[record(4, "x")]).await, [Outcome::Delivered]);
}
