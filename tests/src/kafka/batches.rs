//! What Kafka's own tool says of the batches in a log.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub records: u64,
    pub bytes: u64,
    /// `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub codec: String,
    /// -1 where the producer is not idempotent.
    pub producer_id: i64,
}

/// The files of a topic's partitions.
pub(super) fn segments(data: &Path, topic: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data).with_context(|| data.display().to_string())? {
        let folder = entry?;
        let name = folder.file_name().to_string_lossy().into_owned();
        let is_partition =
            name.rsplit_once('-').is_some_and(|(of, number)| of == topic && number.parse::<u32>().is_ok());
        if !is_partition {
            continue;
        }
        for file in std::fs::read_dir(folder.path())? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// One line for each: `baseOffset: 0 lastOffset: 3 count: 4 … compresscodec: gzip …`.
pub(super) fn parse(dump: &str) -> Result<Vec<Batch>> {
    dump.lines()
        .filter(|line| line.starts_with("baseOffset:"))
        .map(|line| of_line(line).with_context(|| line.to_owned()))
        .collect()
}

fn of_line(line: &str) -> Result<Batch> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let value = |name: &str| -> Result<&str> {
        let at = words.iter().position(|word| *word == format!("{name}:")).with_context(|| format!("no {name}"))?;
        words.get(at + 1).copied().with_context(|| format!("no value of {name}"))
    };
    Ok(Batch {
        records: value("count")?.parse()?,
        bytes: value("size")?.parse()?,
        codec: value("compresscodec")?.to_lowercase(),
        producer_id: value("producerId")?.parse()?,
    })
}
