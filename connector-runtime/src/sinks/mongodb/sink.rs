//! Inserts each batch with one request, and says for every document what became of it.
//!
//! ```text
//! batch ──► documents ──► insert ──► by its place: taken │ refused ──► the document's fault, or the target's
//!                           │                            └ duplicate ──► is it there? ours, or a stranger's
//!            driver: servers, pool, login ──► relay: addresses, TLS, abort
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::Client;
use mongodb::error::Error;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::config::{Config, DeploymentMode};
use super::connect::{Connected, connect};
use super::document::{self, Format};
use super::fault::{Refusal, Whole, whole};
use super::insert::{Answer, Sent, Target};
use super::relay::Relay;
use super::servers::{Hopeless, Servers};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};

pub(crate) const OFFERED: Offered =
    Offered { kind: "mongodb", open: |resolved, context| Box::pin(open(resolved, context)) };

/// The servers are not what `deployment_mode` says.
const DEPLOYMENT: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_DEPLOYMENT");
/// A quiet goodbye may take this long; after it the connections are cut.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

struct MongodbSink {
    client: Client,
    servers: Arc<Servers>,
    relay: Relay,
    aborted: CancellationToken,
    closed: CancellationToken,
    target: Target,
    format: Format,
    ordered: bool,
    has_login: bool,
    /// Of what the hosts are when none of them is what was looked for.
    wanted: String,
    /// Far beyond what the relay and the driver allow together; for what both overlook.
    request_within: Duration,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let aborted = CancellationToken::new();
    let since = Instant::now();
    let Connected { client, servers, relay } = connect(&config, context, aborted.clone()).await?;
    let format = Format { payload: config.payload_format };
    let wanted = match (config.deployment_mode, &config.replica_set_name) {
        (DeploymentMode::Replicaset, Some(name)) => format!("a member of the replica set {name}"),
        (DeploymentMode::Sharded, _) => "a router (mongos) of a sharded cluster".to_owned(),
        (DeploymentMode::Single | DeploymentMode::Replicaset, _) => "a server that takes writes".to_owned(),
    };
    let seconds = config.server_selection_timeout_secs + config.connect_timeout_secs + 2 * config.socket_timeout_secs;
    let sink = MongodbSink {
        target: Target::new(&client, &config, format),
        client,
        servers,
        relay,
        aborted,
        closed: CancellationToken::new(),
        format,
        ordered: config.ordered_insert,
        has_login: config.username.is_some(),
        wanted,
        request_within: Duration::from_secs(seconds),
    };
    sink.ask_since(since, sink.target.ping()).await.map_err(|failure| failure.target_fault())?;
    // How large a document may be, and what the servers are.
    let _ = timeout(Duration::from_secs(config.connect_timeout_secs), sink.servers.heard()).await;
    if config.deployment_mode == DeploymentMode::Sharded
        && let Some(address) = sink.servers.no_router()
    {
        return Err(TargetFault::new(DEPLOYMENT, format!("{address} is not {}", sink.wanted)));
    }
    Ok(Box::new(sink))
}

#[async_trait]
impl Sink for MongodbSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let interrupted = |message| {
            let fault = TargetFault::new(TargetFaultKind::Interrupted, message);
            batch.all(&Outcome::TargetFault(fault))
        };
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => interrupted("the insert was aborted"),
            // What the driver says then is nobody's fault.
            () = self.closed.cancelled() => interrupted("the sink was closed"),
            outcomes = self.write(batch) => outcomes,
        }
    }

    fn abort(&self) {
        self.aborted.cancel();
    }

    async fn close(&self) {
        self.closed.cancel();
        let _ = timeout(CLOSE_WITHIN, self.client.clone().shutdown().immediate(true)).await;
        self.relay.end();
    }
}

impl MongodbSink {
    async fn write(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let bytes_max = self.servers.document_bytes_max();
        let mut outcomes = batch.all(&Outcome::TargetFault(TargetFault::held()));
        let mut sent = Vec::with_capacity(batch.records.len());
        let documents = self.format.documents(batch.records, bytes_max).await;
        for (place, (record, document)) in batch.records.iter().zip(documents).enumerate() {
            match document {
                Ok(document) => sent.push(Sent { place, id: document::id(record), document }),
                Err(fault) => outcomes[place] = Outcome::RecordFault(fault),
            }
        }
        if self.ordered {
            self.write_in_order(sent, &mut outcomes).await;
        } else {
            self.write_at_once(&sent, &mut outcomes).await;
        }
        outcomes
    }

    async fn write_at_once(&self, sent: &[Sent], outcomes: &mut [Outcome]) {
        if sent.is_empty() {
            return;
        }
        let answer = match self.ask(self.target.insert(sent)).await {
            Ok(answer) => answer,
            Err(failure) => return put(outcomes, sent, &failure.outcome()),
        };
        let mut duplicates = Vec::new();
        for (at, one) in sent.iter().enumerate() {
            outcomes[one.place] = match answer.refused.get(&at) {
                Some(refusal) => {
                    if refusal.is_duplicate() {
                        duplicates.push(one);
                    }
                    self.refused(refusal)
                }
                None => confirmed(&answer),
            };
        }
        match self.there(&duplicates).await {
            Ok(there) => {
                let ours = duplicates.iter().zip(there).filter(|(_, is_there)| *is_there);
                ours.for_each(|(one, _)| outcomes[one.place] = confirmed(&answer));
            }
            Err(failure) => duplicates.iter().for_each(|one| outcomes[one.place] = failure.outcome()),
        }
    }

