//! Wills: published unless the client said goodbye.

use broker_node::mqtt::SubmitRefusal;

use crate::raw::{Connect, Level, Raw};
use crate::server::{Server, server};

const LEVELS: [Level; 3] = [Level::V31, Level::V311, Level::V5];

pub fn with_will(level: Level, client_id: &str) -> Connect {
    let will = Some((1, b"\x26\x00\x01k\x00\x01v".to_vec(), "wanted/will".to_owned(), b"gone".to_vec()));
    Connect { will, ..Connect::new(level, client_id) }
}

async fn stored_will(server: &Server, level: Level) {
    let message = server.queues.until_stored(1).await.remove(0);
    assert_eq!((message.topic.as_str(), &message.payload[..], message.qos), ("wanted/will", &b"gone"[..], 1));
    assert_eq!(message.client_id, "c");
    assert_eq!(message.user_properties.is_empty(), level != Level::V5);
    assert!(message.timestamp_ms > 0);
}

#[tokio::test]
async fn a_lost_client_leaves_its_will() {
    for level in LEVELS {
        let server = server().await;
        drop(Raw::connect_with(server.address, &with_will(level, "c")).await);
        stored_will(&server, level).await;
    }
}

#[tokio::test]
async fn a_goodbye_takes_the_will_back() {
    let server = server().await;
    for level in LEVELS {
        let mut raw = Raw::connect_with(server.address, &with_will(level, "c")).await;
        raw.send(&[0xE0, 0]).await;
        raw.expect_closed().await;
    }
    server.until_empty().await;
    assert!(server.queues.stored().is_empty());
}

#[tokio::test]
async fn a_goodbye_may_leave_the_will() {
    let server = server().await;
    let mut raw = Raw::connect_with(server.address, &with_will(Level::V5, "c")).await;
    raw.send(&[0xE0, 1, 0x04]).await;
    raw.expect_closed().await;
    stored_will(&server, Level::V5).await;
}

#[tokio::test]
async fn a_refused_client_leaves_its_will() {
    let server = server().await;
    let mut raw = Raw::connect_with(server.address, &with_will(Level::V5, "c")).await;
    raw.send(&[0x00, 0x00]).await;
    raw.expect_disconnect(0x81).await;
    stored_will(&server, Level::V5).await;
}

#[tokio::test]
async fn a_client_that_was_taken_over_leaves_its_will() {
    for level in LEVELS {
        let server = server().await;
        let mut first = Raw::connect_with(server.address, &with_will(level, "c")).await;
        let mut second = Raw::connect(server.address, level, "c").await;
        match level {
            Level::V31 | Level::V311 => first.expect_closed().await,
            Level::V5 => first.expect_disconnect(0x8E).await,
        }
        stored_will(&server, level).await;
        second.expect_nothing_before_ping().await;
    }
}

#[tokio::test]
async fn a_will_waits_for_room_in_the_queues() {
    let server = server().await;
    server.queues.refuse(Some(SubmitRefusal::QueueFull));
    drop(Raw::connect_with(server.address, &with_will(Level::V311, "c")).await);
    server.queues.until_submits(1).await;
    server.queues.refuse(None);
    stored_will(&server, Level::V311).await;
}

#[tokio::test]
async fn a_will_reaches_subscribers() {
    let server = server().await;
    let mut subscriber = Raw::connect(server.address, Level::V311, "s").await;
    subscriber.subscribe(Level::V311, 1, "wanted/+", 0).await;
    drop(Raw::connect_with(server.address, &with_will(Level::V311, "c")).await);
    subscriber.expect(b"\x30\x11\x00\x0bwanted/willgone").await;
}
