//! Against InfluxDB itself, started for each test; curl says what is in it.

mod connections;
mod delivery;
mod faults;
mod recovery;

use std::path::PathBuf;
use std::time::Duration;

use ::tests::front::{Front, FrontOptions};
use ::tests::influxdb::{DATABASE, InfluxDb, InfluxOptions, MEASUREMENT, PASSWORD, READER, TOKEN_USER};
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sink::{Outcome, TargetFaultKind};
use crate::sinks::opened::{TestNode, deliver, record};

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn server() -> InfluxDb {
    InfluxDb::start().await.expect("InfluxDB starts")
}

async fn server_with(data: &str, http: &str) -> InfluxDb {
    let lines = |text: &str| text.lines().map(str::to_owned).collect();
    let options = InfluxOptions { data: lines(data), http: lines(http), ..InfluxOptions::default() };
    InfluxDb::with(options).await.expect("InfluxDB starts")
}

async fn open(server: &InfluxDb, more: &Value) -> Box<dyn Sink> {
    node().open("points", "influxdb", server.config(more)).await.expect("opens")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn run(queue: &std::sync::Arc<MemoryQueue>, config: Value) -> RunningTask {
    let sink = node().sink_for("points", "influxdb", config);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

/// Messages of one moment: only their times in the target tell them apart.
fn message(number: u64, payload: &Value) -> Message {
    Message {
        topic: "plant/one".to_owned(),
        client_id: "device".to_owned(),
        payload: payload.to_string().into(),
        timestamp_ms: 1_700_000_000_123,
        ..double::message(number)
    }
}
