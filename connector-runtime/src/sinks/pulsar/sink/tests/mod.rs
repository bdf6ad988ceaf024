//! Against Apache Pulsar itself, read back with its own client; most tests share one server, each with topics of its own.

mod alone;
mod delivery;
mod faults;
mod options;
mod recovery;
mod relay;
mod repeats;
mod seats;
mod security;
mod ways;

use std::path::PathBuf;
use std::sync::Weak;
use std::time::Instant;

use ::tests::pulsar::{Pulsar, PulsarOptions, Received};
use ::tests::{ports, wait};
use anyhow::ensure;
use api_types::Record;
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{MemoryQueue, Setup};
use crate::sinks::opened::{TestNode, deliver, fault, record};

const NAME: &str = "bridge";
/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// Lives as long as a test needs it.
struct Shared<T>(tokio::sync::Mutex<Weak<T>>);

impl<T> Shared<T> {
    const fn new() -> Self {
        Self(tokio::sync::Mutex::const_new(Weak::new()))
    }

    async fn get(&self, start: impl AsyncFnOnce() -> T) -> Arc<T> {
        let mut known = self.0.lock().await;
        if let Some(shared) = known.upgrade() {
            return shared;
        }
        let shared = Arc::new(start().await);
        *known = Arc::downgrade(&shared);
        shared
    }
}

async fn server() -> Arc<Pulsar> {
    static SERVER: Shared<Pulsar> = Shared::new();
    let start = async || {
        let settings = vec![("backlogQuotaCheckIntervalInSeconds".to_owned(), "1".to_owned())];
        let options = PulsarOptions { settings, ..PulsarOptions::default() };
        Pulsar::with(options).await.expect("Pulsar starts").keep_nothing()
    };
    SERVER.get(start).await
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn open(config: Value) -> Result<Box<dyn Sink>, TargetFault> {
    node().open(NAME, "pulsar", config).await
}

async fn opened(config: Value) -> Box<dyn Sink> {
    open(config.clone()).await.unwrap_or_else(|fault| panic!("{config}: {fault:?}"))
}

async fn refused(config: Value) -> TargetFault {
    open(config.clone()).await.err().unwrap_or_else(|| panic!("{config} opens"))
}

async fn messages(server: &Pulsar, topic: &str) -> Vec<Received> {
    server.messages(topic).await.expect("reads the topic")
}

async fn texts(server: &Pulsar, topic: &str) -> Vec<String> {
    messages(server, topic).await.iter().map(Received::text).collect()
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<Record> {
    numbers.into_iter().map(|number| record(number, format!("{number}"))).collect()
}

fn as_texts(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| number.to_string()).collect()
}

fn of_client(number: u64, client_id: &str, payload: impl Into<Vec<u8>>) -> Record {
    let mut record = record(number, payload);
    record.message.client_id = client_id.to_owned();
    record
}

async fn delivered(sink: &dyn Sink, records: &[Record]) {
    assert_eq!(deliver(sink, records).await, vec![Outcome::Delivered; records.len()]);
}

/// Until every record is delivered.
async fn delivers(sink: &dyn Sink, records: &[Record]) {
    let delivered = wait::until(LIMIT, "the records are delivered", async || {
        let outcomes = deliver(sink, records).await;
        ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
        Ok(())
    });
    delivered.await.expect("delivers");
}

/// What the target fault of an outcome is; panics for any other outcome.
/// The class of a record fault, and whether the target was asked.
fn record_fault(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::RecordFault(fault) => (&fault.class, !fault.offline),
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no record fault"),
    }
}

async fn connections_become(port: u16, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = ports::connections_to(port)?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}
