//! What `apply` decides, case by case.

use api_types::assignment::{AssignmentState, Owner};
use api_types::{DiskId, Epoch, Incarnation, LogIndex, NodeEpoch, RaftId, RequestId};

use crate::state::fixtures::{TestLog, disk, registration, spec};
use crate::state::memory::REMEMBERED_INDEXES;
use crate::state::*;

fn create(name: &str) -> CommandBody {
    CommandBody::CreateConnector { spec: Box::new(spec(name)) }
}

fn delete(name: &str) -> CommandBody {
    CommandBody::DeleteConnector { name: name.into(), incarnation: None }
}

fn hold(name: &str) -> CommandBody {
    CommandBody::HoldConnector { name: name.into(), incarnation: None }
}

fn refusal(reply: Reply) -> Refusal {
    match reply.body {
        ReplyBody::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn task(log: &TestLog, incarnation: Incarnation) -> (Epoch, AssignmentState) {
    let task = &log.state.assignments[&incarnation];
    (task.epoch, task.state)
}

#[test]
fn of_two_creates_of_one_name_one_wins() {
    let mut log = TestLog::with_nodes(1);
    let first = log.commit(create("c"));
    assert_eq!(
        first.body,
        ReplyBody::Created { incarnation: Incarnation(first.index.0), revision: api_types::Revision(first.index.0) }
    );
    assert_eq!(refusal(log.commit(create("c"))), Refusal::ConnectorExists);
    assert_eq!(log.state.connectors.len(), 1);
}

#[test]
fn a_repeated_create_gets_the_first_reply_even_when_the_connector_is_gone() {
    let mut log = TestLog::with_nodes(1);
    let request = RequestId(1);
    let first = log.commit_as(request, create("c"));
    assert_eq!(log.commit_as(request, create("c")), first);
    log.delete("c");
    assert_eq!(log.commit_as(request, create("c")), first, "while it is being deleted");
    let incarnation = Incarnation(first.index.0);
    assert_eq!(log.commit(CommandBody::RemoveConnector { incarnation }).body, ReplyBody::Done);
    assert_eq!(log.commit_as(request, create("c")), first, "after it was removed");
    assert!(log.state.connectors.is_empty());
}

#[test]
fn a_refusal_is_remembered_for_its_request_only() {
    let mut log = TestLog::with_nodes(1);
    log.create("c");
    let refused = log.commit_as(RequestId(1), create("c"));
    log.delete("c");
    let incarnation = log.state.names[&"c".into()];
    log.commit(CommandBody::RemoveConnector { incarnation });
    assert_eq!(log.commit_as(RequestId(1), create("c")), refused);
    assert!(matches!(log.commit_as(RequestId(2), create("c")).body, ReplyBody::Created { .. }));
}

#[test]
fn replies_are_forgotten_by_index_alone() {
    let mut log = TestLog::with_nodes(1);
    let refused = log.commit_as(RequestId(1), delete("none"));
    let kept_to = LogIndex(refused.index.0 + REMEMBERED_INDEXES - 1);
    log.state.advance(kept_to);
    assert_eq!(log.commit_as(RequestId(1), delete("none")), refused);
    // Whole segments are forgotten.
    log.state.advance(LogIndex(kept_to.0 + 2048));
    assert_ne!(log.commit_as(RequestId(1), delete("none")), refused);
}

#[test]
fn a_name_is_taken_until_its_task_has_stopped() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    log.assign(incarnation, 1);
    let first = log.delete("c");
    assert_eq!(first.body, ReplyBody::Deleting { incarnation });
    assert_eq!(log.delete("c"), first, "a second delete is answered like the first");
    assert_eq!(refusal(log.commit(create("c"))), Refusal::ConnectorDeleting);
    let remove = CommandBody::RemoveConnector { incarnation };
    assert_eq!(refusal(log.commit(remove.clone())), Refusal::Stale, "the task still runs");
    log.release(incarnation);
    assert_eq!(refusal(log.commit(remove.clone())), Refusal::Stale, "the task still stops");
    log.released(incarnation);
    assert_eq!(log.commit(remove).body, ReplyBody::Done);
    assert!(log.create("c") > incarnation);
}

#[test]
fn delete_of_another_incarnation_is_refused() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    let other = Some(Incarnation(incarnation.0 + 1));
    let body = CommandBody::DeleteConnector { name: "c".into(), incarnation: other };
    assert_eq!(refusal(log.commit(body)), Refusal::ConnectorNotFound);
    assert_eq!(refusal(log.delete("d")), Refusal::ConnectorNotFound);
}

