//! Sends each batch as a pipeline of commands.
//!
//! ```text
//! deliver (one per lane and batch) ──► run: windows of commands ──► server ──► the lane's connection
//!    ▲                                                                             │
//!    └────────── one outcome per record, by its reply ◄────────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::cluster::Cluster;
use super::command::Commands;
use super::config::{Config, Mode};
use super::connect::{Dialer, Login, client_name};
use super::fault::interrupted;
use super::run::Runner;
use super::sentinel::Sentinels;
use super::server::Server;
use super::target::Target;
use crate::config::Resolved;
use crate::pipeline::lane_number;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::stream::Trust;

pub(crate) const OFFERED: Offered =
    Offered { kind: "redis", open: |resolved, context| Box::pin(open(resolved, context)) };

/// How long a server waits for its replicas (`WAIT`): they are a few milliseconds behind, or they are not there. Its reply
/// must come before it is given up, so it is half of `answer_timeout_ms` where that is less.
const REPLICAS_WITHIN: Duration = Duration::from_secs(5);

struct RedisSink {
    runner: Runner,
    aborted: CancellationToken,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let aborted = CancellationToken::new();
    let dialer = Arc::new(dialer(&config, context, aborted.clone()).await?);
    let target = target(&config, &dialer)?;
    let commands = Commands::new(&config, config.mode == Mode::Cluster).map_err(|error| unusable(&error))?;
    target.open().await?;
    let runner = Runner {
        target,
        commands,
        wait_replicas: config.wait_replicas,
        replicas_within: REPLICAS_WITHIN.min(Duration::from_millis(config.answer_timeout_ms) / 2),
        max_retries: config.max_retries,
        retry_interval: Duration::from_millis(config.retry_interval_ms),
    };
    Ok(Box::new(RedisSink { runner, aborted }))
}

async fn dialer(config: &Config, context: &SinkContext, aborted: CancellationToken) -> Result<Dialer, TargetFault> {
    let tls = if config.tls_enabled { Some(Trust::read(config.tls.clone()).await?) } else { None };
    let password = config.password.as_ref().map(|password| password.reveal().to_owned());
    Ok(Dialer {
        deny_networks: Arc::clone(&context.deny_networks),
        aborted,
        tls,
        connect_timeout: Duration::from_millis(config.connect_timeout_ms),
        answer_timeout: Duration::from_millis(config.answer_timeout_ms),
        login: password.map(|password| Login { username: config.username.clone(), password }),
        database: config.database,
        client_name: client_name(&context.connector.0),
        must_be_master: config.mode == Mode::Sentinel,
    })
}

fn target(config: &Config, dialer: &Arc<Dialer>) -> Result<Target, TargetFault> {
    let misconfigured = |says: &str| TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), says);
    let addresses = Address::parse_list(&config.server).ok_or_else(|| misconfigured("server is not readable"))?;
    let pool_size = usize::try_from(config.pool_size).unwrap_or(usize::MAX);
    Ok(match config.mode {
        Mode::Single => {
            let address = addresses.into_iter().next().ok_or_else(|| misconfigured("server is missing"))?;
            Target::Single(Arc::new(Server::new(address, Arc::clone(dialer), pool_size)))
        }
        Mode::Cluster => Target::Cluster(Cluster::new(Arc::clone(dialer), pool_size, addresses)),
        Mode::Sentinel => {
            let name = config.sentinel_master_name.clone();
            let name = name.ok_or_else(|| misconfigured("sentinel_master_name is missing"))?;
            let password = config.sentinel_password.as_ref().map(|password| password.reveal().to_owned());
            let login = password.map(|password| Login { username: config.sentinel_username.clone(), password });
            Target::Sentinel(Sentinels::new(addresses, name, dialer, login, pool_size))
        }
    })
}

#[async_trait]
impl Sink for RedisSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let lane = batch.records.first().map_or(0, |record| lane_number(&record.message));
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => {
                batch.all(&Outcome::TargetFault(interrupted("the sink was aborted or closed")))
            }
            outcomes = self.runner.run(lane, batch.records) => outcomes,
        }
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    /// There is nothing to say goodbye with: the connections close with the sink.
    async fn close(&self) {
        self.aborted.cancel();
    }
}

#[cfg(test)]
mod tests;