    /// What follows a document that was refused is not sent before it.
    async fn write_in_order(&self, mut sent: Vec<Sent>, outcomes: &mut [Outcome]) {
        while !sent.is_empty() {
            let answer = match self.ask(self.target.insert(&sent)).await {
                Ok(answer) => answer,
                Err(failure) => return put(outcomes, &sent, &failure.outcome()),
            };
            if answer.unconfirmed.is_some() {
                return put(outcomes, &sent, &confirmed(&answer));
            }
            let first = answer.refused.keys().min().copied().unwrap_or(sent.len());
            let Some(refusal) = answer.refused.get(&first) else {
                return put(outcomes, &sent, &Outcome::Delivered);
            };
            put(outcomes, &sent[..first], &Outcome::Delivered);
            let rest = sent.split_off(first);
            let there = match refusal.is_duplicate() {
                true => self.there(&rest.iter().collect::<Vec<_>>()).await,
                false => Ok(vec![false; rest.len()]),
            };
            let there = match there {
                Ok(there) => there,
                Err(failure) => return put(outcomes, &rest, &failure.outcome()),
            };
            if !there[0] {
                put(outcomes, &rest[1..], &Outcome::TargetFault(TargetFault::held()));
                return put(outcomes, &rest[..1], &self.refused(refusal));
            }
            // All of those are there from an earlier attempt; the others follow.
            let mut is_there = there.into_iter();
            let (ours, others): (Vec<Sent>, Vec<Sent>) =
                rest.into_iter().partition(|_| is_there.next().unwrap_or_default());
            put(outcomes, &ours, &Outcome::Delivered);
            sent = others;
        }
    }

    fn refused(&self, refusal: &Refusal) -> Outcome {
        match refusal.target_fault(self.has_login) {
            Some(fault) => Outcome::TargetFault(fault),
            None => Outcome::RecordFault(refusal.record_fault()),
        }
    }

    /// Whether each of these is there as the record's own, from before: another unique index may refuse a document too.
    async fn there(&self, sent: &[&Sent]) -> Result<Vec<bool>, Failure> {
        if sent.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(self.target.there(sent)).await
    }

    async fn ask<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        self.ask_since(Instant::now(), request).await
    }

    /// `since` when the servers are looked at.
    async fn ask_since<T>(
        &self,
        since: Instant,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let answered = tokio::select! {
            biased;
            answered = timeout(self.request_within, request) => answered,
            hopeless = self.servers.hopeless(since) => return Err(self.hopeless(hopeless, since)),
        };
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failure(&error, since)),
            Err(_) => {
                let message = format!("no answer within {} s", self.request_within.as_secs());
                Err(Failure(Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, message))))
            }
        }
    }

    fn failure(&self, error: &Error, since: Instant) -> Failure {
        let fault = match whole(error, self.has_login) {
            Whole::SomeDocument(fault) => return Failure(Outcome::Unclear(fault)),
            Whole::Target(fault) => fault,
            Whole::NoServer(words) => self.no_server(words, since),
            Whole::Lost(words) => {
                let message = self.relay_fault(since).map_or(words.into(), |fault| fault.message);
                TargetFault::new(TargetFaultKind::Down, message)
            }
        };
        Failure(Outcome::TargetFault(fault))
    }

    fn hopeless(&self, hopeless: Hopeless, since: Instant) -> Failure {
        let fault = match hopeless {
            Hopeless::Nobody(words) => self.no_server(words, since),
            Hopeless::NoneLeft => TargetFault::new(DEPLOYMENT, format!("no host is {}", self.wanted)),
        };
        Failure(Outcome::TargetFault(fault))
    }

    fn relay_fault(&self, since: Instant) -> Option<TargetFault> {
        self.relay.fault(&self.servers.addresses(), since)
    }

    fn no_server(&self, words: String, since: Instant) -> TargetFault {
        self.relay_fault(since).unwrap_or_else(|| TargetFault::new(TargetFaultKind::Down, words))
    }
}

/// Why there is no answer: the same for all documents of the request.
#[derive(Debug)]
struct Failure(Outcome);

impl Failure {
    fn outcome(&self) -> Outcome {
        self.0.clone()
    }

    /// Of a request without documents.
    fn target_fault(self) -> TargetFault {
        match self.0 {
            Outcome::TargetFault(fault) => fault,
            Outcome::RecordFault(fault) | Outcome::Unclear(fault) => {
                TargetFault::new(TargetFaultKind::Down, fault.message)
            }
            Outcome::Delivered => TargetFault::new(TargetFaultKind::Down, "no answer"),
        }
    }
}

fn confirmed(answer: &Answer) -> Outcome {
    match &answer.unconfirmed {
        Some(words) => Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, words.as_str())),
        None => Outcome::Delivered,
    }
}

fn put(outcomes: &mut [Outcome], sent: &[Sent], outcome: &Outcome) {
    for one in sent {
        outcomes[one.place] = outcome.clone();
    }
}

#[cfg(test)]
mod tests;
