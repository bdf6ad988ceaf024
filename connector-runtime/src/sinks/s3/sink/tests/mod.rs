//! Against versitygw, which keeps objects as files, and against MinIO where that is here. They start in no time: each test has
//! a server of its own.

mod connections;
mod credentials;
mod delivery;
mod faults;
mod held;
mod page;
mod recovery;
mod stopping;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::tests::front::{Front, FrontOptions};
use ::tests::minio::Minio;
use ::tests::s3::{REGION, S3, S3Options};
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::{Incarnation, Message, Record};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup, policy};
use crate::registry::OrderClass;
use crate::sinks::opened::{TestNode, deliver, fault, record};

/// Of most tests.
const BUCKET: &str = "lake";
const PART_BYTES: usize = 5 << 20;

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// With a bucket.
async fn server() -> S3 {
    server_with(S3Options::default()).await
}

async fn server_with(options: S3Options) -> S3 {
    let server = S3::with(options).await.expect("versitygw starts");
    server.make_bucket(BUCKET).await.expect("makes a bucket");
    server
}

async fn open(server: &S3, more: &Value) -> Box<dyn Sink> {
    node().open("objects", "s3", server.config(BUCKET, more)).await.expect("opens")
}

/// Of this node, for tests that look into it.
async fn open_at(node: &TestNode, config: &Value) -> S3Sink {
    // Of the batches that the tests make.
    let context = SinkContext { incarnation: Incarnation(7), ..node.context().clone() };
    S3Sink::open(&Config::with(config), &context).await.expect("opens")
}

/// Whether unfinished uploads were looked for after the last object; they have been, then.
async fn has_looked(sink: &S3Sink) -> bool {
    let round = sink.round.lock().expect("is whole").take();
    let Some(round) = round else { return false };
    round.await.expect("comes to its end");
    true
}

/// nginx before the server, with these lines beside. It keeps the host that was signed for.
async fn front(server: &S3, more: &str, tls_names: Option<&str>) -> Front {
    let lines = format!(
        "{more} location / {{ proxy_pass {}; proxy_set_header Host $http_host; }} client_body_buffer_size 1m;",
        server.url()
    );
    let options = FrontOptions { lines, tls_names: tls_names.map(str::to_owned), ..FrontOptions::default() };
    Front::start(options).await.expect("nginx starts")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    fault(outcome).kind
}

/// Writes what the queue holds, discards what is refused, and waits for the target otherwise.
fn run(queue: &Arc<MemoryQueue>, config: Value) -> RunningTask {
    let sink = node().sink_for("objects", "s3", config);
    assert_eq!(sink.order, OrderClass::None);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, order: sink.order, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

fn message(number: u64, payload: impl Into<Vec<u8>>) -> Message {
    Message { payload: payload.into().into(), timestamp_ms: 1_700_000_000_123 + number, ..double::message(number) }
}

fn numbered(count: u64) -> Arc<MemoryQueue> {
    MemoryQueue::with((0..count).map(|number| message(number, format!("{{\"n\":{number}}}"))))
}

fn records(count: u64) -> Vec<Record> {
    (0..count).map(|number| record(number, format!("{{\"n\":{number}}}"))).collect()
}

/// Records that make an object of a little more than so many bytes, which no compression makes much smaller.
fn large(bytes: usize) -> Vec<Record> {
    const EACH: usize = 48 << 10;
    let mut noise = rand::rngs::StdRng::seed_from_u64(7);
    let count = bytes.div_ceil(EACH * 4 / 3) as u64;
    let text = |noise: &mut rand::rngs::StdRng| {
        let mut bytes = vec![0; EACH];
        noise.fill_bytes(&mut bytes);
        STANDARD.encode(bytes)
    };
    (0..count).map(|number| record(number, format!("{{\"n\":{number},\"noise\":\"{}\"}}", text(&mut noise)))).collect()
}

/// The only object.
fn only(objects: &BTreeMap<String, Vec<u8>>) -> (&str, &[u8]) {
    assert_eq!(objects.len(), 1, "{:?}", objects.keys());
    let (key, bytes) = objects.first_key_value().expect("one");
    (key, bytes)
}

fn array(bytes: &[u8]) -> Vec<Value> {
    serde_json::from_slice(bytes).expect("a JSON array")
}

/// Each number below `count` stands in one object, once, and inside of each they ascend.
fn all_are_there_once(server: &S3, count: u64) {
    let mut numbers = Vec::new();
    for (key, bytes) in server.objects(BUCKET).expect("reads") {
        let own: Vec<u64> =
            array(&bytes).iter().map(|envelope| envelope["payload"]["n"].as_u64().expect("a number")).collect();
        assert!(own.is_sorted() && !own.is_empty(), "{key}: {own:?}");
        numbers.extend(own);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<u64>>());
}
