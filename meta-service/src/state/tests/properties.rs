//! What holds after any sequence of commands.

use std::collections::{BTreeMap, BTreeSet};

use api_types::assignment::{AssignmentState, Owner};
use api_types::{Epoch, Incarnation, RaftId, RequestId};
use proptest::prelude::*;

use crate::state::fixtures::{TestLog, disk, registration, spec};
use crate::state::*;

const NODES: u64 = 3;

/// One thing that somebody does; small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Act {
    Create(u8),
    Delete(u8),
    Hold(u8),
    Restore(u8),
    DeleteHeld(u8),
    Remove(u8),
    Assign {
        connector: u8,
        node: u8,
        stale: bool,
    },
    Release {
        connector: u8,
        stale: bool,
    },
    Released {
        connector: u8,
        stale: bool,
    },
    Explain(u8),
    Fence {
        node: u8,
        stale: bool,
    },
    Register {
        node: u8,
        nonce: u8,
        lock_proof: bool,
    },
    Leave(u8),
    Admit(u8),
    NoteSynced {
        node: u8,
        index: u8,
    },
    NextTerm,
    /// A blank entry.
    Blank,
    /// The same command again, as after a lost answer.
    Repeat(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let (connector, node, stale) = (0..4u8, 1..=NODES as u8, prop::bool::weighted(0.2));
    prop_oneof![
        4 => connector.clone().prop_map(Act::Create),
        2 => connector.clone().prop_map(Act::Delete),
        1 => connector.clone().prop_map(Act::Hold),
        1 => connector.clone().prop_map(Act::Restore),
        1 => connector.clone().prop_map(Act::DeleteHeld),
        3 => connector.clone().prop_map(Act::Remove),
        6 => (connector.clone(), node.clone(), stale)
            .prop_map(|(connector, node, stale)| Act::Assign { connector, node, stale }),
        3 => (connector.clone(), stale).prop_map(|(connector, stale)| Act::Release { connector, stale }),
        3 => (connector.clone(), stale).prop_map(|(connector, stale)| Act::Released { connector, stale }),
        1 => connector.prop_map(Act::Explain),
        1 => (node.clone(), stale).prop_map(|(node, stale)| Act::Fence { node, stale }),
        2 => (node.clone(), 0..3u8, any::<bool>())
            .prop_map(|(node, nonce, lock_proof)| Act::Register { node, nonce, lock_proof }),
        1 => node.clone().prop_map(Act::Leave),
        1 => (4..7u8).prop_map(Act::Admit),
        1 => (node, any::<u8>()).prop_map(|(node, index)| Act::NoteSynced { node, index }),
        1 => Just(Act::NextTerm),
        1 => Just(Act::Blank),
        3 => any::<u8>().prop_map(Act::Repeat),
    ]
}

