//! The driver of Cassandra in a loop: one prepared statement, and a window of inserts.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::stream::{self, TryStreamExt};
use scylla::client::PoolSize;
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;
use scylla::value::CqlTimestamp;
use tests::cassandra::{Cassandra, KEYSPACE};

use super::records::Record;

const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// Of [`tests::cassandra::COLUMNS`], and the time of the write.
type Row = (String, String, i32, Vec<u8>, CqlTimestamp, i64);

/// So many rows, of which a window is on its way at a time; gives the seconds it took.
pub async fn insert(server: &Cassandra, table: &str, records: u64, window: usize) -> Result<f64> {
    let rows: Vec<Row> = (0..records).map(|at| row(&Record::new(at))).collect();
    let session = &connect(server).await?;
    let statement = &session
        .prepare(format!(
            "INSERT INTO {KEYSPACE}.{table} (msgid, topic, qos, payload, arrived) VALUES (?, ?, ?, ?, ?) \
             USING TIMESTAMP ?"
        ))
        .await?;
    let began = Instant::now();
    stream::iter(rows.into_iter().map(anyhow::Ok))
        .try_for_each_concurrent(window, |row| async move {
            session.execute_unpaged(statement, row).await?;
            Ok(())
        })
        .await?;
    Ok(began.elapsed().as_secs_f64())
}

/// One connection for all, as the sink has it.
async fn connect(server: &Cassandra) -> Result<Session> {
    let profile =
        ExecutionProfile::builder().consistency(Consistency::LocalQuorum).request_timeout(Some(REQUEST_LIMIT));
    let session = SessionBuilder::new()
        .known_node(format!("127.0.0.1:{}", server.port()))
        .default_execution_profile_handle(profile.build().into_handle())
        .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
        .disallow_shard_aware_port(true);
    Ok(session.build().await?)
}

fn row(record: &Record) -> Row {
    let written_us = record.sent_us as i64;
    let arrived = CqlTimestamp(written_us / 1_000);
    (record.global_id(), record.topic.clone(), 1, record.payload().into_bytes(), arrived, written_us)
}
