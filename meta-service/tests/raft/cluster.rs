//! Nodes that can be started, killed and started again.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_types::connector::{ConnectorSpec, Delivery, Desired, Placement, QueueOptions};
use api_types::failure::FailurePolicy;
use api_types::topic::TopicFilter;
use api_types::{LogIndex, NodeName};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use meta_service::rpc::{Secrets, authorize};
use meta_service::state::{ClusterState, CommandBody, Reply, ReplyBody};
use meta_service::{BootStatus, Handle, MetaOptions, MetaService, ProposeError, RaftStatus, SystemClock, Timings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Ten times what anything here takes on a calm machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition; says what it waited for when it gives up.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        looks.tick().await;
    }
}

/// What a node is started with; it outlives the node.
pub struct Site {
    pub name: NodeName,
    pub address: SocketAddr,
    /// Where it says it is, when that is not true.
    pub claims: Option<SocketAddr>,
    pub folder: TempDir,
    pub initial_voters: Vec<(NodeName, String)>,
    pub join: Vec<String>,
    pub secret: &'static str,
    pub snapshot_every: u64,
    pub target_voters: u32,
    /// While true, the node answers nobody once it knows of a change of the voters that is under way.
    pub hold: watch::Sender<bool>,
    /// What it answers to streams of appends, if it takes none: an earlier version knows nothing of them.
    pub refuses_streams: Option<StatusCode>,
    /// Streams of appends that other nodes began here.
    pub streams: watch::Sender<u64>,
    /// False: it knows nothing of reads with a witness, as an earlier version.
    pub knows_witnesses: bool,
}

const LEADER_PATH: &str = "/meta/leader";
const STREAM_PATH: &str = "/raft/stream";

/// Of a site, for what its server does.
#[derive(Clone)]
struct Door {
    handle: Handle,
    hold: watch::Receiver<bool>,
    refuses_streams: Option<StatusCode>,
    streams: watch::Sender<u64>,
    knows_witnesses: bool,
}

pub struct TestNode {
    pub handle: Handle,
    pub secrets: Secrets,
    service: Option<MetaService>,
    runtime: Option<Runtime>,
}

/// A port nobody listens on, and nobody else here was given; it is taken when the node starts.
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, tests::ports::free().expect("a free port")))
}

