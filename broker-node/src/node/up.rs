//! The parts of a node that knows who it is.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_types::heartbeat::NodeLoad;
use api_types::{LogIndex, NodeEpoch, RaftId};
use axum::middleware::from_fn_with_state;
use connector_runtime::metrics::RuntimeMetrics;
use connector_runtime::sinks;
use connector_runtime::supervisor::{RuntimeOptions, Supervisor};
use meta_service::Identity;
use meta_service::rpc::only_for_this_node;
use meta_service::state::{ClusterState, Node, NodeRegistration, NodeState};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::control::Rooms;
use super::ingest::{Letters, QueueIngest};
use super::{Ground, NodeError};
use crate::agent::{Agent, AgentError};
use crate::api::ask;
use crate::catalogue::SharedCatalogue;
use crate::cli;
use crate::config::{Config, IngestWithoutLease};
use crate::mqtt::{Auth, ClusterLink, Limits, MqttMetrics, MqttOptions, MqttServer, PasswordFile, Peer, WithoutLease};
use crate::queue::Queues;

/// How often the list of other nodes is made anew for the subscriptions, at most.
const PEERS_SETTLE: Duration = Duration::from_millis(50);

pub struct Up {
    pub rooms: Rooms,
    pub identity: Identity,
    pub node_epoch: watch::Receiver<Option<NodeEpoch>>,
    /// Set when the node begins to hand its tasks over.
    pub stopping: watch::Sender<bool>,
    pub agent: JoinHandle<Result<(), AgentError>>,
    /// Ends the agent's heartbeats.
    pub agent_cancel: CancellationToken,
}

impl Up {
    pub fn build(ground: &Ground, identity: Identity, queues: Queues) -> Result<Self, NodeError> {
        let config = &ground.config;
        let catalogue = SharedCatalogue::new(queues.defaults().clone());
        let runtime_metrics = RuntimeMetrics::new(config.metrics.connector_histograms)?;
        runtime_metrics.register(&ground.metrics.registry)?;
        let supervisor = Arc::new(Supervisor::new(RuntimeOptions {
            sources: Arc::new(queues.sources(ground.rpc.clone())),
            lease: ground.lease.lease().clone(),
            fences: ground.fences.clone(),
            file_roots: config.connectors.file_roots.clone(),
            data_dir: config.node.data_dir.clone(),
            deny_networks: networks(config)?,
            memory_bytes_max: config.connectors.memory_bytes_max.0,
            stop_timeout: config.connectors.stop_timeout,
            metrics: runtime_metrics,
            cluster: identity.cluster_id,
            node: config.node.name.as_str().into(),
            raft_id: identity.raft_id,
        }));
        let ingest = Arc::new(QueueIngest { queues: queues.clone(), catalogue: catalogue.clone() });
        let mqtt_metrics = MqttMetrics::new(&ground.metrics.registry)?;
        let connections = mqtt_metrics.connections.clone();
        let mqtt = Arc::new(MqttServer::start(
            MqttOptions { auth: auth(config)?, limits: limits(config), cluster: Some(cluster_link(ground, identity)) },
            ingest,
            ground.lease.lease().clone(),
            mqtt_metrics,
        ));
        let rooms = Rooms { queues, supervisor, mqtt };
        if ground.control.rooms.set(rooms.clone()).is_err() {
            tracing::error!("a node was put together twice");
        }
        let local: Arc<dyn ask::LocalView> = Arc::clone(&ground.control) as _;
        let routes = rooms.queues.routes().merge(rooms.mqtt.routes()).merge(ask::routes(local));
        ground.late.set(routes.layer(from_fn_with_state(ground.handle(), only_for_this_node)));
        let letters = rooms.queues.clone();
        let publisher = Arc::new(Letters { mqtt: Arc::clone(&rooms.mqtt), lease: ground.lease.lease().clone() });
        let closing = ground.servers.closing();
        ground.servers.spawn(async move { letters.publish_letters(publisher, closing).await });
        Ok(Self::start_agent(ground, rooms, catalogue, connections, identity))
    }

    fn start_agent(
        ground: &Ground,
        rooms: Rooms,
        catalogue: SharedCatalogue,
        connections: prometheus::IntGauge,
        identity: Identity,
    ) -> Self {
        let (stopping, told_to_stop) = watch::channel(false);
        let (node_epoch, registered) = watch::channel(None);
        let agent_cancel = CancellationToken::new();
        let loaded = rooms.clone();
        let agent = Agent {
            handle: ground.handle(),
            queues: rooms.queues.clone(),
            supervisor: Arc::clone(&rooms.supervisor),
            catalogue,
            lease: Arc::clone(&ground.lease),
            clock: Arc::clone(&ground.clock),
            heartbeat_interval: ground.config.cluster.heartbeat,
            registration: registration(&ground.config, identity),
            load: Box::new(move || load(&loaded.queues, &connections)),
            node_epoch,
            stopping: told_to_stop,
            releases: Mutex::default(),
        };
        let agent = tokio::spawn(agent.run(agent_cancel.clone()));
        Self { rooms, identity, node_epoch: registered, stopping, agent, agent_cancel }
    }
}

