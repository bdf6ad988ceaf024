//! Every option of the connections, as the server sees it.

use std::net::TcpListener;
use std::path::Path;

use ::tests::certificates::Certificates;
use ::tests::redis::PASSWORD;
use futures::future::join_all;

use super::*;

/// Records of many publishers, so of many lanes.
fn of_many(count: u64) -> Vec<Record> {
    (0..count).map(|number| record(number, "x")).collect()
}

#[tokio::test]
async fn the_pool_is_as_large_as_configured_and_opened_as_it_is_needed() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 3})).await;
    connections_become(&server, 1).await;
    let records = of_many(200);
    let outcomes = join_all(records.chunks(1).map(|one| deliver(&*sink, one))).await;
    assert!(outcomes.into_iter().flatten().all(|outcome| outcome == Outcome::Delivered));
    assert_eq!(connections(&server).await.expect("counts"), 3);
    sink.close().await;
    drop(sink);
    connections_become(&server, 0).await;
    server.finish();
}

#[tokio::test]
async fn a_publisher_and_topic_always_use_the_same_connection() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    for _ in 0..20 {
        assert_eq!(deliver(&*sink, &[record(5, "x")]).await, [Outcome::Delivered]);
    }
    // One that was opened with the sink, and one of this lane, unless they are the same.
    assert!(connections(&server).await.expect("counts") <= 2);
    server.finish();
}

