//! `sluice bench idle`: connections that say CONNECT and nothing more.

use std::io::Read;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::{BenchError, BrokerArgs, print, runtime};

#[derive(Clone, Debug, Args)]
pub struct IdleOptions {
    #[command(flatten)]
    pub broker: BrokerArgs,
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub connections: u32,
}

/// Says when all are connected, and once more when standard input has ended and they are gone.
pub(super) fn run(options: &IdleOptions) -> Result<Value, BenchError> {
    let runtime = runtime()?;
    let began = Instant::now();
    let clients = runtime.block_on(async {
        let mut clients = Vec::new();
        for number in 0..options.connections {
            clients.push(Client::connect(&options.broker, number as usize).await?);
        }
        Ok::<_, BenchError>(clients)
    })?;
    print(&json!({ "connected": clients.len(), "seconds": began.elapsed().as_secs_f64() }))?;
    // Nothing is expected but the end.
    std::io::stdin().lock().read_to_end(&mut Vec::new()).map_err(BenchError::io("read standard input"))?;
    let count = clients.len();
    runtime.block_on(async {
        for client in clients {
            // A broker that is gone has ended them already.
            let _ = client.disconnect().await;
        }
    });
    Ok(json!({ "disconnected": count }))
}
