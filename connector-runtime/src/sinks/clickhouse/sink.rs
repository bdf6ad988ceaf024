//! Batches as inserts: one for each, with a token made from its bounds.

use std::time::Duration;

use api_types::ClusterId;
use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::answer::{self, Refusal, Verdict};
use super::body::Body;
use super::changes::Changes;
use super::config::Config;
use super::hints::Hints;
use super::schema::{Known, Schema};
use super::server::Server;
use crate::config::Resolved;
use crate::config::payload::PayloadFormat;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};

pub(crate) const OFFERED: Offered =
    Offered { kind: "clickhouse", open: |resolved, context| Box::pin(open(resolved, context)) };

struct ClickhouseSink {
    server: Server,
    schema: Schema,
    /// One for each request at the same time.
    connections: Semaphore,
    format: PayloadFormat,
    cluster: ClusterId,
    hints: Hints,
    changes: Changes,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let refresh = Duration::from_secs(config.columns_refresh_secs);
    Ok(Box::new(ClickhouseSink {
        server: Server::open(&config, context).await?,
        schema: Schema::new(&config.database, &config.table, refresh),
        connections: Semaphore::new(usize::try_from(config.pool_size).unwrap_or(1)),
        format: config.payload_format,
        cluster: context.cluster,
        hints: Hints::default(),
        changes: Changes::default(),
    }))
}

#[async_trait]
impl Sink for ClickhouseSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        match self.insert(batch).await {
            Ok(outcomes) => outcomes,
            Err(fault) => batch.all(&Outcome::TargetFault(fault)),
        }
    }

    fn abort(&self) {
        self.server.aborted.cancel();
    }

    async fn close(&self) {
        // Idle connections close with the client.
    }
}

impl ClickhouseSink {
    async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Outcome>, TargetFault> {
        let _connection = self.server.wait("no connection of the pool was free", self.connections.acquire()).await?;
        let known = self.schema.known(&self.server).await?;
        let body = Body::of(batch.records, &known.columns, self.format).await;
        let body = body.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?;
        let Body { places, faults, compressed, bytes } = body;
        // What is still `Delivered` below was part of the insert.
        let mut outcomes = batch.all(&Outcome::Delivered);
        for (place, fault) in faults {
            outcomes[place] = Outcome::RecordFault(fault);
        }
        if places.is_empty() {
            return Ok(outcomes);
        }
        let statement = self.schema.insert(&known.columns);
        // The same batch has the same token; of another cluster it is another batch.
        let settings = known.settings_with(format!("{}-{}", self.cluster, batch.id));
        let verdict = match self.server.insert(&statement, &settings, compressed).await {
            Ok(answer) => answer::verdict(&answer, bytes),
            Err(fault) => Verdict::Target(fault),
        };
        if let ([place], Verdict::Stored | Verdict::Refused(_)) = (&*places, &verdict) {
            self.hints.asked_alone(batch.records[*place].id, verdict == Verdict::Stored);
        }
        let answers = match verdict {
            Verdict::Stored => {
                self.changes.forget(batch.id);
                return Ok(outcomes);
            }
            Verdict::Target(fault) => self.target_fault(fault, places.len()),
            Verdict::OtherColumns(fault) | Verdict::OtherSettings(fault) => {
                let change = self.change(batch, &known, &fault.message).await;
                self.target_fault(change.unwrap_or(fault), places.len())
            }
            // A row that fits the columns as they are now must not end because it did not fit those that were.
            Verdict::Refused(refusal) => match self.change(batch, &known, &refusal.fault.message).await {
                Some(fault) => self.target_fault(fault, places.len()),
                None => self.blame(batch, &places, &refusal),
            },
        };
        for (place, answer) in places.into_iter().zip(answers) {
            outcomes[place] = answer;
        }
        Ok(outcomes)
    }

    /// Asks for everything again before the next insert: a server that closes the connection before it has the rows may
    /// not get to say why, and the table may be another one afterwards.
    fn target_fault(&self, fault: TargetFault, rows: usize) -> Vec<Outcome> {
        if fault.kind != TargetFaultKind::Interrupted {
            self.schema.forget();
        }
        vec![Outcome::TargetFault(fault); rows]
    }

    /// Why nobody is to blame for what the server has said: the table is another one by now, or cannot be asked.
    async fn change(&self, batch: &Batch<'_>, known: &Known, words: &str) -> Option<TargetFault> {
        const CHANGED: &str = "the table or the server's settings have changed";
        match self.schema.has_changed(&self.server, known).await {
            Ok(false) => {
                self.changes.forget(batch.id);
                None
            }
            // The same records fit it as it is now, or are refused once more.
            Ok(true) if self.changes.is_first(batch.id) => {
                let fault = TargetFault::new(TargetFaultKind::Interrupted, CHANGED);
                Some(TargetFault { reopen: false, ..fault })
            }
            Ok(true) => Some(TargetFault::new(TargetFaultKind::Down, format!("{CHANGED}, and once more: {words}"))),
            Err(fault) => Some(fault),
        }
    }

    fn blame(&self, batch: &Batch<'_>, places: &[usize], refusal: &Refusal) -> Vec<Outcome> {
        let unclear = Outcome::Unclear(refusal.fault.clone());
        if places.len() == 1 {
            let alone = refusal.alone.clone().map(Outcome::TargetFault);
            return vec![alone.unwrap_or_else(|| Outcome::RecordFault(refusal.fault.clone()))];
        }
        let named = refusal.row.and_then(|row| row.checked_sub(1)).filter(|at| *at < places.len());
        match named {
            // The others are asked for again at once, before and behind it.
            Some(at) if self.hints.suspect(batch.records[places[at]].id) => {
                let mut outcomes = vec![beside_a_culprit(); places.len()];
                outcomes[at] = unclear;
                outcomes
            }
            Some(_) | None => vec![unclear; places.len()],
        }
    }
}

fn beside_a_culprit() -> Outcome {
    let fault = TargetFault::new(TargetFaultKind::Interrupted, "in one insert with a row that was refused");
    Outcome::TargetFault(TargetFault { reopen: false, ..fault })
}

#[cfg(test)]
mod tests;
