//! Writes each record as a row of its own, many at the same time.
//!
//! ```text
//! batch ──► plan: the prepared statement ──► a window of inserts ──► one answer each ──► outcomes
//!             ▲                                                         │
//!             └── made anew ◄── the schema has another version ◄────────┘  and the batch is written again
//!
//!            driver: nodes, replicas, logins ──► relay: addresses, TLS, abort
//! ```

use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use api_types::Record;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use scylla::client::session::Session;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect;
use super::fault::{self, Error};
use super::layout::{Table, schema_version};
use super::plan::{Plan, changed};
use super::relay::Relay;
use super::value::Format;
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, chain};

pub(crate) const OFFERED: Offered =
    Offered { kind: "cassandra", open: |resolved, context| Box::pin(open(resolved, context)) };

struct CassandraSink {
    /// `None` once it is closed.
    session: StdMutex<Option<Arc<Session>>>,
    relay: Relay,
    aborted: CancellationToken,
    /// Aborted or closed: what is under way may be lost on the way, and that says nothing about the target.
    ended: CancellationToken,
    table: Table,
    format: Format,
    plan: Mutex<Option<Arc<Plan>>>,
    window: Semaphore,
    window_size: usize,
}

/// What became of one insert, as far as it can say itself.
#[derive(Debug)]
enum Answer {
    Delivered,
    Unsendable(RecordFault),
    /// With the server's words: the value's fault, or the statement's.
    Invalid(String),
    Target(TargetFault),
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved
        .typed()
        .map_err(|error| TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), chain(&error)))?;
    let aborted = CancellationToken::new();
    let relay = connect::relay(&config, context, aborted.clone()).await?;
    let session = match connect::connect(&config, context, &relay).await {
        Ok(session) => Arc::new(session),
        Err(error) => return Err(target_fault(error, &relay)),
    };
    let table = Table::new(&config);
    // What is missing is told before the first record comes.
    let plan = match Plan::make(&session, &table).await {
        Ok(plan) => Arc::new(plan),
        Err(error) => return Err(target_fault(error, &relay)),
    };
    Ok(Box::new(CassandraSink {
        session: StdMutex::new(Some(session)),
        relay,
        aborted,
        ended: CancellationToken::new(),
        table,
        format: Format { cluster: context.cluster, payload: config.payload_format },
        plan: Mutex::new(Some(plan)),
        window: Semaphore::new(config.max_inserts_in_flight),
        window_size: config.max_inserts_in_flight,
    }))
}

#[async_trait]
impl Sink for CassandraSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let interrupted = || TargetFault::new(TargetFaultKind::Interrupted, "the sink was aborted or closed");
        tokio::select! {
            biased;
            () = self.ended.cancelled() => batch.all(&Outcome::TargetFault(interrupted())),
            outcomes = self.write(batch) => outcomes.unwrap_or_else(|fault| batch.all(&Outcome::TargetFault(fault))),
        }
    }

    fn abort(&self) {
        self.ended.cancel();
        self.aborted.cancel();
    }

    async fn close(&self) {
        // Others may still wait for answers: whoever got a fault that wants a new sink has this one closed.
        self.ended.cancel();
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.relay.end();
    }
}

impl CassandraSink {
    async fn write(&self, batch: &Batch<'_>) -> Result<Vec<Outcome>, TargetFault> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let closed = || TargetFault::new(TargetFaultKind::Interrupted, "the sink is closed");
        let session = session.ok_or_else(closed)?;
        let plan = self.plan(&session).await?;
        let answers = self.insert_all(&session, &plan, batch.records).await;
        let taken = answers.iter().any(|answer| matches!(answer, Answer::Delivered));
        let invalid = answers.iter().any(|answer| matches!(answer, Answer::Invalid(_)));
        let blame = if taken || invalid { self.blame(&session, &plan, taken, invalid).await } else { Ok(()) };
        if answers.iter().any(|answer| matches!(answer, Answer::Target(fault) if fault.kind.needs_a_person())) {
            self.forget(&plan).await;
        }
        let outcome = |answer| match (answer, &blame) {
            (Answer::Delivered, Err(Unsure::Rewrite)) => Outcome::TargetFault(changed()),
            (Answer::Delivered, Ok(()) | Err(Unsure::Target(_))) => Outcome::Delivered,
            (Answer::Unsendable(fault), _) => Outcome::RecordFault(fault),
            (Answer::Invalid(said), Ok(())) => Outcome::RecordFault(fault::refused(said)),
            (Answer::Invalid(_), Err(Unsure::Rewrite)) => Outcome::TargetFault(changed()),
            (Answer::Invalid(_), Err(Unsure::Target(fault))) => Outcome::TargetFault(fault.clone()),
            (Answer::Target(fault), _) => Outcome::TargetFault(fault),
        };
        Ok(answers.into_iter().map(outcome).collect())
    }

