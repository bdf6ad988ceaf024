//! Every option of the connections, as the server sees it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use ::tests::certificates::Certificates;
use rustix::process::Signal;

use super::*;

#[tokio::test]
async fn the_pool_is_as_large_as_configured() {
    let server = server_with(MongoDbOptions { slow_ms: 200, ..MongoDbOptions::default() }).await;
    for size in [1, 3] {
        let sink = open(&server, &json!({ "max_pool_size": size })).await;
        let sent = numbered(0..9);
        let deliveries = sent.chunks(1).map(|one| deliver(&*sink, one));
        let outcomes = futures::future::join_all(deliveries).await;
        assert!(outcomes.into_iter().flatten().all(|outcome| outcome == Outcome::Delivered));
        connections_become(server.port(), size + HEARTBEATS).await;
        sink.close().await;
        connections_become(server.port(), 0).await;
    }
    server.finish();
}

#[tokio::test]
async fn the_least_connections_are_kept_open() {
    let mut server = server().await;
    for size in [0, 4] {
        let sink = open(&server, &json!({ "min_pool_size": size })).await;
        connections_become(server.port(), size.max(1) + HEARTBEATS).await;
        sink.close().await;
        connections_become(server.port(), 0).await;
    }
    // Those that the server has ended are replaced.
    let sink = open(&server, &json!({ "min_pool_size": 4 })).await;
    connections_become(server.port(), 4 + HEARTBEATS).await;
    server.kill().expect("kills");
    server.start_again().await.expect("starts again");
    let again = wait::until(LIMIT, "it is missed and found again", async || {
        let outcomes = deliver(&*sink, &numbered(0..1)).await;
        ensure!(outcomes == [Outcome::Delivered], "{outcomes:?}");
        Ok(())
    });
    again.await.expect("goes on");
    connections_become(server.port(), 4 + HEARTBEATS).await;
    server.finish();
}

fn took(began: Instant, what: &str) {
    println!("measured: {what}: {:?}", began.elapsed());
    assert!((900..20_000).contains(&began.elapsed().as_millis()), "{what}: {:?}", began.elapsed());
}

#[tokio::test]
async fn connecting_choosing_a_server_and_a_request_have_their_times() {
    let server = server().await;
    // A port whose kernel answers and whose program never does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = silent.local_addr().expect("is bound").port();
    let began = Instant::now();
    let fault = refused(server.config(&json!({ "port": port, "connect_timeout_secs": 1 }))).await;
    took(began, "connecting");
    assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
    assert!(fault.message.contains("timed out"), "{}", fault.message);

    let began = Instant::now();
    let more = json!({ "port": port, "connect_timeout_secs": 300, "server_selection_timeout_secs": 1 });
    let fault = refused(server.config(&more)).await;
    took(began, "choosing");
    assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
    assert!(fault.message.contains("Server selection timeout"), "{}", fault.message);

    let sink = open(&server, &json!({ "socket_timeout_secs": 1, "connect_timeout_secs": 300 })).await;
    server.signal(Signal::STOP).expect("stops");
    let began = Instant::now();
    let outcomes = deliver(&*sink, &numbered(0..1)).await;
    took(began, "a request");
    assert_eq!(super::fault(&outcomes[0]).kind, TargetFaultKind::Down);
    assert!(super::fault(&outcomes[0]).message.contains("no answer within 1 s"), "{outcomes:?}");
    server.signal(Signal::CONT).expect("continues");
    let again = wait::until(LIMIT, "it goes on", async || {
        let outcomes = deliver(&*sink, &numbered(0..1)).await;
        ensure!(outcomes == [Outcome::Delivered], "{outcomes:?}");
        Ok(())
    });
    again.await.expect("goes on");
    assert_eq!(ids(&server).await, ["1-7-0"]);
    server.finish();
}

#[tokio::test]
async fn the_connector_is_named_at_the_server() {
    let server = server().await;
    let sink = node().open("plant floor", "mongodb", server.config(&json!({}))).await.expect("opens");
    let clients = server.told("client").expect("reads its log");
    let named = clients.iter().filter(|client| client.contains(r#""application" : {"name" : "sluice/plant floor"}"#));
    assert_eq!(named.count(), 2, "{clients:?}");
    sink.close().await;
    server.finish();
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let config = server.config(&json!({ "host": host }));
        let fault = denying.open("documents", "mongodb", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host} {fault:?}");
    }
    assert!(server.told("client").expect("reads its log").is_empty());
    let sink = open(&server, &json!({ "host": format!("localhost:{}", server.port()), "port": 1 })).await;
    assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered]);
    server.finish();
}

/// How a connector with this configuration fares.
async fn check_tls(server: &MongoDb, more: Value, expect: Option<TargetFaultKind>) {
    let mut config = server.config(&more);
    (config["enable_tls"], config["server_selection_timeout_secs"]) = (json!(true), json!(10));
    match (node().open("documents", "mongodb", config).await, expect) {
        (Ok(sink), None) => {
            assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered], "{more}");
            sink.close().await;
        }
        (Err(fault), Some(kind)) => assert_eq!(fault.kind, kind, "{more} {fault:?}"),
        (Ok(_), Some(_)) => panic!("{more}: opened"),
        (Err(fault), None) => panic!("{more}: {fault:?}"),
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("reads")
}

fn certificates(names: &str) -> (tempfile::TempDir, Certificates) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let certificates = Certificates::make(folder.path(), names, "sluice").expect("makes certificates");
    (folder, certificates)
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let (_folder, made) = certificates("DNS:db.example.org");
    let options = MongoDbOptions { certificates: Some(made.clone()), ..MongoDbOptions::default() };
    let server = server_with(options).await;
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let (ca, name) = (&made.ca, "db.example.org");
    check_tls(&server, json!({}), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca }), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca, "tls_server_name": name }), None).await;
    check_tls(&server, json!({ "ca_cert": text(ca), "tls_server_name": name }), None).await;
    check_tls(&server, json!({ "ca_cert_path": made.other_ca, "tls_server_name": name }), untrusted).await;
    check_tls(&server, json!({ "ca_cert_path": ca, "tls_server_name": "other.example.org" }), untrusted).await;
    check_tls(&server, json!({ "tls_server_name": name }), untrusted).await;
    check_tls(&server, json!({ "tls_verify": false }), None).await;
    let unusable = Some(TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    check_tls(&server, json!({ "ca_cert_path": "/nowhere/ca.pem" }), unusable).await;
    let fault = refused(server.config(&json!({}))).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "the server wants TLS: {fault:?}");
    server.finish();
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_files_or_from_the_configuration() {
    let (_folder, made) = certificates("IP:127.0.0.1");
    let certificates = Some(made.clone());
    let server =
        server_with(MongoDbOptions { certificates, client_certificate: true, ..MongoDbOptions::default() }).await;
    check_tls(&server, json!({ "ca_cert_path": made.ca }), Some(TargetFaultKind::Down)).await;
    let files = json!({ "ca_cert_path": made.ca, "client_cert_path": made.client, "client_key_path": made.client_key });
    check_tls(&server, files, None).await;
    let inline =
        json!({ "ca_cert": text(&made.ca), "client_cert": text(&made.client), "client_key": text(&made.client_key) });
    check_tls(&server, inline, None).await;
    server.finish();
}
