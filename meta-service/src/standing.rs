//! Whether a Raft id belongs to the cluster, told from a replica without tombstones: an id says itself when it was
//! admitted.

use api_types::{LogIndex, RaftId};
use serde::{Deserialize, Serialize};

use crate::state::{ADMITTED_ID_BASE, ClusterState};

/// Ids of the bootstrap; all others are `ADMITTED_ID_BASE` + the log index of their admission.
pub(crate) const BOOTSTRAP_ID_MAX: u64 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Member,
    /// Its admission was applied here, and it is gone.
    Removed,
    /// Its admission is not applied here yet: ask again.
    NotYetKnown,
    /// A member whose log ends before what is known to have been synced.
    WentBack {
        expected: LogIndex,
    },
}

impl Standing {
    pub(crate) fn of(raft_id: RaftId, state: &ClusterState) -> Self {
        if state.nodes.contains_key(&raft_id) {
            return Self::Member;
        }
        // The first members are only known once the founding is applied.
        let founded = state.cluster_id != api_types::ClusterId::default();
        let admitted_at = match raft_id.0 {
            1..=BOOTSTRAP_ID_MAX => 0,
            id => id.saturating_sub(ADMITTED_ID_BASE),
        };
        if founded && admitted_at <= state.applied.0 { Self::Removed } else { Self::NotYetKnown }
    }

    /// The standing of a disk whose log ends at `last_log`: what a registration would be told.
    pub(crate) fn of_log(raft_id: RaftId, last_log: LogIndex, state: &ClusterState) -> Self {
        match state.nodes.get(&raft_id).map(|node| node.log_synced) {
            Some(expected) if last_log < expected => Self::WentBack { expected },
            Some(_) | None => Self::of(raft_id, state),
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::ClusterId;

    use super::*;

    #[test]
    fn an_id_is_removed_only_when_its_admission_was_seen() {
        let mut state = ClusterState::default();
        state.applied = LogIndex(40);
        let check = |state: &ClusterState, id, expect| assert_eq!(Standing::of(RaftId(id), state), expect, "{id}");
        check(&state, 1, Standing::NotYetKnown);
        state.cluster_id = ClusterId(1);
        check(&state, 1, Standing::Removed);
        check(&state, 1040, Standing::Removed);
        check(&state, 1041, Standing::NotYetKnown);
    }

    #[test]
    fn a_log_that_ends_before_what_was_synced_went_back() {
        let mut log = crate::state::fixtures::TestLog::with_nodes(2);
        let synced = vec![(RaftId(1), LogIndex(3))];
        log.commit(crate::state::CommandBody::NoteSyncedLogs { synced });
        let check = |id, last_log, expect| {
            assert_eq!(Standing::of_log(RaftId(id), LogIndex(last_log), &log.state), expect, "{id} {last_log}");
        };
        check(1, 2, Standing::WentBack { expected: LogIndex(3) });
        check(1, 3, Standing::Member);
        check(2, 0, Standing::Member);
        check(3, 0, Standing::Removed);
    }
}
