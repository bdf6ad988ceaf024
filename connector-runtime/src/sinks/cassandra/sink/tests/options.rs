//! Every option, as the server sees it.

use std::net::TcpListener;
use std::time::Instant;

use rustix::process::Signal;

use super::*;

#[tokio::test]
async fn keyspace_and_table_are_made_when_they_are_wanted() {
    let server = server().await;
    let admin = json!({ "username": "cassandra", "password": "cassandra", "consistency": "one" });
    let with = |keyspace: &str, more: Value| {
        let mut config = server.config("Made Here", &admin);
        config["keyspace"] = json!(keyspace);
        config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        config
    };
    let fault = refused(with("Own", json!({ "table": "made" }))).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing, "{fault:?}");
    let create = json!({ "create_if_missing": true, "replication_factor": 3, "table": "made" });
    let sink = opened(with("Own", create.clone())).await;
    assert_eq!(deliver(&*sink, &numbered(0..3)).await, vec![Outcome::Delivered; 3]);
    let mut here = create.clone();
    (here["datacenter"], here["replication_factor"]) = (json!("datacenter1"), json!(1));
    opened(with("there", here)).await;
    let keyspaces = server.rows("SELECT keyspace_name, replication FROM system_schema.keyspaces").await.expect("reads");
    let replication = |name: &str| {
        let keyspace = keyspaces.iter().find(|row| row["keyspace_name"] == name).expect("is there");
        keyspace["replication"]["datacenter1"].clone()
    };
    assert_eq!((replication("Own"), replication("there")), (json!("3"), json!("1")));
    let query = "SELECT column_name, kind, type FROM system_schema.columns WHERE keyspace_name = 'Own'";
    let columns = server.rows(query).await.expect("reads");
    assert_eq!(columns.len(), 5, "{columns:?}");

    // One that goes is made again, with whatever it was asked for.
    server.run(&["DROP TABLE \"Own\".made"]).await.expect("drops");
    delivered_at_last(&*sink, &numbered(0..3)).await;
    // Who may not, is told so.
    let mut other = create;
    (other["username"], other["password"]) = (json!(USER), json!(PASSWORD));
    let fault = refused(with("nobodys", other)).await;
    assert_eq!(fault.kind, TargetFaultKind::Permission, "{fault:?}");
}

#[tokio::test]
async fn rows_go_after_their_time_and_levels_are_those_of_the_configuration() {
    const TABLE: &str = "levels";
    let server = server_with(TABLE).await;
    let sink = open(&server, TABLE, &json!({ "ttl_secs": 3_600 })).await;
    assert_eq!(deliver(&*sink, &numbered(0..2)).await, vec![Outcome::Delivered; 2]);
    let found = server.rows(&format!("SELECT TTL(payload) AS t FROM {KEYSPACE}.{TABLE}")).await.expect("reads");
    for row in found {
        assert!((3_000..=3_600).contains(&row["t"].as_u64().expect("a number")), "{row}");
    }
    // With more copies than nodes, the number that a level wants is in the server's answer.
    let wide = "CREATE KEYSPACE wide WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 5}";
    let statements =
        [wide, "CREATE TABLE wide.levels (msgid text PRIMARY KEY)", "GRANT MODIFY ON KEYSPACE wide TO sluice"];
    server.run(&statements).await.expect("makes them");
    for (level, expect) in [
        (json!("one"), None),
        (json!("local_one"), None),
        (json!("two"), Some("TWO")),
        (json!("three"), Some("THREE")),
        (json!("quorum"), Some("QUORUM")),
        (json!("all"), Some("ALL")),
        (json!("each_quorum"), Some("EACH_QUORUM")),
        (json!("local_quorum"), Some("LOCAL_QUORUM")),
        (Value::Null, Some("LOCAL_QUORUM")),
    ] {
        let sink = opened(server.config(TABLE, &json!({ "keyspace": "wide", "consistency": level }))).await;
        let outcomes = deliver(&*sink, &numbered(0..1)).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{level}"),
            Some(level) => {
                let said = &fault(&outcomes[0]).message;
                let words = format!("Cannot achieve consistency level {level}");
                let forbidden = level == FORBIDDEN && said.contains(FORBIDDEN);
                assert!(forbidden || said.starts_with(&words), "{level}: {outcomes:?}");
            }
        }
    }
}

