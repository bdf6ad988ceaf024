//! The leader's soft state, as other nodes ask for it.

use std::collections::BTreeMap;
use std::time::Duration;

use api_types::heartbeat::NodeLoad;
use api_types::status::TaskReport;
use api_types::{Incarnation, LogIndex, RaftId};
use serde::{Deserialize, Serialize};

use crate::liveness::Liveness;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reports {
    pub term: u64,
    /// The node that runs the task, its last report, and the age of that in milliseconds.
    pub tasks: BTreeMap<Incarnation, (RaftId, TaskReport, u64)>,
    pub nodes: BTreeMap<RaftId, NodeReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub load: NodeLoad,
    pub catalogue_index: LogIndex,
    pub lease_remaining_ms: u64,
    pub age_ms: u64,
}

impl Reports {
    pub(super) fn of(liveness: &Liveness, now: Duration) -> Self {
        let tasks = liveness.tasks().iter().map(|(incarnation, task)| {
            let age_ms = millis(now.saturating_sub(task.at));
            (*incarnation, (task.node, task.report.clone(), age_ms))
        });
        let nodes = liveness.nodes(now).map(|node| {
            let report = NodeReport {
                load: node.load.clone(),
                catalogue_index: node.catalogue_index,
                lease_remaining_ms: millis(node.lease_remaining),
                age_ms: millis(node.age),
            };
            (node.raft_id, report)
        });
        Self { term: liveness.term(), tasks: tasks.collect(), nodes: nodes.collect() }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
