//! Three masters, each with a replica.

use std::collections::BTreeSet;

use ::tests::redis::RedisCluster;

use super::*;

const COUNT: u64 = 20_000;

/// Forty keys, spread over all masters.
fn spread(number: u64) -> Message {
    let of = number % 40;
    Message { topic: format!("plant/{of}"), client_id: format!("c{of}"), ..message(number) }
}

const TEMPLATE: &str = "RPUSH of:${client_id} {payload}";

/// Everything that was sent is there, in the order of each key; gives how many came twice.
async fn assert_complete(cluster: &mut RedisCluster, count: u64) -> usize {
    let mut lists = cluster.lists().await.expect("reads");
    let mut twice = 0;
    for of in 0..40 {
        let key = format!("of:c{of}");
        let list = lists.remove(&key).unwrap_or_default();
        assert_ordered(&key, &list);
        let expect: BTreeSet<String> =
            (0..count).filter(|number| number % 40 == of).map(|number| number.to_string()).collect();
        let once: BTreeSet<String> = list.iter().cloned().collect();
        assert!(once == expect, "{key}: {} of {}", once.len(), expect.len());
        twice += list.len() - once.len();
    }
    assert!(lists.is_empty(), "{:?}", lists.keys());
    twice
}

#[tokio::test]
async fn slots_move_while_they_are_written_to_and_nothing_is_lost_or_doubled() {
    let mut cluster = RedisCluster::start().await.expect("starts");
    let config = cluster.config(&json!({
        "command_template": TEMPLATE, "batch_records": 200, "max_records_per_second": 4_000,
    }));
    let queue = MemoryQueue::with((0..COUNT).map(spread));
    let task = start(&queue, config);
    double::until("it has begun", || queue.position() > 0).await;
    let from = cluster.master_of("of:c0").await.expect("is somebody's");
    let masters = cluster.masters().await.expect("reads");
    let to = *masters.iter().find(|at| **at != from).expect("another");
    cluster.reshard(from, to, 1_200).await.expect("moves slots");
    let at = queue.position() / 10;
    queue.all_committed().await;
    assert!(at < COUNT, "the slots moved after the last record");
    assert_eq!(assert_complete(&mut cluster, COUNT).await, 0, "nothing was lost, so nothing came twice");
    let mut redirected = 0;
    for master in masters {
        let stats = cluster.nodes[master].cli(&["INFO", "errorstats"]).await.expect("reads");
        redirected += stats.matches("errorstat_MOVED").count() + stats.matches("errorstat_ASK").count();
    }
    assert!(redirected > 0, "nobody was redirected");
    assert_eq!(task.report().counters.discard_total, 0);
    cluster.finish();
}

#[tokio::test]
async fn a_master_that_is_killed_is_replaced_by_its_replica() {
    let mut cluster = RedisCluster::start().await.expect("starts");
    let config = cluster.config(&json!({
        "command_template": TEMPLATE, "batch_records": 200, "max_records_per_second": 4_000, "wait_replicas": 1,
    }));
    let queue = MemoryQueue::with((0..COUNT).map(spread));
    let task = start(&queue, config);
    double::until("it is in the middle", || queue.position() > 50_000).await;
    let killed = cluster.master_of("of:c0").await.expect("is somebody's");
    cluster.nodes[killed].kill().expect("kills");
    let at = queue.position() / 10;
    let missed = Instant::now();
    // Its replica takes over, and then asks for one of its own: the old master comes back as that.
    double::until("it is missed", || task.report().health_reason.is_some()).await;
    cluster.nodes[killed].start_again().await.expect("starts again");
    cluster.healthy().await.expect("is healthy");
    queue.all_committed().await;
    let twice = assert_complete(&mut cluster, COUNT).await;
    println!("measured: master killed at {at} of {COUNT}: done after {:?}, {twice} came twice", missed.elapsed());
    assert_eq!(task.report().counters.discard_total, 0);
    cluster.finish();
}

#[tokio::test]
async fn every_node_is_checked_and_modes_are_told_apart() {
    let mut cluster = RedisCluster::start().await.expect("starts");
    // The seed may be reached; where the cluster says that its nodes are may not.
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.1/32"]);
    let seed = format!("127.0.0.2:{}", cluster.nodes[0].port());
    let sink = denying.open("lists", "redis", cluster.config(&json!({"server": seed}))).await.expect("opens");
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Misconfigured("TARGET_DENIED"), "{outcomes:?}");

    let far = cluster.master_of(KEY).await.expect("is somebody's");
    let other = cluster.masters().await.expect("reads").into_iter().find(|at| *at != far).expect("another");
    let sink = open(&cluster.nodes[other], &json!({})).await;
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Misconfigured("TARGET_IS_CLUSTER"));

    // One seed is enough, and one that is down is passed by.
    let seeds = format!("127.0.0.1:1,{}", cluster.nodes[other].address());
    let sink = node().open("lists", "redis", cluster.config(&json!({"server": seeds}))).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    assert_eq!(cluster.cli(&["LLEN", KEY]).await.expect("reads"), "1");

    let two = json!({"command_template": "SMOVE a b {payload}"});
    let sink = node().open("lists", "redis", cluster.config(&two)).await.expect("opens");
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(class(&outcomes[0]), "redis_crossslot");
    let together = json!({"command_template": "SMOVE {x}a {x}b {payload}"});
    let sink = node().open("lists", "redis", cluster.config(&together)).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    let fault = node().open("lists", "redis", cluster.config(&json!({"password": "wrong"}))).await.err();
    assert_eq!(fault.expect("is refused").kind, TargetFaultKind::Auth);
    cluster.finish();
}

#[tokio::test]
async fn nodes_speak_tls_under_one_name() {
    let options = RedisOptions { tls_names: Some("DNS:db.example.org".into()), ..RedisOptions::default() };
    let mut cluster = RedisCluster::with(options).await.expect("starts");
    let ca = cluster.nodes[0].certificates().expect("has some").ca.clone();
    let more = json!({
        "tls_enabled": true, "ca_cert_path": ca, "tls_server_name": "db.example.org", "command_template": TEMPLATE,
    });
    let sink = node().open("lists", "redis", cluster.config(&more)).await.expect("opens");
    let records: Vec<Record> =
        (0..400).map(|number| Record { message: spread(number), ..record(number, "") }).collect();
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 400]);
    assert_eq!(assert_complete(&mut cluster, 400).await, 0);
    cluster.finish();
}
