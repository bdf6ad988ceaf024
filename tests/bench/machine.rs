//! On what it was measured.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use tests::scratch::Scratch;

use crate::sampled::median;

/// Syncs that are timed.
const SYNCS: usize = 40;
/// About one small group of records.
const SYNC_BYTES: usize = 4096;

pub struct Machine {
    pub cores: usize,
    pub model: String,
    pub memory_gib: f64,
    pub kernel: String,
    /// One, five and fifteen minutes.
    pub load: String,
    pub sync_ms: f64,
}

impl Machine {
    pub fn look() -> Result<Self> {
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
        let load = std::fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            model: field(&cpu, "model name").unwrap_or_else(|| "unknown CPU".to_owned()),
            memory_gib: kib.context("no MemTotal")? / f64::from(1 << 20),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
            sync_ms: sync_ms()?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores ({}), {:.0} GiB, Linux {}, one sync of {SYNC_BYTES} appended bytes {:.2} ms",
            self.cores, self.model, self.memory_gib, self.kernel, self.sync_ms
        )
    }
}

/// What an append and its sync take where the servers keep their data.
fn sync_ms() -> Result<f64> {
    let mut scratch = Scratch::new("sync")?;
    let mut file = OpenOptions::new().create(true).append(true).open(scratch.path().join("file"))?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&[7; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    scratch.passed();
    Ok(median(&times))
}
