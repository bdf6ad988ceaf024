//! The node RPC's client and its bearer check. Every RPC between nodes – Raft, forwarding, heartbeats, queues,
//! subscriptions – goes through here, so the secret is in one place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api_types::RaftId;
use api_types::secret::same_bytes;
use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::handle::Handle;

/// The Raft id that a request is for. An address may lead to another disk by now, which must not answer for that one.
pub(crate) const TO: HeaderName = HeaderName::from_static("sluice-to");

/// `cluster.secret` and `cluster.secret_previous`; none means an open RPC on loopback.
#[derive(Clone, Default)]
pub struct Secrets {
    current: Option<Arc<str>>,
    previous: Option<Arc<str>>,
    refused: Arc<AtomicU64>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("set", &self.current.is_some()).finish()
    }
}

impl Secrets {
    pub fn new(current: Option<&str>, previous: Option<&str>) -> Self {
        Self { current: current.map(Arc::from), previous: previous.map(Arc::from), refused: Arc::default() }
    }

    /// Whether the value of an `Authorization` header opens the door; counts what it refuses.
    pub fn accepts(&self, authorization: Option<&[u8]>) -> bool {
        let Some(current) = &self.current else { return true };
        let bearer = authorization.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        let mut accepted = same_bytes(bearer, current.as_bytes());
        if let Some(previous) = &self.previous {
            accepted |= same_bytes(bearer, previous.as_bytes());
        }
        if !accepted {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    /// Requests refused for a wrong or missing secret since the start.
    pub fn refused_total(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No answer: the request may or may not have been carried out.
    #[error("no answer")]
    Transport(#[source] reqwest::Error),
    /// Nobody listens there: the request was certainly not carried out.
    #[error("cannot connect")]
    Connect(#[source] reqwest::Error),
    #[error("refused with status {status}: {message}")]
    Status { status: u16, message: String },
}

/// A client for the RPC port of other nodes: HTTP/2 with prior knowledge, so that requests share connections.
#[derive(Clone, Debug)]
pub struct RpcClient {
    http: reqwest::Client,
    /// For connections that leave HTTP, which its second version does not let go.
    http1: reqwest::Client,
    secrets: Secrets,
}

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Most bytes read of an error's body.
const ERROR_BYTES_MAX: usize = 2048;

impl RpcClient {
    pub fn new(secrets: Secrets) -> Result<Self, reqwest::Error> {
        // Building a client panics without a provider of cryptography for the process, even when it never speaks TLS.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been faster with the same one.
            let _installed = rustls::crypto::ring::default_provider().install_default();
        }
        let builder = || {
            reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let http = builder()
            .http2_prior_knowledge()
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .http2_keep_alive_timeout(Duration::from_secs(4))
            .http2_keep_alive_while_idle(true)
            .build()?;
        Ok(Self { http, http1: builder().http1_only().build()?, secrets })
    }

    /// POSTs a body to `http://{address}{path}` and returns the body of a 200.
    pub async fn post(&self, address: &str, path: &str, body: Bytes, timeout: Duration) -> Result<Bytes, RpcError> {
        let response = self.send(address, path, reqwest::Body::from(body), Some(timeout)).await?;
        response.bytes().await.map_err(RpcError::Transport)
    }

    /// Like `post`, and only the node of this id answers; see [`only_for_this_node`].
    pub async fn post_to(
        &self,
        to: RaftId,
        address: &str,
        path: &str,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, RpcError> {
        let response = self.send_to(to, address, path, reqwest::Body::from(body), Some(timeout)).await?;
        response.bytes().await.map_err(RpcError::Transport)
    }

    /// Like `send`, and only the node of this id answers.
    pub async fn send_to(
        &self,
        to: RaftId,
        address: &str,
        path: &str,
        body: reqwest::Body,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response, RpcError> {
        let headers = HeaderMap::from_iter([(TO, HeaderValue::from(to.0))]);
        self.send_with(address, path, headers, body, timeout).await
    }

    /// POSTs and returns the response once its head is there; the caller reads the body as it comes.
    /// Without a timeout it lasts until one side ends it.
    pub async fn send(
        &self,
        address: &str,
        path: &str,
        body: reqwest::Body,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response, RpcError> {
        self.send_with(address, path, HeaderMap::new(), body, timeout).await
    }

    /// Like `send`, with headers of the caller's.
    pub async fn send_with(
        &self,
        address: &str,
        path: &str,
        headers: HeaderMap,
        body: reqwest::Body,
        timeout: Option<Duration>,
    ) -> Result<reqwest::Response, RpcError> {
        let mut request = self.http.post(format!("http://{address}{path}")).headers(headers).body(body);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        self.answered(request, reqwest::StatusCode::OK).await
    }

    /// A connection of its own that both ends use for a protocol of theirs, once the other one has agreed.
    pub async fn upgrade(
        &self,
        address: &str,
        path: &str,
        protocol: &'static str,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<reqwest::Upgraded, RpcError> {
        let request = self.http1.post(format!("http://{address}{path}")).headers(headers).timeout(timeout);
        let request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, protocol);
        let response = self.answered(request, reqwest::StatusCode::SWITCHING_PROTOCOLS).await?;
        response.upgrade().await.map_err(RpcError::Transport)
    }

    /// Sends it with the secret; what comes with another status is an error.
    async fn answered(
        &self,
        mut request: reqwest::RequestBuilder,
        expected: reqwest::StatusCode,
    ) -> Result<reqwest::Response, RpcError> {
        if let Some(secret) = &self.secrets.current {
            request = request.bearer_auth(secret);
        }
        let response = request
            .send()
            .await
            .map_err(|error| if error.is_connect() { RpcError::Connect(error) } else { RpcError::Transport(error) })?;
        if response.status() == expected {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let mut message = response.text().await.unwrap_or_default();
        if let Some((end, _)) = message.char_indices().nth(ERROR_BYTES_MAX) {
            message.truncate(end);
        }
        Err(RpcError::Status { status, message })
    }
}

/// Refuses every RPC without the cluster's secret; put it around the whole RPC router.
pub async fn authorize(
    axum::extract::State(secrets): axum::extract::State<Secrets>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    use axum::response::IntoResponse;
    let header = request.headers().get(axum::http::header::AUTHORIZATION).map(|value| value.as_bytes());
    if secrets.accepts(header) {
        next.run(request).await
    } else {
        (axum::http::StatusCode::UNAUTHORIZED, "cluster secret missing or wrong").into_response()
    }
}

/// Refuses what is meant for another node. A request that names none, as those of earlier versions do, is taken.
pub async fn only_for_this_node(
    axum::extract::State(handle): axum::extract::State<Handle>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    use axum::response::IntoResponse;
    let here = handle.identity().map(|identity| identity.raft_id);
    let is_for = |to: &HeaderValue| here.is_some_and(|here| *to == HeaderValue::from(here.0));
    if request.headers().get(TO).is_none_or(is_for) {
        next.run(request).await
    } else {
        (axum::http::StatusCode::MISDIRECTED_REQUEST, "WRONG_NODE: another node is here").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_open_the_door_and_nothing_else_does() {
        let secrets = Secrets::new(Some("new"), Some("old"));
        for good in ["Bearer new", "Bearer old"] {
            assert!(secrets.accepts(Some(good.as_bytes())), "{good}");
        }
        for bad in ["Bearer ", "Bearer nex", "new", "Bearer newer"] {
            assert!(!secrets.accepts(Some(bad.as_bytes())), "{bad}");
        }
        assert!(!secrets.accepts(None));
        assert_eq!(secrets.refused_total(), 5);
    }
}
