//! The HTTP listeners of a node. They are bound before anything else happens, so that a taken port is told at once.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::middleware;
use meta_service::rpc::{Secrets, authorize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::late::LateRoutes;
use crate::config::{Config, HostPort};
use crate::metrics::Metrics;

/// Answers under way get so long when the listeners close; streams to other nodes would last for ever.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

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
        self.serve("metrics", listener, metrics.clone().router());
    }

    fn serve(&self, name: &'static str, listener: Option<TcpListener>, routes: Router) {
        let Some(listener) = listener else { return };
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            let served = axum::serve(listener, routes).with_graceful_shutdown(async move { closing.cancelled().await });
            if let Err(error) = served.await {
                tracing::error!(%error, listener = name, "listener ended");
            }
        });
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
