//! Batches as objects: one for each, under a name made of its bounds.

use std::time::Duration;

use async_trait::async_trait;
use opendal::Writer;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::Writing;
use super::cleanup::Cleanup;
use super::config::Config;
use super::keys::Keys;
use super::store::Store;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};

pub(crate) const OFFERED: Offered = Offered { kind: "s3", open: |resolved, context| Box::pin(open(resolved, context)) };

struct S3Sink {
    store: Store,
    keys: Keys,
    writing: Writing,
    /// One for each object that is being written: they bound the parts in memory.
    objects: Semaphore,
    cleanup: Cleanup,
    timeout: Duration,
}

/// Records that are in no object, by their places in the batch.
type Faults = Vec<(usize, RecordFault)>;

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let keys = Keys::new(&config, context.cluster, context.incarnation).map_err(|error| unusable(&error))?;
    Ok(Box::new(S3Sink {
        store: Store::open(&config, context).await?,
        keys,
        writing: Writing::new(&config),
        objects: Semaphore::new(usize::try_from(config.max_open_objects).unwrap_or(1)),
        cleanup: Cleanup::new(),
        timeout: Duration::from_secs(config.timeout_secs),
    }))
}

#[async_trait]
impl Sink for S3Sink {
    /// A record that can be in no object ends only when the object of its batch is complete: until then it comes again
    /// with the others, so that the batch keeps its first and its last one, and with them its name.
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        match self.write(batch).await {
            Ok(faults) => {
                let mut outcomes = batch.all(&Outcome::Delivered);
                for (place, fault) in faults {
                    outcomes[place] = Outcome::RecordFault(fault);
                }
                outcomes
            }
            Err(fault) => batch.all(&Outcome::TargetFault(fault)),
        }
    }

    fn abort(&self) {
        self.store.aborted.cancel();
    }

    async fn close(&self) {
        // Idle connections close with the client.
    }
}

impl S3Sink {
    async fn write(&self, batch: &Batch<'_>) -> Result<Faults, TargetFault> {
        let [first, ..] = batch.records else { return Ok(Vec::new()) };
        let last = batch.records.last().unwrap_or(first);
        let _object = self.room().await?;
        let key = self.keys.of(first, last);
        let open = self.cleanup.open(&key);
        let faults = self.upload(batch, &key).await?;
        drop(open);
        self.cleanup.run_if_due(&self.store, &self.keys).await;
        Ok(faults)
    }

    /// Waits for an earlier object of this connector, and no longer than a request may take.
    async fn room(&self) -> Result<SemaphorePermit<'_>, TargetFault> {
        let interrupted = |says| TargetFault::new(TargetFaultKind::Interrupted, says);
        tokio::select! {
            biased;
            () = self.store.aborted.cancelled() => Err(interrupted("the sink was aborted")),
            permit = tokio::time::timeout(self.timeout, self.objects.acquire()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) | Err(_) => {
                    let fault = interrupted("max_open_objects are under way");
                    Err(TargetFault { reopen: false, ..fault })
                }
            },
        }
    }

    async fn upload(&self, batch: &Batch<'_>, key: &str) -> Result<Faults, TargetFault> {
        let mut writer = self.store.writer(key, self.writing.content_type()).await?;
        let mut in_parts = false;
        let written = self.write_parts(batch, &mut writer, &mut in_parts).await;
        if written.is_err() && in_parts {
            // Whatever becomes of this: what the store still has is looked for after the next object.
            self.cleanup.is_due();
            if let Err(error) = writer.abort().await {
                tracing::debug!(error = %self.store.fault_of(&error).message, "an upload could not be taken back");
            }
        }
        written
    }

    async fn write_parts(
        &self,
        batch: &Batch<'_>,
        writer: &mut Writer,
        in_parts: &mut bool,
    ) -> Result<Faults, TargetFault> {
        let broken = |error: std::io::Error| TargetFault::new(TargetFaultKind::Down, error.to_string());
        let mut body = self.writing.body().map_err(broken)?;
        let mut faults = Vec::new();
        for (place, record) in batch.records.iter().enumerate() {
            if let Err(fault) = body.add(record) {
                faults.push((place, fault));
            }
            if body.is_chunk() {
                body.compress().map_err(broken)?;
                tokio::task::yield_now().await;
                while let Some(part) = body.part() {
                    *in_parts = true;
                    writer.write(part).await.map_err(|error| self.store.fault_of(&error))?;
                }
            }
        }
        if body.is_empty() {
            return Ok(faults);
        }
        let rest = body.finish().map_err(broken)?;
        *in_parts |= rest.len() > 1;
        for part in rest {
            writer.write(part).await.map_err(|error| self.store.fault_of(&error))?;
        }
        writer.close().await.map_err(|error| self.store.fault_of(&error))?;
        Ok(faults)
    }
}

#[cfg(test)]
mod tests;
