//! What Kafka's own tool says of the batches in a log.

use std::collections::BTreeMap;
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

/// The files of the partitions of these topics.
pub(super) fn segments(data: &Path, topics: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(data).with_context(|| data.display().to_string())? {
        let folder = entry?;
        if !topic_of(&folder.path()).is_some_and(|topic| topics.contains(&topic.as_str())) {
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

/// Of the folder `topic-number`.
fn topic_of(folder: &Path) -> Option<String> {
    let (topic, number) = folder.file_name()?.to_str()?.rsplit_once('-')?;
    number.parse::<u32>().is_ok().then(|| topic.to_owned())
}

/// By topic. `Dumping …/topic-0/00000000000000000000.log` begins a file; each of its batches has a line
/// `baseOffset: 0 lastOffset: 3 count: 4 … compresscodec: gzip …`.
pub(super) fn parse(dump: &str) -> Result<BTreeMap<String, Vec<Batch>>> {
    let mut batches: BTreeMap<String, Vec<Batch>> = BTreeMap::new();
    let mut topic = None;
    for line in dump.lines() {
        if let Some(file) = line.strip_prefix("Dumping ") {
            topic = Path::new(file).parent().and_then(topic_of);
        } else if line.starts_with("baseOffset:") {
            let topic = topic.clone().with_context(|| format!("of no topic: {line}"))?;
            batches.entry(topic).or_default().push(of_line(line).with_context(|| line.to_owned())?);
        }
    }
    Ok(batches)
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