/// The listener opens after the first lease since boot: then the node knows every connector made while it was away.
pub async fn listen_with_first_lease(ground: &Ground, rooms: &Rooms) -> Result<(), NodeError> {
    ground.lease.lease().gained().await;
    let address = &ground.config.mqtt.listen;
    let io = |source| NodeError::Io { doing: "mqtt.listen cannot be listened on", source };
    let addresses: Vec<_> = lookup_host((address.host.as_str(), address.port)).await.map_err(io)?.collect();
    for address in addresses {
        rooms.mqtt.listen(address).await.map_err(io)?;
    }
    Ok(())
}

fn registration(config: &Config, identity: Identity) -> NodeRegistration {
    let offered = sinks::offered_kinds();
    let kinds = match &config.connectors.kinds {
        Some(wanted) => offered.into_iter().filter(|kind| wanted.iter().any(|want| want == kind)).collect(),
        None => offered,
    };
    NodeRegistration {
        raft_id: identity.raft_id,
        disk_id: identity.disk_id,
        name: config.node.name.as_str().into(),
        rpc_address: config.rpc_address().to_string(),
        api_address: config.api_address().to_string(),
        mqtt_address: config.mqtt_address().to_string(),
        zone: config.node.zone.clone().unwrap_or_default(),
        version: cli::version().to_owned(),
        kinds: kinds.into_iter().map(str::to_owned).collect(),
        boot_nonce: rand::random(),
        lock_proof: true,
        last_log: LogIndex::default(),
    }
}

fn load(queues: &Queues, connections: &prometheus::IntGauge) -> NodeLoad {
    let (queue_records, queue_bytes) = queues.waiting();
    NodeLoad {
        queue_records,
        queue_bytes,
        mqtt_connections: u64::try_from(connections.get()).unwrap_or_default(),
        full_queues: queues.full(),
    }
}

fn networks(config: &Config) -> Result<Vec<connector_runtime::sinks::shared::network::Network>, NodeError> {
    Ok(config.connectors.deny_networks.iter().map(|network| network.0.parse()).collect::<Result<_, _>>()?)
}

fn auth(config: &Config) -> Result<Auth, NodeError> {
    let passwords: Option<PathBuf> = config.mqtt.password_file.clone();
    let passwords = passwords.map(|path| PasswordFile::load(&path)).transpose()?;
    Ok(Auth::new(passwords, config.anonymous_allowed()))
}

fn limits(config: &Config) -> Limits {
    let mqtt = &config.mqtt;
    let window = u16::try_from(mqtt.window).ok().and_then(NonZeroU16::new);
    Limits {
        window: window.unwrap_or(NonZeroU16::MAX),
        packet_bytes_max: u32::try_from(mqtt.packet_bytes_max.0).unwrap_or(u32::MAX),
        connections_max: mqtt.connections_max as usize,
        inflight_bytes_max: usize::try_from(mqtt.inflight_bytes_max.0).unwrap_or(usize::MAX),
        without_lease: match mqtt.ingest_without_lease.0 {
            IngestWithoutLease::Accept => WithoutLease::Accept,
            IngestWithoutLease::Refuse => WithoutLease::Refuse,
        },
    }
}

/// Keeps the list of the other nodes up to date for the subscriptions.
fn cluster_link(ground: &Ground, identity: Identity) -> ClusterLink {
    let handle = ground.handle();
    let (list, peers) = watch::channel(other_nodes(&handle.state(), identity.raft_id));
    ground.servers.spawn(async move {
        let mut applied = handle.applied();
        while applied.changed().await.is_ok() {
            let now = other_nodes(&handle.state(), identity.raft_id);
            list.send_if_modified(|peers| {
                let changed = *peers != now;
                *peers = now;
                changed
            });
            tokio::time::sleep(PEERS_SETTLE).await;
        }
    });
    ClusterLink { node: ground.config.node.name.as_str().into(), rpc: ground.rpc.clone(), peers }
}

fn other_nodes(state: &ClusterState, me: RaftId) -> Vec<Peer> {
    let there = |node: &&Arc<Node>| node.state != NodeState::Left && !node.rpc_address.is_empty();
    let others = state.nodes.values().filter(there).filter(|node| node.raft_id != me);
    others
        .map(|node| Peer { raft_id: node.raft_id, name: node.name.clone(), address: node.rpc_address.clone() })
        .collect()
}
