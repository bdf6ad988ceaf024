//! Messages on their way out.

use api_types::Message;
use broker_node::mqtt::Dropped;

use crate::raw::{Connect, Level, PUBACK, Raw, ack, packet, publish, publish_with, subscribe};
use crate::server::{Server, server};

fn message(topic: &str, payload: &[u8], qos: u8) -> Message {
    Message { topic: topic.into(), payload: payload.to_vec().into(), qos, ..Message::default() }
}

async fn internal(server: &Server, topic: &str, payload: &[u8], qos: u8) {
    server.mqtt.publish_internal(message(topic, payload, qos)).await.expect("published");
}

#[tokio::test]
async fn subscribers_get_a_message_once_it_is_on_disk() {
    for level in [Level::V31, Level::V311, Level::V5] {
        let server = server().await;
        let mut subscriber = Raw::connect(server.address, level, "s").await;
        subscriber.subscribe(level, 1, "wanted/#", 2).await;
        server.queues.hold();
        let mut publisher = Raw::connect(server.address, level, "p").await;
        publisher.send(&publish(level, 2, 7, "wanted/a", b"x")).await;
        server.queues.until_submits(1).await;
        subscriber.expect_nothing_before_ping().await;
        server.queues.release_all();
        subscriber.expect(&publish(level, 1, 1, "wanted/a", b"x")).await;
        // A message that no connector wants goes to subscribers too.
        subscriber.subscribe(level, 2, "other", 0).await;
        publisher.send(&publish(level, 1, 8, "other", b"y")).await;
        subscriber.expect(&publish(level, 0, 0, "other", b"y")).await;
        assert_eq!(server.queues.topics(), ["wanted/a"]);
    }
}

#[tokio::test]
async fn the_last_message_of_a_client_that_leaves_at_once_is_delivered() {
    let server = server().await;
    let mut subscriber = Raw::connect(server.address, Level::V311, "s").await;
    subscriber.subscribe(Level::V311, 1, "#", 0).await;
    server.queues.hold();
    let mut publisher = Raw::connect(server.address, Level::V311, "p").await;
    let mut bytes = publish(Level::V311, 0, 0, "wanted/last", b"x");
    bytes.extend([0xE0, 0]);
    publisher.send(&bytes).await;
    drop(publisher);
    server.queues.until_submits(1).await;
    server.queues.release_all();
    subscriber.expect(&publish(Level::V311, 0, 0, "wanted/last", b"x")).await;
}

#[tokio::test]
async fn a_subscription_is_granted_or_refused_filter_by_filter() {
    let server = server().await;
    let mut raw = Raw::connect(server.address, Level::V5, "s").await;
    let deep = "+/".repeat(200);
    for (filter, code) in [("a", 1), ("a/#/b", 0x8F), ("a+", 0x8F), ("", 0x8F), ("$share/g/a", 0x9E), (&deep, 0x8F)] {
        raw.send(&subscribe(Level::V5, 1, filter, 2)).await;
        raw.expect(&packet(0x90, &[0, 1, 0, code])).await;
    }
    let mut old = Raw::connect(server.address, Level::V311, "o").await;
    old.send(&subscribe(Level::V311, 1, "a/#/b", 2)).await;
    old.expect(&[0x90, 3, 0, 1, 0x80]).await;
    // UNSUBSCRIBE: one that existed, one that did not.
    raw.send(&packet(0xA2, b"\x00\x02\x00\x00\x01a\x00\x01b")).await;
    raw.expect(&packet(0xB0, b"\x00\x02\x00\x00\x11")).await;
    internal(&server, "a", b"x", 1).await;
    raw.expect_nothing_before_ping().await;
}

