//! What a broker must refuse, and what it must grant.

use std::time::{Duration, Instant};

use broker_node::mqtt::{Limits, Refused};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::raw::{Connect, Level, PUBACK, PUBREC, Raw, ack, ack_with, packet, publish, publish_with, subscribe};
use crate::server::{Setup, server};

#[tokio::test]
async fn a_connect_is_refused_with_the_reason_of_its_version() {
    let server = server().await;
    let with = |level, change: &dyn Fn(&mut Connect)| {
        let mut connect = Connect::new(level, "c");
        change(&mut connect);
        connect.bytes()
    };
    let level_byte = |level: u8| {
        let mut bytes = Connect::new(Level::V311, "c").bytes();
        bytes[8] = level;
        bytes
    };
    let will = |topic: &str| Some((1, Vec::new(), topic.to_owned(), b"x".to_vec()));
    let empty = |connect: &mut Connect| connect.client_id.clear();
    let empty_kept = |connect: &mut Connect| (connect.client_id, connect.clean) = (String::new(), false);
    let cases: [(&str, Vec<u8>, &[u8]); 13] = [
        ("3.1 without a client id", with(Level::V31, &empty), &[0x20, 2, 0, 2]),
        ("3.1.1 without a client id, session kept", with(Level::V311, &empty_kept), &[0x20, 2, 0, 2]),
        ("level 3 under the new name", level_byte(3), &[0x20, 2, 0, 1]),
        ("level 6", level_byte(6), &[0x20, 2, 0, 1]),
        ("5, id too long", with(Level::V5, &|c| c.client_id = "x".repeat(1025)), &[0x20, 3, 0, 0x85, 0]),
        ("5, NUL in the id", with(Level::V5, &|c| c.client_id = "a\0".into()), &[0x20, 3, 0, 0x85, 0]),
        (
            "5, authentication method",
            with(Level::V5, &|c| c.properties = b"\x15\x00\x01a".into()),
            &[0x20, 3, 0, 0x8C, 0],
        ),
        (
            "5, authentication data alone",
            with(Level::V5, &|c| c.properties = b"\x16\x00\x01a".into()),
            &[0x20, 3, 0, 0x82, 0],
        ),
        ("5, will to a wildcard", with(Level::V5, &|c| c.will = will("a/#")), &[0x20, 3, 0, 0x90, 0]),
        ("5, will to a reserved topic", with(Level::V5, &|c| c.will = will("$SYS/a")), &[0x20, 3, 0, 0x90, 0]),
        (
            "5, a property that does not exist",
            with(Level::V5, &|c| c.properties = vec![0x7F, 1]),
            &[0x20, 3, 0, 0x81, 0],
        ),
        ("no mqtt at all", b"GET / HTTP/1.1\r\n\r\n".to_vec(), &[]),
        ("a publish first", publish(Level::V311, 0, 0, "a", b""), &[]),
    ];
    for (name, bytes, answer) in cases {
        let mut raw = Raw::dial(server.address).await;
        raw.send(&bytes).await;
        assert_eq!(raw.packet().await.unwrap_or_default(), answer, "{name}");
        assert_eq!(raw.packet().await, None, "{name}");
    }
    server.until_empty().await;
}

#[tokio::test]
async fn an_id_is_assigned_where_the_protocol_allows_it() {
    let server = server().await;
    for (level, clean) in [(Level::V311, true), (Level::V5, true), (Level::V5, false)] {
        let mut raw = Raw::dial(server.address).await;
        raw.send(&Connect { clean, ..Connect::new(level, "") }.bytes()).await;
        let connack = raw.packet().await.expect("a CONNACK");
        assert_eq!(connack[3], 0);
        let tells = connack.windows(5).any(|bytes| bytes == b"auto-");
        assert_eq!(tells, level == Level::V5, "{connack:02x?}");
        raw.send(&publish(level, 1, 1, "wanted/a", b"x")).await;
        raw.expect(&ack(level, PUBACK, 1)).await;
    }
    let stored = server.queues.stored();
    assert!(stored.iter().all(|message| message.client_id.starts_with("auto-")));
    assert_ne!(stored[0].client_id, stored[1].client_id);
}