#[test]
fn a_held_connector_is_not_removed_and_can_come_back() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    let held = log.commit(hold("c"));
    assert_eq!(held.body, ReplyBody::Deleting { incarnation });
    assert_eq!(log.state.catalogue_index, held.index);
    assert_eq!(log.commit(hold("c")), held);
    assert_eq!(refusal(log.commit(CommandBody::RemoveConnector { incarnation })), Refusal::Stale);
    let restored = log.commit(CommandBody::RestoreConnector { incarnation });
    assert_eq!(log.state.catalogue_index, restored.index);
    assert!(!log.state.connectors[&incarnation].deleting);

    log.commit(hold("c"));
    let out = log.state.catalogue_index;
    assert_eq!(log.delete("c").body, ReplyBody::Deleting { incarnation });
    assert_eq!(log.state.catalogue_index, out, "the filter was out already");
    assert_eq!(refusal(log.commit(hold("c"))), Refusal::ConnectorDeleting);
    assert_eq!(log.commit(CommandBody::RemoveConnector { incarnation }).body, ReplyBody::Done);
}

#[test]
fn an_accepted_delete_is_never_undone() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    let restore = CommandBody::RestoreConnector { incarnation };
    assert_eq!(refusal(log.commit(restore.clone())), Refusal::Stale, "nobody holds it");
    log.commit(hold("c"));
    log.delete("c");
    assert_eq!(refusal(log.commit(restore.clone())), Refusal::Stale, "deleted while it was held");
    assert!(log.state.connectors[&incarnation].deleting);
    assert_eq!(log.commit(CommandBody::RemoveConnector { incarnation }).body, ReplyBody::Done);
    assert_eq!(refusal(log.commit(restore)), Refusal::ConnectorNotFound);
}

#[test]
fn only_the_hold_that_was_counted_under_deletes() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    let delete_held = |held: &Reply| CommandBody::DeleteHeld { incarnation, held_at: held.index };
    let first = log.commit(hold("c"));
    assert_eq!(log.commit(hold("c")), first, "two share a hold");
    log.commit(CommandBody::RestoreConnector { incarnation });
    assert_eq!(refusal(log.commit(delete_held(&first))), Refusal::Stale, "one found records and put it back");
    let second = log.commit(hold("c"));
    assert_eq!(refusal(log.commit(delete_held(&first))), Refusal::Stale, "held again, but not counted again");
    assert_eq!(refusal(log.commit(CommandBody::RemoveConnector { incarnation })), Refusal::Stale);

    let deleted = log.commit_as(RequestId(1), delete_held(&second));
    assert_eq!(deleted.body, ReplyBody::Deleting { incarnation });
    assert_eq!(log.state.catalogue_index, second.index, "the filter was out already");
    assert_eq!(log.commit_as(RequestId(1), delete_held(&second)), deleted, "a repeat");
    assert_eq!(refusal(log.commit(delete_held(&second))), Refusal::Stale, "another request");
    assert_eq!(log.delete("c"), deleted);
    assert_eq!(log.commit(CommandBody::RemoveConnector { incarnation }).body, ReplyBody::Done);
    assert_eq!(refusal(log.commit(delete_held(&second))), Refusal::ConnectorNotFound);
}

#[test]
fn the_catalogue_index_moves_with_the_catalogue_only() {
    let mut log = TestLog::with_nodes(2);
    assert_eq!(log.state.catalogue_index, LogIndex(0));
    let incarnation = log.create("c");
    assert_eq!(log.state.catalogue_index, LogIndex(incarnation.0));
    log.assign(incarnation, 1);
    log.release(incarnation);
    log.released(incarnation);
    log.fence(1);
    assert_eq!(log.state.catalogue_index, LogIndex(incarnation.0));
    let marked = log.delete("c").index;
    log.commit(CommandBody::RemoveConnector { incarnation });
    assert_eq!(log.state.catalogue_index, marked);
}

