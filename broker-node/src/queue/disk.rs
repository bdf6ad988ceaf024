//! What the queues ask of the disk besides RocksDB, passed in so that tests and a simulation can make it fail.

use std::io;
use std::path::Path;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

pub trait Disk: Send + Sync + 'static {
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Asked before every write of the store; an error is taken for a failed write.
    fn admit_write(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The file system itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(path)?;
        // `f_bavail`: what an unprivileged process may still use.
        Ok(DiskSpace {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }
}
