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
use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use futures::future::join_all;
use meta_service::rpc::{RpcClient, RpcError};
use meta_service::state::{ClusterState, Node};
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
pub async fn task(rpc: &RpcClient, owner: &Node, incarnation: Incarnation) -> Result<Option<TaskReport>, AskError> {
    ask(rpc, owner, TASK_PATH, incarnation).await
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
            ask(rpc, node, SHARE_PATH, incarnation).await.unwrap_or_default()
        };
        QueueShare { node: node.raft_id, name: node.name.clone(), holds }
    });
    join_all(asked).await
}

async fn ask<T: DeserializeOwned>(
    rpc: &RpcClient,
    node: &Node,
    path: &str,
    incarnation: Incarnation,
) -> Result<T, AskError> {
    let body = encode(&incarnation).map_err(AskError::Format)?;
    let answer = rpc.post_to(node.raft_id, &node.rpc_address, path, body.into(), ASK_TIMEOUT).await?;
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

    struct Fixed(Option<QueueHolding>);

    #[async_trait]
    impl LocalView for Fixed {
        fn task(&self, incarnation: Incarnation) -> Option<TaskReport> {
            (incarnation == Incarnation(7)).then(|| TaskReport { incarnation, ..TaskReport::default() })
        }

        async fn holding(&self, _: Incarnation) -> Option<QueueHolding> {
            self.0
        }
    }

    /// Listens until the test ends.
    async fn serve(local: Fixed) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, routes(Arc::new(local))).await });
        address
    }

    fn node(id: u64, address: &str) -> Node {
        Node {
            raft_id: RaftId(id),
            disk_id: Default::default(),
            name: format!("n{id}").into(),
            rpc_address: address.to_owned(),
            api_address: String::new(),
            mqtt_address: String::new(),
            zone: String::new(),
            version: String::new(),
            kinds: Vec::new(),
            state: meta_service::state::NodeState::Up,
            node_epoch: api_types::NodeEpoch(id),
            boot_nonce: id,
            since_ms: 0,
            log_synced: Default::default(),
        }
    }

    fn client() -> RpcClient {
        let _ = rustls::crypto::ring::default_provider().install_default();
        RpcClient::new(meta_service::rpc::Secrets::default()).expect("a client")
    }

    #[tokio::test]
    async fn owners_are_asked_over_the_wire() {
        let address = serve(Fixed(None)).await;
        let rpc = client();
        let owner = node(2, &address);
        let known = task(&rpc, &owner, Incarnation(7)).await.expect("an answer");
        assert_eq!(known.map(|report| report.incarnation), Some(Incarnation(7)));
        assert_eq!(task(&rpc, &owner, Incarnation(8)).await.expect("an answer"), None);
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_asked_has_an_unknown_share() {
        let mut holding = QueueHolding::default();
        holding.ledger.pending = 5;
        let there = serve(Fixed(Some(holding))).await;
        let closed = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("an address").to_string()
        };
        let mut state = ClusterState::default();
        for (id, address) in [(1, "unused"), (2, there.as_str()), (3, closed.as_str())] {
            state.nodes.insert(RaftId(id), Arc::new(node(id, address)));
        }
        let local = Fixed(Some(QueueHolding::default()));
        let shares = shares(&client(), &state, Some(RaftId(1)), &local, Incarnation(7)).await;
        let pending: Vec<Option<u64>> =
            shares.iter().map(|share| share.holds.map(|held| held.ledger.pending)).collect();
        assert_eq!(pending, [Some(0), Some(5), None]);
    }
}
