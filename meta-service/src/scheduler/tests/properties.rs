//! The properties of the README, on random clusters.

use std::time::Duration;

use api_types::assignment::AssignmentState;
use api_types::connector::Desired;
use api_types::{Incarnation, RaftId};
use proptest::prelude::*;

use super::world::World;
use crate::scheduler::{Presence, checker, schedule};
use crate::state::fixtures::{registration, spec};
use crate::state::{CommandBody, PlanStep};

#[derive(Clone, Debug)]
struct NodeCase {
    kinds: u8,
    zone: u8,
    presence: u8,
    stopping: bool,
    returned: bool,
}

#[derive(Clone, Debug)]
struct TaskCase {
    kind: u8,
    stopped: bool,
    node: Option<u8>,
    zone: Option<u8>,
    /// 0 idle, 1 assigned, 2 releasing, 3 released.
    progress: u8,
    on: u8,
    releasing_for: u8,
    cooling: bool,
    /// 0 no, 1 deleted, 2 held.
    deleting: u8,
}

#[derive(Clone, Debug)]
struct Case {
    nodes: Vec<NodeCase>,
    tasks: Vec<TaskCase>,
    moves_in: bool,
    max_moves: Option<u32>,
}

fn case() -> impl Strategy<Value = Case> {
    let node = (1..4u8, 0..2u8, 0..8u8, prop::bool::weighted(0.1), any::<bool>())
        .prop_map(|(kinds, zone, presence, stopping, returned)| NodeCase { kinds, zone, presence, stopping, returned });
    let task =
        (
            (
                0..3u8,
                prop::bool::weighted(0.1),
                prop::option::weighted(0.2, 0..6u8),
                prop::option::weighted(0.2, 0..3u8),
            ),
            (
                0..4u8,
                any::<u8>(),
                0..20u8,
                prop::bool::weighted(0.1),
                prop_oneof![8 => Just(0u8), 1 => Just(1), 1 => Just(2)],
            ),
        )
            .prop_map(|((kind, stopped, node, zone), (progress, on, releasing_for, cooling, deleting))| {
                TaskCase { kind, stopped, node, zone, progress, on, releasing_for, cooling, deleting }
            });
    (
        prop::collection::vec(node, 1..6),
        prop::collection::vec(task, 0..40),
        prop::bool::weighted(0.2),
        prop::option::of(1..4u32),
    )
        .prop_map(|(nodes, tasks, moves_in, max_moves)| Case { nodes, tasks, moves_in, max_moves })
}

fn kind(number: u8) -> String {
    ["file", "webhook", "kafka"][usize::from(number % 3)].to_owned()
}

/// Builds the cluster by commands only, so that every state is one that can be.
fn build(case: &Case) -> World {
    let count = case.nodes.len() as u64;
    let mut world = World::new(count);
    for (id, node) in (1..=count).zip(&case.nodes) {
        let mut again = registration(id, id * 1000);
        again.kinds = (0..2).filter(|bit| node.kinds & (1 << bit) != 0).map(kind).collect();
        again.zone = format!("zone-{}", node.zone);
        world.log.commit(CommandBody::RegisterNode { registration: again });
    }
    for (number, task) in case.tasks.iter().enumerate() {
        let mut spec = spec(&format!("c{number}"));
        spec.kind = kind(task.kind);
        spec.desired = Desired::Running;
        spec.placement.nodes = task.node.map(|node| format!("node-{node}")).into_iter().collect();
        spec.placement.zones = task.zone.map(|zone| format!("zone-{zone}")).into_iter().collect();
        if task.stopped {
            spec.desired = Desired::Stopped;
        }
        let incarnation = world.log.create_spec(spec);
        if task.progress > 0 {
            world.log.assign(incarnation, u64::from(task.on) % count + 1);
        }
        if task.progress > 1 {
            world.log.release(incarnation);
            world.view.releasing.insert(incarnation, Duration::from_secs(u64::from(task.releasing_for)));
        }
        if task.progress > 2 {
            world.log.released(incarnation);
            world.view.releasing.remove(&incarnation);
        }
        if task.cooling {
            world.view.cooling.insert(incarnation, Duration::from_secs(60));
        }
        let name: api_types::ConnectorName = format!("c{number}").into();
        match task.deleting {
            1 => drop(world.log.commit(CommandBody::DeleteConnector { name, incarnation: None })),
            2 => drop(world.log.commit(CommandBody::HoldConnector { name, incarnation: None })),
            _ => {}
        }
    }
    world.see_all();
    for (id, node) in (1..=count).zip(&case.nodes) {
        let seen = world.node(id);
        (seen.stopping, seen.returned) = (node.stopping, node.returned);
        seen.presence = match node.presence {
            0 => Presence::Silent,
            1 => Presence::Joining { awaited: Duration::from_secs(2) },
            _ => Presence::Alive,
        };
        if node.presence == 7 {
            world.log.fence(id);
            world.view.nodes.remove(&RaftId(id));
        }
    }
    if case.moves_in {
        world.view.moves_in = Duration::from_secs(1);
    }
    world.policy.max_moves = case.max_moves;
    world
}