/// Commits what the act means in this state; `None` when it means nothing.
fn perform(log: &mut TestLog, act: &Act) -> Option<Reply> {
    let name = |connector: &u8| format!("c{connector}");
    let incarnation = |log: &TestLog, connector: &u8| log.state.names.get(&name(connector).as_str().into()).copied();
    let epoch = |log: &TestLog, incarnation: Incarnation, stale: &bool| {
        Epoch(log.state.assignments[&incarnation].epoch.0 - u64::from(*stale))
    };
    let body = match act {
        Act::Create(connector) => CommandBody::CreateConnector { spec: Box::new(spec(&name(connector))) },
        Act::Delete(connector) => {
            CommandBody::DeleteConnector { name: name(connector).into(), incarnation: incarnation(log, connector) }
        }
        Act::Hold(connector) => CommandBody::HoldConnector { name: name(connector).into(), incarnation: None },
        Act::Restore(connector) => CommandBody::RestoreConnector { incarnation: incarnation(log, connector)? },
        Act::DeleteHeld(connector) => {
            let incarnation = incarnation(log, connector)?;
            let hold = CommandBody::HoldConnector { name: name(connector).into(), incarnation: None };
            let mut holds = log.entries.iter().filter(|(_, _, command)| command.body == hold);
            CommandBody::DeleteHeld { incarnation, held_at: holds.next_back()?.0 }
        }
        Act::Remove(connector) => CommandBody::RemoveConnector { incarnation: incarnation(log, connector)? },
        Act::Assign { connector, node, stale } => {
            let incarnation = incarnation(log, connector)?;
            let node = log.state.nodes.get(&RaftId(u64::from(*node)))?;
            let (node, node_epoch) = (node.raft_id, node.node_epoch);
            let expect_epoch = epoch(log, incarnation, stale);
            let step = PlanStep::Assign { incarnation, expect_epoch, node, node_epoch, why: "a".into() };
            CommandBody::ApplyPlan { decided_term: log.term, steps: vec![step] }
        }
        Act::Release { connector, stale } => {
            let incarnation = incarnation(log, connector)?;
            let step = PlanStep::Release { incarnation, expect_epoch: epoch(log, incarnation, stale), why: "r".into() };
            CommandBody::ApplyPlan { decided_term: log.term, steps: vec![step] }
        }
        Act::Released { connector, stale } => {
            let incarnation = incarnation(log, connector)?;
            CommandBody::Released { incarnation, epoch: epoch(log, incarnation, stale) }
        }
        Act::Explain(connector) => {
            let incarnation = incarnation(log, connector)?;
            let step =
                PlanStep::Explain { incarnation, expect_epoch: epoch(log, incarnation, &false), why: "e".into() };
            CommandBody::ApplyPlan { decided_term: log.term - 1 + u64::from(*connector % 2), steps: vec![step] }
        }
        Act::Fence { node, stale } => {
            let node = log.state.nodes.get(&RaftId(u64::from(*node)))?;
            let decided_term = log.term - u64::from(*stale);
            CommandBody::FenceNode { node: node.raft_id, node_epoch: node.node_epoch, decided_term, reason: "f".into() }
        }
        Act::Register { node, nonce, lock_proof } => {
            let mut registration = registration(u64::from(*node), u64::from(*nonce));
            registration.lock_proof = *lock_proof;
            CommandBody::RegisterNode { registration }
        }
        Act::Leave(node) => {
            let node = log.state.nodes.get(&RaftId(u64::from(*node)))?;
            CommandBody::NodeLeft { node: node.raft_id, node_epoch: node.node_epoch }
        }
        Act::Admit(id) => CommandBody::AdmitDisk { disk: disk(u64::from(*id)) },
        Act::NoteSynced { node, index } => {
            let synced = vec![(RaftId(u64::from(*node)), LogIndex(u64::from(*index)))];
            CommandBody::NoteSyncedLogs { synced }
        }
        Act::NextTerm => {
            log.term += 1;
            return None;
        }
        Act::Blank => {
            let index = LogIndex(log.state.applied.0 + 1);
            log.state.advance(index);
            return None;
        }
        Act::Repeat(which) => {
            let (_, _, command) = log.entries.get(usize::from(*which) % log.entries.len().max(1))?.clone();
            return Some(log.commit_as(command.request_id, command.body));
        }
    };
    Some(log.commit(body))
}

fn owner_of(task: &api_types::assignment::Assignment) -> Option<Owner> {
    match task.state {
        AssignmentState::Idle => None,
        AssignmentState::Assigned(owner) | AssignmentState::Releasing(owner) => Some(owner),
    }
}

