//! Subscribers on other nodes, over the real node RPC.

use std::time::Duration;

use api_types::{Message, RaftId};
use broker_node::mqtt::{ClusterLink, Dropped, Peer};
use meta_service::rpc::{RpcClient, Secrets, authorize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::raw::{Level, PATIENCE, PUBACK, Raw, ack, publish};
use crate::server::{Server, Setup};

struct Node {
    server: Server,
    peers: watch::Sender<Vec<Peer>>,
    rpc: JoinHandle<()>,
    peer: Peer,
}

impl Node {
    /// A node whose RPC listens on this port; 0 = any.
    async fn start(name: &str, secret: &str, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("free port");
        let peer =
            Peer { raft_id: RaftId(0), name: name.into(), address: listener.local_addr().expect("bound").to_string() };
        let secrets = Secrets::new(Some(secret), None);
        let (peers, receiver) = watch::channel(Vec::new());
        let rpc = client(secrets.clone());
        let cluster = Some(ClusterLink { node: name.into(), rpc, peers: receiver });
        let server = Setup { cluster, ..Setup::default() }.start(&["wanted/#"]).await;
        let guard = axum::middleware::from_fn_with_state(secrets, authorize);
        let routes = server.mqtt.routes().layer(guard);
        let rpc = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        Self { server, peers, rpc, peer }
    }

    fn know(&self, nodes: &[&Node]) {
        self.peers.send_replace(nodes.iter().map(|node| node.peer.clone()).collect());
    }
}

fn client(secrets: Secrets) -> RpcClient {
    // Another test may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    RpcClient::new(secrets).expect("a client")
}

async fn pair() -> (Node, Node) {
    let nodes = (Node::start("a", "s", 0).await, Node::start("b", "s", 0).await);
    nodes.0.know(&[&nodes.0, &nodes.1]);
    nodes.1.know(&[&nodes.0, &nodes.1]);
    (nodes.0, nodes.1)
}

async fn publish_until_received(node: &Node, subscriber: &mut Raw, topic: &str) {
    let publish_again = async {
        loop {
            let message = Message { topic: topic.into(), payload: "again".into(), ..Message::default() };
            node.server.mqtt.publish_internal(message).await.expect("published");
            if !subscriber.is_silent_for(Duration::from_millis(100)).await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, publish_again).await.expect("received in time");
}

#[tokio::test]
async fn a_subscriber_gets_what_is_published_on_another_node_exactly_once() {
    let (a, b) = pair().await;
    let mut subscriber = Raw::connect(a.server.address, Level::V311, "s").await;
    // Once the announcers are at work, a SUBACK means that the other node knows.
    subscriber.subscribe(Level::V311, 1, "warm/up", 0).await;
    publish_until_received(&b, &mut subscriber, "warm/up").await;
    subscriber.subscribe(Level::V311, 2, "wanted/+", 1).await;
    subscriber.subscribe(Level::V311, 3, "wanted/#", 1).await;
    let mut publisher = Raw::connect(b.server.address, Level::V5, "p").await;
    for id in 1..=50 {
        publisher.send(&publish(Level::V5, 1, id, "wanted/a", &[id as u8])).await;
        publisher.expect(&ack(Level::V5, PUBACK, id)).await;
    }
    for id in 1..=50 {
        let got = subscriber.packet().await.expect("a message");
        assert_eq!((got[0], got.last()), (0x32, Some(&(id as u8))), "{got:02x?}");
        subscriber.send(&ack(Level::V311, PUBACK, u16::from_be_bytes([got[12], got[13]]))).await;
    }
    subscriber.expect_nothing_before_ping().await;
    assert_eq!(b.server.queues.stored().len(), 50);
    assert!(a.server.queues.stored().is_empty(), "the other node's queues are not concerned");
    // Its own node's messages come once too.
    let mut local = Raw::connect(a.server.address, Level::V311, "l").await;
    local.send(&publish(Level::V311, 0, 0, "wanted/b", b"x")).await;
    subscriber.expect(&publish(Level::V311, 0, 0, "wanted/b", b"x")).await;
    subscriber.expect_nothing_before_ping().await;
}

#[tokio::test]
async fn nothing_is_forwarded_to_nodes_without_a_subscriber() {
    let (a, b) = pair().await;
    let mut subscriber = Raw::connect(a.server.address, Level::V311, "s").await;
    subscriber.subscribe(Level::V311, 1, "t", 0).await;
    publish_until_received(&b, &mut subscriber, "t").await;
    subscriber.send(b"\xa2\x05\x00\x02\x00\x01t").await;
    let delivered = async { while subscriber.packet().await.expect("open")[0] != 0xB0 {} };
    tokio::time::timeout(PATIENCE, delivered).await.expect("an UNSUBACK");
    // A second subscription tells when the first is gone: changes are announced in order.
    subscriber.subscribe(Level::V311, 3, "u", 0).await;
    publish_until_received(&b, &mut subscriber, "u").await;
    a.rpc.abort();
    let message = Message { topic: "t".into(), ..Message::default() };
    b.server.mqtt.publish_internal(message).await.expect("published");
    assert_eq!(b.server.metrics.dropped_total(Dropped::PeerUnreachable), 0);
    assert_eq!(b.server.metrics.dropped_total(Dropped::PeerQueueFull), 0);
}

#[tokio::test]
async fn a_node_that_starts_again_learns_everything_again() {
    let (a, b) = pair().await;
    let mut subscriber = Raw::connect(a.server.address, Level::V311, "s").await;
    subscriber.subscribe(Level::V311, 1, "t", 0).await;
    publish_until_received(&b, &mut subscriber, "t").await;
    let port = b.peer.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    b.rpc.abort();
    assert!(b.rpc.await.expect_err("aborted").is_cancelled());
    drop(b.server);
    // While the other is away nobody waits for it long.
    subscriber.subscribe(Level::V311, 2, "u", 0).await;
    let again = Node::start("b", "s", port).await;
    again.know(&[&a, &again]);
    publish_until_received(&again, &mut subscriber, "u").await;
    let mut on_b = Raw::connect(again.server.address, Level::V311, "on-b").await;
    on_b.subscribe(Level::V311, 1, "v", 0).await;
    publish_until_received(&a, &mut on_b, "v").await;
}

#[tokio::test]
async fn a_wrong_secret_keeps_the_door_shut() {
    let a = Node::start("a", "right", 0).await;
    let b = Node::start("b", "wrong", 0).await;
    a.know(&[&b]);
    b.know(&[&a]);
    let mut subscriber = Raw::connect(a.server.address, Level::V311, "s").await;
    subscriber.subscribe(Level::V311, 1, "#", 0).await;
    let message = Message { topic: "t".into(), ..Message::default() };
    b.server.mqtt.publish_internal(message).await.expect("published");
    assert!(subscriber.is_silent_for(Duration::from_millis(300)).await);
    let rpc = client(Secrets::default());
    let body = bytes::Bytes::from_static(b"\x01");
    for path in ["/subscriptions/announce", "/subscriptions/deliver"] {
        let refused = rpc.post(&a.peer.address, path, body.clone(), PATIENCE).await;
        assert!(refused.expect_err("refused").to_string().contains("401"), "{path}");
    }
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let a = Node::start("a", "s", 0).await;
    let rpc = client(Secrets::new(Some("s"), None));
    for (body, status) in [(&b""[..], "400"), (b"\x02", "501"), (b"\x01", "400"), (b"\x01\xff\xff\xff\xff\x7f", "400")]
    {
        for path in ["/subscriptions/announce", "/subscriptions/deliver"] {
            let refused = rpc.post(&a.peer.address, path, bytes::Bytes::from_static(body), PATIENCE).await;
            assert!(refused.expect_err("refused").to_string().contains(status), "{path} {body:02x?}");
        }
    }
}