#[test]
fn assign_needs_an_idle_task_of_that_epoch_and_a_registered_node() {
    let mut log = TestLog::with_nodes(2);
    let incarnation = log.create("c");
    let idle = task(&log, incarnation);
    let node_epoch = log.state.nodes[&RaftId(1)].node_epoch;
    let step = |epoch: Epoch, node: u64, node_epoch: NodeEpoch| {
        let why = String::new();
        PlanStep::Assign { incarnation, expect_epoch: epoch, node: RaftId(node), node_epoch, why }
    };
    for (wrong, what) in [
        (step(Epoch(idle.0.0 - 1), 1, node_epoch), "stale epoch"),
        (step(idle.0, 1, NodeEpoch(node_epoch.0 - 1)), "earlier process of the node"),
        (step(idle.0, 9, node_epoch), "unknown node"),
    ] {
        log.plan(vec![wrong]);
        assert_eq!(task(&log, incarnation), idle, "{what}");
    }
    let decided_term = log.term + 1;
    let steps = vec![step(idle.0, 1, node_epoch)];
    let plan = CommandBody::ApplyPlan { decided_term, steps: steps.clone() };
    assert_eq!(refusal(log.commit(plan)), Refusal::Stale);
    let index = log.plan(steps).index;
    let owner = Owner { node: RaftId(1), node_epoch };
    assert_eq!(task(&log, incarnation), (Epoch(index.0), AssignmentState::Assigned(owner)));
}

#[test]
fn a_plan_never_starts_what_a_user_took_away() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    log.delete("c");
    log.assign(incarnation, 1);
    assert_eq!(task(&log, incarnation).1, AssignmentState::Idle);
}

#[test]
fn a_release_is_withdrawn_only_to_its_owner_and_under_a_new_epoch() {
    let mut log = TestLog::with_nodes(2);
    let incarnation = log.create("c");
    log.assign(incarnation, 1);
    log.release(incarnation);
    let releasing = task(&log, incarnation);
    log.assign(incarnation, 2);
    assert_eq!(task(&log, incarnation), releasing, "nobody else gets it");
    let index = log.assign(incarnation, 1).index;
    assert_eq!(task(&log, incarnation).0, Epoch(index.0));
    let late = CommandBody::Released { incarnation, epoch: releasing.0 };
    assert_eq!(refusal(log.commit(late)), Refusal::Stale);
}

#[test]
fn released_frees_only_what_was_to_be_released() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    log.assign(incarnation, 1);
    assert_eq!(refusal(log.released(incarnation)), Refusal::Stale, "nobody asked for it");
    log.release(incarnation);
    let (epoch, _) = task(&log, incarnation);
    assert_eq!(log.released(incarnation).body, ReplyBody::Done);
    assert_eq!(task(&log, incarnation), (epoch, AssignmentState::Idle));
    assert_eq!(log.state.assignments[&incarnation].last_node, Some(RaftId(1)));
    assert_eq!(log.released(incarnation).body, ReplyBody::Done, "a repeat changes nothing");
}

#[test]
fn lost_node_frees_its_tasks_under_a_new_epoch() {
    let mut log = TestLog::with_nodes(2);
    let (ours, other) = (log.create("c"), log.create("d"));
    log.assign(ours, 1);
    log.assign(other, 2);
    let kept = task(&log, other);
    let index = log.fence(1).index;
    assert_eq!(task(&log, ours), (Epoch(index.0), AssignmentState::Idle));
    assert_eq!(log.state.assignments[&ours].last_node, Some(RaftId(1)));
    assert_eq!(log.state.assignments[&ours].why, "node-1 is gone: not heard");
    assert_eq!(task(&log, other), kept);
    assert_eq!(refusal(log.fence(1)), Refusal::Stale, "once is enough");
}

#[test]
fn a_fence_of_an_earlier_process_or_term_is_refused() {
    let mut log = TestLog::with_nodes(1);
    let earlier = log.state.nodes[&RaftId(1)].node_epoch;
    let node_epoch = log.register(1, 2);
    let check = |log: &mut TestLog, node_epoch: NodeEpoch, decided_term: u64| {
        let reason = String::new();
        log.commit(CommandBody::FenceNode { node: RaftId(1), node_epoch, decided_term, reason }).body
    };
    let term = log.term;
    assert_eq!(check(&mut log, earlier, term), ReplyBody::Refused(Refusal::Stale));
    assert_eq!(check(&mut log, node_epoch, term + 1), ReplyBody::Refused(Refusal::Stale));
    assert_eq!(check(&mut log, node_epoch, term), ReplyBody::Done);
}

