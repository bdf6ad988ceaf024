//! The queue RPC as the node of the queues answers it. Mounted on the RPC listener, behind the cluster's secret.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::Queues;
use super::hub::Frames;
use super::op::CallError;
use super::rows::{self, FormatError};
use super::wire::{
    self, CommitRequest, FetchRequest, LedgerRequest, OpenRequest, Reply, SplitRequest, WatchRequest, frame_to_bytes,
};

/// A commit names the end of every record of its batches; this is room for a million of them with long messages.
const BODY_BYTES_MAX: usize = 256 << 20;

impl Queues {
    pub fn routes(&self) -> Router {
        Router::new()
            .route(wire::OPEN, post(open))
            .route(wire::FETCH, post(fetch))
            .route(wire::SPLIT, post(split))
            .route(wire::COMMIT, post(commit))
            .route(wire::WATCH, post(watch))
            .route(wire::LEDGER, post(ledger))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self.clone())
    }
}

/// A body that cannot be read: another version, or not ours.
struct BadRequest(FormatError);

impl IntoResponse for BadRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, self.0.to_string()).into_response()
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, BadRequest> {
    rows::decode(body).map_err(BadRequest)
}

fn answer<T: Serialize>(result: Result<T, CallError>) -> Result<Vec<u8>, BadRequest> {
    rows::encode(&Reply::from(result)).map_err(BadRequest)
}

async fn open(State(queues): State<Queues>, body: Bytes) -> Result<Vec<u8>, BadRequest> {
    let request: OpenRequest = read(&body)?;
    answer(queues.open_queue(request.incarnation, request.epoch).await)
}

async fn fetch(State(queues): State<Queues>, body: Bytes) -> Result<Vec<u8>, BadRequest> {
    let request: FetchRequest = read(&body)?;
    answer(queues.fetch(request.incarnation, request.epoch, request.from, request.limits).await)
}

async fn split(State(queues): State<Queues>, body: Bytes) -> Result<Vec<u8>, BadRequest> {
    let request: SplitRequest = read(&body)?;
    answer(queues.split(request.incarnation, request.epoch, request.from, request.at).await)
}

async fn commit(State(queues): State<Queues>, body: Bytes) -> Result<Vec<u8>, BadRequest> {
    let request: CommitRequest = read(&body)?;
    answer(queues.commit(request.incarnation, request.epoch, request.commit).await)
}

async fn ledger(State(queues): State<Queues>, body: Bytes) -> Result<Vec<u8>, BadRequest> {
    let request: LedgerRequest = read(&body)?;
    answer(queues.lag(request.incarnations).await)
}

async fn watch(State(queues): State<Queues>, body: Bytes) -> Result<Body, BadRequest> {
    let request: WatchRequest = read(&body)?;
    debug!(owner = %request.owner, queues = request.pairs.len(), "queue stream opened");
    let frames = Frames::new(queues, &request.pairs);
    let stream = futures::stream::unfold(frames, async |mut frames| {
        let frame = frames.next().await?;
        Some((frame_to_bytes(&frame), frames))
    });
    Ok(Body::from_stream(stream))
}