    async fn plan(&self, session: &Session) -> Result<Arc<Plan>, TargetFault> {
        let mut known = self.plan.lock().await;
        match &*known {
            Some(plan) => Ok(Arc::clone(plan)),
            None => {
                let plan = Arc::new(Plan::make(session, &self.table).await.map_err(|error| self.fault(error))?);
                *known = Some(Arc::clone(&plan));
                Ok(plan)
            }
        }
    }

    /// The next batch looks at the table anew.
    async fn forget(&self, plan: &Arc<Plan>) {
        let mut known = self.plan.lock().await;
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, plan)) {
            *known = None;
        }
    }

    /// One answer for each record, in their order.
    async fn insert_all(&self, session: &Session, plan: &Plan, records: &[&Record]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(records.len(), || None);
        let mut rest = records.iter().copied().enumerate();
        let mut under_way = FuturesUnordered::new();
        // Once the target has failed one, it is not asked for those that would follow.
        let mut failed: Option<TargetFault> = None;
        loop {
            while failed.is_none() && under_way.len() < self.window_size {
                let Some((place, record)) = rest.next() else { break };
                under_way.push(async move { (place, self.insert(session, plan, record).await) });
            }
            let Some((place, answer)) = under_way.next().await else { break };
            if let (None, Answer::Target(fault)) = (&failed, &answer) {
                failed = Some(fault.clone());
            }
            answers[place] = Some(answer);
        }
        let unasked = || Answer::Target(failed.clone().unwrap_or_else(TargetFault::held));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect()
    }

    async fn insert(&self, session: &Session, plan: &Plan, record: &Record) -> Answer {
        // It is never closed.
        let _permit = self.window.acquire().await;
        let row = match plan.row(record, self.format) {
            Ok(row) => row,
            Err(fault) => return Answer::Unsendable(fault),
        };
        match session.execute_unpaged(&plan.statement, row).await {
            Ok(_) => Answer::Delivered,
            Err(error) => match Error::from(&error) {
                Error::Unsendable(fault) => Answer::Unsendable(fault),
                Error::Invalid(said) => Answer::Invalid(said),
                error @ (Error::Target(_) | Error::Lost(_) | Error::NoNode(_)) => Answer::Target(self.fault(error)),
            },
        }
    }

    /// After a batch: it has met the table that it was written for, and what was called invalid was so for its values.
    async fn blame(&self, session: &Session, plan: &Arc<Plan>, taken: bool, invalid: bool) -> Result<(), Unsure> {
        let checked = self.check(session, plan).await;
        if matches!(checked, Err(Unsure::Target(_))) {
            self.forget(plan).await;
        }
        checked?;
        // Where a neighbour got through, the statement is as it should be.
        if invalid && !taken {
            let probed = plan.probe(session, &self.table, self.format).await;
            probed.map_err(|error| Unsure::Target(self.fault(error)))?;
        }
        Ok(())
    }

    async fn check(&self, session: &Session, plan: &Arc<Plan>) -> Result<(), Unsure> {
        let unsure = |error| Unsure::Target(self.fault(error));
        if schema_version(session).await.map_err(unsure)? == plan.schema {
            return Ok(());
        }
        let now = Arc::new(Plan::make(session, &self.table).await.map_err(unsure)?);
        let same = now.fields == plan.fields;
        *self.plan.lock().await = Some(now);
        if same { Ok(()) } else { Err(Unsure::Rewrite) }
    }

    fn fault(&self, error: Error) -> TargetFault {
        target_fault(error, &self.relay)
    }
}

/// Why the answers to a batch are not the last word.
enum Unsure {
    /// The columns are others now.
    Rewrite,
    /// What was taken is taken; nobody says whose fault the rest is.
    Target(TargetFault),
}

/// Of an error that has nothing to do with a record.
fn target_fault(error: Error, relay: &Relay) -> TargetFault {
    match error {
        Error::Target(fault) => fault,
        Error::Unsendable(fault) => TargetFault::new(TargetFaultKind::Down, fault.message),
        Error::Invalid(said) => TargetFault::new(fault::DOES_NOT_FIT, said),
        Error::Lost(words) => {
            let message = relay.fault().map_or(words.into(), |fault| fault.message);
            TargetFault::new(TargetFaultKind::Down, message)
        }
        // The driver waits longer and longer before it looks again; a new one looks at once.
        Error::NoNode(words) => {
            relay.fault().unwrap_or_else(|| TargetFault::new(TargetFaultKind::Down, words)).reopening()
        }
    }
}

#[cfg(test)]
mod tests;
