//! What the parts of the service share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_types::RaftId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::boot::BootStatus;
use crate::fatal::{Fatal, FatalReason};
use crate::forward::Forward;
use crate::identity::{DiskIdentity, WentBack};
use crate::leader::LeaderService;
use crate::options::MetaOptions;
use crate::peers::Peers;
use crate::reads::Reads;
use crate::rpc::RpcClient;
use crate::seat::Seat;
use crate::state::Disk;

/// Told how long each proposal took, from the call to the answer.
pub type ProposeObserver = Arc<dyn Fn(Duration) + Send + Sync>;

pub(crate) struct Shared {
    pub options: MetaOptions,
    pub seat: Arc<Seat>,
    /// What leadership and leases depend on, and nothing else: Raft's RPCs, heartbeats, goodbyes. Clients share no
    /// connections, so this one never waits behind requests that wait at the other end.
    pub vital_rpc: RpcClient,
    pub snapshot_rpc: RpcClient,
    pub peers: Peers,
    pub leader: Arc<LeaderService>,
    pub forward: Arc<Forward>,
    pub reads: Reads,
    pub fatal: Fatal,
    /// Who leads, as this node knows it.
    pub leader_watch: watch::Sender<Option<RaftId>>,
    pub boot_status: watch::Sender<BootStatus>,
    pub propose_observer: OnceLock<ProposeObserver>,
    pub cancel: CancellationToken,
}

impl Shared {
    /// This disk, as it presents itself.
    pub(crate) fn disk(&self) -> Disk {
        Disk {
            disk_id: self.seat.disk().disk_id,
            name: self.options.node_name.clone(),
            rpc_address: self.options.rpc_address.clone(),
        }
    }

    /// The cluster's verdict about this disk, on it before anybody hears of it: the next start would find a log that the
    /// leader has filled up.
    pub(crate) fn note_went_back(&self, went_back: WentBack) -> Result<(), FatalReason> {
        let disk = DiskIdentity { went_back: Some(went_back), ..self.seat.disk() };
        let stored = disk.store(&self.options.data_dir);
        self.seat.set_disk(disk);
        stored.map_err(|error| FatalReason::MetaWrite { what: "identity.json", error })
    }

    pub(crate) fn is_first_voter(&self) -> bool {
        self.options.initial_voters.first().is_some_and(|(name, _)| *name == self.options.node_name)
    }

    /// Said once in the log, as long as it stays the same.
    pub(crate) fn set_boot_status(&self, status: BootStatus) {
        self.boot_status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                tracing::info!(%status, "boot");
                *current = status;
            }
            changed
        });
    }
}
