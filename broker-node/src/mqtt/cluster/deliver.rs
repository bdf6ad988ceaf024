//! Sends publications to one peer, in order, in batches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Cluster, DELIVER_PATH, Origin, Peer, encode};
use crate::mqtt::metrics::Dropped;
use crate::mqtt::publication::{ForwardedPublication, Publication};

/// Publications that may wait for one peer; those of QoS 0 get half of the room.
const WAITING_MAX: usize = 20_000;
const WAITING_BYTES_MAX: usize = 32 << 20;
const BATCH_MAX: usize = 1000;
pub const BATCH_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// A batch that was not taken for so long is dropped with all that waits behind it.
const RETRY_FOR: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
pub struct DeliveryBatch {
    pub origin: Origin,
    /// Rises with every batch from this origin; a repeat has the number of the first attempt.
    pub number: u64,
    pub publications: Vec<ForwardedPublication>,
}

#[derive(Debug, Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    publications: VecDeque<Arc<Publication>>,
    bytes: usize,
}

impl Outbox {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many messages were dropped: 1 when this one finds no room.
    pub fn push(&self, publication: Arc<Publication>) -> usize {
        let bytes = publication.size_bytes();
        let share = if publication.qos == 0 { 2 } else { 1 };
        let mut waiting = self.waiting();
        if waiting.publications.len() >= WAITING_MAX / share || waiting.bytes + bytes > WAITING_BYTES_MAX / share {
            return 1;
        }
        waiting.bytes += bytes;
        waiting.publications.push_back(publication);
        self.filled.notify_one();
        0
    }

    fn take_batch(&self) -> Vec<Arc<Publication>> {
        let mut waiting = self.waiting();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let Some(publication) = waiting.publications.pop_front() else { break };
            bytes += publication.size_bytes();
            batch.push(publication);
        }
        waiting.bytes -= bytes;
        batch
    }

    /// Empties it and says how many were in it.
    fn clear(&self) -> usize {
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.publications).len()
    }
}

pub async fn run(cluster: Arc<Cluster>, peer: Peer, outbox: Arc<Outbox>, cancel: CancellationToken) {
    let mut number = 0;
    let mut failing = false;
    loop {
        let batch = outbox.take_batch();
        if batch.is_empty() {
            tokio::select! {
                () = outbox.filled.notified() => continue,
                () = cancel.cancelled() => break,
            }
        }
        number += 1;
        let sent = tokio::select! {
            sent = send(&cluster, &peer, number, &batch) => sent,
            () = cancel.cancelled() => {
                cluster.metrics.dropped(Dropped::PeerUnreachable, batch.len());
                break;
            }
        };
        match sent {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    info!(peer = %peer.name, "messages are forwarded to the peer again");
                }
            }
            Err(error) => {
                let dropped = batch.len() + outbox.clear();
                cluster.metrics.dropped(Dropped::PeerUnreachable, dropped);
                if !std::mem::replace(&mut failing, true) {
                    warn!(peer = %peer.name, dropped, %error, "messages for subscribers on the peer were dropped");
                } else {
                    debug!(peer = %peer.name, dropped, %error, "messages for subscribers on the peer were dropped");
                }
            }
        }
    }
    cluster.metrics.dropped(Dropped::PeerUnreachable, outbox.clear());
}

#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("{0}")]
    Rpc(#[from] meta_service::rpc::RpcError),
    #[error("the batch could not be encoded")]
    Encode,
}

async fn send(cluster: &Cluster, peer: &Peer, number: u64, batch: &[Arc<Publication>]) -> Result<(), DeliverError> {
    let started = Instant::now();
    let publications: Vec<ForwardedPublication> =
        batch.iter().filter_map(|publication| ForwardedPublication::of(publication, started)).collect();
    cluster.metrics.dropped(Dropped::Expired, batch.len() - publications.len());
    let batch = DeliveryBatch { origin: cluster.origin.clone(), number, publications };
    let body = Bytes::from(encode(&batch).map_err(|_| DeliverError::Encode)?);
    loop {
        match cluster.rpc.post_to(peer.raft_id, &peer.address, DELIVER_PATH, body.clone(), TIMEOUT).await {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() >= RETRY_FOR => return Err(error.into()),
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::Message;

    use super::*;

    fn publication(qos: u8) -> Arc<Publication> {
        Arc::new(Publication::internal(&Message { topic: "t".into(), qos, ..Message::default() }))
    }

    #[test]
    fn qos_0_leaves_room_for_qos_1() {
        let outbox = Outbox::default();
        let taken = |qos| (0..2 * WAITING_MAX).filter(|_| outbox.push(publication(qos)) == 0).count();
        assert_eq!(taken(0), WAITING_MAX / 2);
        assert_eq!(taken(1), WAITING_MAX / 2);
        assert_eq!(outbox.take_batch().len(), BATCH_MAX);
        assert_eq!(outbox.clear(), WAITING_MAX - BATCH_MAX);
        assert_eq!(outbox.waiting().bytes, 0);
    }
}