/// What every reachable state satisfies.
fn check_state(state: &ClusterState) {
    let keys: BTreeSet<_> = state.connectors.keys().collect();
    assert_eq!(keys, state.assignments.keys().collect(), "each connector has one task");
    let named: BTreeSet<_> = state.names.values().collect();
    assert_eq!(keys, named, "one name, one incarnation");
    for (name, incarnation) in &state.names {
        assert_eq!(&state.connectors[incarnation].spec.name, name);
    }
    for incarnation in &state.held {
        assert!(state.connectors[incarnation].deleting);
    }
    for task in state.assignments.values() {
        if let Some(owner) = owner_of(task) {
            let node = &state.nodes[&owner.node];
            assert_eq!(node.state, NodeState::Up, "no task belongs to a node that is not up");
            assert_eq!(node.node_epoch, owner.node_epoch);
        }
    }
    let disks: BTreeSet<_> = state.nodes.values().map(|node| node.disk_id).collect();
    assert_eq!(disks.len(), state.nodes.len(), "one disk, one id");
    assert!(state.catalogue_index <= state.applied);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_gives_the_same_state_and_the_same_replies(acts in prop::collection::vec(act(), 1..120)) {
        let mut log = TestLog::with_nodes(NODES);
        let mut replies = BTreeMap::new();
        for act in &acts {
            let index = LogIndex(log.state.applied.0 + 1);
            if let Some(reply) = perform(&mut log, act) {
                replies.insert(index, reply);
            }
        }
        let mut replica = ClusterState::default();
        for (index, term, command) in &log.entries {
            let reply = replica.apply(*index, *term, command);
            if let Some(expect) = replies.get(index) {
                prop_assert_eq!(&reply, expect);
            }
        }
        if log.state.applied > replica.applied {
            replica.advance(log.state.applied);
        }
        prop_assert_eq!(replica, log.state);
    }

    #[test]
    fn invariants_hold_after_every_entry(acts in prop::collection::vec(act(), 1..120)) {
        let mut log = TestLog::with_nodes(NODES);
        for act in &acts {
            let before = log.state.clone();
            perform(&mut log, act);
            check_state(&log.state);
            prop_assert!(log.state.catalogue_index >= before.catalogue_index);
            for (incarnation, task) in &log.state.assignments {
                let Some(earlier) = before.assignments.get(incarnation) else { continue };
                prop_assert!(task.epoch >= earlier.epoch);
                let gained = owner_of(task).is_some_and(|owner| owner_of(earlier) != Some(owner));
                prop_assert!(!gained || task.epoch > earlier.epoch, "a new owner has a new epoch");
                let resumed = matches!(
                    (earlier.state, task.state),
                    (AssignmentState::Releasing(_), AssignmentState::Assigned(_))
                );
                prop_assert!(!resumed || task.epoch > earlier.epoch, "a withdrawn release has a new epoch");
            }
            for (raft_id, node) in &before.nodes {
                let after = &log.state.nodes[raft_id];
                prop_assert!(after.log_synced >= node.log_synced && after.node_epoch >= node.node_epoch);
                prop_assert_eq!(after.disk_id, node.disk_id);
            }
        }
    }

    #[test]
    fn a_snapshot_restores_an_equal_state_that_goes_on_equally(
        before in prop::collection::vec(act(), 1..80),
        after in prop::collection::vec(act(), 0..40),
    ) {
        let mut log = TestLog::with_nodes(NODES);
        for act in &before {
            perform(&mut log, act);
        }
        let mut restored = log.clone();
        restored.state = ClusterState::from_rows(log.state.to_rows()).expect("its own rows");
        prop_assert_eq!(&restored.state, &log.state);
        for act in &after {
            prop_assert_eq!(perform(&mut restored, act), perform(&mut log, act));
        }
        prop_assert_eq!(restored.state, log.state);
    }

    #[test]
    fn a_repeated_request_gets_its_first_reply(acts in prop::collection::vec(act(), 1..120)) {
        let mut log = TestLog::with_nodes(NODES);
        let mut first: BTreeMap<RequestId, Reply> = BTreeMap::new();
        for act in &acts {
            let entries = log.entries.len();
            let Some(reply) = perform(&mut log, act) else { continue };
            let (_, _, command) = &log.entries[entries];
            let users = matches!(
                command.body,
                CommandBody::CreateConnector { .. }
                    | CommandBody::DeleteConnector { .. }
                    | CommandBody::HoldConnector { .. }
                    | CommandBody::RestoreConnector { .. }
                    | CommandBody::DeleteHeld { .. }
            );
            if users {
                prop_assert_eq!(first.entry(command.request_id).or_insert_with(|| reply.clone()), &reply);
            }
        }
    }
}