impl Site {
    pub fn new(name: &str, initial_voters: Vec<(NodeName, String)>, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            address,
            claims: None,
            folder: TempDir::new().expect("temporary folder"),
            initial_voters,
            join: Vec::new(),
            secret: "a secret",
            snapshot_every: 20_000,
            target_voters: 3,
            hold: watch::Sender::new(false),
            refuses_streams: None,
            streams: watch::Sender::new(0),
            knows_witnesses: true,
        }
    }

    /// A node that knows nobody but the one it asks.
    pub fn joining(name: &str, ask: &Site) -> Self {
        Self { join: vec![ask.address.to_string()], ..Self::new(name, Vec::new(), free_address()) }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A server in the place of the node, which refuses whatever comes and tells when a stream of appends was begun.
    pub async fn refuse_all(&self) -> mpsc::Receiver<Instant> {
        // More than any test counts.
        let (tell, begun) = mpsc::channel(1_000);
        let refuse = move |request: Request| {
            if request.uri().path() == STREAM_PATH {
                // Nobody hears it any more when the test has counted enough.
                let _ = tell.try_send(Instant::now());
            }
            std::future::ready(StatusCode::SERVICE_UNAVAILABLE)
        };
        let listener = TcpListener::bind(self.address).await.expect("port is free");
        tokio::spawn(axum::serve(listener, Router::new().fallback(refuse)).into_future());
        begun
    }

    pub async fn start(&self) -> TestNode {
        // `RUST_LOG` shows what happens; only the first node of the process installs it.
        let log = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env());
        let _installed_before = log.with_test_writer().try_init();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("runtime");
        let secrets = Secrets::new(Some(self.secret), None);
        let options = MetaOptions {
            data_dir: self.folder.path().to_owned(),
            node_name: self.name.clone(),
            rpc_address: self.claims.unwrap_or(self.address).to_string(),
            initial_voters: self.initial_voters.clone(),
            join: self.join.clone(),
            secrets: secrets.clone(),
            timings: Timings { target_voters: self.target_voters, ..Timings::default() },
            snapshot_every: self.snapshot_every,
            clock: Arc::new(SystemClock),
        };
        let (address, gate, hold) = (self.address, secrets.clone(), self.hold.subscribe());
        let (refuses_streams, streams) = (self.refuses_streams, self.streams.clone());
        let knows_witnesses = self.knows_witnesses;
        let started = runtime.spawn(async move {
            let service = MetaService::start(options).expect("service starts");
            let door = Door { handle: service.handle(), hold, refuses_streams, streams, knows_witnesses };
            let routes = service.routes().layer(from_fn_with_state(door, hold_back));
            let routes = routes.layer(from_fn_with_state(gate, authorize));
            let listener = TcpListener::bind(address).await.expect("port is free");
            tokio::spawn(axum::serve(listener, routes).into_future());
            service
        });
        let service = started.await.expect("node starts");
        TestNode { handle: service.handle(), secrets, service: Some(service), runtime: Some(runtime) }
    }

    /// Starts a node again after it was killed: what the dead one held of the folder may take a moment to go.
    pub async fn start_again(&self) -> TestNode {
        let started = Instant::now();
        loop {
            let node = self.start().await;
            let mut fatal = node.handle.watch_fatal();
            let mut status = node.handle.watch_boot_status();
            tokio::select! {
                _ = status.wait_for(|status| *status != BootStatus::Starting) => return node,
                _ = fatal.changed() => {}
            }
            let reason = fatal.borrow().as_ref().map(|reason| format!("{reason:?}"));
            assert!(started.elapsed() < PATIENCE, "cannot start again: {reason:?}");
            node.kill().await;
        }
    }
}

/// What was received is done, and nobody hears of it.
async fn hold_back(State(mut door): State<Door>, mut request: Request, next: Next) -> Response {
    if request.uri().path() == STREAM_PATH {
        if let Some(status) = door.refuses_streams {
            return status.into_response();
        }
        door.streams.send_modify(|streams| *streams += 1);
    }
    if request.uri().path() == LEADER_PATH && !door.knows_witnesses {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a small body");
        if is_read_with_witness(&body) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        request = Request::from_parts(head, body.into());
    }
    let answer = next.run(request).await;
    if *door.hold.borrow() && voters_change_shows(&door.handle).await {
        // The site outlives its node.
        let _ = door.hold.wait_for(|hold| !hold).await;
    }
    answer
}

/// Behind the header of 16 bytes are the hops that are left and the number of the request.
fn is_read_with_witness(request: &[u8]) -> bool {
    request.get(17) == Some(&7)
}

/// The status follows Raft within moments.
async fn voters_change_shows(handle: &Handle) -> bool {
    let shows = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !handle.raft_status().is_some_and(|status| status.voters_change) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_millis(50), shows).await.is_ok()
}

