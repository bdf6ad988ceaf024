//! A queue on another node, and the stream that tells which of them have something to read.

use std::sync::Arc;
use std::time::Duration;

use api_types::{Epoch, Incarnation, RaftId, Sequence};
use async_trait::async_trait;
use bytes::Bytes;
use connector_runtime::source::{BatchLimits, Commit, Fetched, QueueSource, SourceError};
use futures::StreamExt;
use meta_service::rpc::{RpcClient, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateView;
use super::hub::FULL_EVERY;
use super::op::CallError;
use super::rows::{self, FormatError};
use super::wire::{
    self, CommitRequest, FetchRequest, FrameReader, Lag, LedgerRequest, OpenRequest, ReadyFrame, Reply, SplitRequest,
    WatchRequest,
};

/// For a call that waits for nothing but a sync.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream says something at least every [`FULL_EVERY`]; one that does not is dead.
const SILENCE_MAX: Duration = Duration::from_secs(2 * FULL_EVERY.as_secs() + 15);
/// The head of a stream's answer.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum QueueRpcError {
    #[error("node {0} is not in the cluster's state")]
    UnknownNode(RaftId),
    #[error("the queue RPC failed")]
    Rpc(#[from] RpcError),
    #[error("the queue's node did not answer in time")]
    Timeout,
    #[error("the answer cannot be read")]
    Format(#[from] FormatError),
    #[error("the stream ended")]
    Ended(#[source] Option<reqwest::Error>),
    #[error("a frame of the stream is missing")]
    Gap,
    #[error("the queue's node refused")]
    Refused(#[source] CallError),
}

/// Calls the queue RPC of other nodes.
#[derive(Clone)]
pub(super) struct Peers {
    pub rpc: RpcClient,
    pub view: StateView,
}

impl Peers {
    fn address(&self, node: RaftId) -> Result<String, QueueRpcError> {
        let state = (self.view)();
        state.nodes.get(&node).map(|node| node.rpc_address.clone()).ok_or(QueueRpcError::UnknownNode(node))
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: RaftId,
        path: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<Result<A, CallError>, QueueRpcError> {
        let body = Bytes::from(rows::encode(request)?);
        let answer = self.rpc.post_to(node, &self.address(node)?, path, body, timeout).await?;
        Ok(rows::decode::<Reply<A>>(&answer)?.into_result())
    }

    /// The ledgers of these connectors at a node; of all that it holds when none is named.
    pub async fn lag(&self, node: RaftId, incarnations: Vec<Incarnation>) -> Result<Vec<Lag>, QueueRpcError> {
        let request = LedgerRequest { incarnations };
        self.call(node, wire::LEDGER, &request, CALL_TIMEOUT).await?.map_err(QueueRpcError::Refused)
    }

    pub async fn stream(
        &self,
        node: RaftId,
        owner: RaftId,
        pairs: Vec<(Incarnation, Epoch)>,
    ) -> Result<ReadyStream, QueueRpcError> {
        let body = rows::encode(&WatchRequest { owner, pairs })?;
        let address = self.address(node)?;
        let opened = self.rpc.send_to(node, &address, wire::WATCH, body.into(), None);
        let response = tokio::time::timeout(STREAM_TIMEOUT, opened).await.map_err(|_| QueueRpcError::Timeout)??;
        Ok(ReadyStream { chunks: response.bytes_stream().boxed(), reader: FrameReader::default(), expect: 0 })
    }
}

pub(super) struct ReadyStream {
    chunks: futures::stream::BoxStream<'static, Result<Bytes, reqwest::Error>>,
    reader: FrameReader,
    expect: u64,
}

impl ReadyStream {
    /// Safe to drop at any time: what was read stays in the reader.
    pub async fn next(&mut self) -> Result<ReadyFrame, QueueRpcError> {
        loop {
            if let Some(frame) = self.reader.next()? {
                if frame.number != self.expect {
                    return Err(QueueRpcError::Gap);
                }
                self.expect += 1;
                return Ok(frame);
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.chunks.next()).await;
            match chunk.map_err(|_| QueueRpcError::Timeout)? {
                Some(Ok(chunk)) => self.reader.push(&chunk),
                Some(Err(error)) => return Err(QueueRpcError::Ended(Some(error))),
                None => return Err(QueueRpcError::Ended(None)),
            }
        }
    }
}

/// One queue at another node, for the task of one epoch.
pub(super) struct RemoteQueue {
    pub peers: Arc<Peers>,
    pub node: RaftId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
}

impl RemoteQueue {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, SourceError> {
        match self.peers.call(self.node, path, request, timeout).await {
            Ok(answer) => answer.map_err(source_error),
            Err(error) => Err(SourceError::Unreachable(Box::new(error))),
        }
    }
}

#[async_trait]
impl QueueSource for RemoteQueue {
    fn node(&self) -> RaftId {
        self.node
    }

    async fn open(&self) -> Result<Sequence, SourceError> {
        let request = OpenRequest { incarnation: self.incarnation, epoch: self.epoch };
        self.ask(wire::OPEN, &request, CALL_TIMEOUT).await
    }

    async fn fetch(&self, from: Sequence, limits: BatchLimits) -> Result<Fetched, SourceError> {
        let request = FetchRequest { incarnation: self.incarnation, epoch: self.epoch, from, limits };
        self.ask(wire::FETCH, &request, CALL_TIMEOUT + limits.linger).await
    }

    async fn split(&self, from: Sequence, at: Sequence) -> Result<(), SourceError> {
        let request = SplitRequest { incarnation: self.incarnation, epoch: self.epoch, from, at };
        self.ask(wire::SPLIT, &request, CALL_TIMEOUT).await
    }

    async fn commit(&self, commit: Commit) -> Result<(), SourceError> {
        let request = CommitRequest { incarnation: self.incarnation, epoch: self.epoch, commit };
        self.ask(wire::COMMIT, &request, CALL_TIMEOUT).await
    }
}

pub(super) fn source_error(error: CallError) -> SourceError {
    match error {
        CallError::Fenced => SourceError::Fenced,
        CallError::Moved => SourceError::Moved,
        CallError::Gone => SourceError::Gone,
        CallError::Failed(_) | CallError::Closed => SourceError::Unreachable(Box::new(error)),
    }
}
