//! Hands each task the queues it may read, on every node.
//!
//! ```text
//! watch(incarnation, epoch) ──► list of pairs ──► one stream per node (the own one by call) ──► frames
//!        ▲                                                                                     │
//!        └──────────────────── {node → ReadyQueue} of each watch ◄─────────────────────────────┘
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_types::{Epoch, Incarnation, RaftId, Sequence};
use async_trait::async_trait;
use connector_runtime::source::{
    BatchLimits, Commit, Fetched, QueueSource, ReadyQueue, ReadyQueues, SourceError, Sources,
};
use meta_service::rpc::RpcClient;
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::hub::Frames;
use super::remote::{Peers, QueueRpcError, RemoteQueue, source_error};
use super::wire::{Lag, ReadyFrame};
use super::{Queues, lock};

/// How often the list of nodes is looked at. One look is a few map entries.
const NODES_EVERY: Duration = Duration::from_millis(250);
/// Tasks that start together change the list together.
const LIST_SETTLES: Duration = Duration::from_millis(10);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// The [`Sources`] of one node. Its streams end when the last clone is dropped.
#[derive(Clone)]
pub struct NodeSources {
    inner: Arc<Inner>,
    _running: Arc<DropGuard>,
}

struct Inner {
    queues: Queues,
    peers: Arc<Peers>,
    watches: Mutex<Watches>,
    /// Raised with every change of the list.
    list: watch::Sender<u64>,
}

#[derive(Default)]
struct Watches {
    next: u64,
    by_id: BTreeMap<u64, Watching>,
}

struct Watching {
    incarnation: Incarnation,
    epoch: Epoch,
    ready: watch::Sender<ReadyQueues>,
}

impl Queues {
    /// Starts the streams; to be called inside a tokio runtime, once.
    pub fn sources(&self, rpc: RpcClient) -> NodeSources {
        let peers = Arc::new(Peers { rpc, view: self.shared.view.clone() });
        let inner =
            Arc::new(Inner { queues: self.clone(), peers, watches: Mutex::default(), list: watch::Sender::new(0) });
        let cancel = CancellationToken::new();
        tokio::spawn(run(inner.clone(), cancel.clone()));
        NodeSources { inner, _running: Arc::new(cancel.drop_guard()) }
    }
}

impl NodeSources {
    /// The ledgers of these connectors at any node, this one included.
    pub async fn lag(&self, node: RaftId, incarnations: Vec<Incarnation>) -> Result<Vec<Lag>, QueueRpcError> {
        if node == self.inner.queues.raft_id() {
            return self.inner.queues.lag(incarnations).await.map_err(QueueRpcError::Refused);
        }
        self.inner.peers.lag(node, incarnations).await
    }
}

impl Sources for NodeSources {
    fn watch(&self, incarnation: Incarnation, epoch: Epoch) -> watch::Receiver<ReadyQueues> {
        let (ready, receiver) = watch::channel(ReadyQueues::new());
        let id = {
            let mut watches = lock(&self.inner.watches);
            watches.next += 1;
            let id = watches.next;
            watches.by_id.insert(id, Watching { incarnation, epoch, ready: ready.clone() });
            id
        };
        self.inner.list_changed();
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            ready.closed().await;
            if let Some(inner) = inner.upgrade() {
                lock(&inner.watches).by_id.remove(&id);
                inner.list_changed();
            }
        });
        receiver
    }
}

impl Inner {
    fn list_changed(&self) {
        self.list.send_modify(|version| *version += 1);
    }

    fn pairs(&self) -> Vec<(Incarnation, Epoch)> {
        let watches = lock(&self.watches);
        let pairs: BTreeSet<(Incarnation, Epoch)> =
            watches.by_id.values().map(|watching| (watching.incarnation, watching.epoch)).collect();
        pairs.into_iter().collect()
    }

    /// Shows a frame to the watches of its connectors. A full one is the whole truth about its node.
    fn take_in(&self, node: RaftId, frame: &ReadyFrame) {
        let heads: BTreeMap<Incarnation, Sequence> = frame.ready.iter().copied().collect();
        for watching in lock(&self.watches).by_id.values() {
            let head = heads.get(&watching.incarnation).copied();
            watching.ready.send_if_modified(|ready| match (head, ready.entry(node)) {
                (Some(head), Entry::Vacant(entry)) => {
                    entry.insert(ReadyQueue { source: self.source(node, watching), head });
                    true
                }
                (Some(head), Entry::Occupied(mut entry)) if entry.get().head != head => {
                    entry.get_mut().head = head;
                    true
                }
                (None, Entry::Occupied(entry)) if frame.full => {
                    entry.remove();
                    true
                }
                (Some(_) | None, Entry::Occupied(_) | Entry::Vacant(_)) => false,
            });
        }
    }

