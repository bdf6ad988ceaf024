//! Against Redis itself, started for each test; redis-cli says what is in it.

mod cluster;
mod connections;
mod delivery;
mod faults;
mod recovery;
mod sentinel;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::tests::redis::{KEY, Redis, RedisOptions};
use ::tests::wait;
use anyhow::{Result, ensure};
use api_types::{Message, Record};
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, RunningTask, Setup};
use crate::registry::OrderClass;
use crate::sinks::opened::{TestNode, deliver, fault, record};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

async fn server() -> Redis {
    Redis::start().await.expect("Redis starts")
}

async fn server_with(settings: &[(&str, &str)]) -> Redis {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Redis::with(RedisOptions { settings, ..RedisOptions::default() }).await.expect("Redis starts")
}

async fn open(server: &Redis, more: &Value) -> Box<dyn Sink> {
    node().open("lists", "redis", server.config(more)).await.expect("opens")
}

async fn refused(server: &Redis, more: &Value) -> TargetFault {
    node().open("lists", "redis", server.config(more)).await.err().expect("does not open")
}

fn kind(outcome: &Outcome) -> TargetFaultKind {
    fault(outcome).kind
}

/// The class of a record's fault.
fn class(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::RecordFault(fault) => &fault.class,
        Outcome::Delivered | Outcome::TargetFault(_) | Outcome::Unclear(_) => panic!("{outcome:?} is no record fault"),
    }
}

/// A task as the pipeline runs it for this kind.
fn start(queue: &std::sync::Arc<MemoryQueue>, config: Value) -> RunningTask {
    let sink = node().sink_for("lists", "redis", config);
    Setup { order: OrderClass::Lanes, ..Setup::default() }.start_with(queue, sink.opener, sink.options)
}

/// Messages of nine publishers on topics of their own, whose payloads count up.
fn message(number: u64) -> Message {
    let of = number % 9;
    Message {
        topic: format!("plant/{of}"),
        client_id: format!("c{of}"),
        payload: number.to_string().into_bytes().into(),
        ..Message::default()
    }
}

async fn connections(server: &Redis) -> Result<usize> {
    Ok(server.cli(&["CLIENT", "LIST"]).await?.matches("name=sluice/lists ").count())
}

async fn connections_become(server: &Redis, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = connections(server).await?;
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
}

/// Numbers in a list, of which none may stand before a smaller one that comes for the first time.
fn assert_ordered(name: &str, list: &[String]) {
    let mut highest = None;
    let mut seen = std::collections::BTreeSet::new();
    for text in list {
        let number: u64 = text.parse().expect("is a number");
        if seen.insert(number) {
            assert!(highest < Some(number), "{name}: {number} comes for the first time behind {highest:?}");
            highest = highest.max(Some(number));
        }
    }
}