#[tokio::test]
async fn connack_tells_mqtt_5_clients_the_limits() {
    let server = server().await;
    let mut raw = Raw::dial(server.address).await;
    // Session expiry of a minute: answered with 0, because sessions end with their connection.
    raw.send(&Connect { properties: vec![0x11, 0, 0, 0, 60], ..Connect::new(Level::V5, "c") }.bytes()).await;
    let connack = raw.packet().await.expect("a CONNACK");
    let has = |property: &[u8]| connack[5..].windows(property.len()).any(|bytes| bytes == property);
    assert!(has(&[0x11, 0, 0, 0, 0]), "session expiry: {connack:02x?}");
    assert!(has(&[0x21, 0, 16]), "receive maximum");
    assert!(has(&[0x27, 0, 0x10, 0, 0]), "maximum packet size");
    assert!(has(&[0x22, 0, 16]), "topic alias maximum");
    assert!(has(&[0x2A, 0]), "no shared subscriptions");
}

#[tokio::test]
async fn a_broken_packet_ends_the_connection_with_its_reason() {
    let server = server().await;
    let large = publish(Level::V5, 0, 0, "a", &vec![0; 1 << 20]);
    let deep = "a/".repeat(200);
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("wildcard in a topic", publish(Level::V5, 1, 1, "a/+", b""), 0x90),
        ("NUL in a topic", publish(Level::V5, 0, 0, "a\0", b""), 0x90),
        ("no topic and no alias", publish(Level::V5, 0, 0, "", b""), 0x82),
        ("unknown alias", publish_with(Level::V5, 0, 0, "", &[0x23, 0, 1], b""), 0x82),
        ("alias beyond the maximum", publish_with(Level::V5, 0, 0, "a", &[0x23, 0, 17], b""), 0x94),
        ("subscription identifier from a client", publish_with(Level::V5, 0, 0, "a", &[0x0B, 1], b""), 0x82),
        ("NUL in a user property", publish_with(Level::V5, 0, 0, "a", b"\x26\x00\x01\x00\x00\x01b", b""), 0x81),
        ("wildcard in a response topic", publish_with(Level::V5, 0, 0, "a", b"\x08\x00\x01#", b""), 0x81),
        ("QoS 3", packet(0x36, b"\x00\x01a\x00\x01\x00"), 0x81),
        ("DUP with QoS 0", packet(0x38, b"\x00\x01a\x00"), 0x81),
        ("packet id 0", publish(Level::V5, 1, 0, "a", b""), 0x81),
        ("larger than the maximum", large, 0x95),
        ("length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], 0x81),
        ("SUBSCRIBE without a filter", packet(0x82, b"\x00\x01\x00"), 0x82),
        ("UNSUBSCRIBE without a filter", packet(0xA2, b"\x00\x01\x00"), 0x82),
        ("reserved bits of SUBSCRIBE", packet(0x80, b"\x00\x01\x00\x00\x01a\x00"), 0x81),
        ("reserved subscription options", subscribe(Level::V5, 1, "a", 0xC0), 0x81),
        ("AUTH without a method", packet(0xF0, b"\x18\x00"), 0x82),
        ("a CONNACK from a client", packet(0x20, b"\x00\x00\x00"), 0x82),
        ("a second CONNECT", Connect::new(Level::V5, "c").bytes(), 0x82),
        ("PINGREQ with a body", packet(0xC0, b"\x00"), 0x81),
        ("packet type 0", packet(0x00, b""), 0x81),
        ("a session expiry that CONNECT did not ask for", packet(0xE0, b"\x00\x05\x11\x00\x00\x00\x01"), 0x82),
    ];
    for (name, bytes, reason) in cases {
        let mut raw = Raw::connect(server.address, Level::V5, "c").await;
        raw.send(&bytes).await;
        assert_eq!(raw.packet().await, Some(vec![0xE0, 2, reason, 0]), "{name}");
        assert_eq!(raw.packet().await, None, "{name}");
    }
    // Before MQTT 5 there is nothing to say.
    let old: [(&str, Vec<u8>); 6] = [
        ("wildcard in a topic", publish(Level::V311, 1, 1, "a/+", b"")),
        ("empty topic", publish(Level::V311, 0, 0, "", b"")),
        ("too deep, and PUBACK would mean success", publish(Level::V311, 1, 1, &deep, b"")),
        ("reserved subscription options", subscribe(Level::V311, 1, "a", 4)),
        ("DISCONNECT with a body", packet(0xE0, b"\x00")),
        ("a second CONNECT", Connect::new(Level::V311, "c").bytes()),
    ];
    for (name, bytes) in old {
        let mut raw = Raw::connect(server.address, Level::V311, "c").await;
        raw.send(&bytes).await;
        assert_eq!(raw.packet().await, None, "{name}");
    }
    assert!(server.queues.stored().is_empty());
}

