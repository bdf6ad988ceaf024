//! Applies one entry: a repeat gets its first reply, everything else is decided here and nowhere before.

use api_types::{Incarnation, LogIndex, RequestId};

use super::memory::Change;
use super::{ClusterState, Command, CommandBody, Refusal, Reply, ReplyBody};

/// Where and when a command was committed.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub index: LogIndex,
    pub term: u64,
    pub time_ms: u64,
    pub request_id: RequestId,
}

impl Entry {
    pub fn reply(&self, body: ReplyBody) -> Reply {
        Reply { index: self.index, body }
    }
}

impl ClusterState {
    /// Applies the command of the entry `(term, index)`. Entries come in the order of their indexes.
    pub fn apply(&mut self, index: LogIndex, term: u64, command: &Command) -> Reply {
        self.advance(index);
        if let Some(first) = self.remembered(command) {
            return first;
        }
        let entry = Entry { index, term, time_ms: command.time_ms, request_id: command.request_id };
        let outcome = self.carry_out(entry, &command.body);
        outcome.unwrap_or_else(|refusal| {
            let reply = entry.reply(ReplyBody::Refused(refusal));
            if is_users(&command.body) {
                self.memory.remember(index, command.request_id, reply.clone());
            }
            reply
        })
    }

    /// Notes an entry that carries no command (a blank one, a change of the membership).
    pub fn advance(&mut self, index: LogIndex) {
        debug_assert!(index > self.applied, "entry {index} after {}", self.applied);
        self.applied = index;
        self.memory.forget_before(index);
    }

    fn carry_out(&mut self, entry: Entry, body: &CommandBody) -> Result<Reply, Refusal> {
        match body {
            CommandBody::CreateConnector { spec } => self.create_connector(entry, spec),
            CommandBody::DeleteConnector { name, incarnation } => self.delete_connector(entry, name, *incarnation),
            CommandBody::HoldConnector { name, incarnation } => self.hold_connector(entry, name, *incarnation),
            CommandBody::RestoreConnector { incarnation } => self.restore_connector(entry, *incarnation),
            CommandBody::RemoveConnector { incarnation } => self.remove_connector(entry, *incarnation),
            CommandBody::ApplyPlan { decided_term, steps } => self.apply_plan(entry, *decided_term, steps),
            CommandBody::Released { incarnation, epoch } => self.released(entry, *incarnation, *epoch),
            CommandBody::FenceNode { node, node_epoch, decided_term, reason } => {
                self.fence_node(entry, *node, *node_epoch, *decided_term, reason)
            }
            CommandBody::NoteSyncedLogs { synced } => Ok(self.note_synced_logs(entry, synced)),
            CommandBody::AdmitDisk { disk } => self.admit_disk(entry, disk),
            CommandBody::RegisterNode { registration } => self.register_node(entry, registration),
            CommandBody::NodeLeft { node, node_epoch } => self.node_left(entry, *node, *node_epoch),
            CommandBody::DeleteHeld { incarnation, held_at } => self.delete_held(entry, *incarnation, *held_at),
            CommandBody::FoundCluster { cluster_id, members } => self.found_cluster(entry, *cluster_id, members),
        }
    }

    /// The first reply to this request. Only users' requests need it: the others name an epoch, a term or a disk, and
    /// a repeat of them changes nothing.
    fn remembered(&self, command: &Command) -> Option<Reply> {
        if !is_users(&command.body) {
            return None;
        }
        let change = self.addressed(&command.body).and_then(|incarnation| self.memory.change(incarnation));
        match change {
            Some(change) if change.request_id == command.request_id => Some(change.reply.clone()),
            Some(_) | None => self.memory.find(command.request_id).cloned(),
        }
    }

    fn addressed(&self, body: &CommandBody) -> Option<Incarnation> {
        match body {
            CommandBody::CreateConnector { spec } => self.names.get(&spec.name).copied(),
            CommandBody::DeleteConnector { name, .. } | CommandBody::HoldConnector { name, .. } => {
                self.names.get(name).copied()
            }
            CommandBody::RestoreConnector { incarnation } | CommandBody::DeleteHeld { incarnation, .. } => {
                Some(*incarnation)
            }
            CommandBody::ApplyPlan { .. }
            | CommandBody::FenceNode { .. }
            | CommandBody::RemoveConnector { .. }
            | CommandBody::NoteSyncedLogs { .. }
            | CommandBody::AdmitDisk { .. }
            | CommandBody::RegisterNode { .. }
            | CommandBody::NodeLeft { .. }
            | CommandBody::Released { .. }
            | CommandBody::FoundCluster { .. } => None,
        }
    }

    /// Answers a user's change of a connector and remembers the answer.
    pub(super) fn changed(&mut self, entry: Entry, incarnation: Incarnation, body: ReplyBody) -> Reply {
        let reply = entry.reply(body);
        let change = Change { request_id: entry.request_id, reply: reply.clone() };
        self.memory.changed(incarnation, entry.index, change);
        reply
    }
}

fn is_users(body: &CommandBody) -> bool {
    match body {
        CommandBody::CreateConnector { .. }
        | CommandBody::DeleteConnector { .. }
        | CommandBody::HoldConnector { .. }
        | CommandBody::RestoreConnector { .. }
        | CommandBody::DeleteHeld { .. } => true,
        CommandBody::ApplyPlan { .. }
        | CommandBody::FenceNode { .. }
        | CommandBody::RemoveConnector { .. }
        | CommandBody::NoteSyncedLogs { .. }
        | CommandBody::AdmitDisk { .. }
        | CommandBody::RegisterNode { .. }
        | CommandBody::NodeLeft { .. }
        | CommandBody::Released { .. }
        | CommandBody::FoundCluster { .. } => false,
    }
}
