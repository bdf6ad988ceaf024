//! One writer per path and node: which paths are being written, and by which connector.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_types::ConnectorName;

#[derive(Clone, Debug, Default)]
pub(crate) struct Writers {
    paths: Arc<Mutex<BTreeMap<PathBuf, ConnectorName>>>,
}

/// The right to write one path, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    writers: Writers,
    path: PathBuf,
}

impl Writers {
    /// `path` has no links in it. Fails with the connector that writes there already.
    pub(super) fn claim(&self, path: &Path, connector: &ConnectorName) -> Result<Claim, ConnectorName> {
        let mut paths = self.lock();
        if let Some(owner) = paths.get(path) {
            return Err(owner.clone());
        }
        paths.insert(path.to_owned(), connector.clone());
        Ok(Claim { writers: self.clone(), path: path.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, ConnectorName>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.writers.lock().remove(&self.path);
    }
}