#[tokio::test]
async fn what_came_before_a_broken_packet_is_acknowledged() {
    let server = server().await;
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    let mut bytes = publish(Level::V5, 1, 7, "wanted/a", b"x");
    bytes.extend(publish(Level::V5, 1, 8, "wanted/+", b"x"));
    raw.send(&bytes).await;
    raw.expect(&ack(Level::V5, PUBACK, 7)).await;
    raw.expect_disconnect(0x90).await;
    assert_eq!(server.queues.topics(), ["wanted/a"]);
}

#[tokio::test]
async fn reserved_topics_are_not_accepted() {
    let server = Setup::default().start(&["#", "$SYS/#"]).await;
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    for (qos, first) in [(1, PUBACK), (2, PUBREC)] {
        raw.send(&publish(Level::V5, qos, 3, "$SYS/a", b"x")).await;
        raw.expect(&ack_with(Level::V5, first, 3, 0x90)).await;
    }
    raw.send(&publish(Level::V5, 0, 0, "$SYS/a", b"x")).await;
    raw.expect_nothing_before_ping().await;
    let mut old = Raw::connect(server.address, Level::V311, "d").await;
    old.send(&publish(Level::V311, 1, 1, "$SYS/a", b"x")).await;
    old.expect_closed().await;
    assert!(server.queues.stored().is_empty());
    assert_eq!(server.refused(Refused::Topic), 4);
}

#[tokio::test]
async fn an_alias_stands_for_its_topic() {
    let server = server().await;
    let mut raw = Raw::connect(server.address, Level::V5, "c").await;
    let alias = |topic, packet_id| publish_with(Level::V5, 1, packet_id, topic, &[0x23, 0, 1], b"x");
    for (topic, packet_id) in [("wanted/a", 1), ("", 2), ("wanted/b", 3), ("", 4)] {
        raw.send(&alias(topic, packet_id)).await;
        raw.expect(&ack(Level::V5, PUBACK, packet_id)).await;
    }
    assert_eq!(server.queues.topics(), ["wanted/a", "wanted/a", "wanted/b", "wanted/b"]);
}

#[tokio::test]
async fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let server = server().await;
    for (level, keep_alive_secs) in [(Level::V311, 1), (Level::V5, 1)] {
        let connect = Connect { keep_alive_secs, ..Connect::new(level, "c") };
        let mut raw = Raw::connect_with(server.address, &connect).await;
        let since = Instant::now();
        match level {
            Level::V31 | Level::V311 => raw.expect_closed().await,
            Level::V5 => raw.expect_disconnect(0x8D).await,
        }
        assert!(since.elapsed() > Duration::from_millis(1400), "{:?}", since.elapsed());
    }
}

