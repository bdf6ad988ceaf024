//! Every option of the connections, as the server sees it.

use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use ::tests::certificates::Certificates;
use ::tests::mariadb::{MariaDbOptions, PASSWORD};

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
    // One that the server ends is replaced, and nobody who delivers notices.
    server.sql("KILL CONNECTION USER sluice").await.expect("ends them");
    connections_become(&server, 2).await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 4]);
    server.finish();
}

#[tokio::test]
async fn a_connection_that_the_server_has_ended_is_not_used() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1, "min_pool_size": 0, "idle_timeout_secs": 0})).await;
    for _ in 0..3 {
        server.sql("KILL CONNECTION USER sluice").await.expect("ends it");
        connections_become(&server, 0).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    }
    server.finish();
}

/// Ids of the connections.
async fn ids(server: &MariaDb) -> String {
    let ids = "SELECT GROUP_CONCAT(id ORDER BY id) FROM information_schema.PROCESSLIST WHERE USER = 'sluice'";
    server.sql(ids).await.expect("reads")
}

#[tokio::test]
async fn old_connections_are_replaced_unless_that_is_off() {
    let server = server().await;
    for (seconds, replaced) in [(1, true), (0, false)] {
        let config = json!({"pool_size": 1, "min_pool_size": 1, "max_lifetime_secs": seconds, "idle_timeout_secs": 0});
        let sink = open(&server, &config).await;
        let before = ids(&server).await;
        if replaced {
            let other = wait::until(LIMIT, "the connection is replaced", async || {
                let now = ids(&server).await;
                ensure!(now != "NULL" && now != before, "{now}");
                Ok(())
            });
            other.await.expect("is replaced");
        } else {
            // Longer than a transaction may idle: that bound is gone between batches.
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
            let until = Instant::now() + Duration::from_secs(7);
            let mut looks = tokio::time::interval(LOOK_EVERY);
            while Instant::now() < until {
                looks.tick().await;
                assert_eq!(ids(&server).await, before);
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
async fn a_server_with_too_many_connections_is_asked_again_later() {
    let server = server().await;
    server.sql("GRANT USAGE ON *.* TO sluice@'%' WITH MAX_USER_CONNECTIONS 1").await.expect("limits");
    let first = open(&server, &json!({"pool_size": 1})).await;
    let fault = refused(&server, &json!({})).await;
    assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
    assert!(fault.message.contains("max_user_connections"), "{}", fault.message);
    first.close().await;
    server.finish();
}

#[tokio::test]
async fn the_connector_is_named_at_the_server() {
    let server = server().await;
    let sink = node().open("plant floor", "mysql", server.config(&json!({}))).await.expect("opens");
    let names = "SELECT DISTINCT ATTR_VALUE FROM performance_schema.session_connect_attrs \
                 WHERE ATTR_NAME = 'program_name' AND ATTR_VALUE LIKE 'sluice%'";
    assert_eq!(server.sql(names).await.expect("reads"), "sluice/plant floor");
    sink.close().await;
    server.finish();
}

#[tokio::test]
async fn denied_networks_are_not_reached_by_address_or_by_name() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let config = server.config(&json!({"host": host}));
        let fault = denying.open("rows", "mysql", config).await.err().expect("is denied");
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
    let sink = node.sink_for("rows", "mysql", server.config(&json!({"password": password})));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another password", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 3);
    server.finish();
}

#[tokio::test]
async fn each_way_of_authentication_is_followed() {
    let server = server().await;
    server.sql("INSTALL SONAME 'auth_ed25519'").await.expect("is there");
    for (user, way, password) in [
        ("native", "IDENTIFIED BY 'pass'", "pass"),
        ("nothing", "IDENTIFIED BY ''", ""),
        ("curve", "IDENTIFIED VIA ed25519 USING PASSWORD('pass')", "pass"),
        (
            "either",
            "IDENTIFIED VIA ed25519 USING PASSWORD('other') OR mysql_native_password USING PASSWORD('pass')",
            "pass",
        ),
    ] {
        server
            .sql(&format!("CREATE USER {user}@'%' {way}; GRANT INSERT ON sluice.mqtt_messages TO {user}@'%'"))
            .await
            .expect("makes the user");
        let sink = open(&server, &json!({"username": user, "password": password})).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{user}");
        let fault = refused(&server, &json!({"username": user, "password": "wrong"})).await;
        assert_eq!(fault.kind, TargetFaultKind::Auth, "{user} {fault:?}");
    }
    server.finish();
}

/// How a connector with this configuration fares.
async fn check_tls(server: &MariaDb, more: Value, expect: Option<TargetFaultKind>) {
    let mut config = server.config(&more);
    config["enable_tls"] = json!(true);
    match (node().open("rows", "mysql", config).await, expect) {
        (Ok(sink), None) => {
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{more}");
            // An idle connection over TLS is not taken for one that has ended.
            let before = ids(server).await;
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{more}");
            assert_eq!(ids(server).await, before, "{more}");
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

async fn server_with_tls(names: &str, require: &str) -> MariaDb {
    let options = MariaDbOptions { tls_names: Some(names.into()), ..MariaDbOptions::default() };
    let server = MariaDb::with(options).await.expect("starts");
    server.sql(TABLE).await.expect("makes the table");
    server.sql(&format!("ALTER USER sluice@'%' REQUIRE {require}")).await.expect("requires");
    server
}

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let server = server_with_tls("DNS:db.example.org", "SSL").await;
    let ca = server.certificates().expect("has some").ca.clone();
    let other = tempfile::tempdir().expect("temporary folder");
    let other = Certificates::make(other.path(), "DNS:db.example.org", "x").map(|of| text(&of.ca));
    let other = other.expect("makes certificates");
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let name = "db.example.org";
    let one = |mut more: Value| {
        (more["pool_size"], more["min_pool_size"]) = (json!(1), json!(1));
        more
    };
    check_tls(&server, json!({}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca}), untrusted).await;
    check_tls(&server, one(json!({"ca_cert_path": ca, "tls_server_name": name})), None).await;
    check_tls(&server, one(json!({"ca_cert": text(&ca), "tls_server_name": name})), None).await;
    check_tls(&server, json!({"ca_cert": other, "tls_server_name": name}), untrusted).await;
    check_tls(&server, json!({"ca_cert_path": ca, "tls_server_name": "other.example.org"}), untrusted).await;
    check_tls(&server, json!({"tls_server_name": name}), untrusted).await;
    check_tls(&server, one(json!({"tls_verify": false})), None).await;
    let unusable = Some(TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    check_tls(&server, json!({"ca_cert_path": "/nowhere/ca.pem"}), unusable).await;
    let fault = refused(&server, &json!({})).await;
    assert_eq!(fault.kind, TargetFaultKind::Auth, "the server wants TLS: {fault:?}");
    server.finish();
}

#[tokio::test]
async fn a_client_certificate_is_shown_from_files_or_from_the_configuration() {
    let server = server_with_tls("IP:127.0.0.1", "SUBJECT '/CN=sluice'").await;
    let of = server.certificates().expect("has some").clone();
    check_tls(&server, json!({"ca_cert_path": of.ca}), Some(TargetFaultKind::Auth)).await;
    let files = json!({
        "ca_cert_path": of.ca, "client_cert_path": of.client, "client_key_path": of.client_key,
        "pool_size": 1, "min_pool_size": 1,
    });
    check_tls(&server, files, None).await;
    let inline = json!({
        "ca_cert": text(&of.ca), "client_cert": text(&of.client), "client_key": text(&of.client_key),
        "pool_size": 1, "min_pool_size": 1,
    });
    check_tls(&server, inline, None).await;
    server.finish();
}
