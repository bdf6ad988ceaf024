//! One call of `deliver`: waits until librdkafka has reported on every record that was given to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

/// What librdkafka says of one record.
pub(super) type Report = Result<(), RDKafkaErrorCode>;

#[derive(Default)]
pub(super) struct Call {
    reports: Mutex<Reports>,
    complete: Notify,
}

#[derive(Default)]
struct Reports {
    by_place: Vec<Option<Report>>,
    /// Records that were sent and not yet reported on.
    outstanding: usize,
}

/// Goes with a record through librdkafka, and comes back with its report.
pub(super) struct Ticket {
    call: Arc<Call>,
    place: usize,
}

impl Call {
    pub(super) fn of(records: usize) -> Arc<Self> {
        let reports = Reports { by_place: vec![None; records], outstanding: 0 };
        Arc::new(Self { reports: Mutex::new(reports), complete: Notify::new() })
    }

    pub(super) fn ticket(self: &Arc<Self>, place: usize) -> Box<Ticket> {
        self.lock().outstanding += 1;
        Box::new(Ticket { call: Arc::clone(self), place })
    }

    /// Until everything that was sent is reported on. Asked once, after the last record was sent.
    pub(super) async fn completed(&self) {
        while self.lock().outstanding > 0 {
            self.complete.notified().await;
        }
    }

    /// The reports so far, by place; `None` where a record was not sent, or nothing is known yet.
    pub(super) fn reports(&self) -> Vec<Option<Report>> {
        self.lock().by_place.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub(super) fn report(self, report: Report) {
        let mut reports = self.call.lock();
        reports.by_place[self.place] = Some(report);
        reports.outstanding -= 1;
        if reports.outstanding == 0 {
            // A permit is kept for whoever does not wait yet.
            self.call.complete.notify_one();
        }
    }

    /// It never got into librdkafka.
    pub(super) fn give_back(self) {
        self.call.lock().outstanding -= 1;
    }
}
