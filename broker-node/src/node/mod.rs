//! One node, put together. Everything is made here, once, and passed down.
//!
//! ```text
//! config ─► lock the data directory ─► listeners bound ─► metadata service ─► (bootstrap or join) ─► identity
//!        ─► queues, sources, supervisor, mqtt server, agent ─► first lease ─► mqtt listens ─► signal ─► stop
//! ```

mod control;
mod data_dir;
mod ingest;
mod late;
mod opening;
mod scrape;
mod servers;
mod stop;
mod up;

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use connector_runtime::secrets::SecretFences;
use meta_service::clock::Clock;
use meta_service::rpc::{RpcClient, Secrets};
use meta_service::{FatalReason, Handle, MetaOptions, MetaService, SystemClock, Timings};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;

use crate::agent::AgentError;
use crate::agent::lease::LeaseKeeper;
use crate::api::{self, ApiOptions};
use crate::cli;
use crate::config::{Config, IngestWithoutLease};
use crate::error_chain::error_chain;
use crate::health::Watchdog;
use crate::metrics::Metrics;
use crate::queue::Queues;
use control::{Control, LastObserved};
use data_dir::{DataDir, DataDirError};
use late::LateRoutes;
use scrape::Scrape;
use servers::{BindError, Servers};
use up::Up;

pub use control::Rooms;