#[test]
fn a_process_registers_once_and_its_successor_needs_the_lock() {
    let mut log = TestLog::with_nodes(1);
    let incarnation = log.create("c");
    log.assign(incarnation, 1);
    let node_epoch = log.state.nodes[&RaftId(1)].node_epoch;
    assert_eq!(log.register(1, 100), node_epoch, "the same process again");
    let (epoch, _) = task(&log, incarnation);

    let mut second = registration(1, 101);
    second.lock_proof = false;
    let refused = log.commit(CommandBody::RegisterNode { registration: second.clone() });
    assert_eq!(refusal(refused), Refusal::LeaseHeld);
    assert_eq!(task(&log, incarnation).0, epoch);

    second.lock_proof = true;
    log.commit(CommandBody::RegisterNode { registration: second.clone() });
    assert_eq!(task(&log, incarnation).1, AssignmentState::Idle);
    assert_eq!(log.state.assignments[&incarnation].last_node, Some(RaftId(1)));
    assert!(task(&log, incarnation).0 > epoch);

    log.fence(1);
    second.lock_proof = false;
    let again = log.commit(CommandBody::RegisterNode { registration: second });
    assert!(matches!(again.body, ReplyBody::Registered { .. }), "the lease is over: {again:?}");
}

#[test]
fn registration_belongs_to_an_admitted_disk() {
    let mut log = TestLog::with_nodes(1);
    let unknown = registration(5, 1);
    assert_eq!(refusal(log.commit(CommandBody::RegisterNode { registration: unknown })), Refusal::UnknownDisk);
    let mut stolen = registration(1, 1);
    stolen.disk_id = DiskId(99);
    assert_eq!(refusal(log.commit(CommandBody::RegisterNode { registration: stolen })), Refusal::IdInUse);
}

#[test]
fn a_disk_that_went_back_is_refused() {
    let mut log = TestLog::with_nodes(1);
    let marks = vec![(RaftId(1), LogIndex(2)), (RaftId(1), LogIndex(1)), (RaftId(9), LogIndex(1))];
    log.commit(CommandBody::NoteSyncedLogs { synced: marks });
    assert_eq!(log.state.nodes[&RaftId(1)].log_synced, LogIndex(2), "it never goes back");
    let high = log.commit(CommandBody::NoteSyncedLogs { synced: vec![(RaftId(1), LogIndex(u64::MAX))] }).index;
    assert_eq!(log.state.nodes[&RaftId(1)].log_synced, high, "capped by what is committed");

    let mut restored = registration(1, 2);
    restored.last_log = LogIndex(high.0 - 1);
    let refused = refusal(log.commit(CommandBody::RegisterNode { registration: restored.clone() }));
    assert_eq!(refused, Refusal::DiskWentBack { expected: high, found: restored.last_log });
    restored.last_log = high;
    let good = log.commit(CommandBody::RegisterNode { registration: restored });
    assert!(matches!(good.body, ReplyBody::Registered { .. }), "{good:?}");
}

#[test]
fn a_disk_is_admitted_once() {
    let mut log = TestLog::with_nodes(3);
    let admit = |log: &mut TestLog, disk: Disk| log.commit(CommandBody::AdmitDisk { disk });
    let first = admit(&mut log, disk(8));
    let raft_id = RaftId(1000 + first.index.0);
    assert_eq!(first.body, ReplyBody::Admitted { raft_id });
    let moved = Disk { rpc_address: "10.0.0.9:7480".into(), ..disk(8) };
    assert_eq!(admit(&mut log, moved), first);
    assert_eq!(log.state.nodes[&raft_id].rpc_address, "10.0.0.9:7480");
    let member = admit(&mut log, disk(2));
    assert_eq!(member, Reply { index: LogIndex(0), body: ReplyBody::Admitted { raft_id: RaftId(2) } });
    assert_eq!(log.state.nodes.len(), 4);
}

