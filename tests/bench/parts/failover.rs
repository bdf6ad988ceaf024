//! How long nobody delivers when a node is killed or stopped, and what is delivered twice.
//!
//! ```text
//! publishers ─▶ three nodes ─▶ six file connectors, two on each node ─▶ one file each
//! SIGKILL or SIGTERM ─▶ the watched file does not grow … ─▶ its first new line
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::tests::cluster::Cluster;
use ::tests::publisher::{Publisher, PublisherOptions};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::interval;

use crate::Effort;
use crate::sampled::{median, worst};
use crate::table::{Aim, Table, number};

pub const KILLS: usize = 20;
const CONNECTORS: usize = 6;
/// Of each of three publishers: a new line every few milliseconds when all is well.
const PER_SECOND: u64 = 100;
/// More than a run takes.
const MESSAGES: u64 = 200_000;
const LOOK: Duration = Duration::from_millis(5);
/// A gap that is longer is a failure of the run.
const GAP_LIMIT: Duration = Duration::from_secs(60);
/// Within this a gap must have begun that is caused by what was done to a node.
const WATCH: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(120);
/// Read again before a gap to find what comes twice: more than a second of lines, and less than since the last trial.
const TAIL_BYTES: u64 = 128 << 10;
const AIM_MEDIAN_S: f64 = 4.0;
const AIM_WORST_S: f64 = 5.0;
const AIM_STOP_S: f64 = 0.7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The owner of the watched connector, which does not lead.
    Owner,
    /// The leader, which does not own it.
    Leader,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

#[derive(Default)]
struct Rounds {
    gap_s: Vec<f64>,
    twice: Vec<f64>,
}

pub async fn measure(effort: Effort) -> Result<Vec<Table>> {
    let mut cluster = Cluster::start().await?;
    let mut files = Vec::new();
    for number in 0..CONNECTORS {
        let (connector, path) = cluster.file_connector(&format!("watched_{number}"), "failover/#");
        cluster.create_running(number % 3, &connector).await?;
        files.push((format!("watched_{number}"), path));
    }
    let publishers: Vec<Publisher> = (0..3).map(|index| start_publisher(&cluster, index)).collect();
    let mut rows = Vec::new();
    for (end, role) in
        [(End::Kill, Role::Owner), (End::Kill, Role::Leader), (End::Kill, Role::Both), (End::Stop, Role::Owner)]
    {
        let mut rounds = Rounds::default();
        for number in 0..effort.kills {
            let one = Trial { end, role };
            one.run(&mut cluster, &files, &mut rounds).await.with_context(|| format!("{one:?}, number {number}"))?;
            eprintln!("{end:?} {role:?} {number}: {:.3} s", rounds.gap_s.last().copied().unwrap_or(f64::NAN));
        }
        rows.push((end, role, rounds));
    }
    for publisher in publishers {
        publisher.stop(LIMIT).await?;
    }
    cluster.finish().await?;
    Ok(vec![table(effort, &rows)])
}

fn start_publisher(cluster: &Cluster, index: usize) -> Publisher {
    let mut ports = cluster.mqtt_ports();
    ports.rotate_left(index);
    let mut options = PublisherOptions::new(&format!("failover-{index}"), "failover/load", &ports, MESSAGES);
    options.per_second = Some(PER_SECOND);
    Publisher::start(options)
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    end: End,
    role: Role,
}

impl Trial {
    async fn run(self, cluster: &mut Cluster, files: &[(String, PathBuf)], rounds: &mut Rounds) -> Result<()> {
        let (victim, path) = self.choose(cluster, files).await?;
        let before = length(path);
        let began = Instant::now();
        let gap = match self.end {
            End::Kill => {
                cluster.nodes[victim].kill()?;
                longest_gap(path, began, self.role).await?
            }
            End::Stop => {
                let (stopped, gap) =
                    tokio::join!(cluster.nodes[victim].terminate(LIMIT), longest_gap(path, began, Role::Leader));
                let (status, _) = stopped?;
                ensure!(status.success(), "exit status {status}");
                gap?
            }
        };
        rounds.gap_s.push(gap.as_secs_f64());
        cluster.nodes[victim].start()?;
        cluster.nodes[victim].ready().await?;
        let asked = cluster.other_than(&[victim])?;
        for (connector, _) in files {
            cluster.owner_seen_by(asked, connector).await?;
        }
        rounds.twice.push(repeated_since(path, before.saturating_sub(TAIL_BYTES))? as f64);
        Ok(())
    }

