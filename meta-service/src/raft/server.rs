//! The receiving side of Raft's RPCs.
//!
//! ```text
//! headers (who, for whom) ─► checked ─► body ─► decoded ─► openraft ─► encoded
//! ```

use std::sync::Arc;

use api_types::RaftId;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use openraft::storage::Snapshot;
use tokio::io::AsyncWriteExt;

use super::address::{Misdirected, RpcAddress};
use super::append_stream::{self, PROTOCOL};
use super::network::SnapshotOffer;
use super::node::RaftNode;
use super::store::SnapshotFile;
use super::wire::{self, BODY_BYTES_MAX, HEADER_BYTES, Wire, WireError};
use super::{APPEND_PATH, PRE_VOTE_PATH, SNAPSHOT_PATH, STREAM_PATH, TRANSFER_PATH, VOTE_PATH};
use crate::seat::Seat;

/// A state of 100,000 connectors is below 100 MB; what is larger than this is no snapshot of ours.
const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;

pub(crate) fn routes(seat: Arc<Seat>) -> Router {
    Router::new()
        .route(APPEND_PATH, post(append))
        .route(STREAM_PATH, post(stream))
        .route(VOTE_PATH, post(vote))
        .route(PRE_VOTE_PATH, post(pre_vote))
        .route(TRANSFER_PATH, post(transfer))
        .route(SNAPSHOT_PATH, post(snapshot))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX + HEADER_BYTES))
        .with_state(seat)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RaftRpcError {
    #[error(transparent)]
    Misdirected(#[from] Misdirected),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the connection is to be upgraded to {PROTOCOL}")]
    NoUpgrade,
    #[error("raft is not running")]
    NotRunning,
    #[error("leadership is being handed to raft id {0}")]
    BeingTransferred(RaftId),
    #[error("snapshot was not received: {0}")]
    Snapshot(#[from] std::io::Error),
    #[error("snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes")]
    SnapshotTooLarge,
}

impl IntoResponse for RaftRpcError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Misdirected(Misdirected::Header(_)) => StatusCode::BAD_REQUEST,
            Self::Misdirected(Misdirected::NotAMember) => StatusCode::CONFLICT,
            Self::Misdirected(Misdirected::Cluster(_) | Misdirected::Node { .. }) => StatusCode::MISDIRECTED_REQUEST,
            Self::Misdirected(Misdirected::Removed(_)) => StatusCode::GONE,
            Self::Wire(WireError::Kind { .. } | WireError::Version { .. }) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Wire(_) => StatusCode::BAD_REQUEST,
            Self::NoUpgrade => StatusCode::UPGRADE_REQUIRED,
            Self::NotRunning | Self::BeingTransferred(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Snapshot(_) => StatusCode::INSUFFICIENT_STORAGE,
            Self::SnapshotTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        };
        (status, self.to_string()).into_response()
    }
}

type Answer = Result<Vec<u8>, RaftRpcError>;

fn addressed(seat: &Seat, headers: &HeaderMap) -> Result<Arc<RaftNode>, RaftRpcError> {
    admitted(seat, &RpcAddress::parse(headers)?)
}

/// The Raft that is meant, if it is this one.
pub(super) fn admitted(seat: &Seat, address: &RpcAddress) -> Result<Arc<RaftNode>, RaftRpcError> {
    let disk = seat.disk();
    seat.replica.look(|state| address.check(disk.membership, disk.disk_id, state))?;
    seat.node().ok_or(RaftRpcError::NotRunning)
}

fn answer<A: Wire, E>(outcome: Result<A, E>) -> Answer {
    // What openraft fails with here is that it has stopped; it says so itself, where it is handled.
    let answer = outcome.map_err(|_| RaftRpcError::NotRunning)?;
    Ok(wire::encode(&answer)?)
}

async fn append(State(seat): State<Arc<Seat>>, headers: HeaderMap, body: Bytes) -> Answer {
    let node = addressed(&seat, &headers)?;
    answer(node.raft().append_entries(wire::decode(&body)?).await)
}

/// The connection leaves HTTP and takes appends until one side ends it.
async fn stream(State(seat): State<Arc<Seat>>, mut request: Request) -> Result<Response, RaftRpcError> {
    let from = RpcAddress::parse(request.headers())?;
    let node = admitted(&seat, &from)?;
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        return Err(RaftRpcError::NoUpgrade);
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => append_stream::serve(seat, node, from, connection.into()).await,
            Err(error) => tracing::debug!(from = %from.from, %error, "connection was not upgraded"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn vote(State(seat): State<Arc<Seat>>, headers: HeaderMap, body: Bytes) -> Answer {
    let node = addressed(&seat, &headers)?;
    let request: openraft::raft::VoteRequest<_> = wire::decode(&body)?;
    node.transfers().admit(request.vote.leader_id.voted_for).map_err(RaftRpcError::BeingTransferred)?;
    answer(node.raft().vote(request).await)
}

async fn pre_vote(State(seat): State<Arc<Seat>>, headers: HeaderMap, body: Bytes) -> Answer {
    let node = addressed(&seat, &headers)?;
    let request: openraft::raft::VoteRequest<_> = wire::decode(&body)?;
    node.transfers().admit(request.vote.leader_id.voted_for).map_err(RaftRpcError::BeingTransferred)?;
    answer(node.raft().pre_vote(request).await)
}

async fn transfer(State(seat): State<Arc<Seat>>, headers: HeaderMap, body: Bytes) -> Answer {
    let node = addressed(&seat, &headers)?;
    let request: openraft::raft::TransferLeaderRequest<_> = wire::decode(&body)?;
    node.transfers().announced(RaftId(*request.to_node_id()), request.from_leader().leader_id.term);
    answer(node.raft().handle_transfer_leader(request).await)
}

async fn snapshot(State(seat): State<Arc<Seat>>, headers: HeaderMap, body: Body) -> Answer {
    let node = addressed(&seat, &headers)?;
    let (offer, snapshot) = receive(&node, body).await?;
    tracing::info!(bytes = snapshot.bytes, "received a snapshot");
    let snapshot = Snapshot { meta: offer.meta, snapshot };
    answer(node.raft().install_full_snapshot(offer.vote, snapshot).await)
}

/// Takes the offer off the front of the body and streams the rest into a file, which is checked from end to end.
async fn receive(node: &RaftNode, body: Body) -> Result<(SnapshotOffer, SnapshotFile), RaftRpcError> {
    let mut chunks = body.into_data_stream();
    let mut head = BytesMut::new();
    let offer_bytes = loop {
        if head.len() >= HEADER_BYTES {
            let needed = HEADER_BYTES + wire::body_length(&head)?;
            if head.len() >= needed {
                break needed;
            }
        }
        let chunk = chunks.next().await.ok_or(WireError::NoEnvelope)?;
        head.extend_from_slice(&chunk.map_err(std::io::Error::other)?);
    };
    let rest = head.split_off(offer_bytes);
    let offer = wire::decode(&head)?;

    let temporary = node.snapshots().temporary();
    let mut file = tokio::fs::File::create(temporary.path()).await?;
    let mut bytes = rest.len() as u64;
    file.write_all(&rest).await?;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(std::io::Error::other)?;
        bytes += chunk.len() as u64;
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(RaftRpcError::SnapshotTooLarge);
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    let snapshots = Arc::clone(node.snapshots());
    let checked = tokio::task::spawn_blocking(move || snapshots.received(temporary)).await;
    Ok((offer, checked.map_err(std::io::Error::other)??))
}