/// Entries between two snapshots of the cluster's state.
const SNAPSHOT_EVERY: u64 = meta_service::SNAPSHOT_EVERY_DEFAULT;
/// For closing the databases of a node that is not well: their last sync may be slow, and may never end.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// What a second signal ends the process with, as a shell would say of an interrupted one.
const INTERRUPTED: i32 = 130;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("metrics cannot be set up")]
    Metrics(#[from] prometheus::Error),
    #[error("the node's HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
    #[error("the metadata service cannot be started")]
    Meta(#[from] meta_service::StartError),
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error("the queues cannot be opened")]
    Queues(#[from] crate::queue::QueueError),
    #[error("mqtt.auth.password_file")]
    Passwords(#[from] crate::mqtt::PasswordFileError),
    #[error("connectors.deny_networks: {0}")]
    Network(#[from] connector_runtime::sinks::shared::network::InvalidNetwork),
}

/// Runs a node until a signal or a fatal error ends it.
pub async fn run(config: Config) -> Result<ExitCode, NodeError> {
    let ground = Ground::lay(config).await?;
    let handle = ground.meta.handle();
    let mut stop = StopSignals::new()?;
    let identity = tokio::select! {
        identity = handle.wait_started() => identity,
        reason = handle.wait_fatal() => {
            let code = fatal(&reason);
            ground.close_soon(None).await;
            return Ok(code);
        }
        () = stop.first() => {
            ground.close_soon(None).await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    tracing::info!(cluster_id = %identity.cluster_id, raft_id = %identity.raft_id, "this disk belongs to the cluster");
    let give_up = async {
        tokio::select! {
            reason = handle.wait_fatal() => Some(reason),
            () = stop.first() => None,
        }
    };
    let queues = match opening::open_queues(&ground, identity.raft_id, give_up).await {
        Ok(Ok(queues)) => queues,
        Ok(Err(Some(reason))) => {
            let code = fatal(&reason);
            ground.close_soon(None).await;
            return Ok(code);
        }
        Ok(Err(None)) => {
            ground.close_soon(None).await;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            ground.close_soon(None).await;
            return Err(error);
        }
    };
    let mut up = match Up::build(&ground, identity, queues.clone()) {
        Ok(up) => up,
        Err(error) => {
            ground.close_soon(Some(&queues)).await;
            return Err(error);
        }
    };
    let ended = tokio::select! {
        reason = handle.wait_fatal() => Some(Ok(fatal(&reason))),
        () = stop.first() => None,
        error = listen(&ground, &up.rooms) => Some(Err(error)),
        ended = &mut up.agent => Some(agent_ended(ended)),
    };
    if let Some(ended) = ended {
        up.agent_cancel.cancel();
        ground.close_soon(Some(&queues)).await;
        return ended;
    }
    stop.exit_on_second();
    stop::stop(ground, up).await;
    Ok(ExitCode::SUCCESS)
}

/// Opens the listener when it may; completes only when that fails.
async fn listen(ground: &Ground, rooms: &Rooms) -> NodeError {
    match up::listen_with_first_lease(ground, rooms).await {
        Ok(()) => std::future::pending().await,
        Err(error) => error,
    }
}

/// Before it was told to: the node cannot go on.
fn agent_ended(ended: Result<Result<(), AgentError>, JoinError>) -> Result<ExitCode, NodeError> {
    match ended {
        Ok(Ok(())) => Ok(ExitCode::SUCCESS),
        Ok(Err(error @ AgentError::Refused(_))) => {
            tracing::error!(%error, "the node ends");
            Ok(ExitCode::from(meta_service::EXIT_BAD_DISK))
        }
        Ok(Err(error @ AgentError::Panicked)) => Err(error.into()),
        Err(_) => Err(AgentError::Panicked.into()),
    }
}

fn fatal(reason: &FatalReason) -> ExitCode {
    tracing::error!(error = error_chain(reason), "the node ends");
    ExitCode::from(reason.exit_code())
}

/// What a node has before it knows who it is.
struct Ground {
    config: Config,
    /// Held for life: proves that no earlier process of this disk is left.
    data_dir: DataDir,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    meta: MetaService,
    rpc: RpcClient,
    lease: Arc<LeaseKeeper>,
    fences: SecretFences,
    control: Arc<Control>,
    late: LateRoutes,
    servers: Servers,
}

impl Ground {
    async fn lay(config: Config) -> Result<Self, NodeError> {
        // A second provider is refused, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let data_dir = DataDir::lock(&config.node.data_dir)?;
        let metrics = Metrics::new(cli::version(), cli::commit())?;
        let mut servers = Servers::bind(&config).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let lease = LeaseKeeper::start(Arc::clone(&clock))
            .map_err(|source| NodeError::Io { doing: "the lease's watchdog cannot be started", source })?;
        let lease = Arc::new(lease);
        let secrets = secrets(&config);
        let rpc = RpcClient::new(secrets.clone())?;
        let meta = MetaService::start(meta_options(&config, secrets.clone(), Arc::clone(&clock)))?;
        let handle = meta.handle();
        let proposals = metrics.raft_propose_seconds.clone();
        handle.observe_proposals(Arc::new(move |took: Duration| proposals.observe(took.as_secs_f64())));
        let control = Arc::new(control(&config, handle, rpc.clone(), Arc::clone(&lease)));
        let late = LateRoutes::default();
        let fences = SecretFences {
            env_prefix: config.connectors.env_prefix.clone(),
            secret_dirs: config.connectors.secret_dirs.clone(),
        };
        let scrape = Arc::new(Scrape::new(Arc::clone(&control), secrets.clone()));
        servers.spawn(Arc::clone(&scrape).sample_ages());
        metrics.set_view(scrape);
        let watchdog = Watchdog::new();
        servers.spawn(watchdog.clone().run(servers.closing()));
        servers.serve_rpc(meta.routes(), late.clone(), secrets);
        let options = ApiOptions::from_config(&config, fences.clone(), metrics.clone(), watchdog);
        servers.serve_api(api::router(Arc::clone(&control) as _, options), &metrics);
        Ok(Self { config, data_dir, clock, metrics, meta, rpc, lease, fences, control, late, servers })
    }

    fn handle(&self) -> Handle {
        self.meta.handle()
    }

    /// The end after a failure, or before the node was up: it must not hang in what failed. The databases are closed all
    /// the same: RocksDB's threads would run into the end of the process, and its abort would hide the exit code.
    async fn close_soon(self, queues: Option<&Queues>) {
        self.lease.end();
        let closing = async {
            if let Some(queues) = queues {
                queues.close().await;
            }
            self.close().await;
        };
        if tokio::time::timeout(CLOSE_WITHIN, closing).await.is_err() {
            tracing::warn!("the databases were not closed in time");
        }
    }

    async fn close(self) {
        self.lease.end();
        self.servers.close().await;
        self.meta.shutdown().await;
        drop(self.data_dir);
    }
}

fn secrets(config: &Config) -> Secrets {
    let reveal = |secret: &Option<api_types::secret::Secret>| secret.as_ref().map(|text| text.reveal().to_owned());
    let (current, previous) = (reveal(&config.cluster.secret), reveal(&config.cluster.secret_previous));
    Secrets::new(current.as_deref(), previous.as_deref())
}

fn control(config: &Config, handle: Handle, rpc: RpcClient, lease: Arc<LeaseKeeper>) -> Control {
    Control {
        handle,
        rpc,
        lease,
        rooms: OnceLock::new(),
        opening: Mutex::default(),
        stopping: AtomicBool::new(false),
        ingest_without_lease: config.mqtt.ingest_without_lease.0 == IngestWithoutLease::Accept,
        observed: LastObserved::default(),
    }
}

fn timings(config: &Config) -> Timings {
    let cluster = &config.cluster;
    Timings {
        heartbeat: cluster.heartbeat,
        lease: cluster.lease,
        dead_after: cluster.dead_after,
        restart_grace: cluster.restart_grace,
        max_moves: cluster.max_moves,
        target_voters: cluster.target_voters,
        stop_timeout: config.connectors.stop_timeout,
        apply_wait: config.api.apply_wait,
        ..Timings::default()
    }
}

fn meta_options(config: &Config, secrets: Secrets, clock: Arc<dyn Clock>) -> MetaOptions {
    let voters = config.cluster.initial_voters.iter();
    let founder = config.cluster.initial_voters.iter().any(|voter| voter.name == config.node.name);
    MetaOptions {
        data_dir: config.node.data_dir.clone(),
        node_name: config.node.name.as_str().into(),
        rpc_address: config.rpc_address().to_string(),
        initial_voters: voters.map(|voter| (voter.name.as_str().into(), voter.address.to_string())).collect(),
        join: if founder && config.cluster.join.is_empty() { Vec::new() } else { config.join_addresses() },
        secrets,
        timings: timings(config),
        snapshot_every: SNAPSHOT_EVERY,
        clock,
    }
}

/// SIGTERM and SIGINT: the first one stops the node in order, a second one ends the process at once.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self, NodeError> {
        let listen =
            |kind| signal(kind).map_err(|source| NodeError::Io { doing: "signals cannot be listened for", source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    fn exit_on_second(mut self) {
        tokio::spawn(async move {
            self.first().await;
            tracing::warn!("second signal: the node ends at once");
            std::process::exit(INTERRUPTED);
        });
    }
}