    /// Whom it hits, and which file is watched.
    async fn choose<'a>(self, cluster: &mut Cluster, files: &'a [(String, PathBuf)]) -> Result<(usize, &'a Path)> {
        let began = Instant::now();
        loop {
            let leader = cluster.leader().await?;
            for (connector, path) in files {
                let owner = cluster.owner_seen_by(leader, connector).await?;
                let fits = match self.role {
                    Role::Owner | Role::Leader => owner != leader,
                    Role::Both => owner == leader,
                };
                if fits {
                    let victim = if self.role == Role::Leader { leader } else { owner };
                    return Ok((victim, path));
                }
            }
            ensure!(began.elapsed() < LIMIT, "no connector for {:?}", self.role);
            // The scheduler has not given the leader anything yet: another one may have something.
            let (status, _) = cluster.nodes[leader].terminate(LIMIT).await?;
            ensure!(status.success(), "exit status {status}");
            cluster.nodes[leader].start()?;
            cluster.nodes[leader].ready().await?;
        }
    }
}

/// The longest time without a new line after `began`. Who killed the owner waits for the first one; in the other cases
/// deliveries may go on at once, and the gap, if there is one, begins within `WATCH`.
async fn longest_gap(path: &Path, began: Instant, role: Role) -> Result<Duration> {
    let mut looks = interval(LOOK);
    let (mut seen, mut last_growth) = (length(path), began);
    let mut longest = Duration::ZERO;
    loop {
        looks.tick().await;
        let (now, grown) = (Instant::now(), length(path));
        ensure!(now - last_growth < GAP_LIMIT, "nothing delivered for {GAP_LIMIT:?}");
        if grown == seen {
            continue;
        }
        longest = longest.max(now - last_growth);
        (seen, last_growth) = (grown, now);
        let over = match role {
            Role::Owner | Role::Both => true,
            Role::Leader => now - began > WATCH,
        };
        if over {
            return Ok(longest);
        }
    }
}

/// Lines of the rest of a file whose record stands there already.
fn repeated_since(path: &Path, offset: u64) -> Result<usize> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut known = BTreeSet::new();
    // The first line may be a half, and the last may be under way.
    let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(whole.filter_map(|line| line["id"].as_str().map(str::to_owned)).filter(|id| !known.insert(id.clone())).count())
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn table(effort: Effort, rows: &[(End, Role, Rounds)]) -> Table {
    let columns = ["", "median, s", "worst, s", "aim", "records twice, median", "most"];
    let mut table = Table::new(&format!("Time without delivery, {} times each", effort.kills), &columns);
    for (end, role, rounds) in rows {
        let (middle, worst_s) = (median(&rounds.gap_s), worst(&rounds.gap_s));
        let reached = |holds: bool| if holds { "yes" } else { "no" };
        let aim = match end {
            End::Kill => {
                let holds = middle <= AIM_MEDIAN_S && worst_s <= AIM_WORST_S;
                format!("median ≤ {AIM_MEDIAN_S}, worst ≤ {AIM_WORST_S}: {}", reached(holds))
            }
            End::Stop => format!("{}: {}", Aim::AtMost(AIM_STOP_S), reached(middle <= AIM_STOP_S)),
        };
        let what = match (end, role) {
            (End::Kill, Role::Owner) => "SIGKILL of the owner",
            (End::Kill, Role::Leader) => "SIGKILL of the leader, seen by a connector of another node",
            (End::Kill, Role::Both) => "SIGKILL of the owner that leads",
            (End::Stop, Role::Owner | Role::Leader | Role::Both) => "SIGTERM of the owner",
        };
        let figures = [middle, worst_s].map(number);
        let twice = [median(&rounds.twice), worst(&rounds.twice)].map(|count| format!("{count:.0}"));
        let [middle, worst_s] = figures;
        let [twice, most] = twice;
        table.row([what.to_owned(), format!("**{middle}**"), worst_s, aim, twice, most]);
    }
    table.note(format!(
        "Three nodes with their defaults, {CONNECTORS} file connectors, {} records per second to each. From the signal to the \
         first new line of the watched file; after the signal to a node that does not own it, or that stops in order, the \
         longest time without a new line within {} s. Kafka Connect, measured earlier: 303–313 s by default (43 s when \
         the dead worker led), 5.6 s tuned to the limit, with 65 to 267,000 records twice; graceful stop 2–4 s.",
        3 * PER_SECOND,
        WATCH.as_secs()
    ));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_stand_there_twice_are_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lines");
        std::fs::write(&path, "alf\"}\n{\"id\":\"1\"}\n{\"id\":\"2\"}\n{\"id\":\"1\"}\n{\"id\"").expect("written");
        assert_eq!(repeated_since(&path, 0).expect("read"), 1);
        assert_eq!(repeated_since(&path, 16).expect("read"), 0);
    }
}
