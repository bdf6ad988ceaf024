//! From a configuration to a client of the driver.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress, ServerMonitoringMode, Socks5Proxy};

use super::config::{Config, DeploymentMode};
use super::relay::{self, Relay};
use super::servers::Servers;
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::{SinkContext, chain, unusable};
use crate::sinks::shared::dial;
use crate::sinks::shared::relay::Ways;
use crate::sinks::shared::stream::Trust;
use tokio_util::sync::CancellationToken;

/// Longer names are refused by the server.
const APP_NAME_BYTES_MAX: usize = 128;

pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) servers: Arc<Servers>,
    pub(super) relay: Relay,
}

/// Connects to nobody yet.
pub(super) async fn connect(
    config: &Config,
    context: &SinkContext,
    aborted: CancellationToken,
) -> Result<Connected, TargetFault> {
    let tls = if config.enable_tls { Some(Trust::read(config.tls.clone()).await?) } else { None };
    let ways = Ways {
        deny_networks: Arc::clone(&context.deny_networks),
        tls,
        connect_within: Duration::from_secs(config.connect_timeout_secs),
        answer_within: Duration::from_secs(config.socket_timeout_secs),
        is_patient: true,
        aborted,
    };
    let relay = Relay::open(ways).await.map_err(|error| no_relay(&error))?;
    let servers = Arc::new(Servers::default());
    let mut options = ClientOptions::builder()
        .hosts(addresses(&config.host, config.port))
        .app_name(app_name(&context.connector.0))
        .credential(credential(config))
        .connect_timeout(Duration::from_secs(config.connect_timeout_secs))
        .server_selection_timeout(Duration::from_secs(config.server_selection_timeout_secs))
        .max_pool_size(config.max_pool_size)
        .min_pool_size(config.min_pool_size)
        // Only the pipeline tries again.
        .retry_writes(false)
        .retry_reads(false)
        .max_adaptive_retries(0)
        // A heartbeat that the server answers whenever something changes would look like a request without an answer.
        .server_monitoring_mode(ServerMonitoringMode::Poll)
        .socks5_proxy(proxy(&relay))
        .sdam_event_handler(servers.handler())
        .build();
    match config.deployment_mode {
        DeploymentMode::Single => options.direct_connection = Some(true),
        DeploymentMode::Replicaset => options.repl_set_name.clone_from(&config.replica_set_name),
        DeploymentMode::Sharded => {}
    }
    let client = Client::with_options(options).map_err(|error| unusable(&error))?;
    Ok(Connected { client, servers, relay })
}

fn no_relay(error: &io::Error) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, format!("cannot listen on loopback: {}", chain(error)))
}

fn proxy(relay: &Relay) -> Socks5Proxy {
    Socks5Proxy::builder()
        .host("127.0.0.1")
        .port(relay.port)
        .authentication((relay::USER.to_owned(), relay.password.clone()))
        .build()
}

/// The way of authentication is the strongest that the server has for the user.
fn credential(config: &Config) -> Option<Credential> {
    let (username, password) = (config.username.as_ref()?, config.password.as_ref()?);
    let credential = Credential::builder()
        .username(username.clone())
        .password(password.reveal().to_owned())
        .source(config.auth_source.clone());
    Some(credential.build())
}

/// As the server's log and `currentOp` show the connector.
fn app_name(connector: &str) -> String {
    let mut name = format!("sluice/{connector}");
    while name.len() > APP_NAME_BYTES_MAX {
        name.pop();
    }
    name
}

/// `host`, `host:port`, several with commas; an IPv6 address in brackets where a port follows.
fn addresses(hosts: &str, port: u16) -> Vec<ServerAddress> {
    let address = |text: &str| {
        let (host, port) = dial::host_and_port(text, port);
        ServerAddress::Tcp { host: host.to_owned(), port: Some(port) }
    };
    hosts.split(',').map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_ports_of_their_own_or_the_common_one() {
        for (text, expect) in [
            ("db", &[("db", 27_017)][..]),
            ("db:1", &[("db", 1)]),
            ("a, b:2,c.example.org", &[("a", 27_017), ("b", 2), ("c.example.org", 27_017)]),
            ("::1", &[("::1", 27_017)]),
            ("[::1]", &[("::1", 27_017)]),
            ("[fd00::2]:3,10.0.0.1", &[("fd00::2", 3), ("10.0.0.1", 27_017)]),
        ] {
            let found = addresses(text, 27_017).into_iter().map(|address| match address {
                ServerAddress::Tcp { host, port } => (host, port.unwrap_or_default()),
                other => panic!("{other:?}"),
            });
            let expect = expect.iter().map(|(host, port)| ((*host).to_owned(), *port));
            assert_eq!(found.collect::<Vec<_>>(), expect.collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn names_are_cut_where_the_server_would_refuse_them() {
        assert_eq!(app_name("plant floor"), "sluice/plant floor");
        let long = app_name(&"ü".repeat(100));
        assert!(long.len() <= APP_NAME_BYTES_MAX && long.starts_with("sluice/üü"), "{long}");
    }
}
