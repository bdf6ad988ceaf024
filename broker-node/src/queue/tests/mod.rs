//! The queues as their users see them, on a real RocksDB in a temporary directory.

mod bounds;
mod crash;
mod letters;
mod loss;
mod model;
mod owner;
mod publish;
mod remote;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use api_types::assignment::{Assignment, AssignmentState};
use api_types::connector::{
    Connector, ConnectorSpec, Delivery, Desired, Placement, QueueOptions as SpecQueue, WhenFull,
};
use api_types::failure::FailurePolicy;
use api_types::topic::TopicFilter;
use api_types::{Epoch, Incarnation, LogIndex, Message, RaftId, Record, Revision, Sequence};
use arc_swap::ArcSwap;
use connector_runtime::source::{BatchLimits, Commit, End, Fetched, SealedBatch};
use meta_service::state::ClusterState;
use prometheus::{Histogram, HistogramOpts};
use tempfile::TempDir;

use super::clock::Clock;
use super::disk::{Disk, DiskSpace};
use super::*;
use crate::catalogue::Catalogue;

pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const ONE: Incarnation = Incarnation(11);
pub(super) const TWO: Incarnation = Incarnation(12);
pub(super) const EPOCH: Epoch = Epoch(100);

/// A disk that can be full, refuse writes or hold them up.
#[derive(Default)]
pub(super) struct TestDisk {
    free_bytes: AtomicU64,
    broken: AtomicBool,
    full: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
    /// Writes that came to the gate.
    arrived: AtomicU64,
}

impl TestDisk {
    pub fn set_free(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::SeqCst);
    }

    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    pub fn hold(&self) {
        *lock(&self.held) = true;
    }

    pub fn release(&self) {
        *lock(&self.held) = false;
        self.released.notify_all();
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::SeqCst)
    }
}

impl Disk for TestDisk {
    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        Ok(DiskSpace { free_bytes: self.free_bytes.load(Ordering::SeqCst), total_bytes: 100 << 30 })
    }

    fn admit_write(&self) -> io::Result<()> {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let held = lock(&self.held);
        drop(self.released.wait_while(held, |held| *held).expect("not poisoned"));
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.broken.load(Ordering::SeqCst) { Err(io::Error::other("broken for a test")) } else { Ok(()) }
    }
}

#[derive(Default)]
pub(super) struct TestClock {
    wall_ms: AtomicU64,
    running_ms: AtomicU64,
}

impl TestClock {
    pub fn step_wall(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub fn pass(&self, ms: u64) {
        self.step_wall(ms);
        self.running_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn running(&self) -> Duration {
        Duration::from_millis(self.running_ms.load(Ordering::SeqCst))
    }
}

/// One node's queues with everything around them.
pub(super) struct Bench {
    pub queues: Queues,
    pub dir: Arc<TempDir>,
    pub disk: Arc<TestDisk>,
    pub clock: Arc<TestClock>,
    pub state: Arc<ArcSwap<ClusterState>>,
    pub sync_seconds: Histogram,
    options: QueueOptions,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut QueueOptions)) -> Self {
        Self::on(Arc::new(TempDir::new().expect("a directory")), change)
    }

    pub fn on(dir: Arc<TempDir>, change: impl FnOnce(&mut QueueOptions)) -> Self {
        let disk = Arc::new(TestDisk::default());
        disk.set_free(90 << 30);
        let clock = Arc::new(TestClock::default());
        clock.step_wall(1_700_000_000_000);
        let state = Arc::new(ArcSwap::from_pointee(ClusterState::default()));
        let sync_seconds = Histogram::with_opts(HistogramOpts::new("sync", "test")).expect("valid");
        let view: StateView = {
            let state = state.clone();
            Arc::new(move || state.load_full())
        };
        let mut options = QueueOptions::new(dir.path().join("queue"), RaftId(1), view, sync_seconds.clone());
        options.disk = disk.clone();
        options.clock = clock.clone();
        change(&mut options);
        let queues = Queues::open(options.clone()).expect("opens");
        Self { queues, dir, disk, clock, state, sync_seconds, options }
    }

    /// As after a restart of the process.
    pub async fn restart(&mut self) {
        self.queues.close().await;
        self.queues = Queues::open(self.options.clone()).expect("opens again");
    }

    /// As after a kill: what is on the disk now is what the next process finds.
    pub fn crash(&self) -> Self {
        self.crash_with(|_| {})
    }

    pub fn crash_with(&self, damage: impl FnOnce(&Path)) -> Self {
        let copy = Arc::new(TempDir::new().expect("a directory"));
        copy_files(&self.options.dir, &copy.path().join("queue"));
        damage(&copy.path().join("queue"));
        let options = self.options.clone();
        let wall_ms = self.clock.wall_ms();
        let bench = Self::on(copy, |fresh| {
            let (dir, view, disk, clock) =
                (fresh.dir.clone(), fresh.view.clone(), fresh.disk.clone(), fresh.clock.clone());
            *fresh = QueueOptions { dir, view, disk, clock, ..options };
        });
        bench.clock.wall_ms.store(wall_ms, Ordering::SeqCst);
        bench.state.store(self.state.load_full());
        bench
    }

