//! What is acknowledged, when, and what is not.

use std::time::{Duration, Instant};

use broker_node::mqtt::{Limits, Refused, SubmitRefusal, TicketError, WithoutLease};

use crate::raw::{Connect, Level, PUBACK, PUBCOMP, PUBREC, PUBREL, Raw, ack, ack_with, publish, publish_with};
use crate::server::{Setup, server};
use crate::wills::with_will;

const LEVELS: [Level; 3] = [Level::V31, Level::V311, Level::V5];

#[tokio::test]
async fn acks_leave_in_order_and_not_before_the_disk_has_it() {
    for level in LEVELS {
        let server = server().await;
        server.queues.hold();
        let mut raw = Raw::connect(server.address, level, "c").await;
        raw.send(&publish(level, 1, 1, "wanted/a", b"x")).await;
        server.queues.until_submits(1).await;
        raw.send(&publish(level, 2, 2, "wanted/b", b"x")).await;
        server.queues.until_submits(2).await;
        // No connector wants this one, and its ack waits for those before it all the same.
        raw.send(&publish(level, 1, 3, "other", b"x")).await;
        server.queues.until_submits(3).await;
        server.queues.settle(2, Ok(()));
        server.queues.settle(1, Ok(()));
        raw.expect_nothing_before_ping().await;
        server.queues.settle(0, Ok(()));
        for (first, packet_id) in [(PUBACK, 1), (PUBREC, 2), (PUBACK, 3)] {
            raw.expect(&ack(level, first, packet_id)).await;
        }
        assert_eq!(server.queues.topics(), ["wanted/a", "wanted/b"]);
        assert_eq!(server.metrics.acknowledged_total(), 3);
    }
}

#[tokio::test]
async fn one_read_is_one_submit() {
    let server = Setup::window(256).start(&["#"]).await;
    let mut raw = Raw::connect(server.address, Level::V311, "c").await;
    let mut bytes = Vec::new();
    (1..=200).for_each(|packet_id| bytes.extend(publish(Level::V311, 1, packet_id, "wanted", b"x")));
    raw.send(&bytes).await;
    for packet_id in 1..=200 {
        raw.expect(&ack(Level::V311, PUBACK, packet_id)).await;
    }
    assert_eq!(server.queues.stored().len(), 200);
    assert!(server.queues.submits() <= 3, "{} submits", server.queues.submits());
}

