//! Lines of a file, beside a loop that appends and syncs.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use tests::scratch::Scratch;

use super::Target;

/// As of one batch by default.
const LINES_PER_SYNC: usize = 5_000;

pub struct File {
    scratch: Scratch,
}

impl File {
    fn path(&self, place: &str) -> PathBuf {
        self.scratch.path().join(place)
    }
}

impl Target for File {
    const KIND: &'static str = "file";
    const WRITES: &'static str = "envelopes, a line each";
    const TOOLS: &'static [&'static str] = &["a loop that writes 5,000 lines and syncs"];
    const NOTE: &'static str = "The loop has the same bytes in memory, made before. Sluice reads each record from its \
        queue, writes the envelope, syncs the file for each batch of 5,000, and then its own note that the batch is \
        delivered.";
    const RECORDS: u64 = 500_000;

    async fn start() -> Result<Self> {
        let mut scratch = Scratch::new("lines")?;
        scratch.passed();
        Ok(Self { scratch })
    }

    fn settings(&self) -> Vec<String> {
        vec![format!("connectors.file_roots=[\"{}\"]", self.scratch.path().display())]
    }

    fn config(&self, place: &str) -> Value {
        json!({ "local_file_path": self.path(place) })
    }

    /// A folder of this name is in the way.
    async fn hold(&mut self, place: &str) -> Result<()> {
        Ok(std::fs::create_dir(self.path(place))?)
    }

    async fn make(&mut self, place: &str) -> Result<()> {
        let path = self.path(place);
        if path.is_dir() {
            std::fs::remove_dir(path)?;
        }
        Ok(())
    }

    async fn count(&self, place: &str) -> Result<Option<u64>> {
        let lines = BufReader::new(std::fs::File::open(self.path(place))?).split(b'\n');
        Ok(Some(lines.count() as u64))
    }

    async fn write(&self, _: usize, from: &str, place: &str) -> Result<f64> {
        let (bytes, path) = (std::fs::read(self.path(from))?, self.path(place));
        let took = tokio::task::spawn_blocking(move || {
            let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let batches: Vec<Vec<u8>> = lines.chunks(LINES_PER_SYNC).map(<[&[u8]]>::concat).collect();
            let began = Instant::now();
            let mut file = std::fs::File::create(path)?;
            for batch in batches {
                file.write_all(&batch)?;
                file.sync_data()?;
            }
            anyhow::Ok(began.elapsed().as_secs_f64())
        });
        took.await?
    }

    async fn forget(&mut self, place: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.path(place))?)
    }
}
