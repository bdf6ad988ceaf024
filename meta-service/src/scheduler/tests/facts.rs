//! What the scheduler decides, case by case.

use std::time::Duration;

use api_types::Incarnation;
use api_types::connector::Desired;

use super::world::World;
use crate::scheduler::{MoveReason, Presence, reason_of};
use crate::state::fixtures::{registration, spec};
use crate::state::{CommandBody, PlanStep};

fn create_many(world: &mut World, count: usize) -> Vec<Incarnation> {
    (0..count).map(|number| world.log.create(&format!("c{number}"))).collect()
}

fn reasons(world: &World) -> Vec<Option<MoveReason>> {
    let plan = world.plan();
    plan.steps.iter().map(|step| reason_of(&world.log.state, &world.view, step)).collect()
}

#[test]
fn new_tasks_spread_over_the_nodes() {
    let mut world = World::new(3);
    create_many(&mut world, 7);
    assert_eq!(reasons(&world), vec![Some(MoveReason::New); 7]);
    world.settle();
    assert_eq!(world.counts(), [3, 2, 2]);
}

#[test]
fn a_kind_that_no_node_offers_stays_idle_and_says_so() {
    let mut world = World::new(2);
    let mut kafka = spec("k");
    kafka.kind = "kafka".into();
    let incarnation = world.log.create_spec(kafka);
    world.settle();
    assert_eq!(world.owner(incarnation), None);
    assert_eq!(world.why(incarnation), "no node offers kind kafka");
}

#[test]
fn placement_is_honoured_and_its_refusal_named() {
    let mut world = World::new(4);
    let (mut named, mut zoned, mut nowhere) = (spec("named"), spec("zoned"), spec("nowhere"));
    named.placement.nodes = vec!["node-3".into()];
    zoned.placement.zones = vec!["zone-0".into()];
    nowhere.placement.zones = vec!["zone-9".into()];
    let named = world.log.create_spec(named);
    let zoned = world.log.create_spec(zoned);
    let nowhere = world.log.create_spec(nowhere);
    world.settle();
    assert_eq!(world.owner(named), Some(3));
    assert_eq!(world.owner(zoned), Some(2));
    assert_eq!(world.owner(nowhere), None);
    assert_eq!(world.why(nowhere), "no node that offers kind file is allowed by placement (nodes: any; zones: zone-9)");
}

#[test]
fn lost_node_loses_its_tasks_to_the_others() {
    let mut world = World::new(3);
    create_many(&mut world, 6);
    world.settle();
    world.node(1).presence = Presence::Silent;
    assert!(world.plan().is_empty(), "nothing moves before the fence");
    world.log.fence(1);
    world.view.nodes.remove(&api_types::RaftId(1));
    assert_eq!(reasons(&world), vec![Some(MoveReason::Failover); 2]);
    assert_eq!(world.settle(), 0);
    assert_eq!(world.counts(), [3, 3]);
}

#[test]
fn the_only_node_is_gone_and_the_reason_names_it() {
    let mut world = World::new(1);
    let incarnation = world.log.create("c");
    world.settle();
    world.log.fence(1);
    world.view.nodes.clear();
    world.settle();
    assert_eq!(world.why(incarnation), "the nodes that may run it are not available: node-1 (fenced)");
}

#[test]
fn a_stopping_node_hands_over_at_once_and_gets_its_own_back() {
    let mut world = World::new(3);
    create_many(&mut world, 9);
    world.settle();
    let own: Vec<Incarnation> =
        world.log.state.connectors.keys().copied().filter(|incarnation| world.owner(*incarnation) == Some(2)).collect();
    world.view.moves_in = Duration::from_secs(5);
    world.node(2).stopping = true;
    let plan = world.plan();
    assert_eq!(plan.steps.len(), 3, "all at once, without waiting for moves to be allowed");
    assert!(plan.moving.is_empty());
    world.apply(&plan);
    world.all_stop();
    assert_eq!(reasons(&world), vec![Some(MoveReason::Handover); 3]);
    world.settle();
    assert_eq!(world.counts(), [5, 0, 4]);

    world.view.moves_in = Duration::ZERO;
    world.log.register(2, 999);
    world.node(2).returned = true;
    world.see_all();
    world.settle();
    assert_eq!(world.counts(), [3, 3, 3]);
    let back: Vec<Incarnation> =
        world.log.state.connectors.keys().copied().filter(|incarnation| world.owner(*incarnation) == Some(2)).collect();
    assert_eq!(back, own);
}

#[test]
fn tasks_of_a_node_that_registers_again_wait_for_its_first_lease() {
    let mut world = World::new(3);
    create_many(&mut world, 6);
    world.settle();
    let node_epoch = world.log.register(1, 999);
    let awaited = Duration::from_secs(2);
    world.node(1).node_epoch = node_epoch;
    world.node(1).presence = Presence::Joining { awaited };
    let plan = world.plan();
    assert!(plan.is_empty(), "{plan:?}");
    assert_eq!(plan.next_wakeup, Some(awaited));
    world.node(1).presence = Presence::Alive;
    assert_eq!(reasons(&world), vec![Some(MoveReason::Returned); 2]);
    world.settle();
    assert_eq!(world.counts(), [2, 2, 2]);

    let node_epoch = world.log.register(1, 1000);
    world.node(1).node_epoch = node_epoch;
    world.node(1).presence = Presence::Silent;
    world.settle();
    assert_eq!(world.counts(), [0, 3, 3], "it was awaited long enough");
}

