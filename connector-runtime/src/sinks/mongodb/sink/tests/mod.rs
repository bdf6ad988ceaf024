//! Against mongo-java-server, started for each test; PyMongo says what is in it. Logins against FerretDB.

mod connections;
mod delivery;
mod deployments;
mod faults;
mod logins;
mod recovery;

use std::path::PathBuf;

use ::tests::mongodb::{COLLECTION, MongoDb, MongoDbOptions, Standing};
use ::tests::{ports, wait};
use anyhow::ensure;
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sinks::opened::{TestNode, deliver, fault, record, record_fault};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);
/// Of the driver, which looks after each server.
const HEARTBEATS: usize = 1;

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn server() -> MongoDb {
    MongoDb::start().await.expect("mongo-java-server starts")
}

async fn server_with(options: MongoDbOptions) -> MongoDb {
    MongoDb::with(options).await.expect("mongo-java-server starts")
}

async fn open(server: &MongoDb, more: &Value) -> Box<dyn Sink> {
    node().open("documents", "mongodb", server.config(more)).await.expect("opens")
}

async fn refused(config: Value) -> TargetFault {
    node().open("documents", "mongodb", config.clone()).await.err().unwrap_or_else(|| panic!("{config}: opened"))
}

fn held() -> Outcome {
    Outcome::TargetFault(TargetFault::held())
}

/// Records with these payloads, by their place.
fn records(payloads: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Vec<Record> {
    payloads.into_iter().enumerate().map(|(number, payload)| record(number as u64, payload)).collect()
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
    numbers.into_iter().map(|number| record(number, json!({ "n": number }).to_string())).collect()
}

/// Of the documents of the collection.
async fn ids(server: &MongoDb) -> Vec<String> {
    let documents = server.documents(COLLECTION).await.expect("finds");
    documents.iter().map(|document| document["_id"].as_str().expect("has an id").to_owned()).collect()
}

/// Documents whose payload has the same `once` are refused, but the first.
async fn make_unique(server: &MongoDb, field: &str) {
    let index = json!({ "createIndexes": COLLECTION, "indexes": [
        { "key": { field: 1 }, "name": "once", "unique": true, "sparse": true },
    ] });
    server.command(&index).await.expect("makes the index");
}

async fn connections_become(port: u16, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = ports::connections_to(port)?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn run(queue: &Arc<MemoryQueue>, config: Value) -> RunningTask {
    use api_types::failure::{FailureStrategy, OnTargetDown};
    let sink = node().sink_for("documents", "mongodb", config);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, order: sink.order, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn message(number: u64, payload: &Value) -> Message {
    Message { payload: payload.to_string().into(), ..double::message(number) }
}
