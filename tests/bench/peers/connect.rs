//! Kafka Connect with its FileStreamSink, beside a broker of one node.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::jars::{self, class_path};
use tests::scratch::Scratch;
use tests::{api, ports, wait};

use super::Server;
use super::kafka::Kafka;

const TOPIC: &str = "bench";
const READY_LIMIT: Duration = Duration::from_secs(60);

pub struct Connect {
    worker: Server,
    broker: Kafka,
}

impl Connect {
    pub async fn start() -> Result<Self> {
        let broker = Kafka::start().await?;
        let worker = start_worker(&jars::folder(jars::KAFKA_CONNECT)?, &broker.bootstrap()).await?;
        Ok(Self { worker, broker })
    }

    pub fn worker_pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Fills the topic.
    pub async fn produce(&self, records: u64, bytes: usize) -> Result<()> {
        self.broker.create_topic(TOPIC).await?;
        self.broker.produce(TOPIC, records, bytes, &["acks=all"]).await.map(drop)
    }

    /// Begins to write the topic to a file, from its beginning.
    pub async fn write_to(&self, name: &str, file: &Path) -> Result<()> {
        let body = json!({
            "name": name,
            "config": {
                "connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector",
                "tasks.max": "1", "topics": TOPIC, "file": file,
                "consumer.override.max.poll.records": "5000",
            },
        });
        let url = format!("http://127.0.0.1:{}/connectors", self.worker.port);
        let request = api::http_client()?.post(url).header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await?;
        let status = response.status();
        ensure!(status.is_success(), "{status}: {}", response.text().await?);
        Ok(())
    }

    pub async fn stop_writing(&self, name: &str) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/connectors/{name}", self.worker.port);
        api::http_client()?.delete(url).send().await?.error_for_status()?;
        Ok(())
    }

    /// Somewhere that the worker may write to.
    pub fn folder(&self) -> &Path {
        self.worker.folder()
    }
}

async fn start_worker(jars: &Path, bootstrap: &str) -> Result<Server> {
    let (scratch, port) = (Scratch::new("connect")?, ports::free()?);
    let config = scratch.path().join("connect.properties");
    let text = format!(
        "bootstrap.servers={bootstrap}\ngroup.id=bench\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n\
         config.storage.topic=configs\noffset.storage.topic=offsets\nstatus.storage.topic=status\n\
         config.storage.replication.factor=1\noffset.storage.replication.factor=1\n\
         status.storage.replication.factor=1\noffset.storage.partitions=1\nstatus.storage.partitions=1\n\
         offset.flush.interval.ms=1000\nlisteners=HTTP://127.0.0.1:{port}\nrest.advertised.host.name=127.0.0.1\n\
         plugin.discovery=hybrid_warn\n"
    );
    std::fs::write(&config, text)?;
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp", &class_path(jars)]);
    command.arg("org.apache.kafka.connect.cli.ConnectDistributed").arg(&config);
    let server = Server::start("connect", &mut command, port, scratch).await?;
    let http = api::http_client()?;
    wait::until(READY_LIMIT, "connect answers", || async {
        let response = http.get(format!("http://127.0.0.1:{port}/connectors")).send().await?;
        response.error_for_status().map(drop).context("not ready")
    })
    .await?;
    Ok(server)
}
