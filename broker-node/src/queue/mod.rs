//! Durable queues, one per connector and node: what a publisher got acknowledged is here until it was delivered or
//! ended, counted, in another way.
//!
//! ```text
//! submit ──► inbox ──► committer (one thread, one write batch, one fsync) ──► ticket, heads, watchers
//! owner  ──► open, fetch, split, commit ──┘      local by call, remote over /queue/… (server, remote)
//! hub    ──► one stream per pair of nodes: which queues have something to read (sources)
//! ```
//!
//! Invariants:
//! - only synced records can be fetched, and no sequence is used twice;
//! - a sealed batch keeps its bounds until it is committed; nothing in it is dropped;
//! - the position, the dead letters and the totals of a commit are written together, and
//!   `queued = sent + discarded + dead_lettered + dropped + pending` holds in every write batch;
//! - whoever carries an epoch below the highest seen, here or in this node's replica, is refused.

mod bounds;
mod clock;
mod committer;
mod disk;
mod hub;
mod letters;
mod load;
mod op;
mod owner;
mod reclaim;
mod reconcile;
mod remote;
mod reserve;
mod rows;
mod seal;
mod server;
mod sources;
mod state;
mod stats;
mod store;
mod submit;
mod target;
#[cfg(test)]
mod tests;
mod turn;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use api_types::{Epoch, Incarnation, NodeEpoch, RaftId};
use meta_service::state::ClusterState;
use prometheus::Histogram;
use tokio::sync::{Notify, oneshot};
use tracing::{error, warn};

pub use clock::{Clock, SystemClock};
pub use disk::{Disk, DiskSpace, LocalDisk};
pub use letters::{LetterPublisher, PublishError, StoredLetter};
pub use op::{CallError, TicketError};
pub use rows::{LetterRow, Totals};
pub use sources::NodeSources;
pub use stats::{LettersStats, QueueReport, QueueStats, QueuesStats};
pub use store::StoreError;
pub use submit::{Submission, SubmitRefusal, Ticket};
pub use target::{Bounds, QueueDefaults, QueueTarget, offered_kinds};
pub use wire::Lag;

use crate::error_chain::error_chain;
use committer::Committer;
use hub::Hub;
use op::{Answer, Call, Inbox, Op};
use reconcile::Reconciling;
use reserve::{Blocks, ReservedFile};
use state::{Phase, State};
use store::Store;

/// The node's own replica of the cluster's state.
pub type StateView = Arc<dyn Fn() -> Arc<ClusterState> + Send + Sync>;

/// Free space below which only commits, deletes and compaction write: the greater of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskReserve {
    pub bytes: u64,
    pub percent: u8,
}

impl Default for DiskReserve {
    fn default() -> Self {
        Self { bytes: 1 << 30, percent: 5 }
    }
}

/// `queue.fsync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    #[default]
    Group,
    /// An acknowledged message may be lost when the machine stops.
    Off,
}

#[derive(Clone)]
pub struct QueueOptions {
    /// Of the database; made when it is not there.
    pub dir: PathBuf,
    /// The Raft id of this disk; see [`Queues::adopt`].
    pub raft_id: RaftId,
    pub defaults: QueueDefaults,
    pub total_bytes_max: Option<u64>,
    pub disk_reserve: DiskReserve,
    pub dead_letter_bytes_max: u64,
    pub dead_letter_age_max_ms: u64,
    pub fsync: Fsync,
    /// Most bytes that wait for their sync.
    pub submit_bytes_max: u64,
    /// `sluice_queue_sync_seconds`.
    pub sync_seconds: Histogram,
    pub view: StateView,
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
}

impl QueueOptions {
    /// As it is without a configuration.
    pub fn new(dir: PathBuf, raft_id: RaftId, view: StateView, sync_seconds: Histogram) -> Self {
        Self {
            dir,
            raft_id,
            defaults: QueueDefaults::default(),
            total_bytes_max: None,
            disk_reserve: DiskReserve::default(),
            dead_letter_bytes_max: 1 << 30,
            dead_letter_age_max_ms: 7 * 24 * 3600 * 1000,
            fsync: Fsync::Group,
            submit_bytes_max: 64 << 20,
            sync_seconds,
            view,
            clock: Arc::new(SystemClock::default()),
            disk: Arc::new(LocalDisk),
        }
    }

