//! `sluice bench metadata`: clients that each have one request under way, over HTTP/2. The same client and the same
//! loop drive a node and an etcd, so that both pay the same for it.
//!
//! | operation | a node | an etcd |
//! |---|---|---|
//! | write | an entry proposed over the node RPC | `KV/Put` over gRPC |
//! | read | `GET` of one connector's row | `KV/Range` over gRPC |
//!
//! Both are replicated and synced by a majority before they are answered, or linearizable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use meta_service::load::Writer;
use serde_json::{Value, json};

use super::latencies::Latencies;
use super::{BenchError, cpu_seconds, etcd};

/// Requests of one HTTP/2 connection at once; a server of ours takes 200.
const CLIENTS_PER_CONNECTION: usize = 64;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The name of the row that is read: it need not be there.
const NAME: &str = "bench";
const THREADS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    Write,
    Read,
}

#[derive(Clone, Debug, Args)]
pub struct MetadataOptions {
    /// Host and port: of the node RPC for writes, of the API for reads, of the client port of an etcd.
    #[arg(long)]
    pub address: String,
    #[arg(long, value_enum)]
    pub operation: Operation,
    /// The address is that of an etcd.
    #[arg(long)]
    pub etcd: bool,
    /// Requests under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub clients: u32,
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds of load before the measurement.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// Of each write.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub value_bytes: u32,
    /// `cluster.secret`.
    #[arg(long, env = "SLUICE_CLUSTER_SECRET", hide_env_values = true)]
    pub secret: Option<String>,
}

pub(super) fn run(options: &MetadataOptions) -> Result<Value, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(BenchError::io("start the runtime"))?;
    let began = cpu_seconds();
    let latencies = runtime.block_on(load(options))?;
    Ok(json!({
        "clients": options.clients,
        "requests": latencies.count(),
        "per_second": latencies.count() as f64 / options.seconds,
        "latency_ms": latencies.summary(),
        "cpu_seconds": cpu_seconds() - began,
    }))
}

async fn load(options: &MetadataOptions) -> Result<Latencies, BenchError> {
    let clients = options.clients as usize;
    let targets = (0..clients.div_ceil(CLIENTS_PER_CONNECTION))
        .map(|_| Target::new(options).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let from = Instant::now() + Duration::from_secs_f64(options.warm_up);
    let until = from + Duration::from_secs_f64(options.seconds);
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let target = targets[client % targets.len()].clone();
            tokio::spawn(async move {
                let mut latencies = Latencies::default();
                loop {
                    let sent = Instant::now();
                    if sent >= until {
                        return Ok(latencies);
                    }
                    target.ask().await?;
                    let answered = Instant::now();
                    if answered >= from && answered < until {
                        latencies.add(answered - sent);
                    }
                }
            })
        })
        .collect();
    let mut all = Latencies::default();
    for task in tasks {
        all.merge(&task.await.map_err(|_| BenchError::Thread)??);
    }
    Ok(all)
}

/// Whom one connection speaks to, and what it asks.
enum Target {
    Write { writer: Writer, bytes: usize },
    Get { http: reqwest::Client, url: String },
    Etcd { http: reqwest::Client, url: String, body: Vec<u8> },
}

impl Target {
    fn new(options: &MetadataOptions) -> Result<Self, BenchError> {
        let bytes = options.value_bytes as usize;
        let (address, secret) = (&options.address, options.secret.as_deref());
        let grpc = |path: &str, body| Ok(Self::Etcd { http: http()?, url: format!("http://{address}{path}"), body });
        match (options.etcd, options.operation) {
            (false, Operation::Write) => {
                let writer = Writer::new(address, secret).map_err(BenchError::Write)?;
                Ok(Self::Write { writer, bytes })
            }
            (false, Operation::Read) => {
                let url = format!("http://{address}/api/mqtt/connector/list?connector_name={NAME}");
                Ok(Self::Get { http: http()?, url })
            }
            (true, Operation::Write) => grpc(etcd::PUT, etcd::put(NAME, &vec![b'-'; bytes])),
            (true, Operation::Read) => grpc(etcd::RANGE, etcd::range(NAME)),
        }
    }

    async fn ask(&self) -> Result<(), BenchError> {
        match self {
            Self::Write { writer, bytes } => writer.write(*bytes).await.map_err(BenchError::Write),
            Self::Get { http, url } => {
                let response = http.get(url).send().await.map_err(BenchError::Request)?;
                let (status, body) = (response.status(), response.bytes().await.map_err(BenchError::Request)?);
                if status == reqwest::StatusCode::OK {
                    return Ok(());
                }
                Err(BenchError::Answer(format!("{status}: {}", String::from_utf8_lossy(&body))))
            }
            Self::Etcd { http, url, body } => {
                let request = http.post(url).header("content-type", etcd::CONTENT_TYPE).header("te", "trailers");
                let response = request.body(body.clone()).send().await.map_err(BenchError::Request)?;
                let status = response.status();
                let body = response.bytes().await.map_err(BenchError::Request)?;
                if status == reqwest::StatusCode::OK && etcd::is_answer(&body) {
                    return Ok(());
                }
                Err(BenchError::Answer(format!("{status} without a message")))
            }
        }
    }
}

fn http() -> Result<reqwest::Client, BenchError> {
    // A second provider is refused, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .http2_prior_knowledge()
        .http2_adaptive_window(true)
        .timeout(REQUEST_TIMEOUT)
        .tcp_nodelay(true)
        .no_proxy()
        .build()
        .map_err(BenchError::Request)
}
