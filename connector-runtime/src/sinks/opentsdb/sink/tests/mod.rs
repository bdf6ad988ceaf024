//! Against VictoriaMetrics, which takes what OpenTSDB takes, and against OpenTSDB itself where it says more than yes.

mod delivery;
mod itself;
mod recovery;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::tests::front::{Front, FrontOptions};
use ::tests::victoria::{Series, VictoriaMetrics};
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::sinks::opened::{TestNode, deliver, record};

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn server() -> VictoriaMetrics {
    VictoriaMetrics::start().await.expect("VictoriaMetrics starts")
}

/// In front of a server: its log says what was asked.
async fn front(server: &VictoriaMetrics) -> Front {
    let lines = format!("location /api/put {{ proxy_pass {}; }}", server.url());
    Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts")
}

fn config(url: &str, more: &Value) -> Value {
    let mut config = json!({"server": url, "tags_fields": ["site", "device"]});
    for (field, value) in more.as_object().expect("an object") {
        config[field] = value.clone();
    }
    config
}

async fn open(url: &str, more: &Value) -> Box<dyn Sink> {
    node().open("points", "opentsdb", config(url, more)).await.expect("opens")
}

fn run(queue: &Arc<MemoryQueue>, url: &str, more: &Value) -> RunningTask {
    let sink = node().sink_for("points", "opentsdb", config(url, more));
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

/// One for each millisecond, from a minute of the past.
fn message(number: u64, payload: &Value) -> Message {
    Message { timestamp_ms: 1_700_000_000_000 + number, payload: payload.to_string().into(), ..double::message(number) }
}

fn tags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