#[tokio::test]
async fn database_and_name_are_set_on_every_connection() {
    let server = server().await;
    let sink = node().open("plant floor", "redis", server.config(&json!({"database": 5, "pool_size": 2}))).await;
    let sink = sink.expect("opens");
    let records = of_many(50);
    join_all(records.chunks(1).map(|one| deliver(&*sink, one))).await;
    let clients = server.cli(&["CLIENT", "LIST"]).await.expect("lists");
    let ours: Vec<&str> = clients.lines().filter(|client| client.contains("name=sluice/plant_floor ")).collect();
    assert_eq!(ours.len(), 2, "{clients}");
    assert!(ours.iter().all(|client| client.contains(" db=5 ")), "{clients}");
    assert_eq!(server.cli(&["-n", "5", "LLEN", KEY]).await.expect("reads"), "50");
    assert_eq!(server.count().await.expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn connecting_has_its_time() {
    let server = server().await;
    // A port whose kernel answers and whose program never does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = silent.local_addr().expect("is bound").to_string();
    let started = Instant::now();
    let fault = refused(&server, &json!({"server": address, "connect_timeout_ms": 300})).await;
    assert_eq!(fault.kind, TargetFaultKind::Down);
    assert!(fault.message.contains("within 300 ms"), "{fault:?}");
    assert!((290..5_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    server.finish();
}

#[tokio::test]
async fn a_reply_has_its_time() {
    let server = server().await;
    let sink = open(&server, &json!({"answer_timeout_ms": 300, "max_retries": 0})).await;
    server.signal(rustix::process::Signal::STOP).expect("pauses");
    let started = Instant::now();
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    let fault = fault(&outcomes[0]);
    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no reply within 300 ms"));
    assert!((290..5_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    server.signal(rustix::process::Signal::CONT).expect("goes on");
    assert_eq!(deliver(&*sink, &[record(2, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

#[tokio::test]
async fn lost_connections_are_tried_again_as_often_and_as_slowly_as_configured() {
    let mut server = server().await;
    for (retries, interval, least_ms) in [(0, 60_000, 0), (3, 200, 600)] {
        let sink = open(&server, &json!({"max_retries": retries, "retry_interval_ms": interval})).await;
        server.kill().expect("kills");
        let started = Instant::now();
        let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "y")]).await;
        assert_eq!((kind(&outcomes[0]), kind(&outcomes[1])), (TargetFaultKind::Down, TargetFaultKind::Down));
        let took = started.elapsed().as_millis();
        assert!((least_ms..least_ms + 10_000).contains(&took), "{retries} retries took {took} ms");
        server.start_again().await.expect("starts again");
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "the same sink goes on");
    }
    // A server that comes back in time: nobody hears of it.
    let sink = open(&server, &json!({"max_retries": 100, "retry_interval_ms": 50})).await;
    server.kill().expect("kills");
    let records = [record(3, "z")];
    let (mut outcomes, started) = tokio::join!(deliver(&*sink, &records), server.start_again());
    started.expect("starts again");
    // It was lost no more, but not ready either.
    if let [Outcome::TargetFault(fault)] = &outcomes[..]
        && fault.message.starts_with("LOADING")
    {
        outcomes = deliver(&*sink, &records).await;
    }
    assert_eq!(outcomes, [Outcome::Delivered]);
    server.finish();
}

#[tokio::test]
async fn a_connection_that_the_server_ends_is_replaced_within_the_attempt() {
    let server = server().await;
    let sink = open(&server, &json!({"retry_interval_ms": 10})).await;
    for number in 0..5 {
        server.cli(&["CLIENT", "KILL", "USER", ::tests::redis::USER]).await.expect("kills");
        assert_eq!(deliver(&*sink, &[record(number, "x")]).await, [Outcome::Delivered]);
    }
    assert_eq!(server.count().await.expect("counts"), 5);
    server.finish();
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let config = server.config(&json!({"server": format!("{host}:{}", server.port())}));
        let fault = denying.open("lists", "redis", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host}");
    }
    let sink = open(&server, &json!({"server": format!("localhost:{}", server.port())})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    server.finish();
}

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    let server = server().await;
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let sink = node.sink_for("lists", "redis", server.config(&json!({"password": password})));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another password", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(server.count().await.expect("counts"), 3);
    server.finish();
}

#[tokio::test]
async fn replicas_that_are_asked_for_must_have_the_batch() {
    let master = server().await;
    let port = master.port().to_string();
    let mut replica = server_with(&[("replicaof", &format!("127.0.0.1 {port}"))]).await;
    let online = wait::until(LIMIT, "the replica is online", async || {
        ensure!(master.cli(&["INFO", "replication"]).await?.contains("state=online"), "not yet");
        Ok(())
    });
    online.await.expect("online");
    let sink = open(&master, &json!({"wait_replicas": 1})).await;
    let records = of_many(100);
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
    assert_eq!(replica.count().await.expect("counts"), 100, "it has them when they are confirmed");
    let careless = open(&master, &json!({})).await;
    replica.kill().expect("kills");
    let outcomes = deliver(&*sink, &records[..2]).await;
    for outcome in &outcomes {
        let fault = fault(outcome);
        assert_eq!(fault.kind, TargetFaultKind::Down);
        assert!(fault.message.contains("0 of 1 replicas"), "{fault:?}");
    }
    assert_eq!(deliver(&*careless, &records[..1]).await, [Outcome::Delivered]);
    replica.finish();
    master.finish();
}

/// How a connector with this configuration fares.
async fn check_tls(server: &Redis, more: Value, expect: Option<TargetFaultKind>) {
    let mut config = server.config(&more);
    config["tls_enabled"] = json!(true);
    match (node().open("lists", "redis", config).await, expect) {
        (Ok(sink), None) => assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{more}"),
        (Err(fault), Some(kind)) => assert_eq!(fault.kind, kind, "{more} {fault:?}"),
        (Ok(_), Some(_)) => panic!("{more}: opened"),
        (Err(fault), None) => panic!("{more}: {fault:?}"),
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("reads")
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let options = RedisOptions { tls_names: Some("DNS:db.example.org".into()), ..RedisOptions::default() };
    let server = Redis::with(options).await.expect("starts");
    let ca = server.certificates().expect("has some").ca.clone();
    let other = tempfile::tempdir().expect("temporary folder");
    let other = Certificates::make(other.path(), "DNS:db.example.org", "x").map(|of| text(&of.ca));
    let other = other.expect("makes certificates");
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let name = "db.example.org";
    check_tls(&server, json!({}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca, "tls_server_name": name}), None).await;
    check_tls(&server, json!({"ca_cert": text(&ca), "tls_server_name": name}), None).await;
    check_tls(&server, json!({"ca_cert": other, "tls_server_name": name}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted).await;
    check_tls(&server, json!({"tls_verify": false}), None).await;
    let unusable = Some(TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    check_tls(&server, json!({"ca_cert_path": "/nowhere/ca.pem"}), unusable).await;
    assert_eq!(refused(&server, &json!({})).await.kind, TargetFaultKind::Down, "the server wants TLS");
    server.finish();
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_files_or_from_the_configuration() {
    let options =
        RedisOptions { tls_names: Some("IP:127.0.0.1".into()), client_certificate: true, ..RedisOptions::default() };
    let server = Redis::with(options).await.expect("starts");
    let of = server.certificates().expect("has some").clone();
    check_tls(&server, json!({"ca_cert_path": of.ca}), Some(TargetFaultKind::Down)).await;
    let files = json!({"ca_cert_path": of.ca, "client_cert_path": of.client, "client_key_path": of.client_key});
    check_tls(&server, files, None).await;
    let inline = json!({
        "ca_cert": text(&of.ca), "client_cert": text(&of.client), "client_key": text(&of.client_key),
    });
    check_tls(&server, inline, None).await;
    server.finish();
}
