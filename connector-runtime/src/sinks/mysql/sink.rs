//! Writes each batch in one transaction.
//!
//! ```text
//! batch ──► pool: a connection, with its plan ──► write: one transaction ──► outcomes
//!                                                        │
//!              a fault that others may meet too: the connections are gone, the next one looks at the table anew
//! ```

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::config::Config;
use super::connect::Connector;
use super::login::Login;
use super::plan::Wanted;
use super::write::{Failure, Fate, write};
use crate::config::Resolved;
use crate::sink::{Batch, Outcome, Sink, TargetFault, TargetFaultKind};
use crate::sinks::offered::{Offered, SinkContext, unusable};
use crate::sinks::shared::pool::{Lease, Pool};
use crate::sinks::shared::relational::{PoolSeconds, Progress, TRANSACTION_WITHIN, none_kept, put_faults};
use crate::sinks::shared::stream::Tls;

pub(crate) const OFFERED: Offered =
    Offered { kind: "mysql", open: |resolved, context| Box::pin(open(resolved, context)) };

struct MysqlSink {
    pool: Pool<Connector>,
    aborted: CancellationToken,
    /// Nobody waits for an answer to COMMIT any more.
    ended: CancellationToken,
    _ends: DropGuard,
    /// Held by whoever waits for an answer to COMMIT after its batch was given up.
    unanswered: Arc<()>,
}

async fn open(resolved: Resolved, context: &SinkContext) -> Result<Box<dyn Sink>, TargetFault> {
    let config: Config = resolved.typed().map_err(|error| unusable(&error))?;
    let wanted = Wanted::new(&config, context.cluster).map_err(|error| unusable(&error))?;
    let seconds = PoolSeconds {
        connect: config.connect_timeout_secs,
        acquire: config.acquire_timeout_secs,
        idle: config.idle_timeout_secs,
        lifetime: config.max_lifetime_secs,
    };
    let options = seconds.options(config.min_pool_size, config.pool_size);
    let aborted = CancellationToken::new();
    let login = Login {
        username: config.username,
        password: config.password.reveal().to_owned(),
        database: config.database,
        connector: context.connector.0.to_string(),
        tls: Tls::read(config.enable_tls, config.tls, &config.host).await?,
    };
    let connector = Connector {
        host: config.host,
        port: config.port,
        deny_networks: context.deny_networks.clone(),
        aborted: aborted.clone(),
        login,
        wanted,
        written: OnceLock::new(),
    };
    let pool = Pool::open(connector, options).await?;
    let ended = CancellationToken::new();
    let unanswered = Arc::new(());
    Ok(Box::new(MysqlSink { pool, aborted, ended: ended.clone(), _ends: ended.drop_guard(), unanswered }))
}

#[async_trait]
impl Sink for MysqlSink {
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

impl MysqlSink {
    async fn write(&self, batch: &Batch<'_>) -> Vec<Outcome> {
        // Its rows would be written again beside those that wait.
        if Arc::strong_count(&self.unanswered) > 1 {
            let fault = TargetFault::new(TargetFaultKind::Down, "an earlier COMMIT has not been answered yet");
            return batch.all(&Outcome::TargetFault(fault));
        }
        let mut connection = match self.pool.acquire().await {
            Ok(connection) => connection,
            Err(fault) => return batch.all(&Outcome::TargetFault(fault)),
        };
        let mut progress = Progress::default();
        let transaction = write(&mut connection, batch.records, &mut progress);
        let written = tokio::time::timeout(TRANSACTION_WITHIN, transaction).await;
        let mut outcomes = match written {
            Ok(Ok(fate)) => {
                self.part_with(connection, fate).await;
                batch.all(&Outcome::Delivered)
            }
            Ok(Err(Failure { judgement, culprits, connection: fate })) => {
                self.part_with(connection, fate).await;
                none_kept(batch, judgement, culprits)
            }
            Err(_) => {
                self.give_up(connection, progress.committing && !progress.committed).await;
                progress.too_slow(batch)
            }
        };
        put_faults(&mut outcomes, progress.unfit);
        outcomes
    }

    async fn part_with(&self, connection: Lease<Connector>, fate: Fate) {
        match fate {
            Fate::Keep => connection.keep(),
            Fate::CallOff => self.call_off(connection).await,
            Fate::LookAnew => {
                self.pool.drop_idle();
                self.call_off(connection).await;
            }
            Fate::Lost => {
                self.pool.drop_idle();
                drop(connection);
            }
        }
    }

    /// A COMMIT that waits for a replica is not called off: the server would keep the rows without the replica. It keeps
    /// its place in the pool as long as it waits, and nothing else is begun meanwhile.
    async fn give_up(&self, mut connection: Lease<Connector>, committing: bool) {
        self.pool.drop_idle();
        if !committing {
            return self.call_off(connection).await;
        }
        let (ended, unanswered) = (self.ended.clone(), Arc::clone(&self.unanswered));
        tokio::spawn(async move {
            let (_, answers) = connection.session.halves();
            tokio::select! {
                () = ended.cancelled() => {}
                _ = answers.done() => {}
            }
            drop(unanswered);
        });
    }

    async fn call_off(&self, connection: Lease<Connector>) {
        let (id, client) = (connection.session.id, connection.session.client.clone());
        drop(connection);
        self.pool.connector().call_off(id, &client).await;
    }
}

#[cfg(test)]
mod tests;
