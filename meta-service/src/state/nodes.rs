//! What nodes change: which disks belong to the cluster, and which process speaks for each.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_types::{ClusterId, LogIndex, NodeEpoch, RaftId};

use super::apply::Entry;
use super::{ClusterState, Disk, Node, NodeRegistration, NodeState, Refusal, Reply, ReplyBody};

/// Raft ids below this are the bootstrap's; an admitted disk's id is this plus the index of its admission.
pub const ADMITTED_ID_BASE: u64 = 1000;

impl ClusterState {
    pub(super) fn found_cluster(
        &mut self,
        entry: Entry,
        cluster_id: ClusterId,
        members: &[(RaftId, Disk)],
    ) -> Result<Reply, Refusal> {
        if self.cluster_id == cluster_id && cluster_id != ClusterId::default() {
            return Ok(entry.reply(ReplyBody::Done));
        }
        if self.cluster_id != ClusterId::default() || !self.nodes.is_empty() {
            return Err(Refusal::Stale);
        }
        let ids: BTreeSet<RaftId> = members.iter().map(|(raft_id, _)| *raft_id).collect();
        if ids.len() != members.len() {
            return Err(Refusal::IdInUse);
        }
        self.cluster_id = cluster_id;
        for (raft_id, disk) in members {
            self.nodes.insert(*raft_id, Arc::new(Node::admitted(*raft_id, disk, entry.time_ms)));
        }
        Ok(entry.reply(ReplyBody::Done))
    }

    /// The same disk gets the same id again; only its address may have changed.
    pub(super) fn admit_disk(&mut self, entry: Entry, disk: &Disk) -> Result<Reply, Refusal> {
        if let Some(known) = self.nodes.values().find(|node| node.disk_id == disk.disk_id).cloned() {
            let raft_id = known.raft_id;
            if known.state == NodeState::Admitted && known.rpc_address != disk.rpc_address {
                self.check_address_free(disk)?;
                self.nodes.insert(raft_id, Arc::new(Node::admitted(raft_id, disk, entry.time_ms)));
                self.take_address(raft_id, &disk.rpc_address);
            }
            let index = LogIndex(raft_id.0.saturating_sub(ADMITTED_ID_BASE));
            return Ok(Reply { index, body: ReplyBody::Admitted { raft_id } });
        }
        let raft_id = RaftId(ADMITTED_ID_BASE + entry.index.0);
        if self.nodes.contains_key(&raft_id) {
            return Err(Refusal::IdInUse);
        }
        self.check_address_free(disk)?;
        self.nodes.insert(raft_id, Arc::new(Node::admitted(raft_id, disk, entry.time_ms)));
        self.take_address(raft_id, &disk.rpc_address);
        Ok(entry.reply(ReplyBody::Admitted { raft_id }))
    }

    pub(super) fn register_node(&mut self, entry: Entry, new: &NodeRegistration) -> Result<Reply, Refusal> {
        let node = self.nodes.get(&new.raft_id).cloned().ok_or(Refusal::UnknownDisk)?;
        if node.disk_id != new.disk_id {
            return Err(Refusal::IdInUse);
        }
        let up = node.state == NodeState::Up;
        if up && node.boot_nonce == new.boot_nonce {
            let index = LogIndex(node.node_epoch.0);
            return Ok(Reply { index, body: ReplyBody::Registered { node_epoch: node.node_epoch } });
        }
        if new.last_log < node.log_synced {
            return Err(Refusal::DiskWentBack { expected: node.log_synced, found: new.last_log });
        }
        if up && !new.lock_proof {
            return Err(Refusal::LeaseHeld);
        }
        let node_epoch = NodeEpoch(entry.index.0);
        self.free_tasks_of(entry, new.raft_id, &format!("{} started again", new.name));
        self.nodes.insert(new.raft_id, Arc::new(Node::registered(new, node_epoch, entry.time_ms, node.log_synced)));
        self.take_address(new.raft_id, &new.rpc_address);
        Ok(entry.reply(ReplyBody::Registered { node_epoch }))
    }