#[test]
fn an_address_leads_to_the_disk_that_was_there_last() {
    let mut log = TestLog::with_nodes(2);
    let address = |log: &TestLog, id: RaftId| log.state.nodes[&id].rpc_address.clone();
    let empty = Disk { disk_id: DiskId(99), ..disk(2) };
    let in_use = Refusal::AddressInUse { address: disk(2).rpc_address, holder: disk(2).name };
    assert_eq!(refusal(log.commit(CommandBody::AdmitDisk { disk: empty.clone() })), in_use, "it is up");
    assert_eq!((log.state.nodes.len(), address(&log, RaftId(2))), (2, disk(2).rpc_address));
    log.fence(2);
    let admitted = log.commit(CommandBody::AdmitDisk { disk: empty }).body;
    let ReplyBody::Admitted { raft_id } = admitted else { panic!("{admitted:?}") };
    assert_eq!((address(&log, RaftId(2)), address(&log, raft_id)), (String::new(), disk(2).rpc_address));
    assert_eq!(address(&log, RaftId(1)), disk(1).rpc_address, "nobody else's");
    // The lost disk is found again, and put back.
    log.register(2, 201);
    assert_eq!((address(&log, RaftId(2)), address(&log, raft_id)), (disk(2).rpc_address, String::new()));
}

#[test]
fn an_admission_never_takes_an_id_in_use() {
    let mut log = TestLog { term: 1, ..TestLog::default() };
    let cluster_id = api_types::ClusterId(1);
    log.commit(CommandBody::FoundCluster { cluster_id, members: vec![(RaftId(1002), disk(1))] });
    assert_eq!(refusal(log.commit(CommandBody::AdmitDisk { disk: disk(2) })), Refusal::IdInUse);
    assert_eq!(log.state.nodes.len(), 1);
}

#[test]
fn a_cluster_is_founded_once() {
    let mut log = TestLog::with_nodes(1);
    let found = |id: u128| CommandBody::FoundCluster { cluster_id: api_types::ClusterId(id), members: Vec::new() };
    assert_eq!(log.commit(found(7)).body, ReplyBody::Done);
    assert_eq!(refusal(log.commit(found(8))), Refusal::Stale);
    assert_eq!(log.state.nodes.len(), 1);
}

#[test]
fn a_goodbye_frees_tasks_and_may_be_said_twice() {
    let mut log = TestLog::with_nodes(2);
    let incarnation = log.create("c");
    log.assign(incarnation, 1);
    let node_epoch = log.state.nodes[&RaftId(1)].node_epoch;
    let goodbye = CommandBody::NodeLeft { node: RaftId(1), node_epoch };
    for _ in 0..2 {
        assert_eq!(log.commit(goodbye.clone()).body, ReplyBody::Done);
        assert_eq!(log.state.nodes[&RaftId(1)].state, NodeState::Left);
        assert_eq!(task(&log, incarnation).1, AssignmentState::Idle);
    }
    log.register(1, 2);
    assert_eq!(refusal(log.commit(goodbye)), Refusal::Stale, "of the earlier process");
}

#[test]
fn broken_snapshots_are_named() {
    let mut log = TestLog::with_nodes(1);
    log.create("c");
    let rows: Vec<StateRow> = log.state.to_rows().collect();
    let check = |rows: Vec<StateRow>, expect: RowError| {
        assert_eq!(ClusterState::from_rows(rows), Err(expect));
    };
    let total = rows.len() as u64;
    check(Vec::new(), RowError::Truncated { rows: 0 });
    check(rows[..rows.len() - 1].to_vec(), RowError::Truncated { rows: total - 1 });
    check(rows[1..].to_vec(), RowError::Header { row: 0 });
    let mut missing = rows.clone();
    missing.remove(1);
    check(missing, RowError::Count { row: total - 2, said: total - 1 });
    let mut twice = rows.clone();
    twice.insert(2, rows[1].clone());
    check(twice, RowError::Repeated { row: 2 });
    let mut more = rows.clone();
    more.push(rows[1].clone());
    check(more, RowError::AfterEnd { row: total });
    let orphan = vec![rows[0].clone(), StateRow::HeldV1(Incarnation(9))];
    check(orphan, RowError::Orphan { row: 1 });
}
