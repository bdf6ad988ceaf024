//! `sluice bench …`: the load generators of the benchmarks. Each drives one thing from outside, over the protocol that
//! its users speak, and prints one line of JSON; `make bench` runs them beside other products.
//!
//! ```text
//! publish   ─MQTT──▶ any broker         rate, time to the acknowledgement
//! idle      ─MQTT──▶ any broker         holds connections that do nothing
//! follow    ◀─lines─ a file             time from the publish to the line, by the stamp in the payload
//! metadata  ─HTTP/2─▶ a node, or etcd   replicated writes, linearizable reads
//! ```

mod client;
mod etcd;
mod follow;
mod idle;
mod latencies;
mod metadata;
mod packets;
mod publish;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

pub use follow::FollowOptions;
pub use idle::IdleOptions;
pub use metadata::MetadataOptions;
pub use publish::PublishOptions;

#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Publish at QoS 1 as fast as acknowledgements come, or at a rate.
    Publish(PublishOptions),
    /// Hold connections that do nothing until standard input ends.
    Idle(IdleOptions),
    /// Measure how long ago the lines that appear in a file were published.
    Follow(FollowOptions),
    /// Replicated writes or linearizable reads of the metadata service, or of an etcd.
    Metadata(MetadataOptions),
}

/// Which broker, and as whom.
#[derive(Clone, Debug, Args)]
pub struct BrokerArgs {
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    #[arg(long, default_value_t = 1883)]
    pub port: u16,
    #[arg(long, requires = "password")]
    pub user: Option<String>,
    #[arg(long, requires = "user")]
    pub password: Option<String>,
    /// MQTT 5 instead of 3.1.1.
    #[arg(long)]
    pub v5: bool,
    /// Client ids are this and a number.
    #[arg(long, default_value = "bench")]
    pub client_id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("the broker refused the connection with code {0}")]
    Refused(u8),
    #[error("the broker ended a connection")]
    Ended,
    #[error("a packet that nobody expected: type and flags {0:#04x}")]
    Unexpected(u8),
    #[error("acknowledgement of {found} where {expected} was due")]
    Order { expected: u16, found: u16 },
    #[error("publish {id} was refused with reason {reason:#04x}")]
    PublishRefused { id: u16, reason: u8 },
    #[error("{0} publishes were not acknowledged in time")]
    Unacknowledged(u64),
    #[error("a payload needs at least {0} bytes")]
    PayloadTooSmall(usize),
    #[error("a request failed")]
    Request(#[source] reqwest::Error),
    #[error("answered with {0}")]
    Answer(String),
    #[error("a write failed")]
    Write(#[source] meta_service::load::LoadError),
    #[error("a thread of the generator ended without a result")]
    Thread,
}

impl BenchError {
    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Runs one generator and prints what it measured.
pub fn run(command: &BenchCommand) -> Result<ExitCode, BenchError> {
    allow_many_sockets();
    let measured = match command {
        BenchCommand::Publish(options) => publish::run(options)?,
        BenchCommand::Idle(options) => idle::run(options)?,
        BenchCommand::Follow(options) => follow::run(options)?,
        BenchCommand::Metadata(options) => metadata::run(options)?,
    };
    print(&measured)?;
    Ok(ExitCode::SUCCESS)
}

fn print(value: &Value) -> Result<(), BenchError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{value}").and_then(|()| stdout.flush()).map_err(BenchError::io("print the result"))
}

/// Thousands of connections need as many file descriptors; as many as this user may have.
fn allow_many_sockets() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // With fewer of them the connections say so themselves.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// CPU time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A runtime for one thread: the generator must leave the other core to whom it measures.
fn runtime() -> Result<tokio::runtime::Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("start the runtime"))
}
