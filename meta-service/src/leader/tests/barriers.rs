use std::sync::Arc;
use std::time::Duration;

use api_types::heartbeat::HeartbeatAnswer;
use api_types::{LogIndex, NodeName};
use tokio::task::JoinHandle;

use super::simulation::Sim;
use crate::leader::NotLeader;
use crate::timings::Timings;

type Barrier = JoinHandle<Result<Vec<NodeName>, NotLeader>>;

fn barrier(sim: &Sim, index: LogIndex) -> Barrier {
    let leader = Arc::clone(&sim.leader);
    tokio::spawn(async move { leader.barrier(index).await })
}

fn create(sim: &Sim, name: &str) -> LogIndex {
    LogIndex(sim.commit(|log| log.create(name)).0)
}

async fn settled(nodes: u64, timings: Timings) -> Sim {
    let mut sim = Sim::new(nodes, timings);
    sim.run_for(Duration::from_secs(5)).await;
    sim
}

#[tokio::test(start_paused = true)]
async fn a_barrier_passes_when_every_node_has_reported() {
    let mut sim = settled(3, Timings::default()).await;
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    let took = sim.until("answered", |_| waiting.is_finished()).await;
    assert!(took <= Duration::from_millis(520), "one heartbeat: {took:?}");
    assert_eq!(waiting.await.unwrap(), Ok(Vec::new()));
    let again = barrier(&sim, created);
    let took = sim.until("answered", |_| again.is_finished()).await;
    assert!(took <= Duration::from_millis(10), "at once: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_barrier_outlasts_the_lease_of_a_node_that_is_cut_off() {
    let mut sim = settled(3, Timings::default()).await;
    sim.node(2).cut = true;
    let lease_until = sim.nodes[&2].lease_until;
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    sim.until("answered", |_| waiting.is_finished()).await;
    assert!(sim.now() >= lease_until, "answered while node-2 could match without it");
    assert!(sim.now() <= lease_until + Duration::from_millis(50));
    assert_eq!(waiting.await.unwrap(), Ok(Vec::new()), "nobody is missing: it has no lease");
}

#[tokio::test(start_paused = true)]
async fn no_node_gets_a_lease_behind_an_answered_barrier() {
    let mut sim = settled(2, Timings::default()).await;
    let before = sim.log.lock().unwrap().state.applied;
    sim.node(2).stuck_at = Some(before);
    sim.node(2).cut = true;
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    sim.until("answered", |_| waiting.is_finished()).await;
    sim.node(2).cut = false;
    sim.node(2).last_answer = None;
    sim.until("heard", |sim| sim.nodes[&2].last_answer.is_some()).await;
    assert_eq!(sim.nodes[&2].last_answer, Some(HeartbeatAnswer::Behind { required: created }));
    sim.node(2).stuck_at = None;
    sim.until("caught up", |sim| matches!(sim.nodes[&2].last_answer, Some(HeartbeatAnswer::Renewed { .. }))).await;
}

#[tokio::test(start_paused = true)]
async fn a_lagging_node_loses_its_lease_not_the_promise() {
    let mut sim = settled(2, Timings::default()).await;
    let before = sim.log.lock().unwrap().state.applied;
    sim.node(2).stuck_at = Some(before);
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    let took = sim.until("answered", |_| waiting.is_finished()).await;
    assert!(sim.now() >= sim.nodes[&2].lease_until, "its lease is over");
    assert!(took <= sim.timings.apply_wait, "{took:?}");
    assert_eq!(waiting.await.unwrap(), Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn after_apply_wait_the_missing_nodes_are_named() {
    let timings = Timings { apply_wait: Duration::from_millis(700), ..Timings::default() };
    let mut sim = settled(3, timings).await;
    let before = sim.log.lock().unwrap().state.applied;
    sim.node(3).stuck_at = Some(before);
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    let took = sim.until("answered", |_| waiting.is_finished()).await;
    assert!(took >= Duration::from_millis(700) && took <= Duration::from_millis(720), "{took:?}");
    assert_eq!(waiting.await.unwrap(), Ok(vec![NodeName::from("node-3")]));
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_for_leases_it_did_not_give() {
    let mut sim = settled(2, Timings::default()).await;
    let before = sim.log.lock().unwrap().state.applied;
    sim.node(2).cut = true;
    sim.node(2).stuck_at = Some(before);
    let created = create(&sim, "c");
    sim.elect(true).await;
    let elected = sim.now();
    let waiting = barrier(&sim, created);
    sim.until("answered", |_| waiting.is_finished()).await;
    assert!(sim.now() >= elected + sim.timings.lease_over());
    assert_eq!(waiting.await.unwrap(), Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_ends_with_the_leadership() {
    let mut sim = settled(2, Timings::default()).await;
    sim.node(2).cut = true;
    let created = create(&sim, "c");
    let waiting = barrier(&sim, created);
    sim.run_for(Duration::from_millis(100)).await;
    sim.leader.deposed();
    assert_eq!(waiting.await.unwrap(), Err(NotLeader));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_for_an_entry_that_is_not_applied_is_never_passed() {
    let mut sim = settled(2, Timings::default()).await;
    let ahead = LogIndex(sim.log.lock().unwrap().state.applied.0 + 100);
    let waiting = barrier(&sim, ahead);
    // No node holds a lease, so nobody could be named as missing.
    sim.node(1).cut = true;
    sim.node(2).cut = true;
    let took = sim.until("answered", |_| waiting.is_finished()).await;
    assert!(took >= sim.timings.apply_wait, "{took:?}");
    assert_eq!(waiting.await.unwrap(), Err(NotLeader));
}
