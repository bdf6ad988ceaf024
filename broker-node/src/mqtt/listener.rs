//! Accepts connections and ends them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_types::Message;
use connector_runtime::lease::Lease;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info};

use super::auth::Auth;
use super::budget::Budget;
use super::cluster::{Cluster, ClusterLink};
use super::connection::Connection;
use super::connection::io::READ_BYTES;
use super::handshake::handshake;
use super::hub::{Hub, Limits, PublishError};
use super::ingest::Ingest;
use super::metrics::MqttMetrics;
use super::router::{Router, deliver_here};
use super::session::Registry;
use super::subscriptions::Subscriptions;
use super::wire::Reason;

/// Sockets beyond `connections_max` that may be about to send their CONNECT, or to be told that there is no room.
const HANDSHAKES_MAX: usize = 1024;
/// Pause after a failed accept: most often there are no file descriptors left, and there will be none at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A peer whose host is gone is found within a few minutes, also when it asked for no keep alive.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);

pub struct MqttOptions {
    pub auth: Auth,
    pub limits: Limits,
    /// `None`: subscribers get what is published on this node only.
    pub cluster: Option<ClusterLink>,
}

/// The MQTT side of one node. It serves its part of the node RPC and publishes internally from the start, and accepts
/// clients once it is opened.
pub struct MqttServer {
    hub: Arc<Hub>,
    connections: TaskTracker,
    /// Ends the accept loops.
    accepting: CancellationToken,
    /// Ends the tasks that speak to other nodes, with the server: what the broker itself publishes goes on until then.
    _forwarding: DropGuard,
    /// Ends connections that outlive the drain.
    aborting: CancellationToken,
    listening: Mutex<Vec<SocketAddr>>,
}

impl MqttServer {
    pub fn start(options: MqttOptions, ingest: Arc<dyn Ingest>, lease: Lease, metrics: MqttMetrics) -> Self {
        let MqttOptions { auth, limits, cluster: link } = options;
        let subscriptions = Arc::new(Subscriptions::default());
        let forwarding = CancellationToken::new();
        let cluster = link.map(|link| {
            let (here, counted) = (subscriptions.clone(), metrics.clone());
            let local = move |publication| deliver_here(&here, &Arc::new(publication), &counted);
            let packet_bytes_max = limits.packet_bytes_max as usize;
            let cluster = Cluster::new(&link, subscriptions.clone(), metrics.clone(), packet_bytes_max, local);
            tokio::spawn(cluster.clone().run(link.peers, forwarding.clone()));
            cluster
        });
        let hub = Arc::new(Hub {
            router: Router::new(subscriptions.clone(), cluster.clone(), metrics.clone()),
            budget: Budget::new(limits.inflight_bytes_max, limits.packet_bytes_max as usize + READ_BYTES),
            limits,
            auth,
            ingest,
            lease,
            sessions: Registry::default(),
            subscriptions,
            cluster,
            metrics,
            connected: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
        });
        Self {
            hub,
            connections: TaskTracker::new(),
            accepting: CancellationToken::new(),
            _forwarding: forwarding.drop_guard(),
            aborting: CancellationToken::new(),
            listening: Mutex::default(),
        }
    }

    /// The node RPC of this module, paths below `/subscriptions/`.
    pub fn routes(&self) -> axum::Router {
        self.hub.cluster.as_ref().map(Cluster::routes).unwrap_or_default()
    }

    /// Binds the address and accepts clients from now on. Returns the address, whose port the system may have chosen.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        info!(%address, "listening for mqtt clients");
        let acceptor = Acceptor {
            hub: self.hub.clone(),
            connections: self.connections.clone(),
            sockets: Arc::new(Semaphore::new(self.hub.limits.connections_max.saturating_add(HANDSHAKES_MAX))),
            aborting: self.aborting.clone(),
        };
        self.connections.spawn(acceptor.run(listener, self.accepting.clone()));
        Ok(address)
    }

    /// Whether clients can connect.
    pub fn is_listening(&self) -> bool {
        let opened = !self.listening.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        opened && !self.accepting.is_cancelled()
    }

    /// Publishes a message of the broker itself: to the queues of matching connectors, then to subscribers.
    pub async fn publish_internal(&self, message: Message) -> Result<(), PublishError> {
        self.hub.publish_internal(message).await
    }

    pub fn stop_accepting(&self) {
        self.accepting.cancel();
    }

    /// Ends all connections: nothing more is read, what was submitted is waited for and acknowledged, every client is
    /// told. Connections that take longer than `bound` are dropped. Returns whether all ended by themselves.
    pub async fn drain(&self, bound: Duration) -> bool {
        self.stop_accepting();
        self.hub.stopping.cancel();
        self.hub.sessions.close_all(Reason::ServerShuttingDown);
        self.connections.close();
        let in_time = tokio::time::timeout(bound, self.connections.wait()).await.is_ok();
        self.aborting.cancel();
        self.connections.wait().await;
        in_time
    }
}

struct Acceptor {
    hub: Arc<Hub>,
    connections: TaskTracker,
    sockets: Arc<Semaphore>,
    aborting: CancellationToken,
}

impl Acceptor {
    async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    self.serve(stream, peer);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        error!(%error, "mqtt connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        let Ok(socket) = self.sockets.clone().try_acquire_owned() else {
            // Not even an answer can be afforded.
            debug!(%peer, "connection dropped, too many sockets");
            return;
        };
        let hub = self.hub.clone();
        // One of its own: the state of a token is behind a lock, which every turn of a connection takes.
        let aborting = self.aborting.child_token();
        self.connections.spawn(async move {
            let _socket = socket;
            let serve = async {
                if let Err(error) = tune(&stream) {
                    debug!(%peer, %error, "socket options cannot be set");
                }
                if let Some(established) = handshake(&hub, &mut stream).await {
                    Connection::open(hub, stream, established).run().await;
                }
            };
            tokio::select! {
                () = serve => {}
                () = aborting.cancelled() => debug!(%peer, "connection dropped, it did not end in time"),
            }
        });
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keep_alive = socket2::TcpKeepalive::new().with_time(TCP_KEEP_ALIVE).with_interval(TCP_KEEP_ALIVE / 4);
    socket2::SockRef::from(stream).set_tcp_keepalive(&keep_alive)
}
