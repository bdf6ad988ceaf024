//! Targets that go away, stand still, come back, or close the connection on purpose.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use api_types::Message;
use api_types::failure::OnTargetDown;
use api_types::status::Health;
use rustix::process::Signal;

use super::servers::free_port;
use super::*;
use crate::pipeline::tests::double::{discard_after, policy};

const PERSISTENT: &str = "persistence true\nautosave_interval 1800\n";

fn persistent_server() -> Server {
    Server::mosquitto_with(|folder| {
        format!("allow_anonymous true\n{PERSISTENT}persistence_location {}/\n", folder.display())
    })
}

/// Message `number` of twenty devices; its payload is its number.
fn numbered(count: u64) -> impl Iterator<Item = Message> {
    (0..count).map(|number| Message {
        topic: "numbers".into(),
        client_id: format!("device-{}", number % 20),
        payload: number.to_string().into_bytes().into(),
        ..Message::default()
    })
}

/// How often each number arrived, in order of its first arrival.
fn arrivals(subscriber: &Subscriber) -> (BTreeMap<u64, u32>, Vec<u64>) {
    let (mut times, mut order) = (BTreeMap::new(), Vec::new());
    for publish in subscriber.all() {
        let number: u64 =
            std::str::from_utf8(&publish.payload).ok().and_then(|text| text.parse().ok()).expect("a number");
        let count = times.entry(number).or_insert(0);
        *count += 1;
        if *count == 1 {
            order.push(number);
        }
    }
    (times, order)
}