    /// A node that left the cluster has no queues.
    fn forget(&self, node: RaftId) {
        for watching in lock(&self.watches).by_id.values() {
            watching.ready.send_if_modified(|ready| ready.remove(&node).is_some());
        }
    }

    fn source(&self, node: RaftId, watching: &Watching) -> Arc<dyn QueueSource> {
        let (incarnation, epoch) = (watching.incarnation, watching.epoch);
        if node == self.queues.raft_id() {
            Arc::new(LocalQueue { queues: self.queues.clone(), node, incarnation, epoch })
        } else {
            Arc::new(RemoteQueue { peers: self.peers.clone(), node, incarnation, epoch })
        }
    }

    fn nodes(&self) -> BTreeSet<RaftId> {
        let mut nodes: BTreeSet<RaftId> = (self.peers.view)()
            .nodes
            .values()
            // Another disk has its address: whatever its queues held, they are reached nowhere.
            .filter(|node| !node.rpc_address.is_empty())
            .map(|node| node.raft_id)
            .collect();
        nodes.insert(self.queues.raft_id());
        nodes
    }
}

/// Keeps one stream per node.
async fn run(inner: Arc<Inner>, cancel: CancellationToken) {
    let mut streams: BTreeMap<RaftId, DropGuard> = BTreeMap::new();
    let mut own = inner.queues.raft_id();
    loop {
        let nodes = inner.nodes();
        if own != inner.queues.raft_id() {
            // A new identity of this disk: what was local under the old one is not there any more.
            streams.remove(&own);
            inner.forget(own);
            own = inner.queues.raft_id();
        }
        streams.retain(|node, _| {
            let known = nodes.contains(node);
            if !known {
                inner.forget(*node);
            }
            known
        });
        for node in nodes {
            streams.entry(node).or_insert_with(|| {
                let token = cancel.child_token();
                let stream = stream(inner.clone(), node);
                let ended = token.clone();
                tokio::spawn(async move { ended.run_until_cancelled(stream).await });
                token.drop_guard()
            });
        }
        if cancel.run_until_cancelled(tokio::time::sleep(NODES_EVERY)).await.is_none() {
            return;
        }
    }
}

/// One node's stream for ever: opened anew with every change of the list, and with back-off when it breaks.
async fn stream(inner: Arc<Inner>, node: RaftId) {
    let mut list = inner.list.subscribe();
    let mut pause = RECONNECT_FIRST;
    loop {
        let version = *list.borrow_and_update();
        let pairs = inner.pairs();
        if pairs.is_empty() {
            if list.changed().await.is_err() {
                return;
            }
            continue;
        }
        let result = tokio::select! {
            result = follow(&inner, node, pairs, &mut pause) => result,
            changed = list.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(LIST_SETTLES).await;
                debug!(%node, version, "list of queues changed, stream opened anew");
                continue;
            }
        };
        if let Err(error) = result {
            if pause == RECONNECT_FIRST {
                warn!(%node, error = &error as &dyn std::error::Error, "queue stream broken, will be opened again");
            } else {
                debug!(%node, error = &error as &dyn std::error::Error, "queue stream not opened");
            }
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

async fn follow(
    inner: &Inner,
    node: RaftId,
    pairs: Vec<(Incarnation, Epoch)>,
    pause: &mut Duration,
) -> Result<(), QueueRpcError> {
    let own = inner.queues.raft_id();
    if node == own {
        let mut frames = Frames::new(inner.queues.clone(), &pairs);
        while let Some(frame) = frames.next().await {
            inner.take_in(node, &frame);
        }
        return Err(QueueRpcError::Ended(None));
    }
    let mut stream = inner.peers.stream(node, own, pairs).await?;
    loop {
        let frame = stream.next().await?;
        *pause = RECONNECT_FIRST;
        inner.take_in(node, &frame);
    }
}

/// A queue of this node, for the task of one epoch.
struct LocalQueue {
    queues: Queues,
    node: RaftId,
    incarnation: Incarnation,
    epoch: Epoch,
}

#[async_trait]
impl QueueSource for LocalQueue {
    fn node(&self) -> RaftId {
        self.node
    }

    async fn open(&self) -> Result<Sequence, SourceError> {
        self.queues.open_queue(self.incarnation, self.epoch).await.map_err(source_error)
    }

    async fn fetch(&self, from: Sequence, limits: BatchLimits) -> Result<Fetched, SourceError> {
        self.queues.fetch(self.incarnation, self.epoch, from, limits).await.map_err(source_error)
    }

    async fn split(&self, from: Sequence, at: Sequence) -> Result<(), SourceError> {
        self.queues.split(self.incarnation, self.epoch, from, at).await.map_err(source_error)
    }

    async fn commit(&self, commit: Commit) -> Result<(), SourceError> {
        self.queues.commit(self.incarnation, self.epoch, commit).await.map_err(source_error)
    }
}
