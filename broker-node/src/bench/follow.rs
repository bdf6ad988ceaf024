//! `sluice bench follow`: the lines that appear in a file, and how long ago each was published.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};

use super::latencies::Latencies;
use super::{BenchError, packets, print};

/// How often the file is looked at: what a latency may be told too long.
const LOOK: Duration = Duration::from_micros(500);

#[derive(Clone, Debug, Args)]
pub struct FollowOptions {
    /// May be made later.
    #[arg(long)]
    pub file: PathBuf,
    /// Lines that are passed over first.
    #[arg(long, default_value_t = 0)]
    pub skip: u64,
    /// Ends after so many lines that carry a stamp.
    #[arg(long)]
    pub lines: u64,
    /// Ends after so many seconds, whatever came.
    #[arg(long, default_value_t = 60.0)]
    pub seconds: f64,
}

/// Times are of the wall clock, for publisher and follower may be two processes: they must run on one machine.
pub(super) fn run(options: &FollowOptions) -> Result<Value, BenchError> {
    let ends = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut latencies = Latencies::default();
    let mut file = None;
    let mut line = Vec::new();
    let mut skip = options.skip;
    print(&json!({ "following": options.file }))?;
    while latencies.count() < options.lines && Instant::now() < ends {
        let Some(reader) = &mut file else {
            file = open(options)?;
            if file.is_none() {
                std::thread::sleep(LOOK);
            }
            continue;
        };
        let count = reader.read_until(b'\n', &mut line).map_err(BenchError::io("read the file"))?;
        if !line.ends_with(b"\n") {
            // The rest of the line comes later.
            if count == 0 {
                std::thread::sleep(LOOK);
            }
            continue;
        }
        if skip > 0 {
            skip -= 1;
        } else if let Some(sent_us) = std::str::from_utf8(&line).ok().and_then(packets::sent_us) {
            latencies.add(since(sent_us));
        }
        line.clear();
    }
    Ok(json!({ "lines": latencies.count(), "latency_ms": latencies.summary() }))
}

fn open(options: &FollowOptions) -> Result<Option<BufReader<File>>, BenchError> {
    match File::open(&options.file) {
        Ok(file) => Ok(Some(BufReader::with_capacity(1 << 20, file))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BenchError::io("open the file")(error)),
    }
}

fn since(sent_us: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_micros(sent_us))
}
