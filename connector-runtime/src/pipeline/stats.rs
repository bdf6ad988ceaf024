//! What a task observed: counters, health, the last error. Written by the pipeline, read for every heartbeat.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api_types::status::{Health, TaskCounters, TaskReport};
use api_types::{Epoch, Incarnation, Record};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::metrics::TaskMetrics;
use crate::sink::TargetFault;
use crate::source::End;

/// The seed's words for a good attempt.
pub(crate) const SENT: &str = "Batch sent successfully";
/// A node without a lease does nothing, whatever the target says.
pub(crate) const REASON_NO_LEASE: &str = "NODE_WITHOUT_LEASE";
/// A queue said that somebody else owns the connector.
pub(crate) const REASON_FENCED: &str = "EPOCH_FENCED";
pub(crate) const REASON_CRASHED: &str = "TASK_PANICKED";

/// An error that repeats is logged again after this time, with a count.
const SAME_ERROR_LOGGED_EVERY: Duration = Duration::from_secs(60);
/// Errors that differ, for example by the record they name, are logged no faster than this.
const ERROR_LOGGED_EVERY: Duration = Duration::from_secs(1);
/// Texts of targets are cut here before they are kept, reported twice a second and stored in letters.
pub(crate) const MESSAGE_CHARS_MAX: usize = 1024;

pub(crate) struct TaskStats {
    connector: String,
    metrics: TaskMetrics,
    /// Wakes whoever sends the reports: health has changed.
    changed: Arc<Notify>,
    inner: Mutex<Inner>,
}

struct Inner {
    report: TaskReport,
    log: ErrorLog,
}

/// One call of the sink. When it is dropped before it ended, or its sink was aborted – lease lost, stop bound reached –
/// its records may arrive twice, and are counted as such.
pub(crate) struct Request<'a> {
    metrics: &'a TaskMetrics,
    started: Instant,
    records: u64,
}

#[derive(Default)]
struct ErrorLog {
    text: String,
    logged_at: Option<Instant>,
    folded: u64,
}

impl TaskStats {
    pub(crate) fn new(
        connector: String,
        incarnation: Incarnation,
        epoch: Epoch,
        metrics: TaskMetrics,
        changed: Arc<Notify>,
    ) -> Self {
        let now_ms = now_ms();
        let report = TaskReport {
            incarnation,
            epoch,
            health: Health::Starting,
            health_since_ms: now_ms,
            since_ms: now_ms,
            ..TaskReport::default()
        };
        Self { connector, metrics, changed, inner: Mutex::new(Inner { report, log: ErrorLog::default() }) }
    }

    pub(crate) fn report(&self) -> TaskReport {
        self.lock().report.clone()
    }

    pub(crate) fn healthy(&self) {
        self.set_health(Health::Ok, None);
    }

    pub(crate) fn set_health(&self, health: Health, reason: Option<&str>) {
        let mut inner = self.lock();
        let report = &mut inner.report;
        if report.health == health && report.health_reason.as_deref() == reason {
            return;
        }
        info!(connector = %self.connector, epoch = %report.epoch, health = health.as_str(), reason, "health changed");
        report.health = health;
        report.health_reason = reason.map(str::to_owned);
        report.health_since_ms = now_ms();
        drop(inner);
        self.changed.notify_one();
    }

    /// A sink could be opened: as good as it gets before the first attempt.
    pub(crate) fn opened(&self) {
        let report = self.report();
        if report.health == Health::Starting || report.counters.last_msg.is_none() {
            self.healthy();
        }
    }

    /// The target could not be asked, or said that nothing goes.
    pub(crate) fn target_fault(&self, fault: &TargetFault) {
        let health = if fault.kind.needs_a_person() { Health::Blocked } else { Health::Retrying };
        self.error("target failed", &fault.message);
        self.set_health(health, Some(fault.kind.reason()));
    }