/// The releases that are still under way have just begun.
fn note_new_releases(world: &mut World) {
    let state = &world.log.state;
    world.view.releasing.retain(|incarnation, _| {
        state.assignments.get(incarnation).is_some_and(|task| matches!(task.state, AssignmentState::Releasing(_)))
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// `World::plan` calls the checker: properties 2, 3, 4, 6 and 7.
    #[test]
    fn running_it_twice_changes_nothing(case in case()) {
        let mut world = build(&case);
        let plan = world.plan();
        prop_assert_eq!(&plan, &schedule(&world.log.state, &world.view, &world.policy));
        world.apply(&plan);
        note_new_releases(&mut world);
        // What the leader does: a task that did not stop in time is left alone for a while.
        world.view.cooling.extend(plan.withdrawn.iter().map(|withdrawn| (*withdrawn, Duration::from_secs(60))));
        let again = world.plan();
        prop_assert!(again.is_empty(), "{:#?}\nthen {:#?}", plan, again);
    }

    #[test]
    fn every_cluster_comes_to_rest(case in case()) {
        let mut world = build(&case);
        for _ in 0..200 {
            let plan = world.plan();
            if plan.is_empty() {
                return Ok(());
            }
            world.apply(&plan);
            world.all_stop();
            note_new_releases(&mut world);
            // What the leader does: a task that was moved is left alone for a while.
            world.view.cooling.extend(plan.moving.iter().map(|moved| (moved.incarnation, Duration::from_secs(60))));
        }
        prop_assert!(false, "still at it: {:#?}", world.plan());
    }

    #[test]
    fn counts_end_within_the_band(nodes in 1..8u64, on_first in 0..60usize, spread in 0..60usize) {
        let mut world = World::new(nodes);
        for number in 0..on_first + spread {
            let incarnation = world.log.create(&format!("c{number}"));
            let node = if number < on_first { 1 } else { number as u64 % nodes + 1 };
            world.log.assign(incarnation, node);
        }
        let total = on_first + spread;
        let share = total as f64 / nodes as f64;
        let before = world.counts();
        let moves = world.settle();
        let (least, most) = ((share * 0.9).floor() as usize, (share * 1.1).ceil() as usize);
        let counts = world.counts();
        prop_assert_eq!(counts.iter().sum::<usize>(), total);
        for count in &counts {
            prop_assert!((least..=most).contains(count), "{:?} -> {:?}", before, counts);
        }
        if share < 10.0 {
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
        }
        let surplus: usize = before.iter().map(|count| count.saturating_sub(share.floor() as usize)).sum();
        prop_assert!(moves <= surplus, "{} moves, {} tasks were too many: {:?}", moves, surplus, before);
    }

    #[test]
    fn a_joining_node_gets_at_most_its_share(nodes in 1..6u64, tasks in 0..80usize) {
        let mut world = World::new(nodes + 1);
        for number in 0..tasks {
            let incarnation = world.log.create(&format!("c{number}"));
            world.log.assign(incarnation, number as u64 % nodes + 1);
        }
        let moves = world.settle();
        let share = tasks.div_ceil(nodes as usize + 1);
        let got = world.counts()[nodes as usize];
        prop_assert!(got <= share, "{} of {}, share {}", got, tasks, share);
        prop_assert_eq!(moves, got, "each move goes to the new node");
    }

    #[test]
    fn a_lost_node_moves_only_its_own_tasks(nodes in 2..6u64, tasks in 0..60usize) {
        let mut world = World::new(nodes);
        for number in 0..tasks {
            world.log.create(&format!("c{number}"));
        }
        world.settle();
        let owners: Vec<(Incarnation, Option<u64>)> =
            world.log.state.connectors.keys().map(|incarnation| (*incarnation, world.owner(*incarnation))).collect();
        world.log.fence(1);
        world.view.nodes.remove(&RaftId(1));
        let moves = world.settle();
        prop_assert_eq!(moves, 0);
        for (incarnation, owner) in owners {
            if owner != Some(1) {
                prop_assert_eq!(world.owner(incarnation), owner);
            }
        }
    }

    /// The checker must be able to fail: any one step that is bent is found.
    #[test]
    fn the_checker_finds_what_is_bent(case in case(), which in any::<prop::sample::Index>(), how in 0..4u8) {
        let world = build(&case);
        let mut plan = world.plan();
        if plan.steps.is_empty() {
            return Ok(());
        }
        let at = which.index(plan.steps.len());
        let bent = match (how, &mut plan.steps[at]) {
            (0, PlanStep::Assign { expect_epoch, .. } | PlanStep::Release { expect_epoch, .. }
                | PlanStep::Explain { expect_epoch, .. }) => { expect_epoch.0 += 1; true }
            (1, PlanStep::Assign { why, .. } | PlanStep::Release { why, .. } | PlanStep::Explain { why, .. }) => {
                why.clear();
                true
            }
            (2, PlanStep::Assign { node, .. }) => { node.0 += 500; true }
            (3, PlanStep::Assign { .. } | PlanStep::Release { .. }) => { plan.steps.remove(at); true }
            _ => false,
        };
        let found = checker::violations(&world.log.state, &world.view, &world.policy, &plan);
        prop_assert!(!bent || !found.is_empty(), "{:#?}", plan);
    }
}