async fn restarted_in_the_middle(version: &str, qos: u8) {
    const COUNT: u64 = 20_000;
    let mut server = persistent_server();
    let subscriber = Subscriber::resuming(server.port, "#").await;
    let config = json!({"server": server.url(), "protocol_version": version, "qos": qos});
    let sink = node().sink_for(NAME, "mqtt", config);
    let queue = MemoryQueue::with(numbered(COUNT));
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    until("a part has arrived", || subscriber.count() > 2_000).await;
    server.end(Signal::TERM);
    assert!(queue.position() < COUNT * 10 - 9, "too fast to be interrupted");
    until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE")).await;
    server.start_again();
    queue.all_committed().await;
    until("the last ones arrive", || arrivals(&subscriber).0.len() as u64 == COUNT).await;
    let (times, order) = arrivals(&subscriber);
    let repeated = times.values().filter(|count| **count > 1).count();
    println!("measured: {version} QoS {qos}: {repeated} of {COUNT} arrived twice over a restart");
    // At most what was on its way: the window, and what the target had taken without an answer.
    assert!(times.values().all(|count| *count <= 3) && repeated <= 2_000, "{repeated} repeated");
    for device in 0..20 {
        let of_device: Vec<u64> = order.iter().copied().filter(|number| number % 20 == device).collect();
        assert!(of_device.is_sorted(), "device {device} is out of order");
    }
    assert_eq!(task.report().health, Health::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_gets_everything_in_order() {
    restarted_in_the_middle("v5", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_gets_everything_in_order_with_qos_2() {
    restarted_in_the_middle("v5", 2).await;
    restarted_in_the_middle("v4", 2).await;
}

/// Takes over the session of `client_id`, with an hour to live in version 5.
fn take_session(port: u16, version: u8, client_id: &str) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([version, 0, 0, 60]);
    if version == 5 {
        body.extend([5, 0x11, 0, 0, 0x0e, 0x10]);
    }
    body.extend((client_id.len() as u16).to_be_bytes());
    body.extend(client_id.as_bytes());
    let mut packet = vec![0x10, body.len() as u8];
    packet.extend(body);
    socket.write_all(&packet).expect("writes CONNECT");
    let mut header = [0; 2];
    socket.read_exact(&mut header).expect("reads CONNACK");
    socket.read_exact(&mut vec![0; header[1].into()]).expect("reads all of it");
    socket
}

/// The client id of the last connection.
fn client_id(server: &Server) -> String {
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains("New client connected")).expect("was logged");
    line.split(" as ").nth(1).and_then(|rest| rest.split(' ').next()).expect("names the client").to_owned()
}

/// Publishes QoS 2 under this packet id and goes away before it is released.
fn leave_unreleased(port: u16, version: u8, client_id: &str, packet_id: u8) {
    let mut socket = take_session(port, version, client_id);
    let publish: &[u8] = if version == 5 { b"\x34\x0b\0\x03a/b\0\x01\0old" } else { b"\x34\x0a\0\x03a/b\0\x01old" };
    let mut publish = publish.to_vec();
    publish[8] = packet_id;
    socket.write_all(&publish).expect("writes PUBLISH");
    let mut taken = [0; 4];
    socket.read_exact(&mut taken).expect("reads PUBREC");
    assert_eq!(taken, [0x50, 2, 0, packet_id]);
}

#[tokio::test]
async fn what_an_earlier_owner_left_unreleased_is_mistaken_for_nothing() {
    for (version, level) in [("v4", 4), ("v5", 5)] {
        let server = Server::mosquitto("");
        let config = json!({"server": server.url(), "protocol_version": version, "qos": 2});
        opened(config.clone()).await.close().await;
        let client_id = client_id(&server);
        let subscriber = Subscriber::start(server.port, "#").await;
        leave_unreleased(server.port, level, &client_id, 1);

        let sink = opened(config).await;
        assert_eq!(deliver(&*sink, &[with_topic(1, "a/b", "new")]).await, [Outcome::Delivered]);
        assert_eq!(&subscriber.messages(1).await[0].payload[..], b"new", "{version}");
        assert_eq!(server.logged("Reused message ID"), 0, "{version}");
        assert_eq!(deliver(&*sink, &[with_topic(2, "a/b", "newer")]).await, [Outcome::Delivered]);
        let payloads: Vec<_> = subscriber.messages(2).await.into_iter().map(|publish| publish.payload).collect();
        assert_eq!(payloads, ["new", "newer"], "{version}");
    }
}

#[tokio::test]
async fn a_displaced_owner_before_version_5_loses_nothing_to_whoever_came_between() {
    for (version, level) in [("v3", 4), ("v4", 4)] {
        let server = Server::mosquitto("");
        let sink = opened(json!({"server": server.url(), "protocol_version": version, "qos": 2})).await;
        let client_id = client_id(&server);
        let subscriber = Subscriber::start(server.port, "#").await;
        assert_eq!(deliver(&*sink, &[with_topic(1, "a/b", "first")]).await, [Outcome::Delivered]);
        leave_unreleased(server.port, level, &client_id, 2);
        assert_eq!(deliver(&*sink, &[with_topic(2, "a/b", "second")]).await, [Outcome::Delivered]);
        let payloads: Vec<_> = subscriber.messages(2).await.into_iter().map(|publish| publish.payload).collect();
        assert_eq!(payloads, ["first", "second"], "{version}");
    }
}

#[tokio::test]
async fn connecting_again_is_given_up_soon_whatever_the_configuration_allows() {
    let server = Server::mosquitto("");
    let config = json!({"server": server.url(), "keepalive_secs": 1, "connect_timeout_secs": 300, "max_retries": 10});
    let sink = opened(config).await;
    server.signal(Signal::STOP);
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    println!("measured: a broker that stands still is given up after {:?}", started.elapsed());
    assert_eq!((fault(&outcomes[0]).kind, fault(&outcomes[0]).reopen), (TargetFaultKind::Down, true));
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    server.signal(Signal::CONT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_resumed_and_with_qos_2_of_version_5_nothing_is_repeated() {
    const LANES: u64 = 20;
    const EACH: u64 = 500;
    const CUTS: usize = 5;
    for (version, level, qos) in [("v3", 3, 1), ("v4", 4, 1), ("v5", 5, 1), ("v4", 4, 2), ("v5", 5, 2)] {
        let server = Server::mosquitto("");
        let sink = opened(json!({"server": server.url(), "protocol_version": version, "qos": qos})).await;
        let client_id = client_id(&server);
        let subscriber = Subscriber::start(server.port, "#").await;
        let lanes: Vec<Vec<Record>> = (0..LANES)
            .map(|lane| (0..EACH).map(|number| record(lane, (number * LANES + lane).to_string())).collect())
            .collect();
        let delivering = futures::future::join_all(lanes.iter().map(|records| deliver(&*sink, records)));
        let (outcomes, ()) = tokio::join!(delivering, async {
            for cut in 1..=CUTS {
                let part = cut * (LANES * EACH) as usize / (CUTS + 1);
                until("a part has arrived", || subscriber.count() >= part).await;
                // Whoever comes with the same client id takes the connection, and leaves the session as it is.
                drop(take_session(server.port, level.max(4), &client_id));
            }
        });
        let delivered = outcomes.iter().flatten().filter(|outcome| **outcome == Outcome::Delivered).count();
        assert_eq!(delivered as u64, LANES * EACH, "{version} QoS {qos}");
        until("all of them arrive", || arrivals(&subscriber).0.len() as u64 == LANES * EACH).await;
        let (times, order) = arrivals(&subscriber);
        let repeated = times.values().filter(|count| **count > 1).count();
        println!("measured: {version} QoS {qos}: {repeated} repeated over {CUTS} cuts");
        assert!(repeated <= if (version, qos) == ("v5", 2) { 0 } else { 1_000 * CUTS }, "{repeated}");
        for lane in 0..LANES {
            let of_lane: Vec<u64> = order.iter().copied().filter(|number| number % LANES == lane).collect();
            assert!(of_lane.is_sorted(), "lane {lane} is out of order");
        }
        // Who comes before the sink is back cuts nothing.
        assert!(server.logged("already connected, closing old connection") > 0, "{}", server.log());
    }
}

#[tokio::test]
async fn a_broker_that_stands_still_is_noticed_by_keep_alive() {
    for version in ["v3", "v4", "v5"] {
        let server = Server::mosquitto("");
        let subscriber = Subscriber::start(server.port, "#").await;
        let config = json!({"server": server.url(), "protocol_version": version, "keepalive_secs": 1,
                            "connect_timeout_secs": 1, "max_retries": 1});
        let sink = opened(config).await;
        server.signal(Signal::STOP);
        let started = Instant::now();
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        let took = started.elapsed();
        println!("measured: {version}: a broker that stands still is noticed after {took:?}");
        assert_eq!((fault(&outcomes[0]).kind, fault(&outcomes[0]).reopen), (TargetFaultKind::Down, true));
        assert!(took < Duration::from_secs(30), "{took:?}");
        server.signal(Signal::CONT);
        let sink = opened(json!({"server": server.url(), "protocol_version": version})).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
        subscriber.messages(1).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let server = Server::mosquitto("");
    let sink = opened(json!({"server": server.url(), "keepalive_secs": 1})).await;
    until("three pings are answered", || server.logged("Sending PINGRESP") >= 3).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    assert_eq!(server.logged("New client connected"), 1);
}

#[tokio::test]
async fn connecting_takes_no_longer_than_it_may() {
    let server = Server::mosquitto("");
    server.signal(Signal::STOP);
    let started = Instant::now();
    let fault = open(json!({"server": server.url(), "connect_timeout_secs": 1})).await.err().expect("nobody answers");
    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no connection within 1 s"));
    assert!((1_000..10_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let absent = format!("mqtt://127.0.0.1:{}", free_port());
    let fault = open(json!({"server": absent})).await.err().expect("nobody listens");
    assert!(fault.kind == TargetFaultKind::Down && fault.message.contains("refused"), "{fault:?}");
}

#[tokio::test]
async fn attempts_after_a_lost_connection_are_counted() {
    for max_retries in [0, 1, 3] {
        // Mosquitto closes the connection for this packet, and version 4 cannot know why.
        let server = Server::mosquitto("max_packet_size 1000\n");
        let subscriber = Subscriber::start(server.port, "#").await;
        let config = json!({"server": server.url(), "protocol_version": "v4", "max_retries": max_retries});
        let sink = opened(config).await;
        let connections = || server.logged("New client connected") - 1;
        let outcomes = deliver(&*sink, &[record(1, vec![b'x'; 5_000])]).await;
        assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Down);
        assert_eq!(connections(), 1 + max_retries, "{max_retries}");
        assert_eq!(subscriber.count(), 0);
    }
}

#[tokio::test]
async fn a_message_that_costs_the_connection_does_not_cost_its_neighbours() {
    for (version, qos) in [("v4", 1), ("v4", 2), ("v3", 1)] {
        let server = Server::mosquitto("max_packet_size 1000\n");
        let subscriber = Subscriber::start(server.port, "#").await;
        let config = json!({"server": server.url(), "protocol_version": version, "qos": qos});
        let sink = opened(config).await;
        let payload = |number: u64| if number % 50 == 17 { vec![b'x'; 5_000] } else { number.to_string().into_bytes() };
        // Each in a lane of its own, as the pipeline would do it.
        let records: Vec<Record> = (0..100).map(|number| record(number, payload(number))).collect();
        let calls = records.iter().map(|record| deliver(&*sink, std::slice::from_ref(record)));
        let outcomes: Vec<Outcome> = futures::future::join_all(calls).await.into_iter().flatten().collect();
        for (number, outcome) in outcomes.iter().enumerate() {
            if number % 50 == 17 {
                assert!(fault(outcome).message.contains("alone on the wire"), "{number}: {outcome:?}");
            } else {
                assert_eq!(*outcome, Outcome::Delivered, "{version} QoS {qos}: {number}");
            }
        }
        until("all of them arrive", || arrivals(&subscriber).0.len() == 98).await;
    }
}

#[tokio::test]
async fn a_message_that_costs_the_connection_at_each_attempt_is_given_to_the_failure_strategy() {
    for (version, qos) in [("v3", 1), ("v4", 1), ("v4", 2)] {
        let server = Server::mosquitto("max_packet_size 1000\n");
        let sink = opened(json!({"server": server.url(), "protocol_version": version, "qos": qos})).await;
        let culprit = record(1, vec![b'x'; 5_000]);
        let outcomes = deliver(&*sink, std::slice::from_ref(&culprit)).await;
        assert!(fault(&outcomes[0]).message.contains("alone on the wire") && !fault(&outcomes[0]).reopen);
        assert_eq!(deliver(&*sink, &[record(2, "neighbour")]).await, [Outcome::Delivered]);
        for _ in 0..2 {
            let before = server.logged("New client connected");
            let outcomes = deliver(&*sink, std::slice::from_ref(&culprit)).await;
            assert_eq!(record_fault(&outcomes[0]), ("connection_closed", true), "{version} QoS {qos}: {outcomes:?}");
            assert_eq!(deliver(&*sink, &[record(3, "neighbour")]).await, [Outcome::Delivered]);
            assert_eq!(server.logged("New client connected") - before, 1, "one connection for each attempt");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_costs_the_connection_ends_and_the_connector_goes_on() {
    for max_retries in [0, 3] {
        let server = Server::mosquitto("max_packet_size 1000\n");
        let subscriber = Subscriber::start(server.port, "#").await;
        let config = json!({"server": server.url(), "protocol_version": "v4", "max_retries": max_retries});
        let sink = node().sink_for(NAME, "mqtt", config);
        let queue = MemoryQueue::with(numbered(200).enumerate().map(|(number, mut message)| {
            if number == 37 {
                message.payload = vec![b'x'; 5_000].into();
            }
            message
        }));
        let policy = policy(discard_after(1, 10), OnTargetDown::Wait);
        let setup = Setup { policy, order: sink.order, ..Setup::default() };
        let task = setup.start_with(&queue, sink.opener, sink.options);
        // That the target works is known from other messages only: there are some until this one has ended.
        let mut more = numbered(10_000).skip(200);
        let ended = ::tests::wait::until(Duration::from_secs(60), "the message ends", async || {
            if queue.ends().is_empty() {
                queue.append(more.next());
                anyhow::bail!("{} are committed", queue.position() / 10);
            }
            Ok(())
        });
        ended.await.expect("ends");
        queue.all_committed().await;
        assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [37], "{max_retries}");
        let delivered = task.report().counters.send_success_total;
        subscriber.messages(usize::try_from(delivered).expect("few")).await;
        let (_, order) = arrivals(&subscriber);
        for device in 0..20 {
            let of_device: Vec<u64> = order.iter().copied().filter(|number| number % 20 == device).collect();
            assert!(of_device.is_sorted(), "device {device} is out of order");
        }
        println!("measured: {max_retries}: {} connections", server.logged("New client connected") - 1);
        assert_eq!(task.report().counters.discard_total, 1);
    }
}

#[tokio::test]
async fn control_characters_that_cost_the_connection_are_the_records_fault() {
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "#").await;
    for version in ["v4", "v5"] {
        let sink = opened(json!({"server": server.url(), "protocol_version": version})).await;
        let records = [with_topic(1, "good", "1"), with_topic(2, "b\u{1}d", "2"), with_topic(3, "good", "3")];
        let outcomes = deliver(&*sink, &records).await;
        assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered), "{outcomes:?}");
        assert_eq!(record_fault(&outcomes[1]), ("connection_closed", true));
    }
    subscriber.messages(4).await;
}

#[tokio::test]
async fn an_abort_answers_at_once_and_sends_nothing_more() {
    const COUNT: usize = 500;
    let server = Server::mosquitto("");
    let subscriber = Subscriber::start(server.port, "#").await;
    let sink = opened(json!({"server": server.url()})).await;
    server.signal(Signal::STOP);
    let records: Vec<Record> = (0..COUNT as u64).map(|number| record(number, vec![b'x'; 1_000])).collect();
    let mut aborted = None;
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), async {
        until("the window is on its way", || server.unread_bytes() > 20_000).await;
        aborted = Some(Instant::now());
        sink.abort();
    });
    let took = aborted.expect("was aborted").elapsed();
    println!("measured: aborted within {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(outcomes.iter().all(|outcome| fault(outcome).kind == TargetFaultKind::Interrupted), "{outcomes:?}");
    let later = deliver(&*sink, &records[..1]).await;
    assert_eq!((fault(&later[0]).kind, fault(&later[0]).reopen), (TargetFaultKind::Interrupted, true));
    server.signal(Signal::CONT);

    let next = opened(json!({"server": server.url()})).await;
    assert_eq!(deliver(&*next, &[with_topic(9, "end", "end")]).await, [Outcome::Delivered]);
    until("the end arrives", || subscriber.all().iter().any(|publish| topic(publish) == "end")).await;
    assert!(subscriber.count() <= 21, "{} messages left, the window is 20", subscriber.count() - 1);
}

#[tokio::test]
async fn a_closed_sink_says_goodbye_and_interrupts_what_is_under_way() {
    let server = Server::mosquitto("");
    let sink = opened(json!({"server": server.url()})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    sink.close().await;
    until("the goodbye is logged", || server.logged("Received DISCONNECT from") == 1).await;
    assert_eq!(fault(&deliver(&*sink, &[record(2, "x")]).await[0]).kind, TargetFaultKind::Interrupted);

    let sink = opened(json!({"server": server.url()})).await;
    server.signal(Signal::STOP);
    let records = [record(3, "x")];
    let started = Instant::now();
    let (outcomes, ()) = tokio::join!(deliver(&*sink, &records), sink.close());
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Interrupted);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    server.signal(Signal::CONT);
}

#[tokio::test]
async fn who_is_told_to_discard_while_the_target_is_down_discards_exactly_that() {
    let mut server = persistent_server();
    let subscriber = Subscriber::resuming(server.port, "#").await;
    let sink = node().sink_for(NAME, "mqtt", json!({"server": server.url()}));
    let queue = MemoryQueue::with(numbered(100));
    let policy = policy(discard_after(3, 200), OnTargetDown::Strategy);
    let task = Setup { policy, order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    server.end(Signal::TERM);
    let started = Instant::now();
    queue.append(numbered(200).skip(100));
    queue.all_committed().await;
    println!("measured: discarded after {:?}", started.elapsed());
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), (100..200).collect::<Vec<u64>>());
    assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (100, 100));
    server.start_again();
    queue.append(numbered(300).skip(200));
    queue.all_committed().await;
    subscriber.messages(200).await;
    let expect: Vec<u64> = (0..100).chain(200..300).collect();
    assert_eq!(arrivals(&subscriber).0.into_keys().collect::<Vec<u64>>(), expect);
}
