//! `sluice demo`: the main job, once, before one's eyes. It is a client like any other: it starts three
//! `sluice server` processes and talks to them over MQTT and HTTP only.
//!
//! ```text
//!   start 3 nodes ─▶ create file + webhook ─▶ publish … half ─▶ SIGKILL owner ─▶ new owner delivers ─▶ … all
//!        ─▶ what waits on the dead node's disk ─▶ start it again ─▶ nothing waits ─▶ table
//! ```

mod children;
mod client;
mod publish;
mod story;
mod table;
mod targets;

use std::process::ExitCode;
use std::time::Duration;

/// Messages of one run: enough that the kill falls into the middle of the traffic.
const MESSAGES: u64 = 20_000;
const NODES: usize = 3;

#[derive(Clone, Debug, clap::Args)]
pub struct DemoOptions {
    /// Leave the three nodes running afterwards, until Ctrl-C, with addresses and commands to try.
    #[arg(long)]
    pub keep: bool,
    /// How many messages to publish.
    #[arg(long, default_value_t = MESSAGES, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub messages: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error("HTTP client")]
    Client(#[from] reqwest::Error),
    #[error("{request} was answered with {status}: {message}")]
    Refused { request: String, status: u16, message: String },
    #[error("{name} ended by itself; the end of its log:\n{log}")]
    NodeEnded { name: String, log: String },
    #[error("{what} took longer than {limit:?}: {missing}")]
    TooLong { what: String, limit: Duration, missing: String },
    #[error("a publisher ended without reason")]
    Publisher,
}

impl DemoError {
    fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Runs the demo. The exit code is 0 only when nothing was lost and nothing is pending.
pub async fn run(options: DemoOptions) -> Result<ExitCode, DemoError> {
    // A second provider is refused, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut story = story::Story::begin(&options).await?;
    let outcome = match story.tell().await {
        Ok(outcome) => outcome,
        Err(error) => {
            story.keep_folder();
            return Err(error);
        }
    };
    print!("{}", table::render(&outcome));
    if options.keep {
        story.stay().await?;
    }
    story.end().await?;
    Ok(if outcome.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks until the answer is yes. `Err(text)` says what is still missing.
async fn until<T, F>(what: &str, limit: Duration, mut probe: F) -> Result<T, DemoError>
where
    F: AsyncFnMut() -> Result<Result<T, String>, DemoError>,
{
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let ends = tokio::time::Instant::now() + limit;
    loop {
        ticks.tick().await;
        match probe().await? {
            Ok(value) => return Ok(value),
            Err(missing) if tokio::time::Instant::now() >= ends => {
                return Err(DemoError::TooLong { what: what.to_owned(), limit, missing });
            }
            Err(_) => {}
        }
    }
}
