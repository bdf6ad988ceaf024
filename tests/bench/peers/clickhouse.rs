//! ClickHouse's own client, which inserts what stands in a file.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::clickhouse::{ClickHouse, DATABASE, PASSWORD, USER};
use tests::process;

const LIMIT: Duration = Duration::from_secs(120);

/// Writes the rows of a table into a file, a line each, as the HTTP interface takes them as well.
pub async fn export(server: &ClickHouse, table: &str, file: &Path) -> Result<()> {
    let query = format!("SELECT * FROM {DATABASE}.{table} INTO OUTFILE '{}' FORMAT TabSeparated", file.display());
    process::run(client(server).args(["--query", &query]), LIMIT).await?.success().map(drop)
}

/// One statement for all rows, so many in each block, which the server makes a part of; gives the seconds it took.
pub async fn insert(server: &ClickHouse, table: &str, file: &Path, each: usize) -> Result<f64> {
    let rows = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut client = client(server);
    client.args(["--query", &format!("INSERT INTO {DATABASE}.{table} FORMAT TabSeparated")]);
    // What the client sends as a block, and below what the server puts blocks together.
    client.arg(format!("--max_insert_block_size={each}")).arg(format!("--min_insert_block_size_rows={each}"));
    let began = Instant::now();
    process::run_with_input(&mut client, rows, LIMIT).await?.success()?;
    Ok(began.elapsed().as_secs_f64())
}

fn client(server: &ClickHouse) -> tokio::process::Command {
    let mut client = tokio::process::Command::new("clickhouse-client");
    client.args(["--host", "127.0.0.1", "--port", &server.native_port().to_string()]);
    client.args(["--user", USER, "--password", PASSWORD]);
    client
}