impl TestNode {
    /// Runs something where the node runs, so that it dies with it.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().expect("runs").spawn(work).await.expect("not killed meanwhile")
    }

    pub async fn propose(&self, body: CommandBody) -> Result<Reply, ProposeError> {
        let handle = self.handle.clone();
        self.run(async move { handle.propose(body).await }).await
    }

    /// Creates a connector, which must succeed.
    pub async fn create(&self, name: &str) -> LogIndex {
        let reply = self.propose(create(name)).await.expect("proposed");
        assert!(matches!(reply.body, ReplyBody::Created { .. }), "{reply:?}");
        reply.index
    }

    /// The state by a linearizable read.
    pub async fn read(&self) -> Arc<ClusterState> {
        let handle = self.handle.clone();
        self.run(async move { handle.read().await }).await.expect("read").state
    }

    pub fn status(&self) -> RaftStatus {
        self.handle.raft_status().unwrap_or_default()
    }

    pub async fn ready(&self) {
        let mut status = self.handle.watch_boot_status();
        let runs = tokio::time::timeout(PATIENCE, status.wait_for(|status| *status == BootStatus::Running)).await;
        assert!(runs.is_ok(), "not running: {}", self.handle.boot_status());
    }

    /// Ends everything at once, without a goodbye and without a flush.
    pub async fn kill(mut self) {
        let (service, runtime) = (self.service.take(), self.runtime.take());
        let dead = tokio::task::spawn_blocking(move || {
            // The tasks go first, as they stand; nothing gets the chance to be orderly.
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(Duration::from_secs(10));
            }
            drop(service);
        });
        dead.await.expect("killed");
    }

    /// Ends the service in order; its folder is free afterwards.
    pub async fn stop(mut self) {
        let (service, runtime) = (self.service.take().expect("runs"), self.runtime.take().expect("runs"));
        runtime.spawn(service.shutdown()).await.expect("ends");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10))).await.expect("ends");
    }
}

impl Drop for TestNode {
    /// Waits until the database is closed: one that is open while the process ends is a crash of the process.
    fn drop(&mut self) {
        let (Some(service), Some(runtime)) = (self.service.take(), self.runtime.take()) else { return };
        let ending = std::thread::spawn(move || {
            runtime.block_on(service.shutdown());
            runtime.shutdown_timeout(Duration::from_secs(10));
        });
        // A panic in it was printed, and a second one while a test fails would hide the first.
        let _ = ending.join();
    }
}

/// Three initial voters, not started.
pub fn three_sites() -> Vec<Site> {
    sites(3)
}

pub fn sites(count: usize) -> Vec<Site> {
    let addresses: Vec<SocketAddr> = (0..count).map(|_| free_address()).collect();
    let name = |at: usize| format!("node-{at}");
    let voters: Vec<(NodeName, String)> =
        addresses.iter().enumerate().map(|(at, address)| (name(at).into(), address.to_string())).collect();
    addresses.iter().enumerate().map(|(at, address)| Site::new(&name(at), voters.clone(), *address)).collect()
}

pub async fn start_all(sites: &[Site]) -> Vec<TestNode> {
    futures::future::join_all(sites.iter().map(Site::start)).await
}

pub async fn ready_cluster(sites: &[Site]) -> Vec<TestNode> {
    let nodes = start_all(sites).await;
    for node in &nodes {
        node.ready().await;
    }
    nodes
}

/// Index of the node that leads, once all agree.
pub async fn leader_of(nodes: &[TestNode]) -> usize {
    let mut leader = None;
    eventually("all nodes agree on a leader", || {
        let claimed: Vec<_> = nodes.iter().map(|node| node.handle.leader()).collect();
        leader = nodes.iter().position(|node| node.status().is_leader());
        leader.is_some_and(|at| claimed.iter().all(|claim| *claim == Some(nodes[at].status().raft_id)))
    })
    .await;
    leader.expect("a leader")
}

pub fn names(state: &ClusterState) -> Vec<String> {
    state.names.keys().map(ToString::to_string).collect()
}

pub fn create(name: &str) -> CommandBody {
    let spec = ConnectorSpec {
        name: name.into(),
        kind: "file".to_owned(),
        config_sent: "{}".to_owned(),
        config_effective: "{}".to_owned(),
        filter: TopicFilter::parse("a/#").expect("a filter"),
        failure: FailurePolicy::default(),
        queue: QueueOptions::default(),
        placement: Placement::default(),
        desired: Desired::Running,
        labels: Default::default(),
        description: String::new(),
        delivery: Delivery::AtLeastOnce,
    };
    CommandBody::CreateConnector { spec: Box::new(spec) }
}