#[tokio::test]
async fn no_more_inserts_are_under_way_than_configured() {
    /// So few that all of a window fit into the server's socket.
    const BYTES: usize = 2_000;
    let server = server_alone().await;
    for (window, least, most) in [(1, BYTES, 2 * BYTES), (8, 8 * BYTES, 9 * BYTES)] {
        let more = json!({ "max_inserts_in_flight": window, "timeout_secs": 300 });
        let sink = open(&server, TABLE, &more).await;
        let large = records((0..40).map(|_| vec![b'x'; BYTES]));
        server.signal(Signal::STOP).expect("stops");
        let (first, second) = large.split_at(20);
        // Two batches share it.
        let both = futures::future::join(deliver(&*sink, first), deliver(&*sink, second));
        let ((one, other), ()) = tokio::join!(both, async {
            let sent = wait::until(LIMIT, "the window is full", async || {
                let unread = ports::unread_bytes(server.port()).expect("reads");
                ensure!(unread >= least as u64, "{unread}");
                Ok(())
            });
            sent.await.expect("waits");
            // The rest would have come along.
            let unread = ports::unread_bytes(server.port()).expect("reads");
            assert!(unread < most as u64, "{unread} bytes are under way with a window of {window}");
            server.signal(Signal::CONT).expect("continues");
        });
        assert!(one.iter().chain(&other).all(|outcome| *outcome == Outcome::Delivered), "{one:?} {other:?}");
        sink.close().await;
        connections_become(server.port(), 0).await;
    }
}

fn took(began: Instant, what: &str) {
    println!("measured: {what}: {:?}", began.elapsed());
    assert!((900..LIMIT.as_millis()).contains(&began.elapsed().as_millis()), "{what}: {:?}", began.elapsed());
}

#[tokio::test]
async fn connecting_and_a_request_have_their_time() {
    let server = server_alone().await;
    // A port whose kernel answers and whose program never does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = silent.local_addr().expect("is bound").port();
    let began = Instant::now();
    let fault = refused(server.config(TABLE, &json!({ "port": port, "timeout_secs": 1 }))).await;
    took(began, "connecting");
    assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");

    // A busy machine has to connect and to write within it: once it has, it is as quick as it will be.
    let config = server.config(TABLE, &json!({ "timeout_secs": 3 }));
    let quick = wait::until(LIMIT, "the server is as quick as that", async || {
        let opened = node().open("rows", "cassandra", config.clone()).await;
        let sink = opened.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
        let outcomes = deliver(&*sink, &numbered(0..1)).await;
        ensure!(outcomes == [Outcome::Delivered], "{outcomes:?}");
        Ok(sink)
    });
    let sink = quick.await.expect("opens");
    server.signal(Signal::STOP).expect("stops");
    let began = Instant::now();
    let outcomes = deliver(&*sink, &numbered(0..1_000)).await;
    took(began, "a batch");
    assert_eq!(super::fault(&outcomes[0]).kind, TargetFaultKind::Down);
    assert!(super::fault(&outcomes[0]).message.contains("no answer within 3 s"), "{:?}", outcomes[0]);
    assert_eq!(outcomes[999], Outcome::TargetFault(TargetFault::held()), "it was never sent");
    server.signal(Signal::CONT).expect("continues");
    let queue = MemoryQueue::with((0..1_000).map(numbered_message));
    let _task = run(&queue, server.config(TABLE, &json!({ "timeout_secs": 60 })));
    queue.all_committed().await;
}

#[tokio::test]
async fn nodes_have_ports_of_their_own_or_the_common_one_and_one_that_answers_is_enough() {
    let server = server_alone().await;
    let port = server.port();
    let dead = ports::free().expect("is free");
    for (nodes, common) in [
        (json!([format!("127.0.0.1:{port}")]), dead),
        (json!(["localhost"]), port),
        (json!([format!("127.0.0.1:{dead}"), format!("localhost:{dead}"), "127.0.0.1"]), port),
    ] {
        let sink = open(&server, TABLE, &json!({ "nodes": nodes, "port": common })).await;
        assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered], "{nodes}");
        let clients = server.rows("SELECT client_options FROM system_views.clients").await.expect("reads");
        let own = clients.iter().filter(|client| client["client_options"]["APPLICATION_NAME"] == "sluice/rows").count();
        assert_eq!(own, 2, "one that looks at the cluster, one that writes: {clients:?}");
        sink.close().await;
        connections_become(port, 0).await;
    }
    let fault = refused(server.config(TABLE, &json!({ "nodes": ["127.0.0.1"], "port": dead }))).await;
    assert_eq!(fault.kind, TargetFaultKind::Down);
    assert!(fault.message.contains("refused"), "{}", fault.message);
}
