//! CPU time of processes, from outside.

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc`: 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process with all its threads and the children it has waited for, in seconds.
pub fn seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    seconds_of(&stat).with_context(|| format!("/proc/{pid}/stat: {stat}"))
}

/// The same for several.
pub fn seconds_of_all(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| seconds(*pid)).sum()
}

/// Largest resident memory the process ever had, in bytes.
pub fn peak_resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("no {field}"))?;
    let kib: u64 = line.split_whitespace().nth(1).with_context(|| format!("no number in {line}"))?.parse()?;
    Ok(kib * 1024)
}

fn seconds_of(stat: &str) -> Option<f64> {
    // The name may hold spaces and parentheses; what follows its end is regular, the state first.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: Option<f64> = fields.get(11..15)?.iter().map(|field| field.parse::<f64>().ok()).sum();
    Some(ticks? / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_confuses_nobody() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194560 5 6 7 8 150 50 20 30 20 0 3 0 100 1 2";
        assert_eq!(seconds_of(stat), Some(2.5));
    }

    #[test]
    fn this_process_has_used_some_memory() {
        let pid = std::process::id();
        assert!(peak_resident_bytes(pid).unwrap() >= resident_bytes(pid).unwrap() / 2);
    }
}
