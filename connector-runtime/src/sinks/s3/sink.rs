//! Batches as objects: one for each, under a name made of its bounds.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use opendal::Writer;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::task::AbortOnDropHandle;

use super::body::{Body, Writing};
use super::cleanup::{Attempt, Cleanup};
use super::config::Config;
use super::fault;
use super::keys::Keys;
use super::store::Store;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};

pub(crate) const OFFERED: Offered = Offered { kind: "s3", open: |resolved, context| Box::pin(open(resolved, context)) };

struct S3Sink {
    store: Arc<Store>,
    keys: Arc<Keys>,
    writing: Writing,
    /// One for each object that is being written: they bound the parts in memory.
    objects: Semaphore,
    cleanup: Arc<Cleanup>,
    /// The cleanup's latest round. Nobody waits for it, and it ends with the sink.
    round: Mutex<Option<AbortOnDropHandle<()>>>,
    timeout: Duration,
}

/// Records that are in no object, by their places in the batch.
type Faults = Vec<(usize, RecordFault)>;

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    Ok(Box::new(S3Sink::open(&config, context).await?))
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
    async fn open(config: &Config, context: &SinkContext) -> Result<Self, TargetFault> {
        let keys = Keys::new(config, context.cluster, context.incarnation).map_err(|error| unusable(&error))?;
        let (store, keys) = (Arc::new(Store::open(config, context).await?), Arc::new(keys));
        let open_objects = context.s3_objects.clone();
        let cleanup = Cleanup::new(Arc::clone(&store), Arc::clone(&keys), open_objects, config.endpoint.is_some());
        Ok(Self {
            store,
            keys,
            writing: Writing::new(config),
            objects: Semaphore::new(usize::try_from(config.max_open_objects).unwrap_or(1)),
            cleanup: Arc::new(cleanup),
            round: Mutex::default(),
            timeout: Duration::from_secs(config.timeout_secs),
        })
    }

    async fn write(&self, batch: &Batch<'_>) -> Result<Faults, TargetFault> {
        let [first, ..] = batch.records else { return Ok(Vec::new()) };
        let last = batch.records.last().unwrap_or(first);
        let object = self.room().await?;
        let key = self.keys.of(first, last);
        let mut attempt = self.cleanup.begin(&key);
        let faults = self.upload(batch, &key, &mut attempt).await?;
        attempt.complete(last);
        drop(object);
        self.clean_up();
        Ok(faults)
    }

    /// After an object was written: then the store is there.
    fn clean_up(&self) {
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        let is_under_way = round.as_ref().is_some_and(|round| !round.is_finished());
        if !is_under_way && self.cleanup.is_due() {
            let cleanup = Arc::clone(&self.cleanup);
            *round = Some(AbortOnDropHandle::new(tokio::spawn(async move { cleanup.round().await })));
        }
    }

    /// Waits for an earlier object of this connector, and no longer than a request may take.
    async fn room(&self) -> Result<SemaphorePermit<'_>, TargetFault> {
        tokio::select! {
            biased;
            () = self.store.aborted.cancelled() => Err(fault::aborted()),
            permit = tokio::time::timeout(self.timeout, self.objects.acquire()) => match permit {
                Ok(Ok(permit)) => Ok(permit),
                Ok(Err(_)) | Err(_) => {
                    let fault = TargetFault::new(TargetFaultKind::Interrupted, "max_open_objects are under way");
                    Err(TargetFault { reopen: false, ..fault })
                }
            },
        }
    }

    async fn upload(&self, batch: &Batch<'_>, key: &str, attempt: &mut Attempt<'_>) -> Result<Faults, TargetFault> {
        let mut writer = self.store.writer(key, self.writing.content_type()).await?;
        let mut upload = Upload { sink: self, writer: &mut writer, attempt };
        let written = upload.write(batch).await;
        // Whatever becomes of this: what the store still has is looked for after the next object.
        if written.is_err()
            && let Err(error) = writer.abort().await
        {
            tracing::debug!(error = %self.store.fault_of(&error).message, "an upload could not be taken back");
        }
        written
    }
}

/// The body of an object on its way to the store.
struct Upload<'a, 'c> {
    sink: &'a S3Sink,
    writer: &'a mut Writer,
    attempt: &'a mut Attempt<'c>,
}

impl Upload<'_, '_> {
    async fn write(&mut self, batch: &Batch<'_>) -> Result<Faults, TargetFault> {
        let mut body = self.sink.writing.body().map_err(|error| broken(&error))?;
        let mut faults = Vec::new();
        for (place, record) in batch.records.iter().enumerate() {
            if let Err(fault) = body.add(record) {
                faults.push((place, fault));
            }
            while body.has_chunk() {
                self.forward(&mut body).await?;
            }
        }
        if body.is_empty() {
            return Ok(faults);
        }
        body.end();
        while body.has_chunk() {
            self.forward(&mut body).await?;
        }
        let rest = body.finish().map_err(|error| broken(&error))?;
        if rest.len() > 1 {
            self.attempt.is_in_parts();
        }
        for part in rest {
            self.send(part).await?;
        }
        self.writer.close().await.map_err(|error| self.sink.store.fault_of(&error))?;
        Ok(faults)
    }

    /// Compresses a little, so that others get their turn and no more than a part is held back.
    async fn forward(&mut self, body: &mut Body) -> Result<(), TargetFault> {
        body.compress().map_err(|error| broken(&error))?;
        tokio::task::yield_now().await;
        while let Some(part) = body.part() {
            self.attempt.is_in_parts();
            self.send(part).await?;
        }
        Ok(())
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<(), TargetFault> {
        self.writer.write(part).await.map_err(|error| self.sink.store.fault_of(&error))
    }
}

fn broken(error: &io::Error) -> TargetFault {
    TargetFault::new(TargetFaultKind::Down, error.to_string())
}

#[cfg(test)]
mod tests;
