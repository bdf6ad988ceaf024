//! Node to node: how a task goes and what a queue holds, asked by the node that answers the user.
//!
//! ```text
//! API of any node ── POST /node/task  {incarnation} ──► owner      ─► Option<TaskReport>
//!                 ── POST /node/share {incarnation} ──► every node ─► Option<QueueHolding>
//! ```
//!
//! Bodies are postcard behind one version byte. The routes belong on the RPC listener, under its bearer check.

use std::sync::Arc;

use api_types::status::TaskReport;
use api_types::{Incarnation, RaftId};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use async_trait::async_trait;
use futures::future::join_all;
use meta_service::rpc::{RpcClient, RpcError};
use meta_service::state::ClusterState;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ASK_TIMEOUT;
use super::control::{QueueHolding, QueueShare};

const VERSION: u8 = 1;
const TASK_PATH: &str = "/node/task";
const SHARE_PATH: &str = "/node/share";

/// What this node can say of itself.
#[async_trait]
pub trait LocalView: Send + Sync + 'static {
    /// The task as the supervisor sees it now.
    fn task(&self, incarnation: Incarnation) -> Option<TaskReport>;

    /// What this node's queue holds. A queue that does not exist holds nothing; `None` when the queues cannot say.
    async fn holding(&self, incarnation: Incarnation) -> Option<QueueHolding>;
}

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the node did not answer")]
    Rpc(#[from] RpcError),
    #[error("the node answered something else")]
    Format(#[source] postcard::Error),
    #[error("the node answered in version {0}")]
    Version(u8),
}

pub fn routes(local: Arc<dyn LocalView>) -> Router {
    Router::new()
        .route(
            TASK_PATH,
            post(|State(local): State<Arc<dyn LocalView>>, body: Bytes| async move {
                let incarnation = decode(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
                answer(&local.task(incarnation))
            }),
        )
        .route(
            SHARE_PATH,
            post(|State(local): State<Arc<dyn LocalView>>, body: Bytes| async move {
                let incarnation = decode(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
                answer(&local.holding(incarnation).await)
            }),
        )
        .with_state(local)
}

fn answer<T: Serialize>(value: &T) -> Result<Vec<u8>, StatusCode> {
    encode(value).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

/// The task as its owner sees it; `Ok(None)` when the owner has none.
pub async fn task(rpc: &RpcClient, address: &str, incarnation: Incarnation) -> Result<Option<TaskReport>, AskError> {
    ask(rpc, address, TASK_PATH, incarnation).await
}

/// What every node that ever registered holds; this node is asked by call, the others at the same time.
pub async fn shares(
    rpc: &RpcClient,
    state: &ClusterState,
    own: Option<RaftId>,
    local: &dyn LocalView,
    incarnation: Incarnation,
) -> Vec<QueueShare> {
    let registered = state.nodes.values().filter(|node| node.node_epoch.0 > 0);
    let asked = registered.map(|node| async move {
        let holds = if own == Some(node.raft_id) {
            local.holding(incarnation).await
        } else {
            ask(rpc, &node.rpc_address, SHARE_PATH, incarnation).await.unwrap_or_default()
        };
        QueueShare { node: node.raft_id, name: node.name.clone(), holds }
    });
    join_all(asked).await
}

async fn ask<T: DeserializeOwned>(
    rpc: &RpcClient,
    address: &str,
    path: &str,
    incarnation: Incarnation,
) -> Result<T, AskError> {
    let body = encode(&incarnation).map_err(AskError::Format)?;
    let answer = rpc.post(address, path, body.into(), ASK_TIMEOUT).await?;
    decode(&answer)
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(value, vec![VERSION])
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AskError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(AskError::Format),
        Some((&other, _)) => Err(AskError::Version(other)),
        None => Err(AskError::Format(postcard::Error::DeserializeUnexpectedEnd)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_carry_their_version() {
        let report = TaskReport { last_error: Some("refused".into()), restarts_total: 3, ..TaskReport::default() };
        let bytes = encode(&Some(report.clone())).expect("encodes");
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<Option<TaskReport>>(&bytes).expect("decodes"), Some(report));
        let mut newer = bytes;
        newer[0] = VERSION + 1;
        assert!(matches!(decode::<Option<TaskReport>>(&newer), Err(AskError::Version(2))));
        assert!(matches!(decode::<Option<TaskReport>>(&[]), Err(AskError::Format(_))));
    }
}
