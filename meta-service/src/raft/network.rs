//! The sending side of Raft's RPCs, through the cluster's RPC client.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::RaftId;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use reqwest::Body;
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;

use super::address::RpcAddress;
use super::append_stream::{self, AppendStream, PROTOCOL};
use super::store::SnapshotFile;
use super::types::{Peer, SnapshotMeta, Types, Vote};
use super::wire::{self, Kind, Wire};
use super::{APPEND_PATH, PRE_VOTE_PATH, SNAPSHOT_PATH, STREAM_PATH, TRANSFER_PATH, VOTE_PATH};
use crate::identity::Identity;
use crate::replica::Replica;
use crate::rpc::{RpcClient, RpcError};

/// An append waits for a sync at the other end, which may be slow; openraft's own bound is one heartbeat.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_millis(1000);
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

type Appended<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// What a snapshot transfer begins with; the file follows in the same body.
#[derive(Serialize, Deserialize)]
pub(super) struct SnapshotOffer {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

impl Wire for SnapshotOffer {
    const KIND: Kind = Kind::SnapshotOffer;
}

pub(super) struct Network {
    pub identity: Identity,
    pub replica: Arc<Replica>,
    /// Appends, votes and heartbeats.
    pub rpc: RpcClient,
    /// A connection of its own, so that a snapshot in transfer holds up nothing.
    pub snapshot_rpc: RpcClient,
    /// How long an answer to a heartbeat may take and still be of use.
    pub heartbeat_timeout: Duration,
}

impl Network {
    fn link(&self, target: u64, peer: &Peer, rpc: &RpcClient) -> Link {
        Link {
            address: RpcAddress {
                cluster_id: self.identity.cluster_id,
                from: self.identity.raft_id,
                to: RaftId(target),
                to_disk: peer.disk_id,
            },
            admitted_at: peer.rpc_address.clone(),
            replica: Arc::clone(&self.replica),
            rpc: rpc.clone(),
            heartbeat_timeout: self.heartbeat_timeout,
            stream: Mutex::default(),
        }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, &self.rpc)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Peer) -> Link {
        self.link(target, node, &self.snapshot_rpc)
    }
}

/// The way to one member.
pub(super) struct Link {
    address: RpcAddress,
    admitted_at: String,
    replica: Arc<Replica>,
    rpc: RpcClient,
    heartbeat_timeout: Duration,
    /// Kept between sessions of replication. Never locked: the mutex only lets a connection be where it is looked at
    /// by many threads.
    stream: Mutex<Option<AppendStream>>,
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
}

impl From<CallError> for RPCError<Types> {
    fn from(error: CallError) -> Self {
        match &error {
            // Nobody there, or somebody else: openraft backs off.
            CallError::Rpc(RpcError::Connect(_) | RpcError::Status { .. }) => Unreachable::new(&error).into(),
            CallError::Rpc(RpcError::Transport(_)) | CallError::Wire(_) => NetworkError::new(&error).into(),
        }
    }
}

impl Link {
    /// Where the member registered last; before that, and when another disk has that address now, where it was
    /// admitted: whoever answers there takes only what is addressed to it.
    fn host(&self) -> String {
        let registered = |state: &crate::state::ClusterState| {
            let node = state.nodes.get(&self.address.to)?;
            Some(node.rpc_address.clone()).filter(|address| !address.is_empty())
        };
        self.replica.look(registered).unwrap_or_else(|| self.admitted_at.clone())
    }

    async fn call<Q: Wire, A: Wire>(&self, path: &str, request: &Q, timeout: Duration) -> Result<A, CallError> {
        let body = Body::from(wire::encode(request)?);
        let response = self.rpc.send_with(&self.host(), path, self.address.headers(), body, Some(timeout)).await?;
        let answer = response.bytes().await.map_err(RpcError::Transport)?;
        Ok(wire::decode(&answer)?)
    }

    /// The stream of the last session, or a new one.
    async fn append_stream(&mut self) -> Result<AppendStream, CallError> {
        let kept = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut stream) = kept
            && stream.is_idle()
        {
            return Ok(stream);
        }
        let headers = self.address.headers();
        let connection = self.rpc.upgrade(&self.host(), STREAM_PATH, PROTOCOL, headers, APPEND_TIMEOUT).await?;
        Ok(AppendStream::new(connection))
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        timeout: Duration,
    ) -> Result<SnapshotResponse<Types>, CallError> {
        let offer = wire::encode(&SnapshotOffer { vote, meta: snapshot.meta })?;
        let file = tokio::fs::File::from_std(snapshot.snapshot.file);
        let offer = futures::stream::iter([Ok(bytes::Bytes::from(offer))]);
        let chunks = futures::StreamExt::chain(offer, ReaderStream::with_capacity(file, SNAPSHOT_CHUNK_BYTES));
        let body = Body::wrap_stream(chunks);
        let headers = self.address.headers();
        let response = self.rpc.send_with(&self.host(), SNAPSHOT_PATH, headers, body, Some(timeout)).await?;
        let answer = response.bytes().await.map_err(RpcError::Transport)?;
        Ok(wire::decode(&answer)?)
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let timeout = if rpc.entries.is_empty() { self.heartbeat_timeout } else { APPEND_TIMEOUT };
        Ok(self.call(APPEND_PATH, &rpc, timeout).await?)
    }

    /// Replication, which goes on for as long as this node leads; heartbeats, of which each is a stream of one request,
    /// are requests of their own and wait behind no entries.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if input.size_hint().1 == Some(1) {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            match self.append_stream().await {
                Ok(stream) => {
                    let kept = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                    Ok(append_stream::answers(stream, kept, input).boxed())
                }
                // A member of an earlier version.
                Err(CallError::Rpc(RpcError::Status { status: 404, .. })) => {
                    stream_append_sequential(self, input, option).await
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(VOTE_PATH, &rpc, option.hard_ttl()).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Ok(self.call(PRE_VOTE_PATH, &rpc, option.hard_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let bytes = snapshot.snapshot.bytes;
        tracing::info!(to = %self.address.to, bytes, "sending a snapshot");
        let sent = tokio::select! {
            closed = cancel => return Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot, option.hard_ttl()) => sent,
        };
        sent.map_err(|error| match &error {
            CallError::Rpc(RpcError::Connect(_) | RpcError::Status { .. }) => Unreachable::new(&error).into(),
            CallError::Rpc(RpcError::Transport(_)) | CallError::Wire(_) => NetworkError::new(&error).into(),
        })
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        Ok(self.call(TRANSFER_PATH, &request, option.hard_ttl()).await?)
    }
}
