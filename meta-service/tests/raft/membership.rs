use std::path::Path;

use api_types::heartbeat::{Heartbeat, NodeLoad};
use api_types::{DiskId, LogIndex, RaftId};
use meta_service::rpc::{RpcClient, RpcError, Secrets, only_for_this_node};
use meta_service::state::{NodeRegistration, NodeState, Refusal, ReplyBody};
use meta_service::{BootStatus, FatalReason};

use crate::cluster::{
    PATIENCE, Site, TestNode, eventually, free_address, leader_of, names, ready_cluster, sites, three_sites,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_late_node_catches_up_from_a_snapshot() {
    let mut sites = three_sites();
    for site in &mut sites {
        site.snapshot_every = 50;
    }
    let nodes = ready_cluster(&sites).await;
    for number in 0..200 {
        nodes[0].create(&format!("connector-{number:03}")).await;
    }
    let leader = leader_of(&nodes).await;
    eventually("the leader's log is purged", || nodes[leader].status().purged.is_some_and(|index| index.0 > 50)).await;

    let late = Site::joining("late", &sites[1]);
    let node = late.start().await;
    node.ready().await;
    let identity = node.handle.identity().expect("member");
    assert!(identity.raft_id.0 > 1000, "{identity:?}");
    assert!(node.status().snapshot.is_some(), "entries that are purged can only come in a snapshot");
    assert_eq!(node.read().await.connectors, nodes[leader].read().await.connectors);
    // Three voters are what is wanted: the fourth stays a learner.
    assert_eq!(node.status().voters, [RaftId(1), RaftId(2), RaftId(3)]);
    node.create("from the learner").await;

    // It comes back from its own snapshot and log.
    node.stop().await;
    let node = late.start().await;
    node.ready().await;
    assert_eq!(node.handle.identity(), Some(identity));
    assert_eq!(node.read().await.names.len(), 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_grows_to_three() {
    let sites = sites(1);
    let first = ready_cluster(&sites).await.remove(0);
    first.create("early").await;
    let second = Site::joining("second", &sites[0]);
    let second_node = second.start().await;
    second_node.ready().await;
    assert_eq!(first.status().voters, [RaftId(1)], "two voters are worse than one");
    let third = Site::joining("third", &second);
    let third_node = third.start().await;
    third_node.ready().await;
    let grown = |node: &TestNode| node.status().voters.len() == 3 && !node.status().voters_change;
    eventually("three voters, and the others know it", || grown(&second_node) && grown(&third_node)).await;

    // Now the first one is not needed any more.
    first.kill().await;
    second_node.create("late").await;
    assert_eq!(names(&*third_node.read().await), ["early", "late"]);
}

/// ```text
///   3 voters, 2 learners that have caught up ─► the leader begins 3 → 5
///   both followers store the joint configuration, their answers are held back ─► it is not committed
///   the leader dies ─► whoever is elected needs both followers' votes, so it has that entry ─► finishes the change
/// ```
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_voters_that_a_dead_leader_began_is_finished() {
    let mut sites = three_sites();
    for site in &mut sites {
        site.target_voters = 5;
        // What is held back here are answers to requests.
        site.takes_streams = false;
    }
    let mut nodes = ready_cluster(&sites).await;
    let old = leader_of(&nodes).await;
    let followers: Vec<&Site> = sites.iter().enumerate().filter(|(at, _)| *at != old).map(|(_, site)| site).collect();
    for follower in &followers {
        follower.hold.send_replace(true);
    }
    let late = ["fourth", "fifth"].map(|name| Site { target_voters: 5, ..Site::joining(name, &sites[old]) });
    for site in &late {
        nodes.push(site.start().await);
    }
    let changing = |node: &TestNode| node.status().voters_change;
    eventually("both followers have the change", || (0..3).filter(|at| *at != old).all(|at| changing(&nodes[at])))
        .await;
    nodes.remove(old).kill().await;
    assert!(nodes[..2].iter().all(changing), "finished by the one that began it");
    for follower in &followers {
        follower.hold.send_replace(false);
    }
    eventually("five voters, and all that live know it", || {
        nodes.iter().all(|node| node.status().voters.len() == 5 && !changing(node))
    })
    .await;
    nodes[0].create("afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_comes_back_as_another() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    nodes[0].create("kept").await;
    let old = nodes[2].handle.identity().expect("member");
    nodes.remove(2).stop().await;
    for entry in std::fs::read_dir(sites[2].path()).expect("folder").flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("wiped");
    }
    let node = sites[2].start().await;
    node.ready().await;
    let new = node.handle.identity().expect("member");
    assert_eq!(new.cluster_id, old.cluster_id);
    assert_ne!(new.disk_id, old.disk_id);
    assert!(new.raft_id.0 > 1000, "an id is never used again: {new:?}");
    assert_eq!(names(&*node.read().await), ["kept"]);
}

fn is_told(status: &BootStatus, code: &str) -> bool {
    matches!(status, BootStatus::WaitingForCluster { asked } if asked.iter().any(|answer| answer.contains(code)))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_address_is_not_taken() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    let thief = Site { claims: Some(sites[0].address), ..Site::joining("thief", &sites[1]) };
    let thief = thief.start().await;
    eventually("the thief is told", || is_told(&thief.handle.boot_status(), "ADDRESS_IN_USE")).await;
    let silent = Site { claims: Some(free_address()), ..Site::joining("silent", &sites[1]) };
    let silent = silent.start().await;
    eventually("so is who cannot be reached", || is_told(&silent.handle.boot_status(), "ADDRESS_SILENT")).await;
    // Nor does a member take it that comes back with another address.
    let moved = NodeRegistration { rpc_address: sites[0].address.to_string(), ..registration(&sites[2], 1) };
    let handle = nodes[2].handle.clone();
    let refused = nodes[2].run(async move { handle.register(moved).await.expect("answered").body }).await;
    let in_use = Refusal::AddressInUse { address: sites[0].address.to_string(), holder: sites[0].name.clone() };
    assert_eq!(refused, ReplyBody::Refused(in_use));

    let state = nodes[0].read().await;
    assert_eq!(state.nodes.len(), 3, "{:?}", state.nodes);
    assert_eq!(state.nodes[&RaftId(1)].rpc_address, sites[0].address.to_string());
    // With one of three gone, the robbed one has to come back.
    nodes.pop().expect("the third").kill().await;
    nodes.remove(0).stop().await;
    sites[0].start_again().await.ready().await;
}

/// Its old disk passes for up when it comes; later that disk is found again, and put back under its own id.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_waits_for_its_address_and_a_lost_one_is_still_reached() {
    let sites = three_sites();
    let mut nodes = ready_cluster(&sites).await;
    let (handle, up) = (nodes[2].handle.clone(), registration(&sites[2], 1));
    let registered = nodes[2].run(async move { handle.register(up).await.expect("answered").body }).await;
    assert!(matches!(registered, ReplyBody::Registered { .. }), "{registered:?}");
    nodes.pop().expect("the third").kill().await;

    let empty = Site { address: sites[2].address, ..Site::joining(&sites[2].name.0, &sites[0]) };
    let node = empty.start().await;
    eventually("it is told why it waits", || is_told(&node.handle.boot_status(), "ADDRESS_IN_USE")).await;
    node.ready().await;
    let new = node.handle.identity().expect("member");
    assert_eq!(nodes[0].read().await.nodes[&RaftId(3)].rpc_address, "");
    assert!(new.raft_id.0 > 1000, "{new:?}");
    node.stop().await;

    let found = sites[2].start_again().await;
    found.ready().await;
    assert_eq!(found.handle.identity().map(|identity| identity.raft_id), Some(RaftId(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_opens_nothing() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let stranger = Site { secret: "another secret", ..Site::joining("stranger", &sites[0]) };
    let node = stranger.start().await;
    let refused = |status: BootStatus| match status {
        BootStatus::WaitingForCluster { asked } => asked.iter().any(|answer| answer.contains("401")),
        _ => false,
    };
    eventually("the stranger is refused", || refused(node.handle.boot_status())).await;
    assert!(nodes[0].secrets.refused_total() > 0);
    assert_eq!(node.handle.identity(), None);
}

/// What Raft calls synced begins anew with every leader: seen in a node that had stood still for ten seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_registers_again_under_a_new_leader_is_not_taken_for_an_older_disk() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    for nonce in 1..=5 {
        let leader = leader_of(&nodes).await;
        let node = &nodes[leader];
        registered_and_noted(node, registration(&sites[leader], nonce)).await;

        let (handle, again) = (node.handle.clone(), self::registration(&sites[leader], 100 + nonce));
        let again = node.run(async move {
            assert!(handle.transfer_leadership().await, "nobody else leads");
            handle.register(again).await.expect("proposed").body
        });
        let again = again.await;
        assert!(matches!(again, ReplyBody::Registered { .. }), "attempt {nonce}: {again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_right_after_the_leadership_was_handed_over_is_heard() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let leader = leader_of(&nodes).await;
    let (node, registration) = (&nodes[leader], registration(&sites[leader], 1));
    let raft_id = node.status().raft_id;
    let handle = node.handle.clone();
    let said = node.run(async move {
        let registered = handle.register(registration).await.expect("proposed");
        let ReplyBody::Registered { node_epoch } = registered.body else { panic!("{registered:?}") };
        assert!(handle.transfer_leadership().await, "nobody else leads");
        handle.goodbye(raft_id, node_epoch).await
    });
    assert_eq!(said.await, Ok(()));
    let mut state = NodeState::Up;
    eventually("it has left", || {
        state = node.handle.state().nodes[&raft_id].state.clone();
        state != NodeState::Up
    })
    .await;
    assert_eq!(state, NodeState::Left, "and was not fenced for its silence");
}

/// Registers, and waits until the cluster has noted how far the log is.
async fn registered_and_noted(node: &TestNode, registration: NodeRegistration) {
    let (raft_id, boot_nonce) = (node.status().raft_id, registration.boot_nonce);
    let handle = node.handle.clone();
    let registered = node.run(async move { handle.register(registration).await.expect("proposed").body }).await;
    let ReplyBody::Registered { node_epoch } = registered else { panic!("attempt {boot_nonce}: {registered:?}") };
    let applied = || node.handle.state().applied;
    eventually("it has applied its registration", || applied().0 >= node_epoch.0).await;
    let heartbeat = Heartbeat {
        node: raft_id,
        node_epoch,
        number: 1,
        catalogue_index: applied(),
        running: Vec::new(),
        stopped: Vec::new(),
        load: NodeLoad::default(),
        stopping: false,
    };
    let handle = node.handle.clone();
    node.run(async move { handle.heartbeat(heartbeat).await.expect("answered") }).await;
    eventually("its log is noted", || node.handle.state().nodes[&raft_id].log_synced.0 >= node_epoch.0).await;
}

/// One that can ask a leader is refused before it votes, the other when it registers: by then its log is full again,
/// and only the disk itself remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_disk_is_refused_at_every_start() {
    for can_ask in [true, false] {
        let mut sites = three_sites();
        let mut nodes = ready_cluster(&sites).await;
        nodes.pop().expect("the third").stop().await;
        let older = tempfile::TempDir::new().expect("temporary folder");
        copy_folder(sites[2].path(), &older.path().join("copy"));
        let node = sites[2].start_again().await;
        node.ready().await;
        registered_and_noted(&node, registration(&sites[2], 1)).await;
        node.stop().await;

        std::fs::remove_dir_all(sites[2].path()).expect("removed");
        copy_folder(&older.path().join("copy"), sites[2].path());
        if !can_ask {
            sites[2].initial_voters.clear();
            sites[2].join = vec![free_address().to_string()];
            let node = sites[2].start_again().await;
            node.ready().await;
            let (handle, again) = (node.handle.clone(), registration(&sites[2], 2));
            let refused = node.run(async move { handle.register(again).await.expect("answered").body }).await;
            assert!(matches!(refused, ReplyBody::Refused(Refusal::DiskWentBack { .. })), "{refused:?}");
            node.stop().await;
        }
        for start in 1..=2 {
            let node = sites[2].start().await;
            let reason = tokio::time::timeout(PATIENCE, node.handle.wait_fatal()).await.expect("refused");
            assert!(matches!(*reason, FatalReason::DiskWentBack { .. }), "start {start}: {reason:?}");
            assert!(node.handle.raft_status().is_none(), "it must not vote");
            node.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_for_another() {
    let sites = sites(1);
    let node = ready_cluster(&sites).await.remove(0);
    let layer = axum::middleware::from_fn_with_state(node.handle.clone(), only_for_this_node);
    let routes = axum::Router::new().route("/who", axum::routing::post(|| async { "me" })).layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let served = tokio::spawn(axum::serve(listener, routes).into_future());
    let rpc = RpcClient::new(Secrets::default()).expect("a client");
    let ask = async |to| rpc.post_to(RaftId(to), &address, "/who", Default::default(), PATIENCE).await;
    assert_eq!(ask(1).await.expect("answers"), "me");
    let refused = ask(2).await;
    assert!(matches!(refused, Err(RpcError::Status { status: 421, .. })), "{refused:?}");
    let unnamed = rpc.post(&address, "/who", Default::default(), PATIENCE).await;
    assert_eq!(unnamed.expect("of an earlier version"), "me");
    served.abort();
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "not copied");
}

fn registration(site: &Site, boot_nonce: u64) -> NodeRegistration {
    NodeRegistration {
        // Filled in by the handle.
        raft_id: RaftId(0),
        disk_id: DiskId(0),
        last_log: LogIndex(0),
        name: site.name.clone(),
        rpc_address: site.address.to_string(),
        api_address: String::new(),
        mqtt_address: String::new(),
        zone: String::new(),
        version: String::new(),
        kinds: Vec::new(),
        boot_nonce,
        lock_proof: true,
    }
}
