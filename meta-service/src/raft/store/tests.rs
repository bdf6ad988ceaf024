use std::sync::Arc;

use api_types::RaftId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::super::types::Types;
use super::{LogStore, Machine, SnapshotStore};
use crate::fatal::Fatal;
use crate::replica::Replica;

struct OnDisk;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let directory = TempDir::new().expect("temporary folder");
        let fatal = Fatal::default();
        let log = LogStore::open(directory.path(), RaftId(0), fatal.clone()).expect("log opens");
        let snapshots = SnapshotStore::open(directory.path()).expect("snapshots open");
        let machine = Machine::new(Arc::new(Replica::default()), Arc::new(snapshots), fatal);
        Ok((directory, log.store, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_passes() {
    Suite::test_all(OnDisk).await.expect("suite passes");
}
