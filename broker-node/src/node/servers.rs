//! The HTTP listeners of a node. They are bound before anything else happens, so that a taken port is told at once.

use std::future::Future;
use std::io;
use std::time::Duration;

use axum::{BoxError, Router, middleware};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use meta_service::rpc::{Secrets, authorize};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
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
/// A stream that has left HTTP/2 and its pings, of a peer that vanished without a word, is let go after three times this.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(10);
const TCP_PROBES: u32 = 2;
/// Most often there are no file descriptors left, and there will be none at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
#[error("{key} {address} cannot be listened on")]
pub struct BindError {
    key: &'static str,
    address: HostPort,
    #[source]
    source: io::Error,
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
        self.serve("rpc", listener, routes, Upgrades::Served);
    }

    pub fn serve_api(&mut self, routes: Router, metrics: &Metrics) {
        let listener = self.api.take();
        self.serve("api", listener, routes, Upgrades::None);
        let listener = self.metrics.take();
        self.serve("metrics", listener, api::metrics_router(metrics.clone()), Upgrades::None);
    }

    fn serve(&self, name: &'static str, listener: Option<TcpListener>, routes: Router, upgrades: Upgrades) {
        let Some(listener) = listener else { return };
        let closing = self.closing.clone();
        self.tasks.spawn(async move { accept(name, listener, routes, upgrades, closing).await });
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

/// Whether a connection may leave HTTP for a protocol that both ends agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrades {
    Served,
    None,
}

/// Serves until closed. Connections that are open then finish what they answer.
async fn accept(
    name: &'static str,
    listener: TcpListener,
    routes: Router,
    upgrades: Upgrades,
    closing: CancellationToken,
) {
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%error, listener = name, "connection lost before it was served");
                    continue;
                }
                let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(routes.clone()));
                let builder = builder();
                match upgrades {
                    Upgrades::Served => {
                        let connection = builder.serve_connection_with_upgrades(stream, service).into_owned();
                        tokio::spawn(log_end(name, connections.watch(connection)));
                    }
                    Upgrades::None => {
                        let connection = builder.serve_connection(stream, service).into_owned();
                        tokio::spawn(log_end(name, connections.watch(connection)));
                    }
                }
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

async fn log_end(name: &'static str, connection: impl Future<Output = Result<(), BoxError>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error, listener = name, "connection ended");
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE);
    SockRef::from(stream).set_tcp_keepalive(&keep_alive.with_retries(TCP_PROBES))
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

#[cfg(test)]
mod tests {
    use axum::extract::Request;
    use axum::http::{StatusCode, header};
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_connection_leaves_http_only_where_that_is_served() {
        let check = async |upgrades: Upgrades, expect: bool| {
            let (tell, mut upgraded) = mpsc::channel(1);
            let agree = async move |mut request: Request| {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move { tell.send(upgrade.await.is_ok()).await });
                (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "other")])
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let closing = CancellationToken::new();
            let routes = Router::new().route("/", get(agree));
            let accepting = tokio::spawn(accept("test", listener, routes, upgrades, closing.clone()));
            let mut client = TcpStream::connect(address).await.expect("connects");
            let request = b"GET / HTTP/1.1\r\nhost: here\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
            client.write_all(request).await.expect("writes");
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.expect("reads");
            assert_eq!(&answer, b"HTTP/1.1 101");
            assert_eq!(upgraded.recv().await, Some(expect), "{upgrades:?}");
            drop(client);
            closing.cancel();
            accepting.await.expect("ends");
        };
        check(Upgrades::Served, true).await;
        check(Upgrades::None, false).await;
    }

    #[tokio::test]
    async fn a_peer_that_vanished_is_looked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address"));
        let (client, accepted) = tokio::join!(client, listener.accept());
        let (_client, (accepted, _)) = (client.expect("connects"), accepted.expect("accepts"));
        tune(&accepted).expect("is tuned");
        let socket = SockRef::from(&accepted);
        assert!(socket.keepalive().expect("is told"));
        let found_within = socket.tcp_keepalive_time().expect("is told")
            + socket.tcp_keepalive_interval().expect("is told") * socket.tcp_keepalive_retries().expect("is told");
        assert_eq!(found_within, Duration::from_secs(30));
    }
}
