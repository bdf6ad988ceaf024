//! What this process is at the moment: which disk, as whom in which cluster, with which Raft.

use std::sync::Arc;

use tokio::sync::watch;

use crate::identity::DiskIdentity;
use crate::raft::RaftNode;
use crate::replica::Replica;

/// Written by the boot task only, but for the cluster's verdict about the disk; everybody else looks.
pub(crate) struct Seat {
    pub replica: Arc<Replica>,
    disk: watch::Sender<DiskIdentity>,
    node: watch::Sender<Option<Arc<RaftNode>>>,
}

impl Seat {
    pub(crate) fn new(disk: DiskIdentity) -> Self {
        Self { replica: Arc::default(), disk: watch::Sender::new(disk), node: watch::Sender::new(None) }
    }

    pub(crate) fn disk(&self) -> DiskIdentity {
        *self.disk.borrow()
    }

    pub(crate) fn set_disk(&self, disk: DiskIdentity) {
        self.disk.send_replace(disk);
    }

    /// The running Raft, once this disk belongs to a cluster.
    pub(crate) fn node(&self) -> Option<Arc<RaftNode>> {
        self.node.borrow().clone()
    }

    pub(crate) fn watch_node(&self) -> watch::Receiver<Option<Arc<RaftNode>>> {
        self.node.subscribe()
    }

    pub(crate) fn set_node(&self, node: Option<Arc<RaftNode>>) {
        self.node.send_replace(node);
    }
}
