use std::path::Path;

use api_types::{ClusterId, DiskId, RaftId};
use meta_service::BootStatus;
use meta_service::rpc::RpcClient;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::cluster::{Site, eventually, start_all, three_sites};

const PLANNED: ClusterId = ClusterId(0xabc);

fn disk(at: usize) -> DiskId {
    DiskId(0xd0 + at as u128)
}

/// The disk as it is before anybody adopted it.
fn write_identity(site: &Site, at: usize, adopted: bool) {
    let (cluster_id, raft_id) = if adopted { (Some(PLANNED), Some(RaftId(at as u64 + 1))) } else { (None, None) };
    let identity = json!({"disk_id": disk(at), "cluster_id": cluster_id, "raft_id": raft_id});
    std::fs::write(site.path().join("identity.json"), identity.to_string()).expect("written");
}

fn write_plan(sites: &[Site]) {
    let member = |(at, site): (usize, &Site)| json!({"raft_id": at + 1, "disk_id": disk(at), "name": site.name, "rpc_address": site.address.to_string()});
    let members: Vec<Value> = sites.iter().enumerate().map(member).collect();
    let plan = json!({"cluster_id": PLANNED, "members": members});
    std::fs::write(sites[0].path().join("bootstrap.json"), plan.to_string()).expect("written");
}

fn has_plan(path: &Path) -> bool {
    path.join("bootstrap.json").exists()
}

/// Starts the sites as a crash left them, and sees what becomes of them.
async fn becomes(sites: &[Site]) -> ClusterId {
    let nodes = start_all(sites).await;
    for node in &nodes {
        node.ready().await;
    }
    let identities: Vec<_> = nodes.iter().map(|node| node.handle.identity().expect("member")).collect();
    for (at, identity) in identities.iter().enumerate() {
        assert_eq!(identity.raft_id, RaftId(at as u64 + 1));
        assert_eq!(identity.cluster_id, identities[0].cluster_id);
    }
    assert!(!has_plan(sites[0].path()), "the plan is removed when it is carried out");
    nodes[1].create("works").await;
    let state = nodes[2].read().await;
    assert_eq!(state.cluster_id, identities[0].cluster_id);
    assert_eq!(state.nodes.len(), 3);
    identities[0].cluster_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_resumes_after_a_crash_at_any_step() {
    for adopted in [&[][..], &[1], &[1, 2], &[0, 1, 2]] {
        let sites = three_sites();
        for (at, site) in sites.iter().enumerate() {
            write_identity(site, at, adopted.contains(&at));
        }
        write_plan(&sites);
        assert_eq!(becomes(&sites).await, PLANNED, "adopted: {adopted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_plan_leaves_nothing_behind() {
    let sites = three_sites();
    for (at, site) in sites.iter().enumerate() {
        write_identity(site, at, false);
    }
    assert_ne!(becomes(&sites).await, PLANNED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_whose_disk_was_replaced_gives_way_to_a_newer_one() {
    for lost in [0, 2] {
        let sites = three_sites();
        write_plan(&sites);
        for (at, site) in sites.iter().enumerate() {
            write_identity(site, at, true);
        }
        // One disk is lost, with the plan if it was the first voter's; the others are still adopted for it.
        for entry in std::fs::read_dir(sites[lost].path()).expect("folder").flatten() {
            std::fs::remove_file(entry.path()).expect("wiped");
        }
        assert_ne!(becomes(&sites).await, PLANNED, "lost: {lost}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_founds_a_cluster_before_all_voters_are_there() {
    let sites = three_sites();
    let first = sites[0].start().await;
    let second = sites[1].start().await;
    let missing = |status: BootStatus| match status {
        BootStatus::WaitingForVoters { missing } => missing.len() == 1 && missing[0].starts_with("node-2"),
        _ => false,
    };
    eventually("the first voter says for whom it waits", || missing(first.handle.boot_status())).await;
    assert_eq!(second.handle.identity(), None);
    let third = sites[2].start().await;
    for node in [&first, &second, &third] {
        node.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_answers_no_raft_rpc() {
    let sites = three_sites();
    let node = sites[1].start().await;
    let address = sites[1].address.to_string();
    let rpc = RpcClient::new(node.secrets.clone()).expect("client");
    let header = |name, value: String| (name, value.parse().expect("a value"));
    let addressed = HeaderMap::from_iter([
        header(reqwest::header::HeaderName::from_static("sluice-cluster"), PLANNED.to_string()),
        header(reqwest::header::HeaderName::from_static("sluice-from"), "1".to_owned()),
        header(reqwest::header::HeaderName::from_static("sluice-to"), "2".to_owned()),
        header(reqwest::header::HeaderName::from_static("sluice-to-disk"), disk(1).to_string()),
    ]);
    for path in ["/raft/append", "/raft/vote", "/raft/pre-vote", "/raft/transfer", "/raft/snapshot"] {
        let body = reqwest::Body::from("anything");
        let error = rpc.send_with(&address, path, addressed.clone(), body, None).await.expect_err("refused");
        assert!(error.to_string().contains("409") && error.to_string().contains("NOT_A_MEMBER"), "{path}: {error}");
    }
}
