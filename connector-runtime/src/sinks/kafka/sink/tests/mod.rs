//! Against Apache Kafka itself; most tests share one broker, each with topics of its own.

mod delivery;
mod faults;
mod options;
mod recovery;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Weak;

use ::tests::kafka::{Kafka, KafkaOptions, Listener, Received};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{MemoryQueue, Setup, until};
use crate::sinks::opened::{TestNode, deliver, fault, record};

const NAME: &str = "bridge";
/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

/// A broker that lives as long as a test needs it.
struct Shared(tokio::sync::Mutex<Weak<Kafka>>);

impl Shared {
    const fn new() -> Self {
        Self(tokio::sync::Mutex::const_new(Weak::new()))
    }

    async fn get(&self, options: KafkaOptions) -> Arc<Kafka> {
        let mut known = self.0.lock().await;
        if let Some(server) = known.upgrade() {
            return server;
        }
        let server = Arc::new(Kafka::with(options).await.expect("Kafka starts").keep_nothing());
        *known = Arc::downgrade(&server);
        server
    }
}

static SERVER: Shared = Shared::new();

async fn server() -> Arc<Kafka> {
    SERVER.get(KafkaOptions::default()).await
}

/// With a topic of this name.
async fn server_with(topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Arc<Kafka> {
    let server = server().await;
    server.create_topic(topic, partitions, settings).await.expect("makes the topic");
    server
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn open(config: Value) -> Result<Box<dyn Sink>, TargetFault> {
    node().open(NAME, "kafka", config).await
}

async fn opened(config: Value) -> Box<dyn Sink> {
    open(config.clone()).await.unwrap_or_else(|fault| panic!("{config}: {fault:?}"))
}

async fn refused(config: Value) -> TargetFault {
    open(config.clone()).await.err().unwrap_or_else(|| panic!("{config} opens"))
}

async fn messages(server: &Kafka, topic: &str) -> Vec<Received> {
    server.messages(topic).await.expect("reads the topic")
}

/// What the target fault of an outcome is; panics for any other outcome.
/// The class of a record fault, and whether the target was asked.
fn record_fault(outcome: &Outcome) -> (&str, bool) {
    match outcome {
        Outcome::RecordFault(fault) => (&fault.class, !fault.offline),
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no record fault"),
    }
}

fn delivered(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count()
}

fn of_client(number: u64, client_id: &str, payload: impl Into<Vec<u8>>) -> Record {
    let mut record = record(number, payload);
    record.message.client_id = client_id.to_owned();
    record
}
