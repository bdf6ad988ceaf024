//! What users change: connectors. The task of a connector is its own concern (`tasks`).

use std::sync::Arc;

use api_types::assignment::{Assignment, AssignmentState};
use api_types::connector::ConnectorSpec;
use api_types::{Connector, ConnectorName, Epoch, Incarnation, LogIndex, Revision};

use super::apply::Entry;
use super::{ClusterState, Refusal, Reply, ReplyBody};

/// `why` of a task that no scheduler has looked at yet.
pub(super) const WHY_NEW: &str = "not placed yet";

impl ClusterState {
    pub(super) fn create_connector(&mut self, entry: Entry, spec: &ConnectorSpec) -> Result<Reply, Refusal> {
        if let Some(existing) = self.connector(spec.name.as_str()) {
            return Err(if existing.deleting { Refusal::ConnectorDeleting } else { Refusal::ConnectorExists });
        }
        let incarnation = Incarnation(entry.index.0);
        let revision = Revision(entry.index.0);
        let connector = Connector {
            incarnation,
            revision,
            spec: spec.clone(),
            created_at_ms: entry.time_ms,
            updated_at_ms: entry.time_ms,
            deleting: false,
        };
        let assignment = Assignment {
            epoch: Epoch(entry.index.0),
            state: AssignmentState::Idle,
            why: WHY_NEW.to_owned(),
            since_ms: entry.time_ms,
            last_node: None,
        };
        self.names.insert(spec.name.clone(), incarnation);
        self.connectors.insert(incarnation, Arc::new(connector));
        self.assignments.insert(incarnation, Arc::new(assignment));
        self.catalogue_index = entry.index;
        Ok(self.changed(entry, incarnation, ReplyBody::Created { incarnation, revision }))
    }

    pub(super) fn delete_connector(
        &mut self,
        entry: Entry,
        name: &ConnectorName,
        wanted: Option<Incarnation>,
    ) -> Result<Reply, Refusal> {
        let connector = self.wanted(name, wanted)?;
        let incarnation = connector.incarnation;
        if self.is_going(&connector) {
            return self.first_reply(entry, incarnation);
        }
        self.held.remove(&incarnation);
        self.set_deleting(entry, &connector, true);
        Ok(self.changed(entry, incarnation, ReplyBody::Deleting { incarnation }))
    }

    pub(super) fn hold_connector(
        &mut self,
        entry: Entry,
        name: &ConnectorName,
        wanted: Option<Incarnation>,
    ) -> Result<Reply, Refusal> {
        let connector = self.wanted(name, wanted)?;
        let incarnation = connector.incarnation;
        if self.is_going(&connector) {
            return Err(Refusal::ConnectorDeleting);
        }
        if !self.held.insert(incarnation) {
            return self.first_reply(entry, incarnation);
        }
        self.set_deleting(entry, &connector, true);
        Ok(self.changed(entry, incarnation, ReplyBody::Deleting { incarnation }))
    }

    pub(super) fn restore_connector(&mut self, entry: Entry, incarnation: Incarnation) -> Result<Reply, Refusal> {
        let connector = self.connectors.get(&incarnation).cloned().ok_or(Refusal::ConnectorNotFound)?;
        if !self.held.remove(&incarnation) {
            return Err(Refusal::Stale);
        }
        self.set_deleting(entry, &connector, false);
        Ok(self.changed(entry, incarnation, ReplyBody::Done))
    }

    /// The filter is out already.
    pub(super) fn delete_held(
        &mut self,
        entry: Entry,
        incarnation: Incarnation,
        held_at: LogIndex,
    ) -> Result<Reply, Refusal> {
        if !self.connectors.contains_key(&incarnation) {
            return Err(Refusal::ConnectorNotFound);
        }
        // The last change of what is held is its hold.
        let same_hold = self.memory.change(incarnation).is_some_and(|change| change.reply.index == held_at);
        if !same_hold || !self.held.remove(&incarnation) {
            return Err(Refusal::Stale);
        }
        Ok(self.changed(entry, incarnation, ReplyBody::Deleting { incarnation }))
    }

    pub(super) fn remove_connector(&mut self, entry: Entry, incarnation: Incarnation) -> Result<Reply, Refusal> {
        let connector = self.connectors.get(&incarnation).cloned().ok_or(Refusal::ConnectorNotFound)?;
        let idle = self.assignments.get(&incarnation).is_none_or(|task| task.state == AssignmentState::Idle);
        if !self.is_going(&connector) || !idle {
            return Err(Refusal::Stale);
        }
        self.names.remove(&connector.spec.name);
        self.connectors.remove(&incarnation);
        self.assignments.remove(&incarnation);
        self.memory.removed(incarnation, entry.index);
        Ok(entry.reply(ReplyBody::Done))
    }

    fn wanted(&self, name: &ConnectorName, wanted: Option<Incarnation>) -> Result<Arc<Connector>, Refusal> {
        let connector = self.connector(name.as_str()).ok_or(Refusal::ConnectorNotFound)?;
        match wanted {
            Some(incarnation) if incarnation != connector.incarnation => Err(Refusal::ConnectorNotFound),
            Some(_) | None => Ok(connector.clone()),
        }
    }

    /// A second delete, or hold, of the same incarnation is answered like the first; a repeat of it too.
    fn first_reply(&mut self, entry: Entry, incarnation: Incarnation) -> Result<Reply, Refusal> {
        let reply = self.memory.change(incarnation).ok_or(Refusal::ConnectorNotFound)?.reply.clone();
        self.memory.remember(entry.index, entry.request_id, reply.clone());
        Ok(reply)
    }

    /// The catalogue changes only when the filter comes in or goes out.
    fn set_deleting(&mut self, entry: Entry, connector: &Connector, deleting: bool) {
        if connector.deleting != deleting {
            let changed = Connector { deleting, ..connector.clone() };
            self.connectors.insert(connector.incarnation, Arc::new(changed));
            self.catalogue_index = entry.index;
        }
    }
}
