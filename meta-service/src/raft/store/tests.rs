use std::path::Path;
use std::sync::Arc;

use api_types::{LogIndex, RaftId};
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::super::types::{Entry, LogId, SnapshotMeta, Types, Vote};
use super::{LogStore, Machine, OpenedLog, SnapshotStore};
use crate::fatal::{Fatal, FatalReason};
use crate::replica::Replica;
use crate::state::ClusterState;

type LeaderId = openraft::alias::LeaderIdOf<Types>;

struct OnDisk;

/// Outlives the log of the folder: RocksDB may not be open any more when the process of the tests ends.
struct Folder {
    closed: oneshot::Receiver<()>,
    _directory: TempDir,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // An error is the expected end: the sender goes with the database.
        let _closed = futures::executor::block_on(&mut self.closed);
    }
}

impl StoreBuilder<Types, LogStore, Machine, Folder> for OnDisk {
    async fn build(&self) -> Result<(Folder, LogStore, Machine), StorageError<Types>> {
        let directory = TempDir::new().expect("temporary folder");
        let fatal = Fatal::default();
        let log = open(directory.path());
        let snapshots = SnapshotStore::open(directory.path()).expect("snapshots open");
        let machine = Machine::new(Arc::new(Replica::default()), Arc::new(snapshots), fatal);
        Ok((Folder { closed: log.closed, _directory: directory }, log.store, machine))
    }
}

fn open(directory: &Path) -> OpenedLog {
    LogStore::open(directory, RaftId(0), Fatal::default()).expect("log opens")
}

/// Closes a log and waits until its folder is free.
async fn close(log: OpenedLog) {
    drop(log.store);
    // An error is the expected end: the sender goes with the database.
    let _closed = log.closed.await;
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 0).to_committed(), index)
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Blank }
}

/// Appends and waits for the sync.
async fn append(log: &mut OpenedLog, term: u64, indexes: std::ops::Range<u64>) {
    let entries: Vec<Entry> = indexes.map(|index| blank(term, index)).collect();
    log.store.blocking_append(entries).await.expect("appends and syncs");
}

