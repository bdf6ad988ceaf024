//! Every option of the connections, as the server sees it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use ::tests::postgres::{PASSWORD, PostgresOptions};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup};

/// A look is a process of its own.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[tokio::test]
async fn the_pool_is_as_large_as_configured() {
    let server = server().await;
    each_row_takes(&server, "0.3").await;
    let sink = open(&server, &json!({"pool_size": 3, "min_pool_size": 0})).await;
    connections_become(&server, 1).await;
    let records: Vec<_> = (0..9).map(|number| record(number, "x")).collect();
    let deliveries = records.chunks(1).map(|one| deliver(&*sink, one));
    let (outcomes, ()) = tokio::join!(futures::future::join_all(deliveries), connections_become(&server, 3));
    assert!(outcomes.into_iter().flatten().all(|outcome| outcome == Outcome::Delivered));
    assert_eq!(connections(&server).await.expect("counts"), 3, "nine batches at once, three connections");
    sink.close().await;
    connections_become(&server, 0).await;
    server.finish();
}

#[tokio::test]
async fn the_least_connections_are_kept_open_and_the_others_go_when_idle() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 4, "min_pool_size": 2, "idle_timeout_secs": 1})).await;
    connections_become(&server, 2).await;
    let records: Vec<_> = (0..4).map(|number| record(number, "x")).collect();
    let busy = wait::until(LIMIT, "four connections", async || {
        futures::future::join_all(records.chunks(1).map(|one| deliver(&*sink, one))).await;
        let found = connections(&server).await?;
        ensure!(found > 2, "{found}");
        Ok(())
    });
    busy.await.expect("more than two");
    connections_become(&server, 2).await;
    // One that the server ends is replaced.
    server
        .sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice/rows'")
        .await
        .expect("ends them");
    connections_become(&server, 2).await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 4]);
    server.finish();
}

/// Pids of the connections, the oldest first.
async fn pids(server: &Postgres) -> String {
    let pids = "SELECT string_agg(pid::text, ',' ORDER BY backend_start) FROM pg_stat_activity \
                WHERE application_name = 'sluice/rows'";
    server.sql(pids).await.expect("reads")
}

#[tokio::test]
async fn old_connections_are_replaced_unless_that_is_off() {
    let server = server().await;
    for (seconds, replaced) in [(1, true), (0, false)] {
        let config = json!({"pool_size": 1, "min_pool_size": 1, "max_lifetime_secs": seconds, "idle_timeout_secs": 0});
        let sink = open(&server, &config).await;
        let before = pids(&server).await;
        if replaced {
            let other = wait::until(LIMIT, "the connection is replaced", async || {
                let now = pids(&server).await;
                ensure!(!now.is_empty() && now != before, "{now}");
                Ok(())
            });
            other.await.expect("is replaced");
        } else {
            let until = Instant::now() + Duration::from_secs(3);
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while Instant::now() < until {
                looks.tick().await;
                assert_eq!(pids(&server).await, before);
            }
        }
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
        sink.close().await;
        connections_become(&server, 0).await;
    }
    server.finish();
}

