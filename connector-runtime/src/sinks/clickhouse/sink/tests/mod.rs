//! Against ClickHouse itself, started for each test, and against the engine of a current release where that is here; curl
//! says what is in them.

mod connections;
mod delivery;
mod engine;
mod faults;
mod options;
mod poison;
mod recovery;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;

use ::tests::clickhouse::{ClickHouse, ClickHouseOptions, DATABASE, PASSWORD, READER, SMALL};
use ::tests::front::{Front, FrontOptions};
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sinks::opened::{TestNode, deliver, record};

/// What the release of the tests knows of the statement on the kind's page.
const COLUMNS: &str = "id String, topic String, client_id String, qos UInt8, retain UInt8, timestamp DateTime, \
                       payload String, key String";
/// Of most tests.
const TABLE: &str = "messages";

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// With a table of all columns.
async fn server() -> ClickHouse {
    server_with(ClickHouseOptions::default()).await
}

async fn server_with(options: ClickHouseOptions) -> ClickHouse {
    let server = ClickHouse::with(options).await.expect("ClickHouse starts");
    make(&server, TABLE, COLUMNS).await;
    server
}

async fn make(server: &ClickHouse, table: &str, columns: &str) {
    run(server, &format!("CREATE TABLE {DATABASE}.{table} ({columns}) ENGINE = MergeTree ORDER BY tuple()")).await;
}

async fn run(server: &ClickHouse, statement: &str) {
    server.interface().run(statement).await.expect("the statement runs");
}

async fn rows(server: &ClickHouse, query: &str) -> Vec<Value> {
    server.interface().rows(query).await.expect("reads")
}

async fn count(server: &ClickHouse, table: &str) -> u64 {
    server.interface().count(&format!("{DATABASE}.{table}")).await.expect("counts")
}

async fn open(server: &ClickHouse, more: &Value) -> Box<dyn Sink> {
    node().open("rows", "clickhouse", server.config(TABLE, more)).await.expect("opens")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

const THROTTLED: TargetFaultKind = TargetFaultKind::Throttled { retry_after: None };
const REFUSES: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn start(queue: &Arc<MemoryQueue>, config: Value) -> RunningTask {
    let sink = node().sink_for("rows", "clickhouse", config);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, order: sink.order, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn message(number: u64, payload: impl Into<Vec<u8>>) -> Message {
    Message {
        topic: "plant/one".to_owned(),
        client_id: format!("device-{number}"),
        payload: payload.into().into(),
        timestamp_ms: 1_700_000_000_000 + number,
        ..Message::default()
    }
}

/// Their payloads are their numbers.
fn numbered(count: u64) -> Arc<MemoryQueue> {
    MemoryQueue::with((0..count).map(|number| message(number, number.to_string())))
}

fn records(count: u64) -> Vec<Record> {
    (0..count).map(|number| record(number, number.to_string())).collect()
}

/// Each number below `count` stands in column `payload` of the table once.
async fn all_are_there_once(server: &ClickHouse, table: &str, count: u64) {
    let query = format!(
        "SELECT count() AS all, uniqExact(payload) AS different, sum(toUInt64(payload)) AS sum FROM {DATABASE}.{table}"
    );
    let row = rows(server, &query).await.remove(0);
    let sum = count * (count - 1) / 2;
    assert_eq!(row, json!({"all": count, "different": count, "sum": sum}));
}
