//! Against RabbitMQ itself; its management API says what is in it.

mod connections;
mod delivery;
mod faults;
mod recovery;
mod security;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tests::rabbitmq::{EXCHANGE, Message, PASSWORD, QUEUE, Rabbitmq, USER};
use ::tests::wait;
use anyhow::ensure;
use api_types::Record;
use serde_json::{Value, json};

use super::*;
use crate::pipeline::tests::double::{MemoryQueue, Setup};
use crate::sink::TargetFaultKind;
use crate::sinks::opened::{TestNode, deliver, fault, record};

/// Far beyond anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "messages";

fn node() -> TestNode {
    TestNode::new(&[], PathBuf::from("/nowhere"), &[])
}

/// A virtual host of the test's own, on the server that all tests share.
struct Place {
    server: Arc<Rabbitmq>,
    name: String,
}

impl Place {
    async fn new(name: &str) -> Self {
        let server = Rabbitmq::shared().await.expect("RabbitMQ starts");
        server.add_virtual_host(name).await.expect("makes the virtual host");
        Self { server, name: name.to_owned() }
    }

    fn config(&self, more: &Value) -> Value {
        self.server.config(&self.name, more)
    }

    async fn open(&self, more: &Value) -> Box<dyn Sink> {
        open(self.config(more)).await
    }

    async fn refused(&self, more: &Value) -> TargetFault {
        node().open(NAME, "rabbitmq", self.config(more)).await.err().expect("does not open")
    }

    async fn exchange(&self, name: &str, kind: &str) {
        self.server.add_exchange(&self.name, name, kind).await.expect("makes the exchange");
    }

    async fn queue(&self, name: &str, arguments: Value) {
        self.server.add_queue(&self.name, name, &arguments).await.expect("makes the queue");
    }

    async fn bind(&self, exchange: &str, queue: &str, routing_key: &str) {
        self.server.bind(&self.name, exchange, queue, routing_key).await.expect("binds");
    }

    async fn messages(&self, queue: &str) -> Vec<Message> {
        self.server.messages(&self.name, queue).await.expect("reads")
    }

    async fn messages_when(&self, queue: &str, count: usize) -> Vec<Message> {
        self.server.messages_when(&self.name, queue, count).await.expect("arrive")
    }

    async fn connection(&self) -> Value {
        self.server.connection(&self.name).await.expect("is shown")
    }

    /// As the server counts them, a moment later.
    async fn connections_become(&self, expect: usize) {
        connections_become(&self.server, &self.name, expect).await;
    }
}

async fn open(config: Value) -> Box<dyn Sink> {
    node().open(NAME, "rabbitmq", config).await.expect("opens")
}

async fn connections_become(server: &Rabbitmq, virtual_host: &str, expect: usize) {
    let become_so = wait::until(LIMIT, "the connections are as many as expected", async || {
        let found = server.connections(virtual_host).await?.len();
        ensure!(found == expect, "{found} connections instead of {expect}");
        Ok(())
    });
    become_so.await.expect("connections");
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

fn numbered(count: u64) -> Vec<Record> {
    (0..count).map(|number| record(number, format!("{number}"))).collect()
}

fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}