    fn sync(&self) -> bool {
        self.fsync == Fsync::Group
    }
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queues' directory cannot be made")]
    Directory(#[source] std::io::Error),
    #[error("the queue store cannot be opened")]
    Store(#[from] StoreError),
    /// An opening writes the log anew as tables.
    #[error("the queue store cannot be opened with {free_bytes} bytes free")]
    NoRoom {
        free_bytes: u64,
        #[source]
        source: StoreError,
    },
    #[error("a thread of the queues cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why appends are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    #[error(
        "below queue.disk_reserve: {free_bytes} bytes free, {reserve_bytes} reserved, and no record may be dropped"
    )]
    DiskFull { free_bytes: u64, reserve_bytes: u64 },
    #[error("the queue store is being opened again after a failed write; {free_bytes} bytes free")]
    Failed { free_bytes: u64 },
    #[error("the queue store is closed")]
    Closed,
}

/// The queues of this node; a cheap clone.
#[derive(Clone)]
pub struct Queues {
    shared: Arc<Shared>,
    /// Joined by whoever closes.
    committer: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

/// What the committer, the owners and the publishers share.
pub(crate) struct Shared {
    settings: QueueOptions,
    clock: Arc<dyn Clock>,
    view: StateView,
    store: Store,
    reserved_file: ReservedFile,
    state: Mutex<State>,
    inbox: Inbox,
    hub: Hub,
    raft_id: AtomicU64,
    /// Open time before this opening, and the process clock when it began, in milliseconds.
    open_base_ms: AtomicU64,
    opened_at_ms: AtomicU64,
    /// Compactions of queues whose space is wanted that have not ended.
    squeezing: AtomicU64,
    letters_added: Notify,
    lease_held_since_boot: AtomicBool,
    reconciling: Mutex<Reconciling>,
}

impl Queues {
    /// Opens the store, reads it back and starts the threads. Blocks for as long as RocksDB recovers.
    pub fn open(options: QueueOptions) -> Result<Self, QueueError> {
        std::fs::create_dir_all(&options.dir).map_err(QueueError::Directory)?;
        if !options.sync() {
            warn!("queue.fsync is off: messages acknowledged shortly before the machine stops will be lost");
        }
        let shared = Arc::new(Shared::new(options));
        let opened = shared.open_store();
        shared.sample_disk();
        {
            let mut state = lock(&shared.state);
            match opened {
                Ok(loaded) => loaded.install(&mut state),
                Err(source) if source.is_no_room() => {
                    return Err(QueueError::NoRoom { free_bytes: state.disk.free_bytes, source });
                }
                Err(source) => return Err(source.into()),
            }
        }
        let (reclaim, wanted) = mpsc::sync_channel(reclaim::WAITING_MAX);
        let reclaimed = shared.clone();
        std::thread::Builder::new()
            .name("queue-reclaim".to_owned())
            .spawn(move || reclaim::run(&reclaimed, &wanted))
            .map_err(QueueError::Thread)?;
        let committer = Committer::new(shared.clone(), reclaim);
        let committer = std::thread::Builder::new()
            .name("queue-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(QueueError::Thread)?;
        Ok(Self { shared, committer: Arc::new(Mutex::new(Some(committer))) })
    }

    /// Writes what waits, refuses what comes, and closes the store.
    pub async fn close(&self) {
        if let Some(committer) = self.end() {
            let joined = tokio::task::spawn_blocking(move || committer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                warn!("the thread of the queues did not end well");
            }
        }
    }

    /// The thread that ends now and closes the store, unless somebody waits for it already.
    fn end(&self) -> Option<std::thread::JoinHandle<()>> {
        self.shared.inbox.close();
        self.shared.hub.close();
        lock(&self.committer).take()
    }

    /// A new identity of this disk: the next append opens a block under it.
    pub async fn adopt(&self, raft_id: RaftId) -> Result<(), CallError> {
        if self.shared.raft_id() == raft_id {
            return Ok(());
        }
        self.shared.call(Call::Adopt { raft_id }).await.map(|_| ())
    }

    /// This process has registered with the cluster: from here on sequences come from this registration's range. To be
    /// awaited before the first append, so that no copy of this disk repeats one.
    pub async fn begin_registration(&self, node_epoch: NodeEpoch) -> Result<(), CallError> {
        if !reserve::has_range(node_epoch) {
            error!(
                %node_epoch,
                "the cluster's log has outgrown the ranges of sequences: from now on a copy of this disk that is put \
                 back could repeat record ids"
            );
        }
        self.shared.call(Call::BeginAt { first: reserve::first_of(node_epoch) }).await.map(|_| ())
    }

    /// Whether appends are taken.
    pub fn writable(&self) -> Result<(), NotWritable> {
        let state = lock(&self.shared.state);
        let free_bytes = state.disk.free_bytes;
        match state.phase {
            Phase::Open if self.shared.disk_is_full(&state, 1) => {
                Err(NotWritable::DiskFull { free_bytes, reserve_bytes: self.shared.disk_floor(&state) })
            }
            Phase::Open => Ok(()),
            Phase::Failed => Err(NotWritable::Failed { free_bytes }),
            Phase::Closed => Err(NotWritable::Closed),
        }
    }

    pub fn defaults(&self) -> &QueueDefaults {
        &self.shared.settings.defaults
    }

    pub fn raft_id(&self) -> RaftId {
        self.shared.raft_id()
    }
}

impl Shared {
    fn new(settings: QueueOptions) -> Self {
        Self {
            clock: settings.clock.clone(),
            view: settings.view.clone(),
            store: Store::new(&settings.dir, settings.disk.clone()),
            reserved_file: ReservedFile::new(&settings.dir),
            state: Mutex::default(),
            inbox: Inbox::default(),
            hub: Hub::default(),
            raft_id: AtomicU64::new(settings.raft_id.0),
            open_base_ms: AtomicU64::default(),
            opened_at_ms: AtomicU64::default(),
            squeezing: AtomicU64::default(),
            letters_added: Notify::new(),
            lease_held_since_boot: AtomicBool::default(),
            reconciling: Mutex::default(),
            settings,
        }
    }

