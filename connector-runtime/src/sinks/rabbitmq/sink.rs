//! Publishes to an exchange of RabbitMQ.
//!
//! ```text
//! deliver (one per lane and batch) ──► publishes ──► driver ──► one connection, a few channels
//!    ▲                                                 │
//!    └──── one outcome per record, by its confirm ◄────┘
//! ```

use std::time::Duration;

use amq_protocol::types::ShortString;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::config::Config;
use super::connect::Dialer;
use super::driver::Driver;
use super::message::{Publish, Publisher};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::driven::{Driven, Signals};
use crate::sinks::shared::stream::{Route, Tls};

pub(crate) const OFFERED: Offered =
    Offered { kind: "rabbitmq", open: |resolved, context| Box::pin(open(resolved, context)) };

/// Calls of `deliver` that wait for the driver: the lanes of a few batches. Those above it wait at the door.
const RUNS_MAX: usize = 256;

struct RabbitmqSink {
    publisher: Publisher,
    driven: Driven<Publish>,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let exchange = ShortString::try_new(config.exchange.as_str()).map_err(|error| unusable(&error))?;
    let publisher = Publisher::new(&config, exchange.clone()).map_err(|error| unusable(&error))?;
    let confirm_timeout = Duration::from_secs(config.confirm_timeout_secs);
    let signals = Signals::default();
    let dialer = dialer(config, exchange, context, &signals).await?;
    let link = dialer.connect().await?;
    let (sender, runs) = mpsc::channel(RUNS_MAX);
    let driving = tokio::spawn(Driver::new(dialer, link, confirm_timeout, runs, signals.clone()).run());
    Ok(Box::new(RabbitmqSink { publisher, driven: Driven::new(sender, signals, driving) }))
}

async fn dialer(
    config: Config,
    exchange: ShortString,
    context: &SinkContext,
    signals: &Signals,
) -> Result<Dialer, TargetFault> {
    let virtual_host = ShortString::try_new(config.virtual_host.as_str()).map_err(|error| unusable(&error))?;
    let tls = Tls::read(config.enable_tls, config.tls, &config.server).await?;
    Ok(Dialer {
        route: Route {
            host: config.server,
            port: config.port,
            tls,
            deny_networks: context.deny_networks.clone(),
            // Without heartbeats nothing else misses a server that vanished.
            is_patient: config.heartbeat_secs > 0,
            aborted: signals.aborted.clone(),
        },
        connect_timeout: Duration::from_secs(config.connection_timeout_secs),
        username: config.username,
        password: config.password.reveal().to_owned(),
        virtual_host,
        exchange,
        connection_name: format!("sluice/{}", context.connector.0),
        heartbeat_secs: u16::try_from(config.heartbeat_secs).unwrap_or(u16::MAX),
        channel_max: config.channel_max,
        frame_max: config.frame_max,
        confirms: config.publisher_confirms,
    })
}

#[async_trait]
impl Sink for RabbitmqSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        self.driven.deliver(batch, |record| self.publisher.publish(record)).await
    }

    fn abort(&self) {
        self.driven.abort();
    }

    async fn close(&self) {
        self.driven.close().await;
    }
}

#[cfg(test)]
mod tests;
