//! The HTTP API. Every node answers every call; every answer is in the envelope.
//!
//! ```text
//! request ─► Input (query, JSON body) ─► parse, all problems at once ─► ControlPlane ─► Answer | Failure ─► envelope
//! ```

mod answer;
pub mod ask;
mod cluster;
pub mod control;
mod create;
mod delete;
mod detail;
mod explain;
mod failure_strategy;
mod fields;
mod list;
mod probes;
mod request;
mod row;
mod spec;
mod types;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use connector_runtime::secrets::SecretFences;

use answer::{Failure, Outcome};
use control::ControlPlane;
use request::Input;

use crate::config::Config;
use crate::health::{Readiness, Watchdog};
use crate::metrics::Metrics;

pub use failure_strategy::TARGET_DOWN_WARNING;
pub use row::FIELDS as ROW_FIELDS;

/// How long another node may take to say how a task goes or what a queue holds.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What the routes need besides the control plane.
#[derive(Clone)]
pub struct ApiOptions {
    pub node_name: String,
    pub body_bytes_max: usize,
    pub fences: SecretFences,
    /// `queue.when_full` is set on this node.
    pub when_full_is_set: bool,
    /// `connectors.stop_timeout` and the longest life of a lease: then a deleted task has stopped.
    pub delete_wait: Duration,
    /// False when `metrics.listen` gives `/metrics` its own port.
    pub serve_metrics: bool,
    pub metrics: Metrics,
    pub watchdog: Watchdog,
}

/// From the end of a task to the removal of its connector: two commits, and a change of the leader in between.
const REMOVAL_SLACK: Duration = Duration::from_secs(3);

impl ApiOptions {
    pub fn from_config(config: &Config, fences: SecretFences, metrics: Metrics, watchdog: Watchdog) -> Self {
        Self {
            node_name: config.node.name.clone(),
            body_bytes_max: usize::try_from(config.api.body_bytes_max.0).unwrap_or(usize::MAX),
            fences,
            when_full_is_set: config.queue.when_full.is_some(),
            delete_wait: config.connectors.stop_timeout + config.cluster.dead_after + REMOVAL_SLACK,
            serve_metrics: config.metrics.listen.is_none(),
            metrics,
            watchdog,
        }
    }
}

/// What a handler gets.
pub struct Api {
    pub control: Arc<dyn ControlPlane>,
    pub options: ApiOptions,
    readiness: Readiness,
}

impl Api {
    /// Wall clock, only for showing.
    fn now_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }
}

type Shared = State<Arc<Api>>;

/// All routes.
pub fn router(control: Arc<dyn ControlPlane>, options: ApiOptions) -> Router {
    let serve_metrics = options.serve_metrics;
    let api = Arc::new(Api { control, options, readiness: Readiness::default() });
    let router = Router::new()
        .route("/api/mqtt/connector/list", get(connector_list))
        .route("/api/mqtt/connector/detail", get(connector_detail))
        .route("/api/mqtt/connector/create", post(connector_create))
        .route("/api/mqtt/connector/delete", post(connector_delete))
        .route("/api/mqtt/connector/show", get(connector_show))
        .route("/api/mqtt/connector/types", get(connector_types))
        .route("/api/mqtt/connector/explain", get(connector_explain))
        .route("/api/cluster/status", get(cluster_status))
        .route("/api/cluster/node/list", get(cluster_nodes))
        .route("/health/live", get(health_live))
        .route("/health/ready", get(health_ready));
    let router = if serve_metrics { router.route("/metrics", get(metrics)) } else { router };
    router
        .fallback(answer::path_not_found)
        .method_not_allowed_fallback(answer::method_not_allowed)
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

/// `/metrics` alone, for `metrics.listen`; everything else is refused as on the API's listener.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new()
        .route("/metrics", get(move || async move { metrics.respond() }))
        .fallback(answer::path_not_found)
        .method_not_allowed_fallback(answer::method_not_allowed)
}

async fn connector_list(State(api): Shared, request: Request) -> Outcome {
    let input = read(&api, request).await?;
    let view = api.control.read().await?;
    list::list(&view, &input)
}

async fn connector_detail(State(api): Shared, request: Request) -> Outcome {
    detail::detail(&api, read(&api, request).await?).await
}

async fn connector_create(State(api): Shared, request: Request) -> Outcome {
    create::create(&api, read(&api, request).await?).await
}

async fn connector_delete(State(api): Shared, request: Request) -> Outcome {
    let input = read(&api, request).await?;
    delete::delete(api, input).await
}

async fn connector_show(State(api): Shared, request: Request) -> Outcome {
    detail::show(&api, read(&api, request).await?).await
}

async fn connector_types(State(api): Shared, request: Request) -> Outcome {
    types::types(&api, &read(&api, request).await?)
}

async fn connector_explain(State(api): Shared, request: Request) -> Outcome {
    explain::explain(&api, read(&api, request).await?).await
}

async fn cluster_status(State(api): Shared, request: Request) -> Outcome {
    cluster::status(&api, read(&api, request).await?).await
}

async fn cluster_nodes(State(api): Shared, request: Request) -> Outcome {
    cluster::nodes(&api, read(&api, request).await?).await
}

async fn health_live(State(api): Shared) -> Response {
    probes::live(&api)
}

async fn health_ready(State(api): Shared, request: Request) -> Response {
    match read(&api, request).await {
        Ok(input) => probes::ready(&api, &input),
        Err(failure) => failure.into_response(),
    }
}

async fn metrics(State(api): Shared) -> Response {
    api.options.metrics.respond()
}

async fn read(api: &Api, request: Request<Body>) -> Result<Input, Failure> {
    Input::read(request, api.options.body_bytes_max).await
}

/// Counts and times every request by its path. What is not a route is one path, so that labels stay bounded.
async fn count(State(api): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let start = Instant::now();
    let response = next.run(request).await;
    let path = if response.extensions().get::<answer::NoSuchPath>().is_some() { "unknown" } else { path.as_str() };
    let metrics = &api.options.metrics;
    metrics.api_request_seconds.with_label_values(&[path]).observe(start.elapsed().as_secs_f64());
    metrics.api_requests.with_label_values(&[path, response.status().as_str()]).inc();
    response
}

#[cfg(test)]
pub(crate) mod tests;
