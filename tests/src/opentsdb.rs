//! OpenTSDB as a target, over the HBase that holds its points; curl says what is in it.
//!
//! ```text
//!   sluice ──▶ TSD 0 (/api/put) ──▶ tables of its own ─┐
//!   sluice ──▶ TSD 1 (/api/put) ──▶ tables of its own ─┴─ HBase with its ZooKeeper, in files of the scratch folder
//!   tests  ──curl──▶ TSD (/api/query)
//! ```
//!
//! Inside one TSD nothing keeps users apart: who wants a place of his own gets a TSD.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::jars;
use crate::process::{self, Process};
use crate::scratch::Scratch;
use crate::victoria::Series;
use crate::{cache, ports, wait};

const START_LIMIT: Duration = Duration::from_secs(180);
const QUERY_LIMIT: Duration = Duration::from_secs(60);
/// Of a URL that asks for points: a TSD takes 4,096 characters.
const QUERY_CHARS_MAX: usize = 3_000;
/// Times of points that are asked for: those of the tests, and of now.
const TIMES: &str = "start=1600000000000&end=4102444800000&ms=true";

const HBASE: &str = "hbase-2.4.18";
const OPENTSDB: &str = "opentsdb-2.4.1";

pub struct OpenTsdb {
    tsds: Vec<Tsd>,
    hbase: Process,
    scratch: Scratch,
}

struct Tsd {
    process: Process,
    port: u16,
}

impl OpenTsdb {
    pub async fn start() -> Result<Self> {
        Self::with_tsds(1).await
    }

    pub async fn with_tsds(count: usize) -> Result<Self> {
        let scratch = Scratch::new("opentsdb")?;
        let folder = scratch.path();
        let zookeeper = ports::free()?;
        let free = (0..count).map(|_| ports::free()).collect::<Result<Vec<u16>>>()?;
        configure_hbase(folder, zookeeper)?;
        let hbase = spawn_hbase(folder).await?;
        make_tables(folder, zookeeper, count).await?;
        let mut tsds = Vec::new();
        for (number, port) in free.into_iter().enumerate() {
            configure_tsd(folder, number, port, zookeeper)?;
            tsds.push(Tsd { process: spawn_tsd(folder, number)?, port });
        }
        for tsd in &tsds {
            tsd.ready().await?;
        }
        Ok(Self { tsds, hbase, scratch })
    }

    /// Of the first TSD.
    pub fn url(&self) -> String {
        self.url_of(0)
    }

    pub fn url_of(&self, tsd: usize) -> String {
        self.tsds[tsd].url()
    }

    /// Everything that the first TSD has of a metric.
    pub async fn points(&self, metric: &str, tag: &str, value: &str) -> Result<Vec<(u64, f64)>> {
        let mut found = self.tsds[0].query(&format!("m=none:{metric}%7B{tag}={value}%7D")).await?;
        ensure!(found.len() == 1, "not one series: {found:?}");
        Ok(found.remove(0).points)
    }

    /// Everything that a TSD has, by metric and tags.
    pub async fn series_of(&self, tsd: usize) -> Result<Vec<Series>> {
        let tsd = &self.tsds[tsd];
        let metrics: Vec<String> = serde_json::from_str(&tsd.curl("/api/suggest?type=metrics&max=1000000").await?)?;
        let mut series = Vec::new();
        let mut query = String::new();
        for metric in &metrics {
            if query.len() > QUERY_CHARS_MAX {
                series.extend(tsd.query(&std::mem::take(&mut query)).await?);
            }
            query.push_str(&format!("&m=none:{metric}"));
        }
        if !query.is_empty() {
            series.extend(tsd.query(&query).await?);
        }
        series.sort_by(|a, b| (&a.metric, &a.tags).cmp(&(&b.metric, &b.tags)));
        Ok(series)
    }

    /// Requests to `/api/put` that a TSD has had.
    pub async fn puts_of(&self, tsd: usize) -> Result<u64> {
        let stats: Vec<Value> = serde_json::from_str(&self.tsds[tsd].curl("/api/stats").await?)?;
        let puts = stats.iter().find(|stat| stat["metric"] == "tsd.rpc.received" && stat["tags"]["type"] == "put");
        let puts = puts.and_then(|stat| stat["value"].as_str()?.parse().ok());
        puts.with_context(|| format!("no number of puts: {stats:?}"))
    }

    /// HBase goes away, as by a power cut; the TSDs stay and have nowhere to write to.
    pub fn kill_hbase(&mut self) -> Result<()> {
        self.hbase.kill().map(drop)
    }

    pub async fn start_hbase_again(&mut self) -> Result<()> {
        ensure!(!self.hbase.is_running(), "HBase still runs");
        self.hbase = spawn_hbase(self.scratch.path()).await?;
        Ok(())
    }

    /// The first TSD goes away with whatever it has in memory.
    pub fn kill(&mut self) -> Result<()> {
        self.tsds[0].process.kill().map(drop)
    }

    /// The first TSD, that is.
    pub fn is_running(&mut self) -> bool {
        self.tsds[0].process.is_running()
    }

    pub async fn start_again(&mut self) -> Result<()> {
        let tsd = &mut self.tsds[0];
        ensure!(!tsd.process.is_running(), "the TSD still runs");
        tsd.process = spawn_tsd(self.scratch.path(), 0)?;
        tsd.ready().await
    }