    fn raft_id(&self) -> RaftId {
        RaftId(self.raft_id.load(Ordering::SeqCst))
    }

    fn set_raft_id(&self, raft_id: RaftId) {
        self.raft_id.store(raft_id.0, Ordering::SeqCst);
    }

    fn reserve_block(&self, blocks: &mut Blocks, raft_id: RaftId, fresh: bool) -> Result<(), StoreError> {
        load::reserve_block(&self.store, &self.reserved_file, blocks, raft_id, fresh, self.settings.sync())
    }

    /// Milliseconds the queues have been open in all their life: a record cannot age while they are closed.
    fn open_ms(&self) -> u64 {
        let since = self.running_ms().saturating_sub(self.opened_at_ms.load(Ordering::SeqCst));
        self.open_base_ms.load(Ordering::SeqCst) + since
    }

    fn set_open_base(&self, open_ms: u64) {
        self.open_base_ms.store(open_ms, Ordering::SeqCst);
        self.opened_at_ms.store(self.running_ms(), Ordering::SeqCst);
    }

    fn running_ms(&self) -> u64 {
        u64::try_from(self.clock.running().as_millis()).unwrap_or(u64::MAX)
    }

    fn replica_epoch(&self, incarnation: Incarnation) -> Epoch {
        (self.view)().assignment(incarnation).map(|assignment| assignment.epoch).unwrap_or_default()
    }

    fn sample_disk(&self) {
        match self.settings.disk.space(&self.settings.dir) {
            Ok(space) => lock(&self.state).disk = space,
            // Whether the disk works shows in the next write.
            Err(error) => warn!(%error, "free space of the queues' disk unknown"),
        }
    }

    /// Bytes that must go before `incoming` may come, by the disk's reserve. While freed space is on its way back,
    /// only what comes must go: else each group would drop the deficit anew.
    fn disk_deficit(&self, state: &State, incoming: u64) -> u64 {
        let deficit = (self.disk_floor(state) + incoming).saturating_sub(state.disk.free_bytes);
        if deficit > 0 && self.squeezing.load(Ordering::SeqCst) > 0 { incoming.min(deficit) } else { deficit }
    }

    fn disk_floor(&self, state: &State) -> u64 {
        let reserve = self.settings.disk_reserve;
        reserve.bytes.max(state.disk.total_bytes / 100 * u64::from(reserve.percent))
    }

    /// Whether `incoming` is refused for the disk's reserve. Of an older deficit the space may be on its way back; for
    /// what comes, room must be made now.
    fn disk_is_full(&self, state: &State, incoming: u64) -> bool {
        let deficit = self.disk_deficit(state, incoming);
        deficit > 0 && state.droppable_bytes() < deficit.min(incoming)
    }

    /// Nobody waits for the answer; a store that fails is told on by the committer.
    fn tell(&self, call: Call) {
        let (answer, _) = oneshot::channel();
        drop(self.inbox.push(Op::Call(call, answer)));
    }

    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        let (answer, answered) = oneshot::channel();
        if self.inbox.push(Op::Call(call, answer)).is_err() {
            return Err(CallError::Closed);
        }
        answered.await.unwrap_or(Err(CallError::Closed))
    }

    /// Reads off the async threads: the disk may be slow.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, CallError> {
        let shared = self.clone();
        match tokio::task::spawn_blocking(move || read(&shared)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(CallError::Failed(error.to_string())),
        }
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error_chain(&error))
    }
}

/// A panic elsewhere leaves the state as consistent as the last whole operation: go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
