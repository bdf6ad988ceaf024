//! Against Apache Cassandra; DataStax's Python driver says what is in it. Most tests share one server, each with tables of
//! its own, and those that stop it or look at all of it take turns at another.

mod cluster;
mod connections;
mod delivery;
mod faults;
mod options;
mod recovery;
mod schema;

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use ::tests::cassandra::{COLUMNS, Cassandra, CassandraOptions, KEYSPACE, PASSWORD, USER};
use ::tests::{ports, wait};
use anyhow::ensure;
use api_types::{ClusterId, Message, Record};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sinks::opened::{TestNode, deliver, fault, record, record_fault};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(120);
const TABLE: &str = "messages";

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// A server that lives as long as a test needs it.
static SHARED: Mutex<Weak<Cassandra>> = Mutex::const_new(Weak::new());
static IN_TURNS: Mutex<Weak<Mutex<Cassandra>>> = Mutex::const_new(Weak::new());
/// Nobody may write with it into the shared server.
const FORBIDDEN: &str = "THREE";

async fn server() -> Arc<Cassandra> {
    let mut known = SHARED.lock().await;
    if let Some(server) = known.upgrade() {
        return server;
    }
    let options = CassandraOptions { forbidden_level: Some(FORBIDDEN), ..CassandraOptions::default() };
    let server = Arc::new(Cassandra::with(options).await.expect("Cassandra starts").keep_nothing());
    *known = Arc::downgrade(&server);
    server
}

/// The shared server, with a table as on the page.
async fn server_with(table: &str) -> Arc<Cassandra> {
    let server = server().await;
    server.make_table(table, COLUMNS).await.expect("makes the table");
    server
}

/// With an empty table as on the page, and nobody connected.
async fn server_alone() -> OwnedMutexGuard<Cassandra> {
    let server = {
        let mut known = IN_TURNS.lock().await;
        match known.upgrade() {
            Some(server) => server,
            None => {
                let server = Cassandra::start().await.expect("Cassandra starts").keep_nothing();
                let server = Arc::new(Mutex::new(server));
                *known = Arc::downgrade(&server);
                server
            }
        }
    };
    let mut server = server.lock_owned().await;
    server.revive().await.expect("goes on, whatever the test before has left");
    connections_become(server.port(), 0).await;
    server.make_table(TABLE, COLUMNS).await.expect("makes the table");
    server.run(&[&format!("TRUNCATE {KEYSPACE}.{TABLE}")]).await.expect("empties the table");
    server
}

async fn open(server: &Cassandra, table: &str, more: &Value) -> Box<dyn Sink> {
    opened(server.config(table, more)).await
}

async fn opened(config: Value) -> Box<dyn Sink> {
    node().open("rows", "cassandra", config).await.expect("opens")
}

async fn refused(config: Value) -> TargetFault {
    node().open("rows", "cassandra", config.clone()).await.err().unwrap_or_else(|| panic!("{config}: opened"))
}

/// Records with these payloads, by their place.
fn records(payloads: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Vec<Record> {
    payloads.into_iter().enumerate().map(|(number, payload)| record(number as u64, payload)).collect()
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
    numbers.into_iter().map(|number| record(number, json!({ "n": number }).to_string())).collect()
}

/// The rows of a table, by what they say about their record.
async fn rows(server: &Cassandra, table: &str) -> Vec<Value> {
    let mut rows = server.rows(&format!("SELECT * FROM {KEYSPACE}.{table}")).await.expect("reads");
    rows.sort_by_key(|row| row["msgid"].as_str().map(str::to_owned));
    rows
}

fn hex(bytes: &[u8]) -> Value {
    json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
}

async fn connections_become(port: u16, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = ports::connections_to(port)?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}

/// Once more until these are delivered.
async fn delivered_at_last(sink: &dyn Sink, sent: &[Record]) {
    let again = wait::until(LIMIT, "they are delivered", async || {
        let outcomes = deliver(sink, sent).await;
        ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{:?}", outcomes.first());
        Ok(())
    });
    again.await.expect("goes on");
}

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn run(queue: &Arc<MemoryQueue>, config: Value) -> RunningTask {
    use api_types::failure::{FailureStrategy, OnTargetDown};
    let sink = node().sink_for("rows", "cassandra", config);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn message(number: u64, payload: &str) -> Message {
    Message { payload: payload.to_owned().into(), ..double::message(number) }
}

fn numbered_message(number: u64) -> Message {
    message(number, &json!({ "n": number }).to_string())
}
