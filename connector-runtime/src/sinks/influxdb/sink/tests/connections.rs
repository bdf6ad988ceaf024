//! TLS, secrets that change, and where a sink may go.

use super::*;

#[tokio::test]
async fn tls_verifies_chain_and_name_and_shows_a_certificate() {
    let server = server().await;
    let lines = format!("location / {{ proxy_pass {}; }}", server.url());
    let names = Some("DNS:influx.example.org".to_owned());
    let options = FrontOptions { lines, tls_names: names, client_certificate: true, ..FrontOptions::default() };
    let front = Front::start(options).await.expect("nginx starts");
    let certificates = front.certificates().expect("speaks TLS");
    let other = Front::start(FrontOptions { tls_names: Some("DNS:x".to_owned()), ..FrontOptions::default() })
        .await
        .expect("starts");
    let stranger = other.certificates().expect("speaks TLS");
    let name = "influx.example.org";
    let whole = json!({
        "server": front.url(), "ca_cert_path": certificates.ca, "tls_server_name": name,
        "client_cert_path": certificates.client, "client_key_path": certificates.client_key,
    });
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let refused = Some(TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"));
    for (change, expect) in [
        (json!({}), None),
        (json!({"tls_server_name": "other.example.org"}), untrusted),
        (json!({"tls_server_name": null}), untrusted),
        (json!({"ca_cert_path": stranger.ca}), untrusted),
        (json!({"ca_cert_path": null, "tls_verify": false}), None),
        (json!({"client_cert_path": null, "client_key_path": null}), refused),
    ] {
        let mut config = whole.clone();
        for (field, value) in change.as_object().expect("an object") {
            config[field] = value.clone();
        }
        let outcomes = deliver(&*open(&server, &config).await, &[record(1, "x")]).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{change}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{change} {outcomes:?}"),
        }
    }
    other.finish();
    front.finish();
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
    let sink = node.sink_for("points", "influxdb", server.config(&json!({"password": password})));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("the target wants another", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 3);
    server.finish();
}

#[tokio::test]
async fn a_login_in_the_address_is_refused() {
    let base = json!({"version": "v1", "database": "d", "measurement": "m"});
    for server in ["http://u:p@127.0.0.1:1", "http://u@127.0.0.1:1", "http://:p@127.0.0.1:1"] {
        let mut config = base.clone();
        config["server"] = server.into();
        let fault = node().open("points", "influxdb", config).await.err().expect("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{server}");
        assert!(fault.message.contains("user or password"), "{server}: {}", fault.message);
    }
}

#[tokio::test]
async fn a_denied_network_is_not_reached() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    let denied = TargetFaultKind::Misconfigured("TARGET_DENIED");
    let fault = denying.open("points", "influxdb", server.config(&json!({}))).await.err().expect("is denied");
    assert_eq!(fault.kind, denied);
    let by_name = json!({"server": format!("http://localhost:{}", server.port())});
    let sink = denying.open("points", "influxdb", server.config(&by_name)).await.expect("looked up later");
    let outcomes = deliver(&*sink, &[record(1, "x")]).await;
    assert_eq!(kind(&outcomes[0]), denied);
    assert_eq!(server.writes().expect("reads the log"), Vec::<String>::new());
    server.finish();
}