#[tokio::test]
async fn options_of_a_subscription_hold() {
    let server = server().await;
    let mut raw = Raw::connect(server.address, Level::V5, "s").await;
    // No local, and retain as published with a subscription identifier.
    raw.send(&subscribe(Level::V5, 1, "own", 0x04)).await;
    raw.expect(&packet(0x90, &[0, 1, 0, 0])).await;
    raw.send(&packet(0x82, b"\x00\x02\x02\x0b\x2a\x00\x03all\x08")).await;
    raw.expect(&packet(0x90, &[0, 2, 0, 0])).await;
    raw.send(&publish(Level::V5, 0, 0, "own", b"mine")).await;
    raw.expect_nothing_before_ping().await;
    let mut other = Raw::connect(server.address, Level::V5, "o").await;
    let props = b"\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01t\x26\x00\x01k\x00\x01v";
    for topic in ["own", "all"] {
        let mut bytes = publish_with(Level::V5, 0, 0, topic, props, b"x");
        bytes[0] |= 0x01;
        other.send(&bytes).await;
    }
    let own = raw.packet().await.expect("a message");
    assert_eq!(own[0], 0x30, "retain is not passed on");
    let all = raw.packet().await.expect("a message");
    assert_eq!(all[0], 0x31, "retain as published");
    let has = |property: &[u8]| all.windows(property.len()).any(|bytes| bytes == property);
    for property in
        [&b"\x01\x01"[..], b"\x02\x00\x00\x00\x3c", b"\x03\x00\x01t", b"\x26\x00\x01k\x00\x01v", b"\x0b\x2a"]
    {
        assert!(has(property), "{property:02x?} in {all:02x?}");
    }
}

#[tokio::test]
async fn the_window_of_a_subscriber_is_respected() {
    let server = server().await;
    let connect = Connect { properties: vec![0x21, 0, 2], ..Connect::new(Level::V5, "s") };
    let mut raw = Raw::connect_with(server.address, &connect).await;
    raw.subscribe(Level::V5, 1, "#", 1).await;
    for index in 0..4 {
        internal(&server, "t", &[index], 1).await;
    }
    for id in [1, 2] {
        raw.expect(&publish(Level::V5, 1, id, "t", &[id as u8 - 1])).await;
    }
    raw.expect_nothing_before_ping().await;
    raw.send(&ack(Level::V5, PUBACK, 2)).await;
    raw.expect(&publish(Level::V5, 1, 3, "t", &[2])).await;
    raw.expect_nothing_before_ping().await;
    raw.send(&ack(Level::V5, PUBACK, 1)).await;
    raw.expect(&publish(Level::V5, 1, 4, "t", &[3])).await;
}

#[tokio::test]
async fn a_message_larger_than_the_subscriber_takes_is_left_out() {
    let server = server().await;
    let connect = Connect { properties: vec![0x27, 0, 0, 0, 40], ..Connect::new(Level::V5, "s") };
    let mut raw = Raw::connect_with(server.address, &connect).await;
    raw.subscribe(Level::V5, 1, "#", 1).await;
    internal(&server, "t", &[0; 40], 1).await;
    internal(&server, "t", b"small", 1).await;
    raw.expect(&publish(Level::V5, 1, 2, "t", b"small")).await;
    assert_eq!(server.metrics.dropped_total(Dropped::TooLarge), 1);
}

#[tokio::test]
async fn a_subscriber_that_cannot_keep_up_is_disconnected() {
    let server = server().await;
    let mut slow = Raw::connect(server.address, Level::V5, "slow").await;
    slow.subscribe(Level::V5, 1, "#", 1).await;
    let mut lossy = Raw::connect(server.address, Level::V5, "lossy").await;
    lossy.subscribe(Level::V5, 1, "#", 0).await;
    // Neither reads; the sockets take some of it, the mailboxes the rest, up to their bound.
    let payload = vec![0; 64 << 10];
    let mut published = 0;
    while server.metrics.dropped_total(Dropped::SubscriberQueueFull) < 20 {
        internal(&server, "t", &payload, 1).await;
        published += 1;
        assert!(published < 5000, "nothing bounds the mailboxes");
    }
    let mut received = 0;
    let reason = loop {
        match slow.packet().await {
            Some(packet) if packet[0] == 0xE0 => break packet[2],
            Some(_) => received += 1,
            None => panic!("closed without a reason after {received}"),
        }
    };
    assert_eq!(reason, 0x97);
    // The one of QoS 0 lost messages and stays.
    lossy.send(&[0xC0, 0]).await;
    while lossy.packet().await.expect("open")[0] != 0xD0 {}
}

#[tokio::test]
async fn a_taken_over_session_gets_nothing_more() {
    let server = server().await;
    let mut first = Raw::connect(server.address, Level::V5, "c").await;
    first.subscribe(Level::V5, 1, "#", 1).await;
    let mut second = Raw::connect(server.address, Level::V5, "c").await;
    internal(&server, "t", b"x", 1).await;
    first.expect_disconnect(0x8E).await;
    second.expect_nothing_before_ping().await;
    second.subscribe(Level::V5, 1, "#", 1).await;
    internal(&server, "t", b"y", 1).await;
    second.expect(&publish(Level::V5, 1, 1, "t", b"y")).await;
}
