//! What Raft keeps: its log and vote on the disk, the state in memory, snapshots of it in a file.
//!
//! ```text
//! meta/log          RocksDB: vote, entries, committed, purged          (log ─► flusher ─► one sync for many)
//! meta/high-water.json  how far the log had been synced
//! meta/snapshot     the state at one index                             (machine ─► snapshot)
//! ```

mod database;
mod flusher;
mod high_water;
mod log;
mod machine;
mod recent;
mod snapshot;
#[cfg(test)]
mod tests;

pub(super) use log::{Extent, LogStore, OpenedLog};
pub(super) use machine::Machine;
pub(super) use snapshot::{SnapshotFile, SnapshotStore};
