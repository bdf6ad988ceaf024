//! Kafka: one broker, and the tools that come with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ::tests::jars::{self, class_path};
use ::tests::process::Finished;
use ::tests::scratch::Scratch;
use ::tests::{ports, process};
use anyhow::{Context, Result};

use super::Server;

const TOOL_LIMIT: Duration = Duration::from_secs(120);

pub struct Kafka {
    broker: Server,
    jars: PathBuf,
}

impl Kafka {
    /// Nobody makes a topic by asking for it.
    pub async fn start() -> Result<Self> {
        let jars = jars::folder(jars::KAFKA)?;
        let broker = start_broker(&jars).await?;
        Ok(Self { broker, jars })
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.broker.port)
    }

    /// With one partition.
    pub async fn create_topic(&self, topic: &str) -> Result<()> {
        self.tool("TopicCommand", &["--create", "--topic", topic, "--partitions", "1"]).await.map(drop)
    }

    /// `kafka-producer-perf-test`, with these properties of the producer; gives messages per second, as it says itself.
    pub async fn produce(&self, topic: &str, records: u64, bytes: usize, properties: &[&str]) -> Result<f64> {
        let (records, bytes, bootstrap) =
            (records.to_string(), bytes.to_string(), format!("bootstrap.servers={}", self.bootstrap()));
        let much = ["--topic", topic, "--num-records", &records, "--record-size", &bytes, "--throughput", "-1"];
        let producer = [&["--producer-props", bootstrap.as_str()], properties].concat();
        let said = self.run("ProducerPerformance", &[&much[..], &producer].concat()).await?.stdout;
        rate(&said).with_context(|| format!("no rate in {said}"))
    }

    /// Messages in a topic.
    pub async fn count(&self, topic: &str) -> Result<u64> {
        let said = self.tool("GetOffsetShell", &["--topic", topic]).await?.stdout;
        let offset = said.lines().find_map(|line| line.strip_prefix(topic)?.rsplit(':').next()?.parse().ok());
        offset.with_context(|| format!("no offset in {said}"))
    }

    async fn tool(&self, class: &str, arguments: &[&str]) -> Result<Finished> {
        self.run(class, &[arguments, &["--bootstrap-server", &self.bootstrap()]].concat()).await
    }

    async fn run(&self, class: &str, arguments: &[&str]) -> Result<Finished> {
        let mut command = tokio::process::Command::new("java");
        command.args(["-Xmx256m", "-cp", &class_path(&self.jars), &format!("org.apache.kafka.tools.{class}")]);
        process::run(command.args(arguments), TOOL_LIMIT).await?.success()
    }
}

/// Of the last line: `200000 records sent, 123456.7 records/sec (30.1 MB/sec), …`.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().rfind(|line| line.contains(" records sent, "))?;
    line.split(" records sent, ").nth(1)?.split(' ').next()?.parse().ok()
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
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_line() {
        let said = "50001 records sent, 10000.2 records/sec (2.44 MB/sec), 1.0 ms avg latency\n\
                    200000 records sent, 123456.790000 records/sec (30.14 MB/sec), 2.34 ms avg latency, 5 ms 50th.\n";
        assert_eq!(rate(said), Some(123_456.79));
        assert_eq!(rate("nothing"), None);
    }
}
