//! What a connection holds while a client sends faster than anybody takes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::FutureExt;
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use super::io::READ_BYTES;
use super::*;
use crate::mqtt::auth::Auth;
use crate::mqtt::budget::Budget;
use crate::mqtt::handshake::handshake;
use crate::mqtt::hub::{Limits, WithoutLease};
use crate::mqtt::ingest::{Ingest, SubmitRefusal, Ticket};
use crate::mqtt::metrics::MqttMetrics;
use crate::mqtt::router::Router;
use crate::mqtt::session::Registry;
use crate::mqtt::subscriptions::Subscriptions;

const PACKET_BYTES_MAX: u32 = 1 << 20;
/// "t" and no payload, QoS 0, for version 3.
const PUBLISH: &[u8] = b"\x30\x03\x00\x01t";

/// Counts what it is given, and settles it at once or never.
#[derive(Default)]
struct Counting {
    submitted: AtomicUsize,
    never: AtomicBool,
}

impl Ingest for Counting {
    fn submit(&self, messages: Vec<Message>) -> Result<Ticket, SubmitRefusal> {
        self.submitted.fetch_add(messages.len(), Ordering::SeqCst);
        match self.never.load(Ordering::SeqCst) {
            true => Ok(futures::future::pending().boxed()),
            false => Ok(futures::future::ready(Ok(())).boxed()),
        }
    }

    fn wanted(&self, _topic: &str) -> bool {
        false
    }
}

fn hub(ingest: Arc<Counting>, window: u16) -> Arc<Hub> {
    let metrics = MqttMetrics::new(&prometheus::Registry::new()).expect("fresh registry");
    let subscriptions = Arc::new(Subscriptions::default());
    let limits = Limits {
        window: NonZeroU16::new(window).expect("not 0"),
        packet_bytes_max: PACKET_BYTES_MAX,
        connections_max: 1,
        inflight_bytes_max: 8 << 20,
        without_lease: WithoutLease::Accept,
    };
    Arc::new(Hub {
        limits,
        auth: Auth::new(None, true),
        ingest,
        lease: connector_runtime::lease::Lease::new(true),
        sessions: Registry::default(),
        subscriptions: subscriptions.clone(),
        cluster: None,
        router: Router::new(subscriptions, None, metrics.clone()),
        metrics,
        budget: Budget::new(limits.inflight_bytes_max, PACKET_BYTES_MAX as usize + READ_BYTES),
        connected: AtomicUsize::new(0),
        stopping: CancellationToken::new(),
    })
}

async fn connection(hub: Arc<Hub>, client: &mut DuplexStream, mut server: DuplexStream) -> Connection<DuplexStream> {
    client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").await.expect("room");
    let established = handshake(&hub, &mut server).await.expect("accepted");
    let mut connection = Connection::open(hub, server, established);
    connection.turn().await;
    assert_eq!(client.read_u32().await.expect("a CONNACK"), 0x2002_0000);
    connection
}

#[tokio::test]
async fn a_flood_that_nobody_wants_does_not_pile_up() {
    const READS: usize = 40;
    let ingest = Arc::new(Counting::default());
    let (mut client, server) = tokio::io::duplex(READ_BYTES);
    let mut connection = connection(hub(ingest.clone(), 16), &mut client, server).await;
    let flood = PUBLISH.repeat(READ_BYTES * READS / PUBLISH.len());
    let sent = flood.len() / PUBLISH.len();
    let client = tokio::spawn(async move {
        client.write_all(&flood).await.expect("taken");
        client
    });
    while ingest.submitted.load(Ordering::SeqCst) < sent {
        tokio::time::timeout(STALL_MAX, connection.turn()).await.expect("the flood goes on");
        assert!(connection.input.len() < PUBLISH.len(), "{} bytes are left", connection.input.len());
    }
    assert!(matches!(connection.phase, Phase::Open));
    drop(client.await.expect("sent"));
    connection.turn().await;
    assert!(connection.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_flood_beyond_the_window_is_not_read() {
    let ingest = Arc::new(Counting::default());
    ingest.never.store(true, Ordering::SeqCst);
    let (mut client, server) = tokio::io::duplex(READ_BYTES);
    let mut connection = connection(hub(ingest.clone(), 16), &mut client, server).await;
    let flood = PUBLISH.repeat(10 * READ_BYTES);
    let client = tokio::spawn(async move { client.write_all(&flood).await });
    // Turns go on until nothing happens any more.
    while tokio::time::timeout(IDLE / 2, connection.turn()).await.is_ok() {
        assert!(connection.input.len() <= READ_BYTES, "{} bytes are held", connection.input.len());
    }
    assert_eq!(ingest.submitted.load(Ordering::SeqCst), 16);
    assert!(!client.is_finished());
    drop(connection);
    assert!(client.await.expect("no panic").is_err(), "the rest was never taken");
}

#[tokio::test]
async fn a_goodbye_counts_although_the_answers_do_not_arrive() {
    let ingest = Arc::new(Counting::default());
    let (mut client, server) = tokio::io::duplex(READ_BYTES);
    let mut connection = connection(hub(ingest.clone(), 16), &mut client, server).await;
    let will = Message { topic: "will".to_owned(), ..Message::default() };
    let publication = Publication::internal(&will);
    connection.will = Some((will, publication));
    // The output was full when the publishes and the goodbye came, and then the peer was gone.
    connection.output.extend_from_slice(&[0; OUTPUT_BYTES_MAX]);
    connection.input.extend_from_slice(&PUBLISH.repeat(100));
    connection.input.extend_from_slice(b"\xe0\x00");
    drop(client);
    while !connection.has_ended() {
        connection.turn().await;
    }
    assert_eq!(ingest.submitted.load(Ordering::SeqCst), 100);
    assert!(connection.will.is_none());
}
