//! Publishes to another MQTT broker.
//!
//! ```text
//! deliver (one per lane and batch) ──► PUBLISH packets ──► driver ──► one connection, up to the target's window
//!    ▲                                                       │
//!    └────── one outcome per record, by its PUBACK ◄─────────┘
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::config::Config;
use super::connect::{Dialer, bridge_name, down};
use super::driver::{Driver, Signals};
use super::message::Publisher;
use super::window::Run;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, chain};

pub(crate) const OFFERED: Offered =
    Offered { kind: "mqtt", open: |resolved, context| Box::pin(open(resolved, context)) };

/// Calls of `deliver` that wait for the driver: as many as a batch has lanes. Those above it wait at the door.
const RUNS_MAX: usize = 64;

struct MqttSink {
    publisher: Publisher,
    runs: mpsc::Sender<Run>,
    signals: Signals,
    /// `close` waits for it.
    driving: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved
        .typed()
        .map_err(|error| TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), chain(&error)))?;
    let bridge = bridge_name(context);
    let publisher = Publisher::new(&config, &bridge);
    let max_retries = config.max_retries;
    let deny_networks = Arc::clone(&context.deny_networks);
    let signals = Signals::default();
    let aborted = signals.aborted.clone();
    let dialer = tokio::task::spawn_blocking(move || Dialer::new(&config, &bridge, deny_networks, aborted))
        .await
        .map_err(|error| down(error.to_string()))??;
    let link = dialer.open().await?;
    let (sender, runs) = mpsc::channel(RUNS_MAX);
    let driving = tokio::spawn(Driver::new(dialer, link, max_retries, runs, signals.clone()).run());
    Ok(Box::new(MqttSink { publisher, runs: sender, signals, driving: tokio::sync::Mutex::new(Some(driving)) }))
}

#[async_trait]
impl Sink for MqttSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.records.len());
        let mut publishes = Vec::with_capacity(batch.records.len());
        for record in batch.records {
            match self.publisher.publish(record) {
                Ok(publish) => {
                    outcomes.push(None);
                    publishes.push(publish);
                }
                Err(fault) => outcomes.push(Some(Outcome::RecordFault(fault))),
            }
        }
        let mut answers = self.send(publishes).await.into_iter();
        let unanswered = || Outcome::TargetFault(self.ended());
        outcomes.into_iter().map(|outcome| outcome.or_else(|| answers.next()).unwrap_or_else(unanswered)).collect()
    }

    fn abort(&self) {
        self.signals.aborted.cancel();
    }

    async fn close(&self) {
        self.signals.closing.cancel();
        if let Some(driving) = self.driving.lock().await.take() {
            // It says goodbye within a second, and a panic has nothing more to say.
            let _ = driving.await;
        }
    }
}

impl MqttSink {
    /// In order; without an answer when the driver is no more.
    async fn send(&self, publishes: Vec<super::message::Publish>) -> Vec<Outcome> {
        if publishes.is_empty() {
            return Vec::new();
        }
        let (done, answer) = oneshot::channel();
        if self.runs.send(Run { publishes, done }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    fn ended(&self) -> TargetFault {
        let unknown = || down("the task of the connection has ended").reopening();
        self.signals.ended.get().cloned().unwrap_or_else(unknown)
    }
}

impl Drop for MqttSink {
    fn drop(&mut self) {
        self.signals.aborted.cancel();
    }
}

#[cfg(test)]
mod tests;
