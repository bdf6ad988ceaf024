//! Two nodes over real HTTP/2 on loopback.

use std::net::SocketAddr;

use api_types::{DiskId, NodeEpoch};
use connector_runtime::source::{QueueSource, ReadyQueues, SourceError, Sources};
use meta_service::rpc::{RpcClient, Secrets, authorize};
use meta_service::state::{Node, NodeState};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;

const HERE: RaftId = RaftId(1);
const THERE: RaftId = RaftId(2);

fn node(raft_id: RaftId, address: SocketAddr) -> Node {
    Node {
        raft_id,
        disk_id: DiskId(u128::from(raft_id.0)),
        name: format!("node-{raft_id}").into(),
        rpc_address: address.to_string(),
        api_address: String::new(),
        mqtt_address: String::new(),
        zone: String::new(),
        version: String::new(),
        kinds: vec!["file".to_owned()],
        state: NodeState::Up,
        node_epoch: NodeEpoch(1),
        boot_nonce: 0,
        since_ms: 0,
        log_synced: LogIndex(0),
    }
}

/// The RPC port of a node; stops with all its connections when dropped.
struct Port {
    address: SocketAddr,
    cancel: CancellationToken,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Port {
    async fn serve(bench: &Bench, address: &str, secret: Option<&str>) -> Self {
        let listener = TcpListener::bind(address).await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let layer = axum::middleware::from_fn_with_state(Secrets::new(secret, None), authorize);
        let routes = bench.queues.routes().layer(layer);
        let cancel = CancellationToken::new();
        let stopped = cancel.clone();
        let served = tokio::spawn(async move {
            let serve = async { axum::serve(listener, routes).await };
            let _ = stopped.run_until_cancelled(serve).await;
        });
        Self { address, cancel, served: Some(served) }
    }

    async fn stop(mut self) {
        self.cancel.cancel();
        if let Some(served) = self.served.take() {
            served.await.expect("ends");
        }
    }
}

fn client(secret: Option<&str>) -> RpcClient {
    // As `main` does; an error only says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    RpcClient::new(Secrets::new(secret, None)).expect("a client")
}

/// `here` owns the connector, `there` holds records.
async fn pair(secret: Option<&str>) -> (Bench, Bench, Port) {
    let here = Bench::new();
    let there = Bench::with(|options| options.raft_id = THERE);
    let port = Port::serve(&there, "127.0.0.1:0", secret).await;
    let address = port.address;
    here.set_state(|state| {
        state.nodes.insert(HERE, Arc::new(node(HERE, ([127, 0, 0, 1], 9).into())));
        state.nodes.insert(THERE, Arc::new(node(THERE, address)));
    });
    (here, there, port)
}

async fn ready(
    watch: &mut watch::Receiver<ReadyQueues>,
    node: RaftId,
    above: Sequence,
) -> (Arc<dyn QueueSource>, Sequence) {
    let found = watch.wait_for(|ready| ready.get(&node).is_some_and(|queue| queue.head > above));
    let ready = tokio::time::timeout(PATIENCE, found).await.expect("in time").expect("the sender lives");
    (ready[&node].source.clone(), ready[&node].head)
}

#[tokio::test]
async fn the_owner_reads_and_commits_the_queues_of_every_node() {
    let (here, there, _port) = pair(Some("s")).await;
    here.append(&all_to_one(), "t", &["here"]).await;
    there.append(&all_to_one(), "t", &["there", "too"]).await;
    let sources = here.queues.sources(client(Some("s")));
    let mut watch = sources.watch(ONE, EPOCH);
    let mut delivered = Vec::new();
    for node in [HERE, THERE] {
        let (source, _) = ready(&mut watch, node, Sequence(0)).await;
        assert_eq!(source.node(), node);
        let position = source.open().await.expect("opens");
        let whole = batch(source.fetch(position, limits(10)).await.expect("fetches"));
        if whole.records.len() > 1 {
            source.split(position, whole.records[1].id.sequence).await.expect("splits");
        }
        delivered.extend(payloads(&whole.records));
        let ends = vec![(
            whole.records[0].id.sequence,
            End::DeadLettered { error_class: "c".into(), error_message: "m".into(), retry_times: 0 },
        )];
        source.commit(Commit { from: position, to: whole.to, ends }).await.expect("commits");
        assert!(matches!(source.fetch(whole.to, limits(1)).await, Ok(Fetched::Empty { head }) if head == whole.to));
    }
    assert_eq!(delivered, ["here", "there", "too"]);
    let lag = sources.lag(THERE, vec![ONE, TWO]).await.expect("answers");
    assert_eq!(lag.len(), 1);
    let expect = Ledger { queued: 2, sent: 1, dead_lettered: 1, ..Ledger::default() };
    assert_eq!((lag[0].ledger, lag[0].oldest_age_ms), (expect, None));
    assert_eq!(there.queues.letters(None, 0, 9).await.expect("reads").len(), 1);
}

#[tokio::test]
async fn an_owner_that_was_told_empty_is_woken_by_the_next_record() {
    let (here, there, _port) = pair(None).await;
    for bench in [&here, &there] {
        bench.append(&all_to_one(), "t", &["0"]).await;
    }
    let sources = here.queues.sources(client(None));
    let mut watch = sources.watch(ONE, EPOCH);
    for (node, bench) in [(HERE, &here), (THERE, &there)] {
        let (source, _) = ready(&mut watch, node, Sequence(0)).await;
        let mut position = source.open().await.expect("opens");
        for number in 1..50 {
            let next = batch(source.fetch(position, limits(1)).await.expect("fetches"));
            source.commit(Commit { from: position, to: next.to, ends: Vec::new() }).await.expect("commits");
            position = next.to;
            // The append races the fetch: either it is found, or its wake-up comes.
            let payload = number.to_string();
            let words = [payload.as_str()];
            let catalogue = all_to_one();
            let (fetched, ()) = tokio::join!(source.fetch(position, limits(1)), bench.append(&catalogue, "t", &words));
            if let Fetched::Empty { head } = fetched.expect("fetches") {
                ready(&mut watch, node, head).await;
            }
        }
    }
}

#[tokio::test]
async fn a_queue_that_begins_later_is_shown() {
    let (here, there, _port) = pair(None).await;
    let sources = here.queues.sources(client(None));
    let mut watch = sources.watch(ONE, EPOCH);
    let mut other = sources.watch(TWO, EPOCH);
    there.append(&all_to_one(), "t", &["first ever"]).await;
    let (source, _) = ready(&mut watch, THERE, Sequence(0)).await;
    // Emptied and filled again.
    let position = source.open().await.expect("opens");
    let next = batch(source.fetch(position, limits(1)).await.expect("fetches"));
    source.commit(Commit { from: position, to: next.to, ends: Vec::new() }).await.expect("commits");
    there.append(&all_to_one(), "t", &["again"]).await;
    ready(&mut watch, THERE, next.to).await;
    assert!(other.borrow_and_update().is_empty());
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_and_says_everything() {
    let (here, there, port) = pair(None).await;
    there.append(&all_to_one(), "t", &["a"]).await;
    let sources = here.queues.sources(client(None));
    let mut watch = sources.watch(ONE, EPOCH);
    let (source, head) = ready(&mut watch, THERE, Sequence(0)).await;
    let address = port.address;
    // The process dies: its disk is found by the next one.
    port.stop().await;
    let after = there.crash();
    there.queues.close().await;
    after.append(&all_to_one(), "t", &["b"]).await;
    let _port = Port::serve(&after, &address.to_string(), None).await;
    ready(&mut watch, THERE, head).await;
    until("the queue answers", async || source.open().await.is_ok()).await;
    let position = source.open().await.expect("opens");
    assert_eq!(payloads(&batch(source.fetch(position, limits(9)).await.expect("fetches")).records), ["a", "b"]);
}

#[tokio::test]
async fn a_stale_epoch_is_neither_shown_nor_served() {
    let (here, there, _port) = pair(None).await;
    there.append(&all_to_one(), "t", &["a"]).await;
    let sources = here.queues.sources(client(None));
    let mut watch = sources.watch(ONE, Epoch(5));
    let (stale, _) = ready(&mut watch, THERE, Sequence(0)).await;
    let position = stale.open().await.expect("opens");
    let mut newer = sources.watch(ONE, Epoch(6));
    let (fresh, _) = ready(&mut newer, THERE, Sequence(0)).await;
    assert_eq!(fresh.open().await.expect("opens"), position);
    assert!(matches!(stale.fetch(position, limits(1)).await, Err(SourceError::Fenced)));
    drop(newer);
    let mut later = sources.watch(TWO, EPOCH);
    there.append(&catalogue([target(TWO, "#")]), "t", &["b"]).await;
    ready(&mut later, THERE, Sequence(0)).await;
    // The stream was opened anew with the stale pair only: its full set has no such queue.
    until("not shown any more", async || !watch.borrow().contains_key(&THERE)).await;
}

#[tokio::test]
async fn a_node_that_left_is_forgotten_and_one_that_hides_is_unreachable() {
    let (here, there, port) = pair(None).await;
    there.append(&all_to_one(), "t", &["a"]).await;
    let sources = here.queues.sources(client(None));
    let mut watch = sources.watch(ONE, EPOCH);
    let (source, _) = ready(&mut watch, THERE, Sequence(0)).await;
    port.stop().await;
    until("unreachable", async || matches!(source.open().await, Err(SourceError::Unreachable(_)))).await;
    // It may come back: what was known stays.
    assert!(watch.borrow().contains_key(&THERE));
    here.set_state(|state| {
        state.nodes.remove(&THERE);
    });
    until("forgotten", async || !watch.borrow().contains_key(&THERE)).await;
}

#[tokio::test]
async fn without_the_secret_nothing_is_told() {
    let (here, there, _port) = pair(Some("right")).await;
    there.append(&all_to_one(), "t", &["a"]).await;
    let wrong = here.queues.sources(client(Some("wrong")));
    assert!(wrong.lag(THERE, vec![ONE]).await.is_err());
    let right = here.queues.sources(client(Some("right")));
    assert_eq!(right.lag(THERE, Vec::new()).await.expect("answers").len(), 1);
}

#[tokio::test]
async fn nonsense_is_answered_with_400() {
    let (_here, _there, port) = pair(None).await;
    let rpc = client(None);
    for body in [&b""[..], b"\x01", b"\xff\xff\xff", b"\x02\x00\x00"] {
        let answer = rpc.post(&port.address.to_string(), "/queue/fetch", body.into(), PATIENCE).await;
        let refused = matches!(answer, Err(meta_service::rpc::RpcError::Status { status: 400, .. }));
        assert!(refused, "{body:?}: {answer:?}");
    }
}
