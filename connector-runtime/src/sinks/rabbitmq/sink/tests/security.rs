//! Who is spoken to, and as whom.

use super::*;

#[tokio::test]
async fn tls_verifies_chain_and_name_unless_it_is_told_not_to() {
    let place = Place::new("tls").await;
    let files = place.server.certificates().expect("speaks TLS");
    let text = |path: &std::path::Path| std::fs::read_to_string(path).expect("is there");
    let name = "mq.example.org";
    let client = json!({"client_cert_path": files.client, "client_key_path": files.client_key});
    let with_client = |mut config: Value| {
        let (Value::Object(config_fields), Value::Object(client)) = (&mut config, client.clone()) else {
            panic!("objects")
        };
        config_fields.extend(client);
        config
    };
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let down = Some(TargetFaultKind::Down);
    for (more, expect) in [
        (with_client(json!({})), untrusted),
        (with_client(json!({"ca_cert_path": files.ca})), untrusted),
        (with_client(json!({"ca_cert_path": files.client, "tls_server_name": name})), untrusted),
        (with_client(json!({"ca_cert_path": files.ca, "tls_server_name": "other.example.org"})), untrusted),
        (with_client(json!({"ca_cert_path": files.ca, "tls_server_name": name})), None),
        (
            json!({"ca_cert": text(&files.ca), "tls_server_name": name, "client_cert": text(&files.client),
                   "client_key": text(&files.client_key)}),
            None,
        ),
        (with_client(json!({"tls_verify": false})), None),
        (json!({"ca_cert_path": files.ca, "tls_server_name": name}), down),
        (json!({"ca_cert_path": files.ca, "tls_server_name": name, "enable_tls": false}), down),
        (with_client(json!({"tls_verify": false, "port": place.server.port()})), down),
    ] {
        let mut config =
            place.config(&json!({"enable_tls": true, "port": place.server.tls_port(), "connection_timeout_secs": 5}));
        let (Value::Object(config_fields), Value::Object(more)) = (&mut config, more) else { panic!("objects") };
        config_fields.extend(more);
        match (node().open(NAME, "rabbitmq", config.clone()).await, expect) {
            (Ok(sink), None) => {
                let records = [record(1, "x"), record(2, vec![b'y'; 300_000])];
                assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2], "{config}");
                let connection = place.connection().await;
                assert_eq!((&connection["ssl"], &connection["peer_cert_subject"]), (&json!(true), &json!("CN=sluice")));
                sink.close().await;
                place.connections_become(0).await;
            }
            (Err(fault), Some(expect)) => assert_eq!(fault.kind, expect, "{config} {fault:?}"),
            (Ok(_), Some(_)) => panic!("{config} opens"),
            (Err(fault), None) => panic!("{config}: {fault:?}"),
        }
    }
    let missing = json!({"enable_tls": true, "ca_cert_path": "/nowhere/ca.pem"});
    assert_eq!(place.refused(&missing).await.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
}

#[tokio::test]
async fn names_and_passwords_have_any_characters() {
    for (number, name) in ["/", "a/b c%2F?é&=#", "ü 😀 'quoted' \"twice\""].into_iter().enumerate() {
        // The virtual host `/` is there from the start.
        let place = Place::new(name).await;
        let (user, password) = (format!("user {number} @:/?#%é"), format!("{PASSWORD} &=+$,;\u{7f}"));
        place.server.add_user(&user, &password).await.expect("makes the user");
        place.server.permit(name, &user, ".*").await.expect("permits");
        let exchange = format!("ex {name}");
        place.exchange(&exchange, "fanout").await;
        place.queue("special", json!({})).await;
        place.bind(&exchange, "special", "").await;
        let sink = place.open(&json!({"username": user, "password": password, "exchange": exchange})).await;
        assert_eq!(deliver(&*sink, &numbered(3)).await, vec![Outcome::Delivered; 3], "{name}");
        // Of three publishers.
        let mut arrived = payloads(&place.messages_when("special", 3).await);
        arrived.sort();
        assert_eq!(arrived, ["0", "1", "2"], "{name}");
    }
}

#[tokio::test]
async fn a_denied_network_is_not_connected_to() {
    let place = Place::new("denied").await;
    for (server, deny) in [("127.0.0.1", "127.0.0.0/8"), ("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.0/8")] {
        let node = TestNode::new(&[], PathBuf::from("/nowhere"), &[deny, "::1"]);
        let config = place.config(&json!({"server": server}));
        let fault = node.open(NAME, "rabbitmq", config).await.err().expect("is denied");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_DENIED"), "{server} {fault:?}");
    }
}

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    let place = Place::new("rotated").await;
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let sink = node.sink_for(NAME, "rabbitmq", place.config(&json!({"password": password})));
    let queue = MemoryQueue::numbered(3);
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    let refused = wait::until(LIMIT, "the server wants another password", async || {
        let reason = task.report().health_reason;
        ensure!(reason.as_deref() == Some("TARGET_AUTH"), "{reason:?}");
        Ok(())
    });
    refused.await.expect("is refused");
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 3);
}