    pub(super) fn fence_node(
        &mut self,
        entry: Entry,
        node: RaftId,
        node_epoch: NodeEpoch,
        decided_term: u64,
        reason: &str,
    ) -> Result<Reply, Refusal> {
        let current = self.node_up(node).filter(|node| node.node_epoch == node_epoch).ok_or(Refusal::Stale)?.clone();
        if decided_term != entry.term {
            return Err(Refusal::Stale);
        }
        self.free_tasks_of(entry, node, &format!("{} is gone: {reason}", current.name));
        self.set_node_state(entry, &current, NodeState::Fenced { reason: reason.to_owned() });
        Ok(entry.reply(ReplyBody::Done))
    }

    pub(super) fn node_left(&mut self, entry: Entry, node: RaftId, node_epoch: NodeEpoch) -> Result<Reply, Refusal> {
        let current = self.nodes.get(&node).filter(|node| node.node_epoch == node_epoch).ok_or(Refusal::Stale)?.clone();
        match current.state {
            NodeState::Left => {}
            NodeState::Up => {
                self.free_tasks_of(entry, node, &format!("{} was stopped", current.name));
                self.set_node_state(entry, &current, NodeState::Left);
            }
            NodeState::Admitted | NodeState::Fenced { .. } => return Err(Refusal::Stale),
        }
        Ok(entry.reply(ReplyBody::Done))
    }

    /// Never lowers a mark, and never above this entry: what is later may still be taken back.
    pub(super) fn note_synced_logs(&mut self, entry: Entry, synced: &[(RaftId, LogIndex)]) -> Reply {
        for (raft_id, log_synced) in synced {
            if let Some(node) = self.nodes.get_mut(raft_id) {
                let log_synced = (*log_synced).min(entry.index).max(node.log_synced);
                *node = Arc::new(Node { log_synced, ..(**node).clone() });
            }
        }
        entry.reply(ReplyBody::Done)
    }

    /// Who asks to be admitted takes no address from a node that is up.
    fn check_address_free(&self, disk: &Disk) -> Result<(), Refusal> {
        let has_it = |node: &&Arc<Node>| node.disk_id != disk.disk_id && node.rpc_address == disk.rpc_address;
        match self.nodes.values().filter(has_it).find(|node| node.state == NodeState::Up) {
            Some(holder) => {
                Err(Refusal::AddressInUse { address: disk.rpc_address.clone(), holder: holder.name.clone() })
            }
            None => Ok(()),
        }
    }

    /// An address leads to one disk. The one that had it before – lost, and its node came back with an empty one – is
    /// reached nowhere now: asked there under its id, the new disk would count for both. Raft alone still knows where it
    /// was admitted; its calls name the disk that they are for.
    fn take_address(&mut self, raft_id: RaftId, rpc_address: &str) {
        let others = self.nodes.values_mut().filter(|node| node.raft_id != raft_id && node.rpc_address == rpc_address);
        for other in others {
            *other = Arc::new(Node { rpc_address: String::new(), ..(**other).clone() });
        }
    }

    fn set_node_state(&mut self, entry: Entry, node: &Node, state: NodeState) {
        let changed = Node { state, since_ms: entry.time_ms, ..node.clone() };
        self.nodes.insert(node.raft_id, Arc::new(changed));
    }
}

impl Node {
    fn admitted(raft_id: RaftId, disk: &Disk, since_ms: u64) -> Self {
        Self {
            raft_id,
            disk_id: disk.disk_id,
            name: disk.name.clone(),
            rpc_address: disk.rpc_address.clone(),
            api_address: String::new(),
            mqtt_address: String::new(),
            zone: String::new(),
            version: String::new(),
            kinds: Vec::new(),
            state: NodeState::Admitted,
            node_epoch: NodeEpoch(0),
            boot_nonce: 0,
            since_ms,
            log_synced: LogIndex(0),
        }
    }

    fn registered(new: &NodeRegistration, node_epoch: NodeEpoch, since_ms: u64, log_synced: LogIndex) -> Self {
        Self {
            raft_id: new.raft_id,
            disk_id: new.disk_id,
            name: new.name.clone(),
            rpc_address: new.rpc_address.clone(),
            api_address: new.api_address.clone(),
            mqtt_address: new.mqtt_address.clone(),
            zone: new.zone.clone(),
            version: new.version.clone(),
            kinds: new.kinds.clone(),
            state: NodeState::Up,
            node_epoch,
            boot_nonce: new.boot_nonce,
            since_ms,
            log_synced,
        }
    }
}
