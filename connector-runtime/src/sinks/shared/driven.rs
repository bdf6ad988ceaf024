//! A sink whose connection is owned by one task: `deliver` hands it the records and waits for their outcomes.

use std::sync::{Arc, OnceLock};

use api_types::Record;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::runs::Run;
use crate::sink::{Batch, Outcome, RecordFault, TargetFault, TargetFaultKind};

/// How others end the task, and how it says that it has ended.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    pub(crate) aborted: CancellationToken,
    pub(crate) closing: CancellationToken,
    /// Why this sink delivers nothing any more.
    pub(crate) ended: Arc<OnceLock<TargetFault>>,
}

/// The sink's end of it.
pub(crate) struct Driven<P> {
    runs: mpsc::Sender<Run<P>>,
    signals: Signals,
    /// `close` waits for it.
    driving: Mutex<Option<JoinHandle<()>>>,
}

impl<P> Driven<P> {
    pub(crate) fn new(runs: mpsc::Sender<Run<P>>, signals: Signals, driving: JoinHandle<()>) -> Self {
        Self { runs, signals, driving: Mutex::new(Some(driving)) }
    }

    /// `publish` makes what is sent of a record, or says why that cannot be.
    pub(crate) async fn deliver(
        &self,
        batch: &Batch<'_>,
        publish: impl Fn(&Record) -> Result<P, RecordFault>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.records.len());
        let mut publishes = Vec::with_capacity(batch.records.len());
        for record in batch.records {
            match publish(record) {
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

    pub(crate) fn abort(&self) {
        self.signals.aborted.cancel();
    }

    pub(crate) async fn close(&self) {
        self.signals.closing.cancel();
        if let Some(driving) = self.driving.lock().await.take() {
            // It says goodbye within a second, and a panic has nothing more to say.
            let _ = driving.await;
        }
    }

    /// In order; without an answer when the task is no more.
    async fn send(&self, publishes: Vec<P>) -> Vec<Outcome> {
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
        let unknown = || TargetFault::new(TargetFaultKind::Down, "the task of the connection has ended").reopening();
        self.signals.ended.get().cloned().unwrap_or_else(unknown)
    }
}

impl<P> Drop for Driven<P> {
    fn drop(&mut self) {
        self.signals.aborted.cancel();
    }
}
