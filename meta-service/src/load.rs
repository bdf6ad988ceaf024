//! Replicated writes by a client that is no node, for load generators: one request to the node RPC is one entry in the
//! log of a majority. The entries change nothing.

use std::time::Duration;

use api_types::RequestId;
use bytes::Bytes;

use crate::clock::Clock;
use crate::forward::{Forwarded, HOPS_MAX, LEADER_PATH, LeaderAnswer, LeaderRequest};
use crate::raft::wire::{self, WireError};
use crate::rpc::{RpcClient, RpcError, Secrets};
use crate::state::{Command, CommandBody, Refusal, Reply, ReplyBody};
use crate::system_clock::SystemClock;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("no HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("the request failed")]
    Rpc(#[from] RpcError),
    #[error("the message cannot be read")]
    Wire(#[from] WireError),
    #[error("not the answer to a write")]
    Answer,
}

/// Speaks to one node over one connection. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Writer {
    rpc: RpcClient,
    address: String,
}

impl Writer {
    /// `secret`: the cluster's.
    pub fn new(address: &str, secret: Option<&str>) -> Result<Self, LoadError> {
        Ok(Self { rpc: RpcClient::new(Secrets::new(secret, None))?, address: address.to_owned() })
    }

    /// Appends an entry of about `bytes` bytes and waits until it is applied: a delete of a connector that cannot be
    /// there, so that it is replicated, synced and applied as any other, and refused.
    pub async fn write(&self, bytes: usize) -> Result<(), LoadError> {
        let name = "-".repeat(bytes).as_str().into();
        let body = CommandBody::DeleteConnector { name, incarnation: None };
        let command = Command { request_id: RequestId(rand::random()), time_ms: SystemClock.wall_ms(), body };
        let request = Forwarded { hops_left: HOPS_MAX, request: LeaderRequest::Propose(command) };
        let body = Bytes::from(wire::encode(&request)?);
        let answer = self.rpc.post(&self.address, LEADER_PATH, body, REQUEST_TIMEOUT).await?;
        match wire::decode(&answer)? {
            LeaderAnswer::Reply(Reply { body: ReplyBody::Refused(Refusal::ConnectorNotFound), .. }) => Ok(()),
            _ => Err(LoadError::Answer),
        }
    }
}
