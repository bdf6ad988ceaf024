//! Messages for subscribers on other nodes, without a second consensus.
//!
//! ```text
//! subscriptions ─► announcer (one per peer) ── POST /subscriptions/announce ─► the peer's table of our filters
//! publication ─► table of the peers' filters ─► queue per peer ─► forwarder ── POST /subscriptions/deliver ─► peer
//! ```
//!
//! Every node tells every other the set of filters it has a subscriber for: the whole set first, then the changes
//! since the version that the other confirmed, and again after a silence (level-triggered: an announcement that was
//! lost, or a peer that started afresh, is mended by the next one). A publication goes once to each node whose set
//! matches it, and is not passed on by that node.
//!
//! Nothing here can hold a publisher back: a peer that does not keep up or does not answer loses messages, counted.

mod announce;
mod deliver;
mod remote;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use api_types::{NodeName, RaftId};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use meta_service::rpc::RpcClient;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use self::deliver::Outbox;
use self::remote::RemoteFilters;
use super::metrics::MqttMetrics;
use super::publication::Publication;
use super::subscriptions::{NODE_FILTER_BYTES_MAX, Subscriptions, Version};

const ANNOUNCE_PATH: &str = "/subscriptions/announce";
const DELIVER_PATH: &str = "/subscriptions/deliver";
/// First byte of every body; another one is not understood.
const FORMAT: u8 = 1;
/// An announcement holds the set of a node with a length before each filter; filters may be as short as one byte.
const ANNOUNCE_BYTES_MAX: usize = 4 * NODE_FILTER_BYTES_MAX;

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Only this one takes what is sent there.
    pub raft_id: RaftId,
    pub name: NodeName,
    /// Address of its node RPC.
    pub address: String,
}

/// How this node reaches the others.
#[derive(Clone, Debug)]
pub struct ClusterLink {
    pub node: NodeName,
    pub rpc: RpcClient,
    /// All nodes but this one; entries for this node are ignored.
    pub peers: watch::Receiver<Vec<Peer>>,
}

/// One process of one node: a node that starts again is told apart from its former life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Origin {
    node: NodeName,
    boot: u64,
}

pub struct Cluster {
    origin: Origin,
    rpc: RpcClient,
    subscriptions: Arc<Subscriptions>,
    remote: RemoteFilters,
    outboxes: Mutex<HashMap<NodeName, PeerTasks>>,
    /// Per peer that answers: the version of our set that it confirmed.
    confirmed: watch::Sender<HashMap<NodeName, Version>>,
    metrics: MqttMetrics,
    /// Largest body of a delivery.
    deliver_bytes_max: usize,
    /// Hands what a peer sent to the subscribers of this node.
    local: LocalDelivery,
}

type LocalDelivery = Box<dyn Fn(Publication) + Send + Sync>;

struct PeerTasks {
    peer: Peer,
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
}

impl Cluster {
    pub fn new(
        link: &ClusterLink,
        subscriptions: Arc<Subscriptions>,
        metrics: MqttMetrics,
        packet_bytes_max: usize,
        local: impl Fn(Publication) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            origin: Origin { node: link.node.clone(), boot: rand::random() },
            rpc: link.rpc.clone(),
            subscriptions,
            remote: RemoteFilters::default(),
            outboxes: Mutex::default(),
            confirmed: watch::Sender::default(),
            metrics,
            // A dead letter is several times the size of the message it is made of.
            deliver_bytes_max: deliver::BATCH_BYTES_MAX + 8 * packet_bytes_max,
            local: Box::new(local),
        })
    }

    /// Keeps one announcer and one forwarder per peer until `cancel`.
    pub async fn run(self: Arc<Self>, mut peers: watch::Receiver<Vec<Peer>>, cancel: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let wanted = peers.borrow_and_update().clone();
            self.follow(&wanted, &tasks, &cancel);
            tokio::select! {
                changed = peers.changed() => if changed.is_err() { cancel.cancelled().await; break },
                () = cancel.cancelled() => break,
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    fn follow(self: &Arc<Self>, wanted: &[Peer], tasks: &TaskTracker, cancel: &CancellationToken) {
        let mut outboxes = self.outboxes();
        outboxes.retain(|name, running| {
            let stays = wanted.contains(&running.peer);
            if !stays {
                running.cancel.cancel();
            }
            if !wanted.iter().any(|peer| peer.name == *name) {
                self.remote.forget(name);
            }
            stays
        });
        for peer in wanted.iter().filter(|peer| peer.name != self.origin.node) {
            if outboxes.contains_key(&peer.name) {
                continue;
            }
            let cancel = cancel.child_token();
            let outbox = Arc::new(Outbox::default());
            tasks.spawn(announce::run(self.clone(), peer.clone(), cancel.clone()));
            tasks.spawn(deliver::run(self.clone(), peer.clone(), outbox.clone(), cancel.clone()));
            outboxes.insert(peer.name.clone(), PeerTasks { peer: peer.clone(), outbox, cancel });
        }
    }

    pub fn has_subscriber(&self, topic: &str) -> bool {
        self.remote.matches(topic)
    }

    /// Queues the publication for every other node whose filters match it.
    pub fn forward(&self, publication: &Arc<Publication>) {
        let nodes = self.remote.nodes(&publication.topic, Instant::now());
        if nodes.is_empty() {
            return;
        }
        let outboxes = self.outboxes();
        for node in nodes {
            let dropped = outboxes.get(&node).map_or(1, |tasks| tasks.outbox.push(publication.clone()));
            if dropped > 0 {
                self.metrics.dropped(super::metrics::Dropped::PeerQueueFull, dropped);
            }
        }
    }

    /// Completes when every peer that answers knows the set of filters as of `version`.
    pub async fn known_everywhere(&self, version: Version) {
        let mut confirmed = self.confirmed.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = confirmed.wait_for(|nodes| nodes.values().all(|known| *known >= version)).await;
    }

    pub fn routes(self: &Arc<Self>) -> Router {
        let announce = post(receive_announcement).layer(DefaultBodyLimit::max(ANNOUNCE_BYTES_MAX));
        let deliver = post(receive_delivery).layer(DefaultBodyLimit::max(self.deliver_bytes_max));
        Router::new().route(ANNOUNCE_PATH, announce).route(DELIVER_PATH, deliver).with_state(self.clone())
    }

    fn outboxes(&self) -> std::sync::MutexGuard<'_, HashMap<NodeName, PeerTasks>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive_announcement(State(cluster): State<Arc<Cluster>>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let announcement: announce::Announcement = decode(&body)?;
    encode(&cluster.remote.learn(announcement, Instant::now()))
}

async fn receive_delivery(State(cluster): State<Arc<Cluster>>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let batch: deliver::DeliveryBatch = decode(&body)?;
    if cluster.remote.is_new(&batch.origin, batch.number) {
        let now = Instant::now();
        for publication in batch.publications {
            (cluster.local)(publication.into_publication(now));
        }
    }
    Ok(Vec::new())
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, StatusCode> {
    postcard::to_extend(body, vec![FORMAT]).map_err(|error| {
        warn!(%error, "a message between nodes could not be encoded");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, StatusCode> {
    let (format, rest) = body.split_first().ok_or(StatusCode::BAD_REQUEST)?;
    if *format != FORMAT {
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    postcard::from_bytes(rest).map_err(|_| StatusCode::BAD_REQUEST)
}
