//! How the servers stand together. They only say so, each for itself; whom the driver then turns to is real.

use super::*;

/// Two members of a replica set, the first of which is the primary.
async fn two_members() -> [MongoDb; 2] {
    let members = [ports::free().expect("is free"), ports::free().expect("is free")];
    let standing = Standing::Member { set: "rs 0".to_owned(), members: members.into(), primary: members[0] };
    let of = |port| MongoDbOptions { port: Some(port), standing: standing.clone(), ..MongoDbOptions::default() };
    let (first, second) = tokio::join!(server_with(of(members[0])), server_with(of(members[1])));
    [first, second]
}

fn in_set(hosts: &str) -> Value {
    json!({ "deployment_mode": "replicaset", "replica_set_name": "rs 0", "host": hosts })
}

#[tokio::test]
async fn the_primary_of_a_replica_set_is_found_by_any_member() {
    let [primary, secondary] = two_members().await;
    let nobody = ports::free().expect("is free");
    for (number, hosts) in [
        format!("127.0.0.1:{}", primary.port()),
        format!("127.0.0.1:{}", secondary.port()),
        format!("localhost:{nobody},127.0.0.1:{},127.0.0.1:{}", secondary.port(), primary.port()),
        "127.0.0.1".to_owned(),
        // Not the name by which the members know it: it makes way for theirs.
        "localhost".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        // The last two of them have the common port.
        let sink = open(&secondary, &in_set(hosts)).await;
        assert_eq!(deliver(&*sink, &numbered([number as u64])).await, [Outcome::Delivered], "{hosts}");
        sink.close().await;
    }
    assert_eq!(primary.count(COLLECTION).await.expect("counts"), 5);
    assert_eq!(secondary.count(COLLECTION).await.expect("counts"), 0);
    [primary, secondary].into_iter().for_each(MongoDb::finish);
}

#[tokio::test]
async fn another_primary_is_followed_after_an_election() {
    let [mut first, mut second] = two_members().await;
    let queue = MemoryQueue::with((0..2_000).map(|number| message(number, &json!({ "n": number }))));
    let mut config = first.config(&in_set(&format!("127.0.0.1:{}", first.port())));
    config["batch_size"] = json!(50);
    let task = run(&queue, config);
    double::until("it is in the middle", || queue.position() > 300).await;
    first.kill().expect("kills");
    double::until("the target is missed", || task.report().health_reason.as_deref() == Some("TARGET_UNREACHABLE"))
        .await;
    second.kill().expect("kills");
    let members = vec![first.port(), second.port()];
    let elected = Standing::Member { set: "rs 0".to_owned(), members, primary: second.port() };
    second.start_again_as(elected.clone()).await.expect("starts again");
    queue.all_committed().await;
    first.start_again_as(elected).await.expect("starts again");
    let mut found = [ids(&first).await, ids(&second).await].concat();
    found.sort_unstable();
    // What the first one confirmed is not repeated; of what it did not, the second one does not know.
    found.dedup();
    assert_eq!(found.len(), 2_000);
    assert!(second.count(COLLECTION).await.expect("counts") > 0);
    [first, second].into_iter().for_each(MongoDb::finish);
}

#[tokio::test]
async fn a_set_of_another_name_is_not_written_to() {
    let [primary, secondary] = two_members().await;
    for (more, words) in [
        (
            json!({ "deployment_mode": "replicaset", "replica_set_name": "rs 1" }),
            "no host is a member of the replica set rs 1",
        ),
        (json!({ "deployment_mode": "sharded" }), "is not a router (mongos) of a sharded cluster"),
    ] {
        let fault = refused(primary.config(&more)).await;
        assert_eq!(fault.kind, DEPLOYMENT, "{fault:?}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    // A single server is taken as it is, also one that names others.
    let sink = open(&secondary, &json!({ "deployment_mode": "single" })).await;
    assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered]);
    assert_eq!(primary.told("insert").expect("reads its log").len(), 0);
    [primary, secondary].into_iter().for_each(MongoDb::finish);
}

#[tokio::test]
async fn every_router_of_a_sharded_cluster_is_used() {
    let router = || MongoDbOptions { standing: Standing::Router, ..MongoDbOptions::default() };
    let (mut first, second) = tokio::join!(server_with(router()), server_with(router()));
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
    // The driver leaves out who is slower than others, and Java is slow at first.
    for server in [&first, &second] {
        let warming = open(server, &json!({ "deployment_mode": "sharded" })).await;
        for from in 1..20 {
            assert_eq!(deliver(&*warming, &numbered(from * 10..from * 10 + 10)).await, vec![Outcome::Delivered; 10]);
        }
        warming.close().await;
    }
    let inserts = |server: &MongoDb| server.told("insert").expect("reads its log").len() - 19;
    let sink = open(&first, &json!({ "deployment_mode": "sharded", "host": hosts })).await;
    let both = wait::until(LIMIT, "both are used", async || {
        let outcomes = deliver(&*sink, &numbered(0..10)).await;
        ensure!(outcomes == vec![Outcome::Delivered; 10], "{outcomes:?}");
        ensure!(inserts(&first) > 0 && inserts(&second) > 0, "one of them is not");
        Ok(())
    });
    both.await.expect("both are used");
    first.kill().expect("kills");
    let other = wait::until(LIMIT, "the other one is used", async || {
        let outcomes = deliver(&*sink, &numbered(10..20)).await;
        ensure!(outcomes == vec![Outcome::Delivered; 10], "{outcomes:?}");
        Ok(())
    });
    other.await.expect("goes on");
    sink.close().await;
    [first, second].into_iter().for_each(MongoDb::finish);
}
