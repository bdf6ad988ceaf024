use std::collections::BTreeSet;

use api_types::heartbeat::{Heartbeat, HeartbeatAnswer, NodeLoad};
use api_types::{DiskId, LogIndex, RaftId};
use meta_service::state::{NodeRegistration, NodeState, Refusal, ReplyBody};

use crate::cluster::{create, eventually, leader_of, names, ready_cluster, sites, start_all, three_sites};

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_on_any_node_is_read_on_every_node() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let cluster_ids: BTreeSet<_> =
        nodes.iter().map(|node| node.handle.identity().expect("member").cluster_id).collect();
    assert_eq!(cluster_ids.len(), 1);
    let leader = leader_of(&nodes).await;
    for (at, node) in nodes.iter().enumerate() {
        let name = format!("from-{at}-while-{leader}-leads");
        node.create(&name).await;
        for reader in &nodes {
            assert!(names(&*reader.read().await).contains(&name), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_travel_on_one_stream_to_each_member() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let leader = leader_of(&nodes).await;
    nodes[leader].create("first").await;
    let begun: Vec<u64> = sites.iter().map(|site| *site.streams.borrow()).collect();
    for number in 0..50 {
        nodes[leader].create(&format!("entry-{number}")).await;
    }
    for (at, (site, begun)) in sites.iter().zip(begun).enumerate() {
        let streams = *site.streams.borrow();
        assert!(begun > 0 || at == leader, "no stream to node {at}, and node {leader} leads");
        // A machine that is busy elsewhere may make an answer late, and a session fail.
        assert!(streams - begun < 10, "{} streams for 50 entries", streams - begun);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_knows_no_streams_is_sent_requests() {
    let mut sites = three_sites();
    sites.iter_mut().for_each(|site| site.takes_streams = false);
    let nodes = ready_cluster(&sites).await;
    nodes[0].create("early").await;
    for node in &nodes {
        assert_eq!(names(&*node.read().await), ["early"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creates_of_one_name_one_wins() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    for round in 0..10 {
        let name = format!("contested-{round}");
        let (first, second) = tokio::join!(nodes[0].propose(create(&name)), nodes[1].propose(create(&name)));
        let outcomes = [first.expect("answered").body, second.expect("answered").body];
        let won = outcomes.iter().filter(|body| matches!(body, ReplyBody::Created { .. })).count();
        assert_eq!(won, 1, "{outcomes:?}");
        assert!(outcomes.contains(&ReplyBody::Refused(Refusal::ConnectorExists)), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_voter_alone_is_a_cluster() {
    let sites = sites(1);
    let nodes = ready_cluster(&sites).await;
    nodes[0].create("alone").await;
    assert_eq!(names(&*nodes[0].read().await), ["alone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_nodes_keeps_everything() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    for number in 0..20 {
        nodes[number % 3].create(&format!("kept-{number:02}")).await;
    }
    let before = nodes[0].read().await;
    let identities: Vec<_> = nodes.iter().map(|node| node.handle.identity()).collect();
    for node in nodes {
        node.stop().await;
    }
    let nodes = start_all(&sites).await;
    for (node, identity) in nodes.iter().zip(identities) {
        node.ready().await;
        assert_eq!(node.handle.identity(), identity);
        assert_eq!(node.read().await.connectors, before.connectors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let old = leader_of(&nodes).await;
    let handle = nodes[old].handle.clone();
    assert!(nodes[old].run(async move { handle.transfer_leadership().await }).await);
    let new = leader_of(&nodes).await;
    assert_ne!(old, new);
    nodes[old].create("after the transfer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_reaches_the_leader_from_everywhere() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    let index = nodes[0].create("behind a barrier").await;
    for node in &nodes {
        let handle = node.handle.clone();
        let not_heard = node.run(async move { handle.barrier(index).await }).await.expect("leader answers");
        // Nobody has registered here, so nobody holds a lease that could keep the barrier up.
        assert_eq!(not_heard, []);
        eventually("the entry is applied here", || *node.handle.applied().borrow() >= index).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_gets_its_lease_through_any_node() {
    let sites = three_sites();
    let nodes = ready_cluster(&sites).await;
    for (at, node) in nodes.iter().enumerate() {
        let registration = NodeRegistration {
            // Who it is and how long its log is, the service fills in.
            raft_id: RaftId::default(),
            disk_id: DiskId::default(),
            last_log: LogIndex::default(),
            name: sites[at].name.clone(),
            rpc_address: sites[at].address.to_string(),
            api_address: String::new(),
            mqtt_address: String::new(),
            zone: String::new(),
            version: "1".to_owned(),
            kinds: vec!["file".to_owned()],
            boot_nonce: 1,
            lock_proof: true,
        };
        let handle = node.handle.clone();
        let reply = node.run(async move { handle.register(registration).await }).await.expect("proposed");
        let ReplyBody::Registered { node_epoch } = reply.body else { panic!("not registered: {reply:?}") };
        let raft_id = node.handle.identity().expect("member").raft_id;
        let state = node.read().await;
        assert_eq!(state.nodes[&raft_id].state, NodeState::Up);

        let mut number = 0;
        loop {
            number += 1;
            let heartbeat = Heartbeat {
                node: raft_id,
                node_epoch,
                number,
                catalogue_index: *node.handle.applied().borrow(),
                running: Vec::new(),
                stopped: Vec::new(),
                load: NodeLoad::default(),
                stopping: false,
            };
            let handle = node.handle.clone();
            match node.run(async move { handle.heartbeat(heartbeat).await }).await {
                Ok(HeartbeatAnswer::Renewed { lease_ms, .. }) => {
                    assert_eq!(lease_ms, 2200);
                    break;
                }
                answer => assert!(number < 100, "{answer:?}"),
            }
        }
        let handle = node.handle.clone();
        let view = node.run(async move { handle.read().await }).await.expect("read");
        assert!(view.reports.term > 0, "the leader's soft state comes with the read");
    }
}
