//! Writes each batch in one transaction.
//!
//! ```text
//! batch ──► pool: a connection, with its plan ──► write: one transaction ──► outcomes
//!                                                        │
//!                      a fault that is not harmless: the connections are gone, the next one looks at the table anew
//! ```

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Config;
use super::connect::{Connector, login};
use super::plan::Wanted;
use super::write::{Failure, write};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::pool::{Lease, Pool};
use crate::sinks::shared::relational::{Judgement, PoolSeconds, Progress, TRANSACTION_WITHIN, none_kept, put_faults};
use crate::sinks::shared::stream::Tls;

pub(crate) const OFFERED: Offered =
    Offered { kind: "postgres", open: |resolved, context| Box::pin(open(resolved, context)) };

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
    let seconds = PoolSeconds {
        connect: config.connect_timeout_secs,
        acquire: config.acquire_timeout_secs,
        idle: config.idle_timeout_secs,
        lifetime: config.max_lifetime_secs,
    };
    let options = seconds.options(config.min_pool_size, config.pool_size);
    let aborted = CancellationToken::new();
    let tls = Tls::read(config.enable_tls, config.tls, &config.host).await?;
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
                progress.too_slow(batch)
            }
        };
        put_faults(&mut outcomes, progress.unfit);
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
    let culprits = match &failure.judgement {
        Judgement::Record(fault) => failure.culprit.map(|place| (place, fault.clone())),
        Judgement::Target(_) => None,
    };
    none_kept(batch, failure.judgement, culprits.into_iter().collect())
}

#[cfg(test)]
mod tests;
