//! One writer per path and node: which paths are being written, and by which connector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api_types::ConnectorName;

#[derive(Clone, Debug, Default)]
pub(crate) struct Writers {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    paths: Mutex<BTreeMap<PathBuf, ConnectorName>>,
    freed: Condvar,
}

/// The right to write one path, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// Why a path cannot be written now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    ByAnother(ConnectorName),
    /// An earlier writer of the same connector was told to stop and has not ended: its sync hangs.
    ByItself,
}

impl Writers {
    /// `path` has no links in it. Blocks for up to `patience` while an earlier writer of `connector` has the path.
    pub(super) fn claim(&self, path: &Path, connector: &ConnectorName, patience: Duration) -> Result<Claim, Taken> {
        let deadline = Instant::now() + patience;
        let mut paths = self.shared.lock();
        while let Some(owner) = paths.get(path) {
            if owner != connector {
                return Err(Taken::ByAnother(owner.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Taken::ByItself);
            }
            paths = self.shared.freed.wait_timeout(paths, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        paths.insert(path.to_owned(), connector.clone());
        Ok(Claim { shared: Arc::clone(&self.shared), path: path.to_owned() })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, ConnectorName>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.path);
        self.shared.freed.notify_all();
    }
}