    /// The test passed: the folder may go.
    pub fn finish(mut self) {
        self.scratch.passed();
    }
}

impl Tsd {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn ready(&self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "the TSD answers", async || {
            // Cheaper to ask for than an answer.
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
            self.curl("/api/version").await
        });
        ready.await.map(drop).with_context(|| self.process.log_tail())
    }

    /// The series that parameters `m` ask for.
    async fn query(&self, metrics: &str) -> Result<Vec<Series>> {
        let answer = self.curl(&format!("/api/query?{TIMES}&{metrics}")).await?;
        let found: Vec<Value> = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        found.iter().map(parse_series).collect()
    }

    async fn curl(&self, path: &str) -> Result<String> {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "-f", "-g", &format!("{}{path}", self.url())]);
        Ok(process::run(&mut curl, QUERY_LIMIT).await?.success()?.stdout)
    }
}

/// `{"metric":…,"tags":{…},"dps":{"1700000000000":21.5}}`
fn parse_series(found: &Value) -> Result<Series> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut tags: Vec<(String, String)> = found["tags"]
        .as_object()
        .with_context(|| format!("no tags: {found}"))?
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    tags.sort();
    let mut points = Vec::new();
    for (time, value) in found["dps"].as_object().with_context(|| format!("no points: {found}"))? {
        points.push((time.parse()?, value.as_f64().context("no number")?));
    }
    points.sort_by_key(|(time, _)| *time);
    Ok(Series { metric: text(&found["metric"]), tags, points })
}

fn configure_hbase(folder: &Path, zookeeper: u16) -> Result<()> {
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
        ("hbase.regionserver.handler.count", "5".to_owned()),
        // It would wait for more of them for some seconds.
        ("hbase.master.wait.on.regionservers.mintostart", "1".to_owned()),
        ("hbase.master.wait.on.regionservers.maxtostart", "1".to_owned()),
        ("hbase.master.wait.on.regionservers.interval", "100".to_owned()),
    ];
    let property = |(name, value)| format!("<property><name>{name}</name><value>{value}</value></property>\n");
    let hbase: String = settings.into_iter().map(property).collect();
    for name in ["conf", "static"] {
        std::fs::create_dir(folder.join(name))?;
    }
    std::fs::write(folder.join("conf/hbase-site.xml"), format!("<configuration>\n{hbase}</configuration>\n"))?;
    let log = "log4j.rootLogger=INFO,c\nlog4j.appender.c=org.apache.log4j.ConsoleAppender\n\
               log4j.appender.c.layout=org.apache.log4j.PatternLayout\n\
               log4j.appender.c.layout.ConversionPattern=%d %p %c{1} %m%n\n";
    std::fs::write(folder.join("conf/log4j.properties"), log)?;
    let log = "<configuration><appender name=\"S\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
               <pattern>%d %-5level %logger{20} %msg%n</pattern></encoder></appender>\
               <root level=\"INFO\"><appender-ref ref=\"S\"/></root></configuration>";
    Ok(std::fs::write(folder.join("conf/logback.xml"), log)?)
}

fn configure_tsd(folder: &Path, number: usize, port: u16, zookeeper: u16) -> Result<()> {
    let cache = folder.join(format!("cache-{number}"));
    std::fs::create_dir(&cache)?;
    let (at, cache) = (folder.display(), cache.display());
    let settings = format!(
        "tsd.network.port = {port}\n\
         tsd.network.bind = 127.0.0.1\n\
         tsd.http.staticroot = {at}/static\n\
         tsd.http.cachedir = {cache}\n\
         tsd.core.auto_create_metrics = true\n\
         tsd.storage.hbase.zk_quorum = 127.0.0.1:{zookeeper}\n\
         tsd.storage.hbase.data_table = tsdb-{number}\n\
         tsd.storage.hbase.uid_table = tsdb-uid-{number}\n\
         tsd.storage.fix_duplicates = true\n\
         hbase.rpcs.buffered_flush_interval = 50\n"
    );
    Ok(std::fs::write(settings_of(folder, number), settings)?)
}

fn settings_of(folder: &Path, tsd: usize) -> PathBuf {
    folder.join(format!("conf/opentsdb-{tsd}.conf"))
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
    let mut command = java(folder, &cache::readable(&jars::folder(HBASE)?, folder)?, "-Xmx512m");
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

/// For each TSD its own.
async fn make_tables(folder: &Path, zookeeper: u16, tsds: usize) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/OpentsdbTables.java");
    let mut command = java(folder, &cache::readable(&jars::folder(HBASE)?, folder)?, "-Xmx256m");
    command.args(openings()).arg(source).arg(zookeeper.to_string()).arg(tsds.to_string());
    let mut command = tokio::process::Command::from(command);
    process::run(&mut command, START_LIMIT).await?.success()?;
    Ok(())
}

fn spawn_tsd(folder: &Path, number: usize) -> Result<Process> {
    let mut command = java(folder, &cache::readable(&jars::folder(OPENTSDB)?, folder)?, "-Xmx256m");
    command.arg("net.opentsdb.tools.TSDMain").arg(format!("--config={}", settings_of(folder, number).display()));
    let log = folder.join(format!("tsd-{number}.log"));
    Process::spawn_unprivileged(&format!("tsd-{number}"), &mut command, &log, folder)
}