#[tokio::test]
async fn waiting_for_a_connection_and_connecting_have_their_times() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1, "acquire_timeout_secs": 1})).await;
    each_row_takes(&server, "3").await;
    let (first, second) = ([record(1, "x")], [record(2, "y")]);
    let (first, (second, took)) = tokio::join!(deliver(&*sink, &first), async {
        a_statement_waits(&server).await;
        let started = Instant::now();
        (deliver(&*sink, &second).await, started.elapsed())
    });
    assert_eq!(first, [Outcome::Delivered]);
    let Outcome::TargetFault(fault) = &second[0] else { panic!("{second:?}") };
    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no connection became free within 1 s"));
    assert!((900..20_000).contains(&took.as_millis()), "{took:?}");

    // A port whose kernel answers and whose program never does.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = silent.local_addr().expect("is bound").port();
    let started = Instant::now();
    let fault = refused(&server, &json!({"port": port, "connect_timeout_secs": 1})).await;
    assert_eq!((fault.kind, &*fault.message), (TargetFaultKind::Down, "no connection within 1 s"));
    assert!((900..20_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    server.finish();
}

#[tokio::test]
async fn the_connector_is_named_at_the_server() {
    let server = server().await;
    let sink = node().open("plant floor", "postgres", server.config(&json!({}))).await.expect("opens");
    let names = server.sql("SELECT DISTINCT application_name FROM pg_stat_activity WHERE usename = 'sluice'").await;
    assert_eq!(names.expect("reads"), "sluice/plant floor");
    sink.close().await;
    server.finish();
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let config = server.config(&json!({"host": host}));
        let fault = denying.open("rows", "postgres", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{host}");
    }
    let sink = open(&server, &json!({"host": "localhost"})).await;
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
    let sink = node.sink_for("rows", "postgres", server.config(&json!({"password": password})));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another password", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 3);
    server.finish();
}

/// How a connector with this configuration fares.
async fn check_tls(server: &Postgres, more: Value, expect: Option<TargetFaultKind>) {
    let mut config = server.config(&more);
    config["enable_tls"] = json!(true);
    match (node().open("rows", "postgres", config).await, expect) {
        (Ok(sink), None) => {
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{more}");
            let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                             WHERE application_name = 'sluice/rows'";
            assert_eq!(server.sql(encrypted).await.expect("reads"), "t", "{more}");
            sink.close().await;
            connections_become(server, 0).await;
        }
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
    let options = PostgresOptions { tls_names: Some("DNS:db.example.org".into()), ..PostgresOptions::default() };
    let server = Postgres::with(options).await.expect("starts");
    server.sql(TABLE).await.expect("makes");
    server.sql("GRANT INSERT ON mqtt_messages TO sluice").await.expect("grants");
    let ca = server.certificates().expect("has some").ca.clone();
    let other = tempfile::tempdir().expect("temporary folder");
    let other =
        ::tests::certificates::Certificates::make(other.path(), "DNS:db.example.org", "x").map(|of| text(&of.ca));
    let other = other.expect("makes certificates");
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let name = "db.example.org";
    check_tls(&server, json!({}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca, "tls_server_name": name}), None).await;
    check_tls(&server, json!({"ca_cert": text(&ca), "tls_server_name": name}), None).await;
    check_tls(&server, json!({"ca_cert": other, "tls_server_name": name}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted).await;
    check_tls(&server, json!({"tls_server_name": name}), untrusted).await;
    check_tls(&server, json!({"tls_verify": false}), None).await;
    let unusable = Some(TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    check_tls(&server, json!({"ca_cert_path": "/nowhere/ca.pem"}), unusable).await;
    let fault = refused(&server, &json!({})).await;
    assert_eq!(fault.kind, TargetFaultKind::Auth, "the server wants TLS: {fault:?}");
    server.finish();
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_files_or_from_the_configuration() {
    let options = PostgresOptions {
        tls_names: Some("IP:127.0.0.1".into()),
        client_certificate: true,
        ..PostgresOptions::default()
    };
    let server = Postgres::with(options).await.expect("starts");
    server.sql(TABLE).await.expect("makes");
    server.sql("GRANT INSERT ON mqtt_messages TO sluice").await.expect("grants");
    let of = server.certificates().expect("has some").clone();
    check_tls(&server, json!({"ca_cert_path": of.ca}), Some(TargetFaultKind::Auth)).await;
    let files = json!({"ca_cert_path": of.ca, "client_cert_path": of.client, "client_key_path": of.client_key});
    check_tls(&server, files, None).await;
    let inline = json!({
        "ca_cert": text(&of.ca), "client_cert": text(&of.client), "client_key": text(&of.client_key),
    });
    check_tls(&server, inline, None).await;
    server.finish();
}
