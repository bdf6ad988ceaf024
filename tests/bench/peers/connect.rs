//! Kafka Connect with its FileStreamSink, beside a broker of one node.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::jars::{self, class_path};
use tests::scratch::Scratch;
use tests::{api, ports, process, wait};

use super::Server;

const TOPIC: &str = "bench";
const TOOL_LIMIT: Duration = Duration::from_secs(120);
const READY_LIMIT: Duration = Duration::from_secs(60);

pub struct Connect {
    worker: Server,
    broker: Server,
    tools: PathBuf,
}

impl Connect {
    pub async fn start() -> Result<Self> {
        let tools = jars::folder(jars::KAFKA)?;
        let broker = start_broker(&tools).await?;
        let worker = start_worker(&jars::folder(jars::KAFKA_CONNECT)?, broker.port).await?;
        Ok(Self { worker, broker, tools })
    }

    pub fn worker_pid(&self) -> u32 {
        self.worker.pid()
    }

    /// Fills the topic.
    pub async fn produce(&self, records: u64, bytes: usize) -> Result<()> {
        let (server, records, bytes) = (self.bootstrap(), records.to_string(), bytes.to_string());
        self.tool("TopicCommand", &["--create", "--topic", TOPIC, "--partitions", "1", "--bootstrap-server", &server])
            .await?;
        let bootstrap = format!("bootstrap.servers={server}");
        let arguments = ["--topic", TOPIC, "--num-records", &records, "--record-size", &bytes, "--throughput", "-1"];
        self.tool("ProducerPerformance", &[&arguments[..], &["--producer-props", &bootstrap, "acks=all"]].concat())
            .await
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

    fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.broker.port)
    }

    async fn tool(&self, class: &str, arguments: &[&str]) -> Result<()> {
        let mut command = tokio::process::Command::new("java");
        command.args(["-Xmx256m", "-cp", &class_path(&self.tools), &format!("org.apache.kafka.tools.{class}")]);
        process::run(command.args(arguments), TOOL_LIMIT).await?.success()?;
        Ok(())
    }
}

async fn start_broker(jars: &Path) -> Result<Server> {
    let (scratch, port, controller) = (Scratch::new("kafka")?, ports::free()?, ports::free()?);
    let config = scratch.path().join("server.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={}\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
         transaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        scratch.path().join("data").display()
    );
    std::fs::write(&config, text)?;
    let mut format = tokio::process::Command::new("java");
    format.args(["-Xmx128m", "-cp", &class_path(jars), "kafka.tools.StorageTool", "format"]);
    format.args(["-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"]).arg(&config);
    process::run(&mut format, TOOL_LIMIT).await?.success()?;
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-cp", &class_path(jars), "kafka.Kafka"]).arg(&config);
    Server::start("kafka", &mut command, port, scratch).await
}

async fn start_worker(jars: &Path, broker_port: u16) -> Result<Server> {
    let (scratch, port) = (Scratch::new("connect")?, ports::free()?);
    let config = scratch.path().join("connect.properties");
    let text = format!(
        "bootstrap.servers=127.0.0.1:{broker_port}\ngroup.id=bench\n\
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
