//! The data directory and its lock: at most one process works on a disk, and holding the lock proves that the one
//! before is gone.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data directory {path} cannot be made")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the lock of the data directory, {path}, cannot be opened")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another process works on the data directory: {path} is locked")]
    Locked { path: PathBuf },
}

/// Held for the life of the process.
#[derive(Debug)]
pub struct DataDir {
    /// The kernel lets go of the lock when the file is closed, whatever ends the process.
    _lock: File,
}

impl DataDir {
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        std::fs::create_dir_all(path).map_err(|source| DataDirError::Create { path: path.to_owned(), source })?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|source| DataDirError::Open { path: lock_path.clone(), source })?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            if error == rustix::io::Errno::WOULDBLOCK {
                DataDirError::Locked { path: lock_path }
            } else {
                DataDirError::Open { path: lock_path, source: error.into() }
            }
        })?;
        Ok(Self { _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("data");
        let held = DataDir::lock(&path).expect("first lock");
        assert!(matches!(DataDir::lock(&path), Err(DataDirError::Locked { .. })));
        drop(held);
        DataDir::lock(&path).expect("free again");
    }
}
