//! The state as rows of a snapshot. A stored type that changes gets a new variant here and keeps the old one readable.
//!
//! ```text
//! HeaderV1 · NodeV1… · ConnectorV1… · AssignmentV1… · HeldV1… · ChangeV1… · RepliesV1… · EndV1
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use api_types::assignment::Assignment;
use api_types::{ClusterId, Connector, Incarnation, LogIndex, RequestId};
use serde::{Deserialize, Serialize};

use super::memory::Change;
use super::{ClusterState, Node, Reply};

/// One row. Variants only grow at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateRow {
    HeaderV1 {
        cluster_id: ClusterId,
        applied: LogIndex,
        catalogue_index: LogIndex,
    },
    NodeV1(Arc<Node>),
    ConnectorV1(Arc<Connector>),
    AssignmentV1(Incarnation, Arc<Assignment>),
    HeldV1(Incarnation),
    ChangeV1(Incarnation, Arc<Change>),
    RepliesV1 {
        segment: u64,
        replies: Arc<BTreeMap<RequestId, Reply>>,
    },
    /// The last row; `rows` counts those before it.
    EndV1 {
        rows: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    #[error("row {row}: the header must come first and once")]
    Header { row: u64 },
    #[error("row {row}: a second row of the same key")]
    Repeated { row: u64 },
    #[error("row {row}: its connector has no row before it")]
    Orphan { row: u64 },
    #[error("row {row}: after the end")]
    AfterEnd { row: u64 },
    #[error("row {row}: the end says {said} rows")]
    Count { row: u64, said: u64 },
    #[error("ends after {rows} rows without the end row")]
    Truncated { rows: u64 },
}

impl ClusterState {
    pub fn to_rows(&self) -> impl Iterator<Item = StateRow> + Send + '_ {
        let header = StateRow::HeaderV1 {
            cluster_id: self.cluster_id,
            applied: self.applied,
            catalogue_index: self.catalogue_index,
        };
        let assignments = self.assignments.iter();
        let mut rows = std::iter::once(header)
            .chain(self.nodes.values().map(|node| StateRow::NodeV1(node.clone())))
            .chain(self.connectors.values().map(|connector| StateRow::ConnectorV1(connector.clone())))
            .chain(assignments.map(|(incarnation, task)| StateRow::AssignmentV1(*incarnation, task.clone())))
            .chain(self.held.iter().map(|incarnation| StateRow::HeldV1(*incarnation)))
            .chain(self.memory.changes().map(|(incarnation, change)| StateRow::ChangeV1(incarnation, change.clone())))
            .chain(
                self.memory
                    .segments()
                    .map(|(segment, replies)| StateRow::RepliesV1 { segment, replies: replies.clone() }),
            );
        let mut count = 0;
        let mut ended = false;
        std::iter::from_fn(move || {
            if let Some(row) = rows.next() {
                count += 1;
                return Some(row);
            }
            let end = (!ended).then_some(StateRow::EndV1 { rows: count });
            ended = true;
            end
        })
    }

    pub fn from_rows(rows: impl IntoIterator<Item = StateRow>) -> Result<Self, RowError> {
        let mut builder = StateBuilder::default();
        for row in rows {
            builder.push(row)?;
        }
        builder.finish()
    }
}

/// Takes rows one at a time, as they come from a file or from the network.
#[derive(Debug, Default)]
pub struct StateBuilder {
    state: ClusterState,
    rows: u64,
    ended: bool,
}

impl StateBuilder {
    pub fn push(&mut self, row: StateRow) -> Result<(), RowError> {
        let number = self.rows;
        if self.ended {
            return Err(RowError::AfterEnd { row: number });
        }
        if (number == 0) != matches!(row, StateRow::HeaderV1 { .. }) {
            return Err(RowError::Header { row: number });
        }
        let state = &mut self.state;
        let known = |state: &ClusterState, incarnation: &Incarnation| {
            if state.connectors.contains_key(incarnation) { Ok(()) } else { Err(RowError::Orphan { row: number }) }
        };
        let fresh = match row {
            StateRow::HeaderV1 { cluster_id, applied, catalogue_index } => {
                *state = ClusterState { cluster_id, applied, catalogue_index, ..ClusterState::default() };
                true
            }
            StateRow::NodeV1(node) => state.nodes.insert(node.raft_id, node).is_none(),
            StateRow::ConnectorV1(connector) => {
                let fresh = state.names.insert(connector.spec.name.clone(), connector.incarnation).is_none();
                state.connectors.insert(connector.incarnation, connector).is_none() && fresh
            }
            StateRow::AssignmentV1(incarnation, task) => {
                known(state, &incarnation)?;
                state.assignments.insert(incarnation, task).is_none()
            }
            StateRow::HeldV1(incarnation) => {
                known(state, &incarnation)?;
                state.held.insert(incarnation)
            }
            StateRow::ChangeV1(incarnation, change) => {
                known(state, &incarnation)?;
                state.memory.insert_change(incarnation, change)
            }
            StateRow::RepliesV1 { segment, replies } => state.memory.insert_segment(segment, replies),
            StateRow::EndV1 { rows } if rows != number => return Err(RowError::Count { row: number, said: rows }),
            StateRow::EndV1 { .. } => {
                self.ended = true;
                true
            }
        };
        self.rows += 1;
        if fresh { Ok(()) } else { Err(RowError::Repeated { row: number }) }
    }

    pub fn finish(self) -> Result<ClusterState, RowError> {
        if self.ended { Ok(self.state) } else { Err(RowError::Truncated { rows: self.rows }) }
    }
}
