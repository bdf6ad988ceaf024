//! Appends lines to a file of the node that runs the task.
//!
//! ```text
//! batch ──encode──► lines ──► blocking thread: Writer::append ──► outcomes
//! ```
//!
//! All queues of the connector write through one `Writer`, one batch after the other: whoever waits for it waits
//! without a thread.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api_types::Record;
use api_types::envelope::write_envelope;
use async_trait::async_trait;
use chrono::Utc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::place::{PlaceError, settle};
use super::writer::{Lines, Writer, WriterError};
use super::writers::{Claim, Taken};
use crate::config::Resolved;
use crate::config::payload::PayloadFormat;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, chain, unusable};

pub(crate) const OFFERED: Offered =
    Offered { kind: "file", open: |resolved, context| Box::pin(open(resolved, context)) };

/// What the names of the fields take in a line, about.
const ENVELOPE_BYTES: usize = 100;
/// How long a new sink waits for the last write of an aborted one. A disk that takes longer is asked again later.
const EARLIER_WRITE_PATIENCE: Duration = Duration::from_secs(5);

struct FileSink {
    payload_format: PayloadFormat,
    open: Arc<Mutex<Option<OpenFile>>>,
    aborted: CancellationToken,
}

/// The file is closed before its claim ends: fields are dropped in this order.
struct OpenFile {
    writer: Writer,
    _claim: Claim,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let payload_format = config.payload_format;
    let context = context.clone();
    let open = blocking(move || open_file(&config, &context)).await?;
    Ok(Box::new(FileSink { payload_format, open: Arc::new(Mutex::new(Some(open))), aborted: CancellationToken::new() }))
}

fn open_file(config: &Config, context: &SinkContext) -> Result<OpenFile, TargetFault> {
    let path = settle(Path::new(&config.local_file_path), &context.file_roots, &context.data_dir)
        .map_err(|error| place_fault(&error))?;
    let claimed = context.file_writers.claim(&path, &context.connector, EARLIER_WRITE_PATIENCE);
    let claim = claimed.map_err(|taken| match taken {
        Taken::ByAnother(owner) => {
            let message = format!("connector {owner} writes {} on this node", config.local_file_path);
            TargetFault::new(TargetFaultKind::Misconfigured("FILE_IN_USE"), message)
        }
        Taken::ByItself => {
            let message = format!("an earlier write to {} has not ended", config.local_file_path);
            TargetFault::new(TargetFaultKind::Interrupted, message)
        }
    })?;
    let writer =
        Writer::open(path, config.rotation_strategy, config.size_bytes_max()).map_err(|error| writer_fault(&error))?;
    Ok(OpenFile { writer, _claim: claim })
}

#[async_trait]
impl Sink for FileSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.records.len());
        let bytes = batch.records.iter().map(|record| record.message.size_bytes() + ENVELOPE_BYTES).sum();
        let mut lines = Lines::with_capacity(batch.records.len(), bytes);
        for record in batch.records {
            outcomes.push(match self.line(record, &mut lines) {
                Ok(()) => Outcome::Delivered,
                Err(fault) => Outcome::RecordFault(fault),
            });
        }
        let (safe, fault) = self.append(lines).await;
        if let Some(fault) = fault {
            let unwritten = outcomes.iter_mut().filter(|outcome| matches!(outcome, Outcome::Delivered)).skip(safe);
            for outcome in unwritten {
                *outcome = Outcome::TargetFault(fault.clone());
            }
        }
        outcomes
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    async fn close(&self) {
        // A write that is under way holds the lock; the file closes after it.
        let open = self.open.lock().await.take();
        let _ = tokio::task::spawn_blocking(move || drop(open)).await;
    }
}

impl FileSink {
    fn line(&self, record: &Record, lines: &mut Lines) -> Result<(), RecordFault> {
        let payload = &record.message.payload;
        match self.payload_format {
            PayloadFormat::Envelope => lines.push(|text| write_envelope(record, text)),
            PayloadFormat::Raw if payload.contains(&b'\n') => {
                return Err(RecordFault::offline("line_break", "the payload contains a line break"));
            }
            PayloadFormat::Raw => lines.push(|text| text.extend_from_slice(payload)),
        }
        Ok(())
    }

    /// How many lines are safe, and what failed after them.
    async fn append(&self, lines: Lines) -> (usize, Option<TargetFault>) {
        if lines.count() == 0 {
            return (0, None);
        }
        let closed = || (0, Some(TargetFault::new(TargetFaultKind::Interrupted, "the file was closed")));
        let mut open = tokio::select! {
            biased;
            () = self.aborted.cancelled() => return closed(),
            open = Arc::clone(&self.open).lock_owned() => open,
        };
        let aborted = self.aborted.clone();
        // The lock goes along: a call that is dropped half-way does not let the next one in before its write is over.
        let appended = tokio::task::spawn_blocking(move || match open.as_mut() {
            Some(file) if !aborted.is_cancelled() => {
                let (safe, error) = file.writer.append(&lines, Utc::now());
                (safe, error.map(|error| writer_fault(&error)))
            }
            Some(_) | None => closed(),
        });
        match appended.await {
            Ok(result) => result,
            Err(error) => (0, Some(TargetFault::new(TargetFaultKind::Down, error.to_string()).reopening())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TargetFault> + Send + 'static,
) -> Result<T, TargetFault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(TargetFault::new(TargetFaultKind::Down, error.to_string())),
    }
}

fn place_fault(error: &PlaceError) -> TargetFault {
    let kind = match error {
        PlaceError::OutsideRoot { .. } | PlaceError::InDataDir { .. } => {
            TargetFaultKind::Misconfigured("FILE_OUTSIDE_ROOT")
        }
        PlaceError::NotRegular { .. } => TargetFaultKind::Misconfigured("FILE_NOT_REGULAR"),
        PlaceError::Io { source, .. } => io_kind(source),
    };
    TargetFault::new(kind, chain(error))
}

/// After any failure the file is opened anew: its state is not known.
fn writer_fault(error: &WriterError) -> TargetFault {
    let kind = match error {
        WriterError::Locked => TargetFaultKind::Misconfigured("FILE_IN_USE"),
        WriterError::NotLines => TargetFaultKind::Misconfigured("FILE_NOT_LINES"),
        WriterError::Io { source, .. } => io_kind(source),
    };
    TargetFault::new(kind, chain(error)).reopening()
}

fn io_kind(error: &io::Error) -> TargetFaultKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            TargetFaultKind::Full
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => TargetFaultKind::Permission,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => TargetFaultKind::Missing,
        _ => TargetFaultKind::Down,
    }
}

#[cfg(test)]
mod tests;
