//! From a configuration to a session of the driver.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::client::{PoolSize, SelfIdentity};
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::Consistency;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::{Config, Level};
use super::fault::Error;
use super::relay::Relay;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{SinkContext, chain};
use crate::sinks::shared::dial;
use crate::sinks::shared::relay::{Place, Ways};
use crate::sinks::shared::stream::Trust;

/// Requests share a connection, thousands at a time; more connections only cost the server.
const CONNECTIONS_PER_NODE: NonZeroUsize = NonZeroUsize::MIN;

pub(super) async fn relay(
    config: &Config,
    context: &SinkContext,
    aborted: CancellationToken,
) -> Result<Relay, TargetFault> {
    let tls = if config.enable_tls { Some(Trust::read(config.tls.clone()).await?) } else { None };
    let limit = Duration::from_secs(config.timeout_secs);
    let ways = Ways {
        deny_networks: Arc::clone(&context.deny_networks),
        tls,
        connect_within: limit,
        answer_within: limit,
        is_patient: false,
        aborted,
    };
    // Nodes tell each other's addresses, and only those of the configuration have names.
    let names = names(config, context, limit).await;
    Ok(Relay::new(ways, names))
}

pub(super) async fn connect(config: &Config, context: &SinkContext, relay: &Relay) -> Result<Session, Error> {
    let doors = relay.doors();
    let mut builder = SessionBuilder::new();
    for node in &config.nodes {
        let (host, port) = dial::host_and_port(node, config.port);
        let door = doors.first(Place { host: host.to_owned(), port, certificate_name: None });
        builder = builder.known_node_addr(door.map_err(|error| no_door(&error))?);
    }
    if !config.username.is_empty() {
        builder = builder.user(&config.username, config.password.reveal());
    }
    let limit = Duration::from_secs(config.timeout_secs);
    let identity = SelfIdentity::new()
        .with_application_name(format!("sluice/{}", context.connector.0))
        .with_client_id(relay.client_id().to_owned());
    let builder = builder
        .address_translator(doors)
        .custom_identity(identity)
        // Of no use to others.
        .driver_config_reporting(false)
        .default_execution_profile_handle(profile(config, limit).into_handle())
        .connection_timeout(limit)
        .keepalive_timeout(limit)
        .schema_agreement_timeout(limit)
        .pool_size(PoolSize::PerHost(CONNECTIONS_PER_NODE))
        // Behind a relay a node has one port.
        .disallow_shard_aware_port(true)
        // Which nodes have which rows; not what columns there are.
        .keyspaces_to_fetch([&config.keyspace])
        .fetch_full_schema_metadata(false);
    // One node after the other is tried, and the first that answers is asked for the others.
    let within = limit * u32::try_from(config.nodes.len() + 1).unwrap_or(u32::MAX);
    let session = match timeout(within, builder.build()).await {
        Ok(built) => built.map_err(|error| Error::from(&error))?,
        Err(_) => return Err(Error::NoNode(format!("no node has let us in within {} s", within.as_secs()))),
    };
    datacenter_is_there(config, &session)?;
    Ok(session)
}

fn profile(config: &Config, limit: Duration) -> ExecutionProfile {
    let mut policy = DefaultPolicy::builder().token_aware(true);
    if let Some(datacenter) = &config.datacenter {
        policy = policy.prefer_datacenter(datacenter.clone()).permit_dc_failover(false);
    }
    ExecutionProfile::builder()
        .consistency(consistency(config.consistency))
        .request_timeout(Some(limit))
        // Only the pipeline tries again.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .load_balancing_policy(policy.build())
        .build()
}

fn consistency(level: Level) -> Consistency {
    match level {
        Level::One => Consistency::One,
        Level::Two => Consistency::Two,
        Level::Three => Consistency::Three,
        Level::Quorum => Consistency::Quorum,
        Level::All => Consistency::All,
        Level::LocalQuorum => Consistency::LocalQuorum,
        Level::EachQuorum => Consistency::EachQuorum,
        Level::LocalOne => Consistency::LocalOne,
    }
}

/// A name that is looked up slowly takes none of the others away.
async fn names(config: &Config, context: &SinkContext, limit: Duration) -> BTreeMap<IpAddr, String> {
    let hosts = config.nodes.iter().map(|node| dial::host_and_port(node, config.port));
    let named = hosts.filter(|(host, _)| host.parse::<IpAddr>().is_err());
    let found = join_all(named.map(|(host, port)| async move {
        // What is denied or cannot be looked up is told when it is connected to.
        let found = timeout(limit, dial::resolve(host, port, &context.deny_networks)).await;
        (host, found.ok().and_then(Result::ok).unwrap_or_default())
    }));
    let mut names = BTreeMap::new();
    for (host, addresses) in found.await {
        for address in addresses {
            names.entry(address.ip()).or_insert_with(|| host.to_owned());
        }
    }
    names
}

/// The driver would only say that it has nobody to ask.
fn datacenter_is_there(config: &Config, session: &Session) -> Result<(), Error> {
    let Some(wanted) = &config.datacenter else { return Ok(()) };
    let state = session.get_cluster_state();
    let mut known: Vec<&str> = state.get_nodes_info().iter().filter_map(|node| node.datacenter.as_deref()).collect();
    if known.is_empty() || known.contains(&wanted.as_str()) {
        return Ok(());
    }
    known.sort_unstable();
    known.dedup();
    let message = format!("no node is in data centre {wanted}; there is {}", known.join(", "));
    Err(Error::Target(TargetFault::new(TargetFaultKind::Missing, message)))
}

fn no_door(error: &io::Error) -> Error {
    let message = format!("cannot listen on loopback: {}", chain(error));
    Error::Target(TargetFault::new(TargetFaultKind::Down, message))
}
