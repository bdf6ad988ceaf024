use std::time::{Duration, Instant};

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad};
use api_types::{LogIndex, NodeEpoch};
use meta_service::{FatalReason, ReadError};

use crate::cluster::{eventually, leader_of, names, ready_cluster, three_sites};

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_dies_another_takes_over() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    nodes[0].create("before").await;
    let old = leader_of(&nodes).await;
    let died = Instant::now();
    nodes.remove(old).kill().await;
    nodes[0].create("after").await;
    let gap = died.elapsed();
    println!("a proposal succeeded {gap:?} after the leader was killed");
    assert!(gap < Duration::from_secs(12), "{gap:?}");
    for node in &nodes {
        assert_eq!(names(&*node.read().await), ["after", "before"]);
    }
    let again = sites[old].start_again().await;
    again.ready().await;
    assert_eq!(names(&*again.read().await), ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_all_at_once_they_come_back_with_all_that_was_answered() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    for number in 0..10 {
        nodes[number % 3].create(&format!("answered-{number}")).await;
    }
    futures::future::join_all(nodes.into_iter().map(|node| node.kill())).await;
    let nodes = futures::future::join_all(sites.iter().map(|site| site.start_again())).await;
    for node in &nodes {
        node.ready().await;
        assert_eq!(node.read().await.names.len(), 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_answered() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    let survivor = nodes.remove(0);
    futures::future::join_all(nodes.into_iter().map(|node| node.kill())).await;
    let outcome = survivor.propose(crate::cluster::create("nobody hears")).await;
    assert!(outcome.is_err(), "{outcome:?}");
    let handle = survivor.handle.clone();
    assert!(survivor.run(async move { handle.read().await }).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_does_not_vote() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    // Once a second the flusher notes how far the log is synced.
    let high_water = sites[2].path().join("meta/high-water.json");
    let written = || std::fs::read_to_string(&high_water).ok();
    nodes[0].create("noted").await;
    eventually("the high-water file is written", || written().is_some()).await;
    let noted = written();
    nodes[0].create("noted too").await;
    eventually("the high-water file is written again", || written() != noted).await;
    nodes.remove(2).stop().await;
    // The volume comes back without its last files.
    std::fs::remove_dir_all(sites[2].path().join("meta/log")).expect("log is there");

    let node = sites[2].start().await;
    let handle = node.handle.clone();
    let reason = node.run(async move { handle.wait_fatal().await }).await;
    assert!(matches!(*reason, FatalReason::LogWentBack { .. }), "{reason:?}");
    assert_eq!(reason.exit_code(), 65);
    assert!(node.handle.raft_status().is_none(), "raft must not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn barriers_that_wait_hold_up_no_heartbeat_and_no_proposal() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let leader = leader_of(&nodes).await;
    let follower = &nodes[(leader + 1) % nodes.len()];
    // The index of no entry: each of them waits its whole time.
    let far = LogIndex(follower.status().last_log.unwrap_or_default().0 + 1_000_000);
    let handle = follower.handle.clone();
    let waiting = follower.run(async move {
        let barriers = (0..300).map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.barrier(far).await })
        });
        barriers.collect::<Vec<_>>()
    });
    let waiting = waiting.await;
    let raft_id = follower.status().raft_id;
    for number in 1..=5 {
        follower.create(&format!("c{number}")).await;
        let heartbeat = Heartbeat {
            node: raft_id,
            node_epoch: NodeEpoch(1),
            number,
            catalogue_index: LogIndex(0),
            running: Vec::new(),
            stopped: Vec::new(),
            load: NodeLoad::default(),
            stopping: false,
        };
        let handle = follower.handle.clone();
        let answer = follower.run(async move { handle.heartbeat(heartbeat).await }).await;
        assert_eq!(answer, Ok(HeartbeatAnswer::Fenced), "heard, though never registered");
    }
    assert!(waiting.iter().all(|barrier| !barrier.is_finished()), "the barriers did not wait long enough");
    for barrier in waiting {
        assert_eq!(barrier.await.expect("not cancelled"), Err(ReadError::NoLeader));
    }
}
