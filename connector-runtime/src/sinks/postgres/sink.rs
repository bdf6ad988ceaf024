//! Writes each batch in one transaction.
//!
//! ```text
//! batch ──► pool: a connection, with its plan ──► write: one transaction ──► outcomes
//!                                                        │
//!                      a fault that is not harmless: the connections are gone, the next one looks at the table anew
//! ```

use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Config;
use super::connect::{Connector, login};
use super::fault::Judgement;
use super::plan::Wanted;
use super::write::{Failure, Progress, write};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, RecordFault, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, chain};
use crate::sinks::shared::pool::{Lease, Pool, PoolOptions};
use crate::sinks::shared::tls;

pub(crate) const OFFERED: Offered =
    Offered { kind: "postgres", open: |resolved, context| Box::pin(open(resolved, context)) };

/// How long one transaction may take. Then it is called off, and its records are asked for in smaller ones: rows that
/// are slow one by one are too many together. A table that is locked is told apart by the server, much earlier.
const TRANSACTION_WITHIN: Duration = Duration::from_secs(60);

struct PostgresSink {
    pool: Pool<Connector>,
    aborted: CancellationToken,
    /// Nobody waits for an answer to COMMIT any more.
    ended: CancellationToken,
    _ends: DropGuard,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let wanted = Wanted::new(&config, context.cluster).map_err(|error| unusable(&error))?;
    let login = login(&config.username, config.password.reveal(), &config.database, &context.connector.0);
    let options = pool_options(&config);
    let aborted = CancellationToken::new();
    let tls = if config.enable_tls {
        let (options, host) = (config.tls, config.host.clone());
        let read = tokio::task::spawn_blocking(move || {
            Ok::<_, tls::TlsError>((tls::client_config(&options)?, tls::server_name(&options, &host)?))
        });
        let read = read.await.map_err(|error| TargetFault::new(TargetFaultKind::Down, error.to_string()))?;
        let (config, name) =
            read.map_err(|error| TargetFault::new(TargetFaultKind::Misconfigured("TLS_UNUSABLE"), chain(&error)))?;
        Some((config.into(), name))
    } else {
        None
    };
    let connector = Connector {
        host: config.host,
        port: config.port,
        deny_networks: context.deny_networks.clone(),
        aborted: aborted.clone(),
        tls,
        login,
        wanted,
        connect_timeout: options.connect_timeout,
    };
    let pool = Pool::open(connector, options).await?;
    let ended = CancellationToken::new();
    Ok(Box::new(PostgresSink { pool, aborted, ended: ended.clone(), _ends: ended.drop_guard() }))
}

fn pool_options(config: &Config) -> PoolOptions {
    let unless_off = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    PoolOptions {
        max_size: config.pool_size,
        min_size: config.min_pool_size,
        connect_timeout: Duration::from_secs(config.connect_timeout_secs),
        acquire_timeout: Duration::from_secs(config.acquire_timeout_secs),
        idle_timeout: unless_off(config.idle_timeout_secs),
        max_lifetime: unless_off(config.max_lifetime_secs),
    }
}

fn unusable(error: &(dyn std::error::Error + 'static)) -> TargetFault {
    TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), chain(error))
}

#[async_trait]
impl Sink for PostgresSink {
    async fn deliver(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        tokio::select! {
            biased;
            () = self.aborted.cancelled() => {
                let fault = TargetFault::new(TargetFaultKind::Interrupted, "the transaction was aborted");
                batch.all(&Outcome::TargetFault(fault))
            }
            outcomes = self.write(batch) => outcomes,
        }
    }

    fn abort(&self) {
        self.aborted.cancel();
        self.ended.cancel();
        self.pool.abort();
    }

    async fn close(&self) {
        self.ended.cancel();
        self.pool.close().await;
    }
}

impl PostgresSink {
    async fn write(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        let connection = match self.pool.acquire().await {
            Ok(connection) => connection,
            Err(fault) => return batch.all(&Outcome::TargetFault(fault)),
        };
        let mut progress = Progress::default();
        let transaction = write(&connection, batch.records, &mut progress);
        let written = tokio::time::timeout(TRANSACTION_WITHIN, transaction).await;
        let mut outcomes = match written {
            Ok(Ok(())) => {
                connection.keep();
                batch.all(&Outcome::Delivered)
            }
            Ok(Err(failure)) => {
                if failure.harmless {
                    connection.keep();
                } else {
                    self.pool.drop_idle();
                }
                outcomes(batch, failure)
            }
            Err(_) => {
                self.give_up(connection, progress.committing).await;
                let what = if progress.committing { "answer to COMMIT" } else { "answer" };
                let message = format!("no {what} within {} s", TRANSACTION_WITHIN.as_secs());
                // One record alone is as small as it gets: waiting for it is the target's fault.
                if batch.records.len() > 1 && !progress.committing {
                    batch.all(&Outcome::Unclear(RecordFault::refused("too_slow", message)))
                } else {
                    batch.all(&Outcome::TargetFault(TargetFault::new(TargetFaultKind::Down, message)))
                }
            }
        };
        for (place, fault) in progress.unfit {
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome = Outcome::RecordFault(fault);
            }
        }
        outcomes
    }
}

impl PostgresSink {
    /// A COMMIT that waits for a standby must not be called off: the server would keep the rows without the standby.
    /// It keeps its place in the pool as long as it waits, so that no more than `pool_size` of them ever do.
    async fn give_up(&self, connection: Lease<Connector>, committing: bool) {
        self.pool.drop_idle();
        if committing {
            let ended = self.ended.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    // Answered after the COMMIT.
                    _ = connection.client.batch_execute("") => {}
                }
            });
        } else {
            let token = connection.client.cancel_token();
            drop(connection);
            self.pool.connector().call_off(token).await;
        }
    }
}

/// Nothing of the batch was kept.
fn outcomes(batch: &Batch<'_>, failure: Failure) -> Vec<Outcome> {
    match failure.judgement {
        Judgement::Target(fault) => batch.all(&Outcome::TargetFault(fault)),
        Judgement::Record(fault) => {
            let mut outcomes = batch.all(&Outcome::Unclear(fault.clone()));
            if let Some(outcome) = failure.culprit.and_then(|place| outcomes.get_mut(place)) {
                *outcome = Outcome::RecordFault(fault);
            }
            outcomes
        }
    }
}

#[cfg(test)]
mod tests;
