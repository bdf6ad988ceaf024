//! Publishes to another MQTT broker.
//!
//! ```text
//! deliver (one per lane and batch) ──► PUBLISH packets ──► driver ──► one connection, up to the target's window
//!    ▲                                                       │
//!    └────── one outcome per record, by its PUBACK ◄─────────┘
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::config::Config;
use super::connect::{Dialer, bridge_name};
use super::driver::Driver;
use super::message::{Publish, Publisher};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::driven::{Driven, Signals};

pub(crate) const OFFERED: Offered =
    Offered { kind: "mqtt", open: |resolved, context| Box::pin(open(resolved, context)) };

/// Calls of `deliver` that wait for the driver: as many as a batch has lanes. Those above it wait at the door.
const RUNS_MAX: usize = 64;

struct MqttSink {
    publisher: Publisher,
    driven: Driven<Publish>,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let bridge = bridge_name(context);
    let publisher = Publisher::new(&config, &bridge);
    let max_retries = config.max_retries;
    let deny_networks = Arc::clone(&context.deny_networks);
    let signals = Signals::default();
    let aborted = signals.aborted.clone();
    let dialer = Dialer::new(&config, &bridge, deny_networks, aborted).await?;
    let link = dialer.open().await?;
    let (sender, runs) = mpsc::channel(RUNS_MAX);
    let driving = tokio::spawn(Driver::new(dialer, link, max_retries, runs, signals.clone()).run());
    Ok(Box::new(MqttSink { publisher, driven: Driven::new(sender, signals, driving) }))
}

#[async_trait]
impl Sink for MqttSink {
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