async fn indexes(log: &mut OpenedLog) -> Vec<u64> {
    let entries = log.store.try_get_log_entries(..).await.expect("reads");
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_own_suite_passes() {
    Suite::test_all(OnDisk).await.expect("suite passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_opens_as_it_was_closed() {
    let directory = TempDir::new().expect("temporary folder");
    let mut log = open(directory.path());
    append(&mut log, 1, 0..1000).await;
    let vote = Vote { leader_id: LeaderId::new(4, 0), committed: false };
    log.store.save_vote(&vote).await.expect("saves");
    log.store.save_committed(Some(log_id(1, 950))).await.expect("saves");
    // Once by a range, once one by one, and some off the end.
    log.store.purge(log_id(1, 499)).await.expect("purges");
    log.store.purge(log_id(1, 509)).await.expect("purges");
    log.store.truncate_after(Some(log_id(1, 989))).await.expect("truncates");
    close(log).await;

    let mut log = open(directory.path());
    assert_eq!(log.last_index, LogIndex(989));
    assert_eq!(indexes(&mut log).await, (510..990).collect::<Vec<u64>>());
    assert_eq!(log.store.read_vote().await.expect("reads"), Some(vote));
    assert_eq!(log.store.read_committed().await.expect("reads"), Some(log_id(1, 950)));
    let state = log.store.get_log_state().await.expect("reads");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 509)), Some(log_id(1, 989))));
    close(log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_behind_its_high_water_mark_is_refused() {
    let directory = TempDir::new().expect("temporary folder");
    let mut log = open(directory.path());
    append(&mut log, 1, 0..10).await;
    let vote = Vote { leader_id: LeaderId::new(4, 0), committed: false };
    log.store.save_vote(&vote).await.expect("saves");
    close(log).await;
    std::fs::remove_dir_all(directory.path().join("log")).expect("the log was there");

    let refused = LogStore::open(directory.path(), RaftId(0), Fatal::default()).err();
    assert!(
        matches!(
            refused,
            Some(FatalReason::LogWentBack {
                expected: LogIndex(9),
                expected_term: 4,
                found: LogIndex(0),
                found_term: 0
            })
        ),
        "{refused:?}"
    );
    let other = LogStore::open(directory.path(), RaftId(5), Fatal::default()).err();
    assert!(matches!(other, Some(FatalReason::WrongDisk { .. })), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_log_is_not_taken_for_one_that_went_back() {
    let directory = TempDir::new().expect("temporary folder");
    let mut log = open(directory.path());
    append(&mut log, 1, 0..10).await;
    close(log).await;
    // The mark says 9 now; another leader takes back what was never committed.
    let mut log = open(directory.path());
    log.store.truncate_after(Some(log_id(1, 4))).await.expect("truncates");
    close(log).await;
    let mut log = open(directory.path());
    assert_eq!(indexes(&mut log).await, [0, 1, 2, 3, 4]);
    close(log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_does_not_wait_for_the_high_water_file() {
    let directory = TempDir::new().expect("temporary folder");
    let log = open(directory.path());
    let mut appender = log.store.clone();
    let appended = {
        // As the flusher holds it while it writes the file.
        let _writing = log.store.high_water();
        let (done, appended) = std::sync::mpsc::sync_channel(1);
        tokio::spawn(async move {
            let outcome = appender.append([blank(1, 0)], IOFlushed::noop()).await;
            done.send(outcome.is_ok()).expect("the test waits");
        });
        appended.recv_timeout(std::time::Duration::from_secs(10))
    };
    assert_eq!(appended, Ok(true));
    close(log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_request_is_bounded_by_bytes() {
    let directory = TempDir::new().expect("temporary folder");
    let mut log = open(directory.path());
    append(&mut log, 1, 0..3).await;
    let entries = log.store.limited_get_log_entries(0, 3).await.expect("reads");
    assert_eq!(entries.len(), 3);
    let first = log.store.entries(0, 3, 1).expect("reads");
    assert_eq!(first.len(), 1, "at least one, however large");
    close(log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_a_flipped_bit_is_refused() {
    let directory = TempDir::new().expect("temporary folder");
    let store = SnapshotStore::open(directory.path()).expect("opens");
    let mut state = ClusterState::default();
    state.cluster_id = api_types::ClusterId(5);
    let meta = SnapshotMeta { last_log_id: Some(log_id(1, 7)), ..SnapshotMeta::default() };
    store.build(&meta, &state).expect("builds");
    let good = std::fs::read(directory.path().join("snapshot")).expect("reads");

    let received = |bytes: &[u8]| {
        let temporary = store.temporary();
        std::fs::write(temporary.path(), bytes).expect("writes");
        store.received(temporary)
    };
    let snapshot = received(&good).expect("whole");
    assert_eq!(store.install(&meta, snapshot).expect("installs"), state);
    for at in (0..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(received(&bad).is_err(), "byte {at}");
    }
    assert!(received(&good[..good.len() - 1]).is_err());
    assert!(received(&[&good[..], &[0]].concat()).is_err());
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("lists").flatten().collect();
    assert_eq!(left.len(), 1, "no temporary file is left: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_snapshot_does_not_replace_a_newer_one() {
    let directory = TempDir::new().expect("temporary folder");
    let store = Arc::new(SnapshotStore::open(directory.path()).expect("opens"));
    let machine = Machine::new(Arc::new(Replica::default()), Arc::clone(&store), Fatal::default());
    let mut older = machine.builder();
    let newer = SnapshotMeta { last_log_id: Some(log_id(2, 9)), ..SnapshotMeta::default() };
    store.build(&newer, &ClusterState::default()).expect("builds");
    older.build_snapshot().await.expect("builds");
    let (current, _) = store.current().expect("reads").expect("there is one");
    assert_eq!(current.last_log_id, Some(log_id(2, 9)));
}
