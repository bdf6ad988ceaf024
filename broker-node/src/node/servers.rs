//! The HTTP listeners of a node. They are bound before anything else happens, so that a taken port is told at once.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use meta_service::rpc::{Secrets, authorize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::late::LateRoutes;
use crate::api;
use crate::config::{Config, HostPort};
use crate::metrics::Metrics;

/// Answers under way get so long when the listeners close; streams to other nodes would last for ever.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// A fetch of another node holds a stream for as long as it waits for records; there may be one per connector.
const STREAMS_MAX: u32 = 65_536;
/// A peer that sends no request, or answers no ping, within this is let go.
const HEADER_WITHIN: Duration = Duration::from_secs(30);
const PING_EVERY: Duration = Duration::from_secs(30);
/// Most often there are no file descriptors left, and there will be none at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
#[error("{key} {address} cannot be listened on")]
pub struct BindError {
    key: &'static str,
    address: HostPort,
    #[source]
    source: std::io::Error,
}

pub struct Servers {
    rpc: Option<TcpListener>,
    api: Option<TcpListener>,
    metrics: Option<TcpListener>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Servers {
    pub async fn bind(config: &Config) -> Result<Self, BindError> {
        let metrics = match &config.metrics.listen {
            Some(address) => Some(bind("metrics.listen", address).await?),
            None => None,
        };
        Ok(Self {
            rpc: Some(bind("rpc.listen", &config.rpc.listen).await?),
            api: Some(bind("api.listen", &config.api.listen).await?),
            metrics,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Runs beside the listeners and ends with them.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move { closing.run_until_cancelled(task).await });
    }

    pub fn serve_rpc(&mut self, routes: Router, late: LateRoutes, secrets: Secrets) {
        let routes = routes
            .fallback(move |request| late.clone().answer(request))
            .layer(middleware::from_fn_with_state(secrets, authorize));
        let listener = self.rpc.take();
        self.serve("rpc", listener, routes);
    }

    pub fn serve_api(&mut self, routes: Router, metrics: &Metrics) {
        let listener = self.api.take();
        self.serve("api", listener, routes);
        let listener = self.metrics.take();
        self.serve("metrics", listener, api::metrics_router(metrics.clone()));
    }

    fn serve(&self, name: &'static str, listener: Option<TcpListener>, routes: Router) {
        let Some(listener) = listener else { return };
        let closing = self.closing.clone();
        self.tasks.spawn(async move { accept(name, listener, routes, closing).await });
    }

    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        // What is still open then are the streams of other nodes; they connect anew elsewhere.
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.tasks.wait()).await;
    }
}

async fn bind(key: &'static str, address: &HostPort) -> Result<TcpListener, BindError> {
    TcpListener::bind((address.host.as_str(), address.port)).await.map_err(|source| BindError {
        key,
        address: address.clone(),
        source,
    })
}

/// Serves until closed. Connections that are open then finish what they answer.
async fn accept(name: &'static str, listener: TcpListener, routes: Router, closing: CancellationToken) {
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, listener = name, "connection lost before it was served");
                    continue;
                }
                let service = TowerToHyperService::new(routes.clone());
                let connection = builder().serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
                let connection = connections.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(error, listener = name, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, listener = name, "connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_WITHIN);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(HEADER_WITHIN);
    builder
}