    pub fn submit(&self, catalogue: &Catalogue, messages: Vec<Message>) -> Result<Ticket, SubmitRefusal> {
        self.queues.submit(messages.into_iter().map(|message| Submission { message }).collect(), catalogue)
    }

    pub async fn append(&self, catalogue: &Catalogue, topic: &str, payloads: &[&str]) {
        let messages = payloads.iter().map(|payload| message(topic, payload)).collect();
        self.submit(catalogue, messages).expect("let in").await.expect("synced");
    }

    pub async fn fetch(&self, from: Sequence, records_max: u32) -> Result<Fetched, CallError> {
        self.queues.fetch(ONE, EPOCH, from, limits(records_max)).await
    }

    pub async fn batch(&self, from: Sequence, records_max: u32) -> SealedBatch {
        batch(self.fetch(from, records_max).await.expect("fetches"))
    }

    pub async fn open(&self) -> Sequence {
        self.queues.open_queue(ONE, EPOCH).await.expect("opens")
    }

    pub async fn commit(&self, from: Sequence, to: Sequence, ends: Vec<(Sequence, End)>) -> Result<(), CallError> {
        self.queues.commit(ONE, EPOCH, Commit { from, to, ends }).await
    }

    pub fn ledger(&self) -> Ledger {
        let ledger = self.queues.ledger(ONE).expect("the queue is there");
        assert!(ledger.balances(), "{ledger:?}");
        ledger
    }

    pub fn set_state(&self, change: impl FnOnce(&mut ClusterState)) {
        let mut state = ClusterState::clone(&self.state.load());
        change(&mut state);
        self.state.store(Arc::new(state));
    }
}

/// RocksDB may not be open any more when the process of the tests ends.
impl Drop for Bench {
    fn drop(&mut self) {
        self.disk.release();
        if let Some(committer) = self.queues.end() {
            // A panic in it was printed, and a second one while a test fails would hide the first.
            let _ = committer.join();
        }
    }
}

use api_types::status::Ledger;

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("an entry");
        // RocksDB removes files while we copy: those are not part of the database any more.
        let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}

pub(super) fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

pub(super) fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: topic.to_owned(),
        client_id: "device".to_owned(),
        qos: 1,
        payload: payload.to_owned().into(),
        timestamp_ms: 1_700_000_000_000,
        ..Message::default()
    }
}

pub(super) fn limits(records_max: u32) -> BatchLimits {
    BatchLimits { records_max, bytes_max: 1 << 20, linger: Duration::ZERO, sync_bounds: false }
}

pub(super) fn batch(fetched: Fetched) -> SealedBatch {
    match fetched {
        Fetched::Batch(batch) => batch,
        Fetched::Empty { head } => panic!("nothing up to {head}"),
    }
}

pub(super) fn payloads(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.message.payload).into_owned()).collect()
}

pub(super) fn target(incarnation: Incarnation, filter: &str) -> QueueTarget {
    QueueTarget {
        incarnation,
        name: format!("connector-{incarnation}").into(),
        kind: "file".to_owned(),
        filter: TopicFilter::parse(filter).expect("valid"),
        dead_letter_topic: Some("letters".to_owned()),
        bounds: Bounds { bytes_max: 1 << 30, age_max_ms: None, when_full: WhenFull::Block },
    }
}

pub(super) fn bounded(mut target: QueueTarget, bytes_max: u64, when_full: WhenFull) -> QueueTarget {
    target.bounds.bytes_max = bytes_max;
    target.bounds.when_full = when_full;
    target
}

pub(super) fn catalogue(targets: impl IntoIterator<Item = QueueTarget>) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for target in targets {
        let filter = target.filter.clone();
        catalogue.filters.insert(&filter, Arc::new(target));
    }
    catalogue
}

/// Everything goes to `ONE`.
pub(super) fn all_to_one() -> Catalogue {
    catalogue([target(ONE, "#")])
}

pub(super) fn connector(incarnation: Incarnation, filter: &str) -> Connector {
    Connector {
        incarnation,
        revision: Revision(incarnation.0),
        spec: ConnectorSpec {
            name: format!("connector-{incarnation}").into(),
            kind: "file".to_owned(),
            config_sent: "{}".to_owned(),
            config_effective: "{}".to_owned(),
            filter: TopicFilter::parse(filter).expect("valid"),
            failure: FailurePolicy::default(),
            queue: SpecQueue::default(),
            placement: Placement::default(),
            desired: Desired::Running,
            labels: BTreeMap::new(),
            description: String::new(),
            delivery: Delivery::AtLeastOnce,
        },
        created_at_ms: 0,
        updated_at_ms: 0,
        deleting: false,
    }
}

pub(super) fn assignment(epoch: Epoch) -> Assignment {
    Assignment { epoch, state: AssignmentState::Idle, why: String::new(), since_ms: 0, last_node: None }
}

pub(super) fn applied(state: &mut ClusterState, index: u64) {
    state.applied = LogIndex(index);
}

/// Waits for what another thread brings about.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            looks.tick().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
