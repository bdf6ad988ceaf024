use std::sync::atomic::Ordering;
use std::time::Duration;

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad};
use api_types::{Incarnation, LogIndex, RaftId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::simulation::{Sim, TICK};
use crate::leader::NotLeader;
use crate::scheduler::MoveReason;
use crate::state::{CommandBody, NodeState};
use crate::timings::Timings;

async fn sim_with_tasks(nodes: u64, tasks: usize) -> (Sim, Vec<Incarnation>) {
    let mut sim = Sim::new(nodes, Timings::default());
    let all: Vec<_> = (0..tasks).map(|number| sim.commit(|log| log.create(&format!("c{number}")))).collect();
    let wanted = all.clone();
    sim.until("all run", move |sim| wanted.iter().all(|task| sim.runs_on(*task).is_some())).await;
    (sim, all)
}

#[tokio::test(start_paused = true)]
async fn killed_node_is_fenced_in_time_and_its_tasks_run_elsewhere() {
    let (mut sim, all) = sim_with_tasks(3, 6).await;
    sim.run_for(Duration::from_secs(5)).await;
    let lost: Vec<Incarnation> = all.iter().filter(|task| sim.runs_on(**task) == Some(2)).copied().collect();
    assert_eq!(lost.len(), 2);
    let lease_start = sim.nodes[&2].lease_until - sim.timings.lease;
    sim.node(2).cut = true;
    sim.until("fenced", |sim| sim.is_fenced(2)).await;
    let after = sim.now() - lease_start;
    assert!(after >= sim.timings.dead_after, "fenced too early, {after:?} after the last heartbeat");
    assert!(after <= sim.timings.dead_after + TICK * 5, "fenced late, {after:?} after the last heartbeat");

    sim.node(2).running.clear();
    let wanted = lost.clone();
    sim.until("run elsewhere", move |sim| wanted.iter().all(|task| sim.runs_on(*task).is_some())).await;
    let took = sim.now() - lease_start;
    assert!(took <= Duration::from_secs(5), "{took:?}");
    let metrics = sim.leader.take_metrics();
    assert_eq!(metrics.moves_total[&MoveReason::New], 6);
    assert_eq!(metrics.moves_total[&MoveReason::Failover], 2);
    assert_eq!(metrics.failover_seconds.len(), 2);
    for seconds in metrics.failover_seconds {
        assert!((2.8..3.0).contains(&seconds), "{seconds}");
    }
    assert_eq!(sim.leader.take_metrics().failover_seconds, [] as [f64; 0], "fetched once");
}

#[tokio::test(start_paused = true)]
async fn new_leader_does_not_fence_early() {
    for by_transfer in [false, true] {
        let (mut sim, _) = sim_with_tasks(3, 3).await;
        sim.run_for(Duration::from_secs(1)).await;
        for id in 1..=3 {
            sim.node(id).cut = true;
        }
        sim.elect(by_transfer).await;
        let elected = sim.now();
        sim.until("all fenced", |sim| (1..=3).all(|id| sim.is_fenced(id))).await;
        let after = sim.now() - elected;
        let least = sim.timings.fence_free(by_transfer);
        assert!(after >= least && after <= least + TICK * 5, "{after:?}, transfer: {by_transfer}");
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_outlive_a_change_of_the_leader() {
    let (mut sim, all) = sim_with_tasks(3, 3).await;
    let epochs: Vec<_> = all.iter().map(|task| sim.log.lock().unwrap().state.assignments[task].epoch).collect();
    sim.elect(false).await;
    sim.run_for(Duration::from_secs(20)).await;
    let state = sim.log.lock().unwrap().state.clone();
    assert_eq!(all.iter().map(|task| state.assignments[task].epoch).collect::<Vec<_>>(), epochs);
    assert!(all.iter().all(|task| sim.runs_on(*task).is_some()));
}

/// Cuts, restarts, stops and elections at random; `Sim` checks one owner at a time at every tick.
#[tokio::test(start_paused = true)]
async fn no_task_ever_has_two_owners() {
    let mut fences = 0;
    for seed in 0..25 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut sim, all) = sim_with_tasks(4, 8).await;
        for _ in 0..40 {
            let id = random.random_range(1..=4);
            match random.random_range(0..8) {
                0..=2 => sim.node(id).cut = true,
                3..=4 => sim.node(id).cut = false,
                5 => sim.elect(random.random_bool(0.5)).await,
                6 => sim.register_again(id),
                _ => {
                    let applied = sim.log.lock().unwrap().state.applied;
                    let node = sim.node(id);
                    node.stuck_at = if node.stuck_at.is_some() { None } else { Some(applied) };
                }
            }
            let pause = random.random_range(10..2500);
            sim.run_for(Duration::from_millis(pause)).await;
        }
        fences += sim.log.lock().unwrap().entries.iter().filter(|entry| is_fence(&entry.2.body)).count();
        for id in 1..=4 {
            sim.node(id).cut = false;
            sim.node(id).stuck_at = None;
        }
        sim.until("all run again", move |sim| all.iter().all(|task| sim.runs_on(*task).is_some())).await;
    }
    assert!(fences > 50, "the faults must cost leases: {fences} fences");
}

fn is_fence(body: &CommandBody) -> bool {
    matches!(body, CommandBody::FenceNode { .. })
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_hands_over_without_losing_its_lease() {
    let (mut sim, all) = sim_with_tasks(3, 6).await;
    sim.node(1).stopping = true;
    let wanted = all.clone();
    let took = sim
        .until("handed over", move |sim| {
            wanted.iter().all(|task| matches!(sim.runs_on(*task), Some(owner) if owner != 1))
        })
        .await;
    assert!(took < Duration::from_millis(1600), "three heartbeats at most: {took:?}");
    assert!(!sim.is_fenced(1));
    assert_eq!(sim.leader.take_metrics().moves_total[&MoveReason::Handover], 2);

    let node_epoch = sim.nodes[&1].node_epoch;
    sim.leader.node_said_goodbye(RaftId(1), node_epoch).await.expect("the leader heard it");
    sim.until("left", |sim| sim.log.lock().unwrap().state.nodes[&RaftId(1)].state == NodeState::Left).await;

    sim.register_again(1);
    sim.until("its own are back", |sim| sim.nodes[&1].running.len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_process_gets_its_tasks_back_at_once() {
    let (mut sim, all) = sim_with_tasks(3, 6).await;
    let own: Vec<Incarnation> = sim.nodes[&2].running.keys().copied().collect();
    sim.register_again(2);
    let wanted = own.clone();
    let took = sim.until("back", move |sim| wanted.iter().all(|task| sim.runs_on(*task) == Some(2))).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(own.len(), 2);
    assert!(all.iter().all(|task| sim.runs_on(*task).is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_connector_is_stopped_and_removed() {
    let (mut sim, all) = sim_with_tasks(2, 2).await;
    sim.commit(|log| log.delete("c0"));
    let gone = all[0];
    let took = sim.until("removed", move |sim| !sim.log.lock().unwrap().state.connectors.contains_key(&gone)).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(sim.runs_on(gone), None);
    assert!(sim.runs_on(all[1]).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_hold_is_taken_back() {
    let (mut sim, all) = sim_with_tasks(1, 1).await;
    sim.commit(|log| log.commit(CommandBody::HoldConnector { name: "c0".into(), incarnation: None }));
    let held = all[0];
    let took = sim.until("restored", move |sim| !sim.log.lock().unwrap().state.connectors[&held].deleting).await;
    assert!(took >= Duration::from_secs(29) && took < Duration::from_secs(32), "{took:?}");
    assert_eq!(sim.runs_on(held), Some(1));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_share_proofs() {
    let sim = Sim::new(3, Timings::default());
    let heartbeat = |id: u64| Heartbeat {
        node: RaftId(id),
        node_epoch: sim.nodes[&id].node_epoch,
        number: 1,
        catalogue_index: LogIndex(100),
        running: Vec::new(),
        stopped: Vec::new(),
        load: NodeLoad::default(),
        stopping: false,
    };
    let all = (0..300).map(|number| sim.leader.heartbeat(heartbeat(number % 3 + 1)));
    for answer in futures::future::join_all(all).await {
        assert!(matches!(answer, Ok(HeartbeatAnswer::Renewed { .. })), "{answer:?}");
    }
    let proofs = sim.port.proofs.load(Ordering::SeqCst);
    assert!(proofs <= 3, "{proofs} proofs for 300 heartbeats");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_promised_without_leadership() {
    let mut sim = Sim::new(1, Timings::default());
    sim.run_for(Duration::from_secs(1)).await;
    let old = sim.leader.clone();
    let heartbeat = Heartbeat {
        node: RaftId(1),
        node_epoch: sim.nodes[&1].node_epoch,
        number: 99,
        catalogue_index: LogIndex(100),
        running: Vec::new(),
        stopped: Vec::new(),
        load: NodeLoad::default(),
        stopping: false,
    };
    sim.elect(false).await;
    assert_eq!(old.heartbeat(heartbeat.clone()).await, Err(NotLeader), "deposed without noticing");
    sim.leader.deposed();
    assert_eq!(sim.leader.heartbeat(heartbeat).await, Err(NotLeader));
    assert_eq!(sim.leader.barrier(LogIndex(1)).await, Err(NotLeader));
    assert_eq!(sim.leader.node_said_goodbye(RaftId(1), sim.nodes[&1].node_epoch).await, Err(NotLeader));
    assert_eq!(sim.leader.reports().nodes.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn reports_show_what_nodes_said() {
    let (mut sim, all) = sim_with_tasks(2, 2).await;
    sim.run_for(Duration::from_millis(700)).await;
    let reports = sim.leader.reports();
    assert_eq!(reports.term, 1);
    assert_eq!(sim.leader.reports_unless(None).as_ref(), Some(&*reports));
    assert_eq!(sim.leader.reports_unless(Some(0)).as_ref(), Some(&*reports), "a copy of another term's");
    assert_eq!(sim.leader.reports_unless(Some(1)), None, "fetched only when wanted");
    assert_eq!(reports.nodes.len(), 2);
    for node in reports.nodes.values() {
        assert!(node.lease_remaining_ms > 1600 && node.age_ms <= 510, "{node:?}");
    }
    for task in all {
        let (owner, report, _) = &reports.tasks[&task];
        assert_eq!((Some(owner.0), report.incarnation), (sim.runs_on(task), task));
    }
}