#[test]
fn a_joining_node_gets_its_share_in_bounded_steps() {
    let mut world = World::new(2);
    create_many(&mut world, 30);
    world.settle();
    world.log.commit(CommandBody::AdmitDisk { disk: crate::state::fixtures::disk(9) });
    let raft_id = *world.log.state.nodes.keys().last().expect("a node");
    let mut registration = registration(9, 9);
    registration.raft_id = raft_id;
    world.log.commit(CommandBody::RegisterNode { registration });
    world.see_all();
    assert_eq!(world.plan().moving.len(), 3, "one per node at a time");
    assert_eq!(world.settle(), 9, "up to the band, not beyond");
    assert_eq!(world.counts(), [11, 10, 9]);
}

#[test]
fn one_round_of_moves_ends_before_the_next_begins() {
    let mut world = World::new(1);
    create_many(&mut world, 9);
    world.settle();
    world.log.commit(CommandBody::AdmitDisk { disk: crate::state::fixtures::disk(9) });
    let raft_id = *world.log.state.nodes.keys().last().expect("a node");
    let mut registration = registration(9, 9);
    registration.raft_id = raft_id;
    world.log.commit(CommandBody::RegisterNode { registration });
    world.see_all();
    world.policy.max_moves = Some(1);
    let first = world.plan();
    assert_eq!(first.moving.len(), 1);
    world.apply(&first);
    assert!(world.plan().is_empty());
    world.view.moves_in = Duration::from_secs(1);
    world.all_stop();
    let placed = world.plan();
    assert_eq!((placed.steps.len(), placed.moving.len()), (1, 0));
    world.apply(&placed);
    assert_eq!(world.plan().next_wakeup, Some(Duration::from_secs(1)), "a new leader waits before it moves more");
}

#[test]
fn a_release_that_takes_too_long_is_withdrawn_and_the_task_left_alone() {
    let mut world = World::new(1);
    let all = create_many(&mut world, 4);
    world.settle();
    world.log.commit(CommandBody::AdmitDisk { disk: crate::state::fixtures::disk(9) });
    let raft_id = *world.log.state.nodes.keys().last().expect("a node");
    let mut registration = registration(9, 9);
    registration.raft_id = raft_id;
    world.log.commit(CommandBody::RegisterNode { registration });
    world.see_all();
    world.policy.max_moves = Some(1);
    let plan = world.plan();
    let moving = plan.moving[0].incarnation;
    world.apply(&plan);
    world.view.releasing.insert(moving, Duration::from_secs(11));
    let waiting = world.plan();
    assert!(waiting.is_empty());
    assert_eq!(waiting.next_wakeup, Some(Duration::from_secs(1)));

    world.view.releasing.insert(moving, Duration::from_secs(12));
    let before = world.log.state.assignments[&moving].epoch;
    let plan = world.plan();
    assert_eq!(plan.withdrawn, [moving]);
    assert_eq!(reason_of(&world.log.state, &world.view, &plan.steps[0]), Some(MoveReason::Withdrawn));
    world.apply(&plan);
    assert_eq!(world.owner(moving), Some(1));
    assert!(world.log.state.assignments[&moving].epoch > before);

    world.view.releasing.clear();
    world.view.cooling.insert(moving, Duration::from_secs(300));
    let plan = world.plan();
    assert!(plan.moving.iter().all(|movement| movement.incarnation != moving && all.contains(&movement.incarnation)));
}

#[test]
fn a_release_for_another_reason_is_never_withdrawn() {
    let mut world = World::new(2);
    let incarnation = world.log.create("c");
    world.settle();
    world.log.delete("c");
    let plan = world.plan();
    assert!(matches!(plan.steps[..], [PlanStep::Release { .. }]), "{plan:?}");
    world.apply(&plan);
    world.view.releasing.insert(incarnation, Duration::from_secs(3600));
    assert!(world.plan().is_empty());
    world.all_stop();
    assert_eq!(world.plan().removals, [incarnation]);
    world.settle();
    assert!(world.log.state.connectors.is_empty());
}

#[test]
fn a_held_connector_goes_on_running() {
    let mut world = World::new(1);
    let incarnation = world.log.create("c");
    world.settle();
    world.log.commit(CommandBody::HoldConnector { name: "c".into(), incarnation: None });
    assert!(world.plan().is_empty());
    assert_eq!(world.owner(incarnation), Some(1));
}

#[test]
fn a_stopped_connector_is_released_and_stays_idle() {
    let mut world = World::new(1);
    let mut stopped = spec("s");
    stopped.desired = Desired::Stopped;
    let incarnation = world.log.create_spec(stopped);
    world.settle();
    assert_eq!(world.owner(incarnation), None);
    assert_eq!(world.why(incarnation), "stopped by its user");
}

#[test]
fn a_leader_that_has_not_heard_everybody_gives_no_reasons() {
    let mut world = World::new(2);
    world.log.create("c");
    world.view.nodes.clear();
    world.view.moves_in = Duration::from_secs(2);
    assert!(world.plan().is_empty());
    world.view.moves_in = Duration::ZERO;
    assert!(matches!(world.plan().steps[..], [PlanStep::Explain { .. }]));
}

#[test]
fn withdrawn_tasks_are_not_counted_as_moving() {
    let mut world = World::new(2);
    let incarnation = world.log.create("c");
    world.settle();
    world.log.release(incarnation);
    world.view.releasing.insert(incarnation, Duration::from_secs(60));
    let plan = world.plan();
    assert_eq!((plan.withdrawn.len(), plan.moving.len()), (1, 0));
}
