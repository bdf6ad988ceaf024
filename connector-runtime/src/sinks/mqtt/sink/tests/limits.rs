//! What the target allows: packet sizes, its window, and how fast it takes what is sent.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn what_is_larger_than_the_target_allows_never_leaves() {
    let server = Server::mosquitto("max_packet_size 1000\n");
    let subscriber = Subscriber::start(server.port, "#").await;
    let sink = opened(json!({"server": server.url()})).await;
    let records = [record(1, "small"), record(2, vec![b'x'; 1_000]), record(3, "small")];
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(record_fault(&outcomes[1]), ("packet_too_large", false));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    // Exactly as much as it allows does.
    let overhead = 1_000 - largest_payload(&*sink).await;
    println!("measured: {overhead} bytes around the payload");
    assert!((100..300).contains(&overhead), "{overhead}");
    assert_eq!(server.logged("New client connected"), 2, "the connection was never lost");
    drop(subscriber);
}

/// By trial.
async fn largest_payload(sink: &dyn Sink) -> usize {
    let (mut fits, mut too_large) = (0, 1_000);
    while too_large - fits > 1 {
        let middle = (fits + too_large) / 2;
        match &deliver(sink, &[record(1, vec![b'x'; middle])]).await[0] {
            Outcome::Delivered => fits = middle,
            Outcome::RecordFault(_) => too_large = middle,
            outcome => panic!("{outcome:?}"),
        }
    }
    fits
}

#[tokio::test]
async fn a_refusal_of_one_message_is_its_own_fault() {
    // Mosquitto says "packet too large" in a PUBACK, which the standard does not know there.
    let server = Server::mosquitto("message_size_limit 1000\n");
    let subscriber = Subscriber::start(server.port, "#").await;
    for qos in [1, 2] {
        let sink = opened(json!({"server": server.url(), "qos": qos})).await;
        let records = [record(1, "small"), record(2, vec![b'x'; 1_001]), record(3, "small")];
        let outcomes = deliver(&*sink, &records).await;
        assert_eq!(record_fault(&outcomes[1]), ("packet_too_large", true));
        assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    }
    subscriber.messages(4).await;
}

#[tokio::test]
async fn the_window_is_never_exceeded() {
    // Mosquitto ends a connection that sends more than it allowed (0x93).
    for (window, version, qos) in [(1, "v5", 1), (3, "v5", 2), (20, "v5", 1), (20, "v4", 2)] {
        let server = Server::mosquitto(&format!("max_inflight_messages {window}\n"));
        let sink = opened(json!({"server": server.url(), "protocol_version": version, "qos": qos})).await;
        let records: Vec<Record> = (0..500).map(|number| record(number, "x")).collect();
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 500], "{window} {version} {qos}");
        assert_eq!(server.logged("New client connected"), 1, "{}", server.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lanes_of_many_messages_are_all_delivered() {
    const COUNT: u64 = 50_000;
    for (version, qos) in [("v5", 0), ("v5", 1), ("v4", 1), ("v5", 2)] {
        // Without the log of every packet.
        let server = Server::mosquitto("log_type error\nmax_inflight_messages 1000\n");
        let sink = opened(json!({"server": server.url(), "protocol_version": version, "qos": qos})).await;
        let lanes: Vec<Vec<Record>> = (0..64)
            .map(|lane| (0..COUNT / 64).map(|number| record(lane * 10_000 + number, vec![b'x'; 100])).collect())
            .collect();
        let started = Instant::now();
        let calls = lanes.iter().map(|records| deliver(&*sink, records));
        let outcomes = futures::future::join_all(calls).await;
        let count = outcomes.iter().flatten().filter(|outcome| **outcome == Outcome::Delivered).count();
        let rate = count as f64 / started.elapsed().as_secs_f64();
        println!("measured: {version} QoS {qos}: {rate:.0} messages/s");
        assert_eq!(count as u64, COUNT / 64 * 64);
    }
}
