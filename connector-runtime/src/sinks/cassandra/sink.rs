//! Writes each record as a row of its own, many at the same time.
//!
//! ```text
//! batch ──► plan: the prepared statement ──► a window of inserts ──► one answer each ──► outcomes
//!             ▲                                                         │
//!             └── made anew ◄── the columns are others ◄────────────────┤  and the batch is written again
//!                                 what was refused is sent once more ◄──┘  and ends if it is refused once more
//!
//!            driver: nodes, replicas, logins ──► relay: addresses, TLS, abort
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use api_types::Record;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use scylla::client::session::Session;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::connect;
use super::fault::{self, Error};
use super::layout::Table;
use super::plan::Plan;
use super::relay::Relay;
use super::value::Format;
use super::verdict::{Afterwards, Answer, Met, Statement};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};

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
    /// How long a batch goes on while the target fails some of its records.
    limit: Duration,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let aborted = CancellationToken::new();
    let relay = connect::relay(&config, context, aborted.clone()).await?;
    let session = match connect::connect(&config, context, &relay).await {
        Ok(session) => Arc::new(session),
        Err(error) => return Err(target_fault(error, &relay, &BTreeSet::new())),
    };
    let table = Table::new(&config);
    // What is missing is told before the first record comes.
    let plan = match Plan::make(&session, &table).await {
        Ok(plan) => Arc::new(plan),
        Err(error) => return Err(target_fault(error, &relay, &hosts(&session))),
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
        limit: Duration::from_secs(config.timeout_secs),
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
        let after = self.afterwards(&session, &plan, &answers).await;
        let answers = self.refused_twice(&session, &plan, batch.records, answers, &after).await;
        if answers.iter().any(|answer| matches!(answer, Answer::Target(fault) if fault.kind.needs_a_person())) {
            self.forget(&plan).await;
        }
        Ok(answers.into_iter().map(|answer| answer.outcome(&after)).collect())
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
        let is_held_up = AtomicBool::new(false);
        let mut under_way = FuturesUnordered::new();
        // Other rows have other nodes, but nobody waits for ever for one after the other.
        let mut failing_since: Option<Instant> = None;
        loop {
            while !is_held_up.load(Ordering::Relaxed) && under_way.len() < self.window_size {
                let Some((place, record)) = rest.next() else { break };
                let insert = self.insert(session, plan, record, &is_held_up);
                under_way.push(async move { (place, insert.await) });
            }
            let Some((place, answer)) = under_way.next().await else { break };
            if matches!(answer, Answer::Target(_))
                && failing_since.get_or_insert_with(Instant::now).elapsed() >= self.limit
            {
                is_held_up.store(true, Ordering::Relaxed);
            }
            answers[place] = Some(answer);
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Answer::Held)).collect()
    }

    async fn insert(&self, session: &Session, plan: &Plan, record: &Record, is_held_up: &AtomicBool) -> Answer {
        // It is never closed.
        let _permit = self.window.acquire().await;
        if is_held_up.load(Ordering::Relaxed) {
            return Answer::Held;
        }
        let row = match plan.row(record, self.format) {
            Ok(row) => row,
            Err(fault) => return Answer::Unsendable(fault),
        };
        let Err(error) = session.execute_unpaged(&plan.statement, row).await else { return Answer::Delivered };
        let error = Error::from(&error);
        if error.holds_up() {
            is_held_up.store(true, Ordering::Relaxed);
        }
        match error {
            Error::Unsendable(fault) => Answer::Unsendable(fault),
            Error::Invalid(said) => Answer::Invalid(said),
            error @ (Error::Target(_) | Error::Silent(_) | Error::Lost(_) | Error::NoNode(_)) => {
                Answer::Target(self.fault(error))
            }
        }
    }

    async fn afterwards(&self, session: &Session, plan: &Arc<Plan>, answers: &[Answer]) -> Afterwards {
        let any = |is: fn(&Answer) -> bool| answers.iter().any(is);
        let (taken, invalid) =
            (any(|answer| matches!(answer, Answer::Delivered)), any(|answer| matches!(answer, Answer::Invalid(_))));
        let mut after = Afterwards { table: Met::Same, statement: Statement::Taken };
        if !any(|answer| matches!(answer, Answer::Delivered | Answer::Unsendable(_) | Answer::Invalid(_))) {
            return after;
        }
        after.table = match self.met(session, plan).await {
            Ok(met) => met,
            Err(error) => {
                self.forget(plan).await;
                Met::Unknown(self.fault(error))
            }
        };
        // Where a neighbour got through, the statement is as it should be.
        if invalid && !taken && matches!(after.table, Met::Same) {
            let probed = plan.probe(session, &self.table).await;
            after.statement = probed.unwrap_or_else(|error| Statement::Unknown(self.fault(error)));
        }
        if matches!(after.statement, Statement::Refused(_)) {
            self.forget(plan).await;
        }
        after
    }

    /// A refusal is the opinion of one node, which may not have heard of the table as the others know it. By now all that
    /// can be asked have the same, so a record that would end is sent once more before.
    async fn refused_twice(
        &self,
        session: &Session,
        plan: &Plan,
        records: &[&Record],
        answers: Vec<Answer>,
        after: &Afterwards,
    ) -> Vec<Answer> {
        let of = records.iter().zip(&answers);
        let refused: Vec<&Record> =
            of.filter(|(_, answer)| answer.is_refused(after)).map(|(record, _)| *record).collect();
        let mut again = self.insert_all(session, plan, &refused).await.into_iter();
        let confirmed = answers.into_iter().map(|answer| {
            if !answer.is_refused(after) {
                return answer;
            }
            again.next().map_or(Answer::Held, |again| answer.confirmed_by(again))
        });
        confirmed.collect()
    }

    async fn met(&self, session: &Session, plan: &Arc<Plan>) -> Result<Met, Error> {
        let version = self.table.schema_version(session).await?;
        if version.is_some() && version == plan.schema {
            return Ok(Met::Same);
        }
        let (version, columns) = self.table.look(session).await?;
        if self.table.fields(&columns).is_ok_and(|fields| fields == plan.fields) {
            if version.is_some() {
                // The order of a key may be another one: the next batch prepares the statement anew.
                self.forget(plan).await;
            }
            return Ok(Met::Same);
        }
        let now = Plan::make(session, &self.table).await?;
        *self.plan.lock().await = Some(Arc::new(now));
        Ok(Met::Another)
    }

    fn fault(&self, error: Error) -> TargetFault {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        target_fault(error, &self.relay, &session.as_deref().map(hosts).unwrap_or_default())
    }
}

/// Of the cluster's nodes, as far as they are known.
fn hosts(session: &Session) -> BTreeSet<String> {
    session.get_cluster_state().get_nodes_info().iter().map(|node| node.address.ip().to_string()).collect()
}

/// Of an error that has nothing to do with a record.
fn target_fault(error: Error, relay: &Relay, hosts: &BTreeSet<String>) -> TargetFault {
    match error {
        Error::Target(fault) => fault,
        Error::Unsendable(fault) => TargetFault::new(TargetFaultKind::Down, fault.message),
        Error::Invalid(said) => TargetFault::new(fault::DOES_NOT_FIT, said),
        Error::Silent(words) => TargetFault::new(TargetFaultKind::Down, words),
        Error::Lost(words) => {
            let message = relay.fault(hosts).map_or(words.into(), |fault| fault.message);
            TargetFault::new(TargetFaultKind::Down, message)
        }
        // The driver waits longer and longer before it looks again; a new one looks at once.
        Error::NoNode(words) => {
            relay.fault(hosts).unwrap_or_else(|| TargetFault::new(TargetFaultKind::Down, words)).reopening()
        }
    }
}

#[cfg(test)]
mod tests;
