use std::collections::BTreeSet;

use meta_service::state::{Refusal, ReplyBody};

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
