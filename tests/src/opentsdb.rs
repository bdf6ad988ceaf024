//! OpenTSDB as a target, over the HBase that holds its points; curl says what is in it.
//!
//! ```text
//!   sluice ──▶ TSD (/api/put) ──▶ HBase with its ZooKeeper, in files of the scratch folder
//!   tests  ──curl──▶ TSD (/api/query)
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::{cache, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(180);
const QUERY_LIMIT: Duration = Duration::from_secs(60);

pub struct OpenTsdb {
    tsd: Process,
    hbase: Process,
    port: u16,
    scratch: Scratch,
}

impl OpenTsdb {
    /// `None`, and says so, where `scripts/setup` could not fetch it.
    pub async fn start() -> Result<Option<Self>> {
        if jars("hbase-2.4.18").is_err() || jars("opentsdb-2.4.1").is_err() {
            eprintln!("not run: OpenTSDB is not here; `scripts/setup all` fetches it with Maven");
            return Ok(None);
        }
        let scratch = Scratch::new("opentsdb")?;
        let (port, zookeeper) = (ports::free()?, ports::free()?);
        configure(scratch.path(), port, zookeeper)?;
        let hbase = spawn_hbase(scratch.path()).await?;
        make_tables(scratch.path(), zookeeper).await?;
        let tsd = spawn_tsd(scratch.path(), port).await?;
        Ok(Some(Self { tsd, hbase, port, scratch }))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The points of a metric with this tag, by time in milliseconds.
    pub async fn points(&self, metric: &str, tag: &str, value: &str) -> Result<Vec<(u64, f64)>> {
        let query = format!("start=1600000000000&end=1800000000000&ms=true&m=none:{metric}%7B{tag}={value}%7D");
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "-g", &format!("{}/api/query?{query}", self.url())]);
        let text = process::run(&mut curl, QUERY_LIMIT).await?.success()?.stdout;
        let series: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let mut points = Vec::new();
        for (time, value) in series[0]["dps"].as_object().with_context(|| text.clone())? {
            points.push((time.parse()?, value.as_f64().context("no number")?));
        }
        points.sort_by_key(|(time, _)| *time);
        Ok(points)
    }

    /// HBase goes away, as by a power cut; the TSD stays and has nowhere to write to.
    pub fn kill_hbase(&mut self) -> Result<()> {
        self.hbase.kill().map(drop)
    }

    pub async fn start_hbase_again(&mut self) -> Result<()> {
        ensure!(!self.hbase.is_running(), "HBase still runs");
        self.hbase = spawn_hbase(self.scratch.path()).await?;
        Ok(())
    }

    /// The TSD goes away with whatever it has in memory.
    pub fn kill(&mut self) -> Result<()> {
        self.tsd.kill().map(drop)
    }

    /// The TSD, that is.
    pub fn is_running(&mut self) -> bool {
        self.tsd.is_running()
    }

    pub async fn start_again(&mut self) -> Result<()> {
        ensure!(!self.tsd.is_running(), "the TSD still runs");
        self.tsd = spawn_tsd(self.scratch.path(), self.port).await?;
        Ok(())
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

fn jars(name: &str) -> Result<PathBuf> {
    let folder = cache::folder()?.join("servers").join(name);
    ensure!(folder.join("complete").exists(), "{} was not fetched", folder.display());
    Ok(folder)
}

fn configure(folder: &Path, port: u16, zookeeper: u16) -> Result<()> {
    let at = folder.display();
    let settings = [
        ("hbase.rootdir", format!("file://{at}/hbase")),
        ("hbase.tmp.dir", format!("{at}/tmp")),
        ("hbase.cluster.distributed", "false".to_owned()),
        ("hbase.unsafe.stream.capability.enforce", "false".to_owned()),
        ("hbase.wal.provider", "filesystem".to_owned()),
        ("hbase.zookeeper.property.dataDir", format!("{at}/zookeeper")),
        ("hbase.zookeeper.property.clientPort", zookeeper.to_string()),
        ("hbase.zookeeper.property.clientPortAddress", "127.0.0.1".to_owned()),
        ("hbase.zookeeper.quorum", "127.0.0.1".to_owned()),
        ("hbase.master.info.port", "-1".to_owned()),
        ("hbase.regionserver.info.port", "-1".to_owned()),
        ("hbase.master.port", "0".to_owned()),
        ("hbase.regionserver.port", "0".to_owned()),
        ("hbase.master.ipc.address", "127.0.0.1".to_owned()),
        ("hbase.regionserver.ipc.address", "127.0.0.1".to_owned()),
        ("hbase.master.hostname", "localhost".to_owned()),
        ("hbase.regionserver.hostname", "localhost".to_owned()),
        ("hbase.master.wait.on.regionservers.mintostart", "1".to_owned()),
        ("hbase.regionserver.handler.count", "5".to_owned()),
    ];
    let property = |(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>\n");
    let hbase: String = settings.into_iter().map(property).collect();
    for name in ["conf", "cache", "static"] {
        std::fs::create_dir(folder.join(name))?;
    }
    std::fs::write(folder.join("conf/hbase-site.xml"), format!("<configuration>\n{hbase}</configuration>\n"))?;
    let log = "log4j.rootLogger=INFO,c\nlog4j.appender.c=org.apache.log4j.ConsoleAppender\n\
               log4j.appender.c.layout=org.apache.log4j.PatternLayout\n\
               log4j.appender.c.layout.ConversionPattern=%d %p %c{1} %m%n\n";
    std::fs::write(folder.join("conf/log4j.properties"), log)?;
    let tsd = format!(
        "tsd.network.port = {port}\ntsd.network.bind = 127.0.0.1\ntsd.http.staticroot = {at}/static\n\
         tsd.http.cachedir = {at}/cache\ntsd.core.auto_create_metrics = true\n\
         tsd.storage.hbase.zk_quorum = 127.0.0.1:{zookeeper}\ntsd.storage.fix_duplicates = true\n"
    );
    std::fs::write(folder.join("conf/opentsdb.conf"), tsd)?;
    let log = "<configuration><appender name=\"S\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
               <pattern>%d %-5level %logger{20} %msg%n</pattern></encoder></appender>\
               <root level=\"INFO\"><appender-ref ref=\"S\"/></root></configuration>";
    Ok(std::fs::write(folder.join("conf/logback.xml"), log)?)
}

/// HBase is older than the walls between the modules of Java.
fn openings() -> Vec<String> {
    let packages = [
        "java.lang",
        "java.lang.reflect",
        "java.nio",
        "java.io",
        "java.util",
        "java.util.concurrent",
        "java.net",
        "sun.nio.ch",
        "jdk.internal.ref",
        "jdk.internal.misc",
    ];
    let open = |package| ["--add-opens", "--add-exports"].map(|how| format!("{how}=java.base/{package}=ALL-UNNAMED"));
    packages.into_iter().flat_map(open).collect()
}

fn java(folder: &Path, jars: &Path, memory: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args([memory, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true"])
        .arg("-cp")
        .arg(format!("{}:{}/*", folder.join("conf").display(), jars.display()));
    command
}

async fn spawn_hbase(folder: &Path) -> Result<Process> {
    let log = folder.join("hbase.log");
    // The same log of an earlier start would look like this one's.
    let _ = std::fs::remove_file(&log);
    let mut command = java(folder, &cache::readable(&jars("hbase-2.4.18")?, folder)?, "-Xmx512m");
    command.args(openings()).args(["org.apache.hadoop.hbase.master.HMaster", "start"]);
    let mut hbase = Process::spawn_unprivileged("hbase", &mut command, &log, folder)?;
    let ready = wait::until(START_LIMIT, "HBase is initialised", async || {
        let is_ready = std::fs::read_to_string(&log)?.contains("Master has completed initialization");
        ensure!(is_ready || !hbase.is_running(), "not yet");
        Ok(is_ready)
    });
    let is_ready = ready.await.with_context(|| process::tail(&log, 40))?;
    ensure!(is_ready, "HBase ended: {}", process::tail(&log, 40));
    Ok(hbase)
}

async fn make_tables(folder: &Path, zookeeper: u16) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/OpentsdbTables.java");
    let mut command = java(folder, &cache::readable(&jars("hbase-2.4.18")?, folder)?, "-Xmx256m");
    command.args(openings()).arg(source).arg(zookeeper.to_string());
    let mut command = tokio::process::Command::from(command);
    process::run(&mut command, START_LIMIT).await?.success()?;
    Ok(())
}

async fn spawn_tsd(folder: &Path, port: u16) -> Result<Process> {
    let mut command = java(folder, &cache::readable(&jars("opentsdb-2.4.1")?, folder)?, "-Xmx256m");
    command.arg("net.opentsdb.tools.TSDMain").arg(format!("--config={}", folder.join("conf/opentsdb.conf").display()));
    let tsd = Process::spawn_unprivileged("tsd", &mut command, &folder.join("tsd.log"), folder)?;
    let ready = wait::until(START_LIMIT, "the TSD answers", async || {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "-o", "/dev/null", &format!("http://127.0.0.1:{port}/api/version")]);
        process::run(&mut curl, QUERY_LIMIT).await?.success()
    });
    ready.await.with_context(|| tsd.log_tail())?;
    Ok(tsd)
}