#[tokio::test]
async fn a_full_window_stops_the_reading() {
    let server = Setup::window(4).start(&["#"]).await;
    server.queues.hold();
    let mut raw = Raw::connect(server.address, Level::V311, "c").await;
    let mut bytes = Vec::new();
    (1..=10).for_each(|packet_id| bytes.extend(publish(Level::V311, 1, packet_id, "t", b"x")));
    bytes.extend([0xC0, 0]);
    raw.send(&bytes).await;
    server.queues.until_stored(4).await;
    assert!(raw.is_silent_for(Duration::from_millis(100)).await, "the ping is behind the window");
    assert_eq!(server.queues.stored().len(), 4);
    server.queues.release_all();
    let mut acks = Vec::new();
    while acks.len() < 10 {
        let packet = raw.packet().await.expect("an answer");
        if packet[0] == PUBACK {
            acks.push(packet[3]);
        }
    }
    assert_eq!(acks, (1..=10).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_window_that_opens_later_lets_the_rest_in() {
    const COUNT: u16 = 50;
    for (level, qos) in [(Level::V31, 1), (Level::V311, 1), (Level::V311, 0), (Level::V5, 0)] {
        let server = Setup::window(1).start(&["wanted/#"]).await;
        server.queues.hold();
        let mut raw = Raw::connect_with(server.address, &with_will(level, "c")).await;
        let mut bytes = Vec::new();
        (1..=COUNT).for_each(|packet_id| bytes.extend(publish(level, qos, packet_id, "wanted/a", b"x")));
        bytes.extend([0xE0, 0]);
        raw.send(&bytes).await;
        for packet_id in 1..=COUNT {
            let stored = server.queues.until_stored(usize::from(packet_id)).await;
            assert_eq!(stored.len(), usize::from(packet_id), "one at a time");
            // The goodbye comes in the same turn as the last ack, and nobody waits for that one.
            server.queues.settle(0, Ok(()));
            if qos == 1 && packet_id < COUNT {
                raw.expect(&ack(level, PUBACK, packet_id)).await;
            }
        }
        server.until_empty().await;
        assert_eq!(server.queues.topics(), ["wanted/a"; COUNT as usize], "{level:?} {qos}: no will");
    }
}

#[tokio::test]
async fn a_burst_of_many_windows_and_a_goodbye_is_taken_whole() {
    const COUNT: usize = 5000;
    for level in LEVELS {
        let server = server().await;
        let mut raw = Raw::connect_with(server.address, &with_will(level, "c")).await;
        let mut bytes = Vec::new();
        (0..COUNT).for_each(|line| bytes.extend(publish(level, 0, 0, "wanted/a", line.to_string().as_bytes())));
        bytes.extend([0xE0, 0]);
        raw.send(&bytes).await;
        drop(raw);
        server.queues.until_stored(COUNT).await;
        server.until_empty().await;
        let stored = server.queues.stored();
        assert_eq!(stored.len(), COUNT, "{level:?}: no will");
        for (line, message) in stored.iter().enumerate() {
            assert_eq!((message.topic.as_str(), &message.payload[..]), ("wanted/a", line.to_string().as_bytes()));
        }
    }
}

#[tokio::test]
async fn a_burst_before_a_silence_is_answered_whole() {
    const COUNT: u16 = 5000;
    for (topic, slow_at_first) in [("wanted/a", false), ("wanted/a", true), ("other", false), ("other", true)] {
        for (level, qos) in [(Level::V31, 1), (Level::V311, 1), (Level::V31, 0), (Level::V311, 0), (Level::V5, 0)] {
            let server = server().await;
            let mut raw = Raw::connect(server.address, level, "c").await;
            if slow_at_first {
                server.queues.hold();
            }
            let mut bytes = Vec::new();
            (1..=COUNT).for_each(|packet_id| bytes.extend(publish(level, qos, packet_id, topic, b"x")));
            bytes.extend([0xC0, 0]);
            let sending = raw.send_later(bytes);
            server.queues.until_submits(1).await;
            server.queues.release_all();
            let (mut acked, mut pongs) = (0, 0);
            while acked < COUNT * u16::from(qos) || pongs == 0 {
                let packet = raw.packet().await.expect("open");
                if packet == [0xD0, 0] {
                    pongs += 1;
                } else {
                    acked += 1;
                    assert_eq!(packet, ack(level, PUBACK, acked));
                }
            }
            sending.await.expect("sent");
        }
    }
}

#[tokio::test]
async fn a_client_beyond_its_receive_maximum_is_disconnected() {
    let server = Setup::window(4).start(&["#"]).await;
    server.queues.hold();
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    for packet_id in 1..=4 {
        raw.send(&publish(Level::V5, 1 + (packet_id % 2) as u8, packet_id, "t", b"x")).await;
    }
    server.queues.until_stored(4).await;
    raw.expect_nothing_before_ping().await;
    raw.send(&publish(Level::V5, 1, 5, "t", b"x")).await;
    server.until_refused(Refused::ReceiveMaximum, 1).await;
    server.queues.release_all();
    for (first, packet_id) in [(PUBREC, 1), (PUBACK, 2), (PUBREC, 3), (PUBACK, 4)] {
        raw.expect(&ack(Level::V5, first, packet_id)).await;
    }
    raw.expect_disconnect(0x93).await;
    assert_eq!(server.refused(Refused::ReceiveMaximum), 1);
}

#[tokio::test]
async fn the_receive_maximum_is_counted_until_the_last_ack() {
    let server = Setup::window(2).start(&["#"]).await;
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    for _ in 0..3 {
        for packet_id in [1, 2] {
            raw.send(&publish(Level::V5, 2, packet_id, "t", b"x")).await;
            raw.expect(&ack(Level::V5, PUBREC, packet_id)).await;
        }
        for packet_id in [1, 2] {
            raw.send(&ack(Level::V5, PUBREL, packet_id)).await;
            raw.expect(&ack(Level::V5, PUBCOMP, packet_id)).await;
        }
    }
    // Received and not released: two of two.
    for packet_id in [1, 2] {
        raw.send(&publish(Level::V5, 2, packet_id, "t", b"x")).await;
        raw.expect(&ack(Level::V5, PUBREC, packet_id)).await;
    }
    raw.send(&publish(Level::V5, 1, 3, "t", b"x")).await;
    raw.expect_disconnect(0x93).await;
}

#[tokio::test]
async fn a_repeated_qos_2_publish_is_stored_once() {
    for level in LEVELS {
        let server = server().await;
        server.queues.hold();
        let mut raw = Raw::connect(server.address, level, "c").await;
        raw.send(&publish(level, 2, 9, "wanted/a", b"x")).await;
        server.queues.until_submits(1).await;
        let mut repeat = publish(level, 2, 9, "wanted/a", b"x");
        repeat[0] |= 0x08;
        raw.send(&repeat).await;
        raw.expect_nothing_before_ping().await;
        server.queues.release_all();
        raw.expect(&ack(level, PUBREC, 9)).await;
        raw.expect(&ack(level, PUBREC, 9)).await;
        raw.send(&repeat).await;
        raw.expect(&ack(level, PUBREC, 9)).await;
        raw.send(&ack(level, PUBREL, 9)).await;
        raw.expect(&ack(level, PUBCOMP, 9)).await;
        // Released: the same id is a new message, and another PUBREL names nothing.
        raw.send(&publish(level, 2, 9, "wanted/b", b"x")).await;
        raw.expect(&ack(level, PUBREC, 9)).await;
        raw.send(&ack(level, PUBREL, 8)).await;
        raw.expect(&ack_with(level, PUBCOMP, 8, 0x92)).await;
        assert_eq!(server.queues.topics(), ["wanted/a", "wanted/b"]);
    }
}

#[tokio::test]
async fn acks_that_wait_for_the_disk_are_bounded() {
    let server = server().await;
    server.queues.hold();
    let mut raw = Raw::connect(server.address, Level::V311, "c").await;
    raw.send(&publish(Level::V311, 2, 9, "wanted/a", b"x")).await;
    server.queues.until_submits(1).await;
    let repeats = publish(Level::V311, 2, 9, "wanted/a", b"x").repeat(3000);
    let rest = raw.send_later([repeats, vec![0xC0, 0]].concat());
    assert!(raw.is_silent_for(Duration::from_millis(200)).await, "the ping is behind the acks");
    server.queues.release_all();
    for _ in 0..3001 {
        let packet = loop {
            let packet = raw.packet().await.expect("open");
            if packet[0] != 0xD0 {
                break packet;
            }
        };
        assert_eq!(packet, ack(Level::V311, PUBREC, 9));
    }
    rest.await.expect("sent");
    assert_eq!(server.queues.stored().len(), 1);
}

#[tokio::test]
async fn a_new_connection_is_a_new_session() {
    let server = server().await;
    for _ in 0..2 {
        let mut raw =
            Raw::connect_with(server.address, &Connect { clean: false, ..Connect::new(Level::V311, "c") }).await;
        raw.send(&publish(Level::V311, 2, 9, "wanted/a", b"x")).await;
        raw.expect(&ack(Level::V311, PUBREC, 9)).await;
    }
    assert_eq!(server.queues.stored().len(), 2);
}

#[tokio::test]
async fn a_message_is_stored_as_it_was_sent() {
    let server = server().await;
    let mut raw = Raw::connect(server.address, Level::V5, "device-1").await;
    let props = b"\x03\x00\x04text\x08\x00\x01r\x09\x00\x02\x00\xff\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01w";
    let mut bytes = publish_with(Level::V5, 1, 1, "wanted/a", props, b"\x00payload\xff");
    bytes[0] |= 0x01;
    raw.send(&bytes).await;
    raw.expect(&ack(Level::V5, PUBACK, 1)).await;
    let message = server.queues.stored().remove(0);
    assert_eq!((message.topic.as_str(), message.client_id.as_str()), ("wanted/a", "device-1"));
    assert_eq!((message.qos, message.retain, &message.payload[..]), (1, true, &b"\x00payload\xff"[..]));
    assert_eq!(message.content_type.as_deref(), Some("text"));
    assert_eq!(message.response_topic.as_deref(), Some("r"));
    assert_eq!(message.correlation_data.as_deref(), Some(&b"\x00\xff"[..]));
    assert_eq!(message.user_properties, [("k".into(), "v".into()), ("k".into(), "w".into())]);
    let age_ms = chrono::Utc::now().timestamp_millis() - i64::try_from(message.timestamp_ms).expect("small");
    assert!((0..10_000).contains(&age_ms), "{age_ms}");
}

#[tokio::test]
async fn a_full_queue_acknowledges_nothing_and_takes_its_time() {
    for (refusal, reason, code) in [
        (SubmitRefusal::QueueFull, Refused::QueueFull, 0x97),
        (SubmitRefusal::DiskFull, Refused::DiskFull, 0x97),
        (SubmitRefusal::Failed, Refused::Failed, 0x80),
    ] {
        let server = server().await;
        let mut new = Raw::connect(server.address, Level::V5, "new").await;
        let mut old = Raw::connect(server.address, Level::V311, "old").await;
        server.queues.refuse(Some(refusal));
        let since = Instant::now();
        new.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
        old.send(&publish(Level::V311, 1, 1, "wanted/a", b"x")).await;
        new.expect_disconnect(code).await;
        assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
        old.expect_closed().await;
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
        assert_eq!(server.refused(reason), 2);
        server.queues.refuse(None);
        let mut again = Raw::connect(server.address, Level::V5, "new").await;
        again.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
        again.expect(&ack(Level::V5, PUBACK, 1)).await;
        assert_eq!(server.queues.topics(), ["wanted/a"]);
    }
}

#[tokio::test]
async fn what_is_submitted_is_acknowledged_although_the_next_is_refused() {
    let server = server().await;
    server.queues.hold();
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    raw.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
    server.queues.until_submits(1).await;
    server.queues.refuse(Some(SubmitRefusal::QueueFull));
    raw.send(&publish(Level::V5, 1, 2, "wanted/a", b"x")).await;
    server.queues.until_submits(2).await;
    server.queues.release_all();
    raw.expect(&ack(Level::V5, PUBACK, 1)).await;
    raw.expect_disconnect(0x97).await;
}

#[tokio::test]
async fn a_lost_batch_is_never_acknowledged() {
    for (error, code) in [(TicketError::Failed, 0x80), (TicketError::DiskFull, 0x97), (TicketError::Closed, 0x8B)] {
        let server = server().await;
        server.queues.hold();
        let mut raw = Raw::connect(server.address, Level::V5, "c").await;
        for packet_id in [1, 2] {
            raw.send(&publish(Level::V5, 1, packet_id, "wanted/a", b"x")).await;
            server.queues.until_submits(usize::from(packet_id)).await;
        }
        server.queues.settle(1, Ok(()));
        server.queues.settle(0, Err(error));
        // Not even the second, which is on disk: acks are in order.
        raw.expect_disconnect(code).await;
        server.until_empty().await;
    }
}

#[tokio::test]
async fn without_a_lease_only_known_connectors_get_an_ack() {
    let server = server().await;
    server.lease.set(false);
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    raw.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
    raw.expect(&ack(Level::V5, PUBACK, 1)).await;
    raw.send(&publish(Level::V5, 0, 0, "other", b"x")).await;
    raw.expect_nothing_before_ping().await;
    for qos in [1, 2] {
        let mut raw = Raw::connect(server.address, Level::V5, "c").await;
        raw.send(&publish(Level::V5, qos, 2, "other", b"x")).await;
        raw.expect_disconnect(0x89).await;
    }
    let mut old = Raw::connect(server.address, Level::V311, "d").await;
    old.send(&publish(Level::V311, 1, 2, "other", b"x")).await;
    old.expect_closed().await;
    assert_eq!(server.refused(Refused::NoLease), 3);
    server.lease.set(true);
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    raw.send(&publish(Level::V5, 1, 1, "other", b"x")).await;
    raw.expect(&ack(Level::V5, PUBACK, 1)).await;
}

#[tokio::test]
async fn without_a_lease_nothing_is_taken_when_so_configured() {
    let setup = Setup::default();
    let limits = Limits { without_lease: WithoutLease::Refuse, ..setup.limits };
    let server = Setup { limits, ..setup }.start(&["#"]).await;
    server.lease.set(false);
    for qos in [0, 1, 2] {
        let mut raw = Raw::connect(server.address, Level::V5, "c").await;
        raw.send(&publish(Level::V5, qos, 2, "t", b"x")).await;
        raw.expect_disconnect(0x89).await;
    }
    assert!(server.queues.stored().is_empty());
}

#[tokio::test]
async fn a_stop_acknowledges_what_was_taken() {
    let server = server().await;
    server.queues.hold();
    let mut new = Raw::connect(server.address, Level::V5, "new").await;
    let mut old = Raw::connect(server.address, Level::V311, "old").await;
    new.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
    old.send(&publish(Level::V311, 1, 1, "wanted/a", b"x")).await;
    server.queues.until_submits(2).await;
    let address = server.address;
    let client = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            looks.tick().await;
        }
        server.queues.release_all();
        new.expect(&ack(Level::V5, PUBACK, 1)).await;
        new.expect_disconnect(0x8B).await;
        old.expect(&ack(Level::V311, PUBACK, 1)).await;
        old.expect_closed().await;
    };
    let (in_time, ()) = tokio::join!(server.mqtt.drain(Duration::from_secs(10)), client);
    assert!(in_time);
    assert!(!server.mqtt.is_listening());
}

#[tokio::test]
async fn a_stop_has_a_bound() {
    let server = server().await;
    server.queues.hold();
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    raw.send(&publish(Level::V5, 1, 1, "wanted/a", b"x")).await;
    server.queues.until_submits(1).await;
    assert!(!server.mqtt.drain(Duration::from_millis(200)).await);
    raw.expect_closed().await;
    assert_eq!(server.metrics.connections.get(), 0);
}
