//! Against Elasticsearch itself; curl says what is in it. It takes seconds to start, so tests that run at the same time
//! share a server, each with indices of its own.

mod connections;
mod delivery;
mod faults;
mod narrow;
mod page;
mod recovery;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ::tests::elasticsearch::{Elasticsearch, ElasticsearchOptions, LIMITED, NEVER_MADE, STRANGER};
use ::tests::front::{Front, FrontOptions};
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Message, Record};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::registry::OrderClass;
use crate::sink::{Outcome, TargetFaultKind};
use crate::sinks::opened::{TestNode, deliver, record};

const REFUSES: TargetFaultKind = TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS");
const THROTTLED: TargetFaultKind = TargetFaultKind::Throttled { retry_after: None };

/// A server for as long as some test uses it.
struct Shared(Arc<Elasticsearch>);

impl Shared {
    async fn of(slot: &Mutex<Weak<Elasticsearch>>, options: ElasticsearchOptions) -> Self {
        let mut slot = slot.lock().await;
        if let Some(server) = slot.upgrade() {
            return Self(server);
        }
        let server = Arc::new(Elasticsearch::with(options).await.expect("Elasticsearch starts"));
        *slot = Arc::downgrade(&server);
        Self(server)
    }

    fn finish(self) {
        if let Some(server) = Arc::into_inner(self.0) {
            server.finish();
        }
    }
}

impl Deref for Shared {
    type Target = Elasticsearch;

    fn deref(&self) -> &Elasticsearch {
        &self.0
    }
}

async fn server() -> Shared {
    static SERVER: Mutex<Weak<Elasticsearch>> = Mutex::const_new(Weak::new());
    Shared::of(&SERVER, ElasticsearchOptions::default()).await
}

/// Room for little at a time, and TLS.
async fn narrow_server() -> Shared {
    static SERVER: Mutex<Weak<Elasticsearch>> = Mutex::const_new(Weak::new());
    let settings = ["thread_pool.write.size: 1", "thread_pool.write.queue_size: 1", "http.max_content_length: 256kb"];
    let settings = settings.map(str::to_owned).to_vec();
    let tls_names = Some("DNS:elastic.example.org,IP:127.0.0.1".to_owned());
    Shared::of(&SERVER, ElasticsearchOptions { settings, tls_names, ..ElasticsearchOptions::default() }).await
}

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn open(server: &Elasticsearch, index: &str, more: &Value) -> Box<dyn Sink> {
    node().open("documents", "elasticsearch", server.config(index, more)).await.expect("opens")
}

/// nginx before the server, with these lines beside.
async fn front(server: &Elasticsearch, more: &str) -> Front {
    let lines = format!("client_max_body_size 64m; {more} location / {{ proxy_pass {}; }}", server.url());
    Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    match outcome {
        Outcome::TargetFault(fault) => fault.kind,
        Outcome::Delivered | Outcome::RecordFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no target fault"),
    }
}

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn run(queue: &Arc<MemoryQueue>, config: Value) -> RunningTask {
    let sink = node().sink_for("documents", "elasticsearch", config);
    assert_eq!(sink.order, OrderClass::None);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, order: sink.order, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn message(number: u64, payload: &Value) -> Message {
    Message { payload: payload.to_string().into(), timestamp_ms: 1_700_000_000_123, ..double::message(number) }
}

fn numbered(count: u64) -> Arc<MemoryQueue> {
    MemoryQueue::with((0..count).map(|number| message(number, &json!({"n": number}))))
}

/// Each number once.
async fn numbers(server: &Elasticsearch, index: &str, count: u64) {
    let hits = server.hits(index, 10_000).await.expect("reads");
    let of = |hit: &Value| hit["payload"]["n"].as_u64().or(hit["n"].as_u64()).expect("a number");
    let mut numbers: Vec<u64> = hits.iter().map(|hit| of(&hit.value().expect("is JSON"))).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<u64>>());
}
