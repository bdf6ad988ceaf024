//! Rows of MariaDB, beside a loop of statements of many rows and its own `LOAD DATA`.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use tests::mariadb::{MariaDb, MariaDbOptions};

use super::Target;
use crate::bare::statements;

const ROWS_PER_BATCH: usize = 5_000;
const COLUMNS: [&str; 3] =
    ["record_key VARCHAR(512) NOT NULL", "payload LONGTEXT NOT NULL", "timestamp BIGINT NOT NULL"];

pub struct Mysql {
    server: MariaDb,
}

impl Target for Mysql {
    const KIND: &'static str = "mysql";
    const WRITES: &'static str = "rows of three columns, MariaDB";
    const TOOLS: &'static [&'static str] = &["`INSERT` of 5,000 rows each, in a loop", "`LOAD DATA` of all rows"];
    const NOTE: &'static str = "`enable_batch_insert`, `batch_size` 5 000, `innodb_flush_log_at_trx_commit` 1, no index. \
        The others are `mariadb` with the same rows from a file; a statement is a transaction, and `LOAD DATA`, whose \
        file the server reads itself, is one for all.";
    const RECORDS: u64 = 200_000;

    async fn start() -> Result<Self> {
        let settings = [
            ("innodb_flush_log_at_trx_commit", "1"),
            ("innodb_log_file_size", "512M"),
            ("innodb_buffer_pool_size", "512M"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let server = MariaDb::with(MariaDbOptions { settings, ..MariaDbOptions::default() }).await?;
        Ok(Self { server })
    }

    fn config(&self, place: &str) -> Value {
        self.server.config(&json!({ "table": place, "enable_batch_insert": true, "batch_size": ROWS_PER_BATCH }))
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        self.server.sql(&format!("CREATE TABLE {place} ({})", COLUMNS.join(", "))).await.map(drop)
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        self.server.count(place).await.map(Some)
    }

    async fn write(&self, tool: usize, from: &str, place: &str) -> Result<f64> {
        let file = self.server.folder().join(format!("{place}.rows"));
        let (rows, text) = (file.display(), "CHARACTER SET utf8mb4");
        self.server.sql(&format!("SELECT * FROM {from} INTO OUTFILE '{rows}' {text}")).await?;
        let statement = if tool == 0 {
            let copied = std::fs::read_to_string(&file)?;
            let inserts = statements::inserts(place, COLUMNS.len(), &copied, ROWS_PER_BATCH, statements::mysql)?;
            let statements = self.server.folder().join("statements.sql");
            std::fs::write(&statements, inserts)?;
            format!("source {}", statements.display())
        } else {
            format!("LOAD DATA INFILE '{rows}' INTO TABLE {place} {text}")
        };
        let began = Instant::now();
        self.server.sql(&statement).await?;
        let took = began.elapsed().as_secs_f64();
        std::fs::remove_file(&file)?;
        Ok(took)
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        self.server.sql(&format!("DROP TABLE {place}")).await.map(drop)
    }

    fn finish(self) {
        self.server.finish();
    }
}