    /// Remembers an error and logs it, folding what repeats.
    pub(crate) fn error(&self, what: &'static str, text: &str) {
        let text = clipped(text);
        let mut inner = self.lock();
        inner.report.last_error = Some(text.to_owned());
        inner.report.last_error_time_ms = now_ms();
        let log = &mut inner.log;
        let pause = if log.text == text { SAME_ERROR_LOGGED_EVERY } else { ERROR_LOGGED_EVERY };
        if log.logged_at.is_some_and(|at| at.elapsed() < pause) {
            log.folded += 1;
            return;
        }
        let folded = std::mem::take(&mut log.folded);
        log.text = text.to_owned();
        log.logged_at = Some(Instant::now());
        drop(inner);
        warn!(connector = %self.connector, error = text, folded, "{what}");
    }

    /// Held while the sink is at work; see [`Request`].
    pub(crate) fn request(&self, records: usize) -> Request<'_> {
        Request { metrics: &self.metrics, started: Instant::now(), records: records as u64 }
    }

    pub(crate) fn taken(&self, records: usize) {
        self.metrics.batch_records.observe(records as f64);
        self.change_in_flight(|in_flight| in_flight + records as u64);
    }

    pub(crate) fn let_go(&self, records: usize) {
        self.change_in_flight(|in_flight| in_flight.saturating_sub(records as u64));
    }

    /// One attempt is over; `message` is the target's, or [`SENT`].
    pub(crate) fn attempted(&self, message: &str) {
        let mut inner = self.lock();
        inner.report.counters.last_send_time_s = now_ms() / 1000;
        inner.report.counters.last_msg = Some(clipped(message).to_owned());
    }

    pub(crate) fn delivered<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        let now_ms = now_ms();
        let (mut count, mut bytes) = (0, 0);
        for record in records {
            count += 1;
            bytes += record.message.payload.len() as u64;
            self.observe_end_to_end(record, now_ms);
        }
        self.metrics.send_success.inc_by(count);
        self.metrics.bytes.inc_by(bytes);
        self.count(|counters| {
            counters.send_success_total += count;
            counters.bytes_total += bytes;
        });
    }

    pub(crate) fn ended(&self, record: &Record, end: &End) {
        self.observe_end_to_end(record, now_ms());
        match end {
            End::Discarded { reason, .. } => {
                self.metrics.discarded(reason).inc();
                self.count(|counters| counters.discard_total += 1);
            }
            End::DeadLettered { .. } => {
                self.metrics.dead_lettered.inc();
                self.count(|counters| counters.dead_letter_total += 1);
            }
        }
    }

    pub(crate) fn first_failures(&self, records: u64) {
        self.metrics.send_fail.inc_by(records);
        self.count(|counters| counters.send_fail_total += records);
    }

    pub(crate) fn retried(&self, records: u64) {
        self.metrics.retry.inc_by(records);
        self.count(|counters| counters.retry_total += records);
    }

    pub(crate) fn restarted(&self) {
        self.metrics.restarts.inc();
    }

    pub(crate) fn set_restarts(&self, restarts: u64) {
        self.lock().report.restarts_total = restarts;
    }

    fn observe_end_to_end(&self, record: &Record, now_ms: u64) {
        let took = Duration::from_millis(now_ms.saturating_sub(record.message.timestamp_ms));
        self.metrics.end_to_end.observe(took.as_secs_f64());
    }

    fn change_in_flight(&self, change: impl FnOnce(u64) -> u64) {
        let mut inner = self.lock();
        let in_flight = change(inner.report.in_flight_records);
        inner.report.in_flight_records = in_flight;
        self.metrics.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }

    fn count(&self, change: impl FnOnce(&mut TaskCounters)) {
        change(&mut self.lock().report.counters);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request<'_> {
    /// `interrupted`: how many of its records were cut off.
    pub(crate) fn ended(mut self, interrupted: usize) {
        self.records = interrupted as u64;
        self.metrics.send_duration.observe(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.metrics.possible_duplicates.inc_by(self.records);
    }
}

/// Wall-clock time, for people and histograms; nothing is decided by it.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The first [`MESSAGE_CHARS_MAX`] characters.
pub(crate) fn clipped(text: &str) -> &str {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}