#[tokio::test]
async fn no_more_clients_than_allowed() {
    let setup = Setup::default();
    let limits = Limits { connections_max: 2, ..setup.limits };
    let server = Setup { limits, ..setup }.start(&[]).await;
    let first = Raw::connect(server.address, Level::V311, "1").await;
    let mut second = Raw::connect(server.address, Level::V311, "2").await;
    for (level, answer) in [(Level::V311, &[0x20, 2, 0, 3][..]), (Level::V5, &[0x20, 3, 0, 0x97, 0])] {
        let mut third = Raw::dial(server.address).await;
        third.send(&Connect::new(level, "3").bytes()).await;
        third.expect(answer).await;
        third.expect_closed().await;
    }
    // Whoever takes over needs no room of its own.
    let _again = Raw::connect(server.address, Level::V311, "2").await;
    second.expect_closed().await;
    drop(first);
}

#[tokio::test]
async fn a_large_packet_waits_for_its_share_of_the_budget() {
    let setup = Setup::default();
    let limits = Limits { inflight_bytes_max: 1 << 20, ..setup.limits };
    let server = Setup { limits, ..setup }.start(&["#"]).await;
    let large = publish(Level::V311, 1, 1, "large", &vec![7; 900 << 10]);
    let mut crawling = Raw::connect(server.address, Level::V311, "crawling").await;
    let mut begun = vec![0xC0, 0];
    begun.extend_from_slice(&large[..20 << 10]);
    crawling.send(&begun).await;
    crawling.expect(&[0xD0, 0]).await;
    // A second large one finds no room, small ones do.
    let mut waiting = Raw::connect(server.address, Level::V311, "waiting").await;
    waiting.send(&large[..64 << 10]).await;
    let mut small = Raw::connect(server.address, Level::V311, "small").await;
    small.send(&publish(Level::V311, 1, 1, "small", b"x")).await;
    small.expect(&ack(Level::V311, PUBACK, 1)).await;
    let rest = waiting.send_later(large[64 << 10..].to_vec());
    assert!(waiting.is_silent_for(Duration::from_millis(200)).await);
    assert_eq!(server.queues.topics(), ["small"]);
    drop(crawling);
    waiting.expect(&ack(Level::V311, PUBACK, 1)).await;
    rest.await.expect("sent");
    assert_eq!(server.queues.stored()[1].payload.len(), 900 << 10);
}

#[tokio::test]
async fn random_bytes_leave_the_listener_as_it_was() {
    let server = server().await;
    let mut random = StdRng::seed_from_u64(7);
    let mut sound: Vec<Vec<u8>> = vec![
        publish(Level::V5, 1, 1, "wanted/a", b"payload"),
        publish_with(Level::V5, 2, 2, "wanted/b", b"\x26\x00\x01a\x00\x01b\x23\x00\x01", b"payload"),
        subscribe(Level::V5, 3, "a/+/#", 1),
        packet(0xA2, b"\x00\x04\x00\x00\x01a"),
        ack(Level::V5, 0x62, 2),
        packet(0xE0, b"\x04\x00"),
    ];
    sound.push(Connect { will: Some((1, vec![], "w".into(), b"w".into())), ..Connect::new(Level::V5, "w") }.bytes());
    for round in 0..400 {
        let mut raw = Raw::dial(server.address).await;
        if round % 4 != 0 {
            let level = if round % 2 == 0 { Level::V5 } else { Level::V311 };
            raw.send(&Connect::new(level, &format!("c{}", round % 8)).bytes()).await;
        }
        let mut bytes = Vec::new();
        while bytes.len() < 200 {
            let mut part = sound[random.random_range(0..sound.len())].clone();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..part.len());
                part[at] = random.random();
            }
            bytes.extend(part);
        }
        if round % 3 == 0 {
            random.fill(&mut bytes[..]);
        }
        raw.send(&bytes).await;
    }
    server.until_empty().await;
    let mut raw = Raw::connect(server.address, Level::V5, "after").await;
    raw.send(&publish(Level::V5, 1, 1, "wanted/after", b"x")).await;
    raw.expect(&ack(Level::V5, PUBACK, 1)).await;
}
