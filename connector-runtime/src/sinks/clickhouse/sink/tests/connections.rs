//! TLS, secrets that change, and where a sink may go.

use ::tests::certificates::Certificates;

use super::*;

#[tokio::test]
async fn tls_verifies_chain_and_name_and_shows_a_certificate() {
    let mut folder = ::tests::scratch::Scratch::new("certificates").expect("a folder");
    let name = "clickhouse.example.org";
    let certificates = Certificates::make(folder.path(), &format!("DNS:{name}"), "sluice").expect("makes them");
    let options =
        ClickHouseOptions { certificates: Some(certificates.clone()), client_certificate: true, ..Default::default() };
    let server = server_with(options).await;
    let whole = json!({
        "url": server.tls_url().expect("speaks TLS"), "ca_cert_path": certificates.ca, "tls_server_name": name,
        "client_cert_path": certificates.client, "client_key_path": certificates.client_key,
    });
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    for (change, expect) in [
        (json!({}), None),
        (json!({"tls_server_name": "other.example.org"}), untrusted),
        (json!({"tls_server_name": null}), untrusted),
        (json!({"ca_cert_path": certificates.other_ca}), untrusted),
        (json!({"ca_cert_path": null, "tls_verify": false}), None),
        (json!({"client_cert_path": null, "client_key_path": null}), Some(TargetFaultKind::Down)),
    ] {
        let mut config = whole.clone();
        for (field, value) in change.as_object().expect("an object") {
            config[field] = value.clone();
        }
        let outcomes = deliver(&*open(&server, &config).await, &records(1)).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{change}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{change} {outcomes:?}"),
        }
    }
    assert_eq!(count(&server, TABLE).await, 2);
    server.finish();
    folder.passed();
}

/// Over HTTP/2 all requests would share a connection, whatever `pool_size` says.
#[tokio::test]
async fn a_front_that_offers_http_2_is_spoken_to_in_http_1() {
    let server = server().await;
    let port = ::tests::ports::free().expect("is free");
    let lines = format!(
        r#"listen 127.0.0.1:{port} ssl http2;
           location / {{ if ($server_protocol = "HTTP/2.0") {{ return 505; }} proxy_pass {}; }}"#,
        server.url()
    );
    let names = Some("IP:127.0.0.1".to_owned());
    let front =
        Front::start(FrontOptions { lines, tls_names: names, ..FrontOptions::default() }).await.expect("starts");
    let ca = &front.certificates().expect("speaks TLS").ca;
    let sink = open(&server, &json!({"url": format!("https://127.0.0.1:{port}"), "ca_cert_path": ca})).await;
    assert_eq!(deliver(&*sink, &records(2)).await, vec![Outcome::Delivered; 2]);
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
    let sink = node.sink_for("rows", "clickhouse", server.config(TABLE, &json!({"password": password})));
    let queue = numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    std::fs::write(folder.join("password"), PASSWORD).expect("writes");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 3);
    server.finish();
}

#[tokio::test]
async fn a_login_in_the_address_is_refused() {
    for url in ["http://u:p@127.0.0.1:1", "http://u@127.0.0.1:1", "http://:p@127.0.0.1:1"] {
        let config = json!({"url": url, "database": "d", "table": "t"});
        let fault = node().open("rows", "clickhouse", config).await.err().expect("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{url}");
        assert!(fault.message.contains("user or password"), "{url}: {}", fault.message);
    }
}

#[tokio::test]
async fn a_query_that_says_what_the_sink_says_is_refused() {
    for (query, name) in [
        ("user=u&password=secret", "user"),
        ("max_query_size=1&password=secret", "password"),
        ("%71uery=SELECT+1", "query"),
        ("compress=1", "compress"),
        ("decompress=1", "decompress"),
        ("session_id=x", "session_id"),
        ("insert_deduplication_token=x", "insert_deduplication_token"),
        ("wait_end_of_query=0", "wait_end_of_query"),
    ] {
        let config = json!({"url": format!("http://127.0.0.1:1/?{query}"), "database": "d", "table": "t"});
        let fault = node().open("rows", "clickhouse", config).await.err().expect("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{query}");
        assert!(fault.message.contains(&format!("has {name}, ")), "{query}: {}", fault.message);
        assert!(!fault.message.contains("secret"), "{}", fault.message);
    }
}

#[tokio::test]
async fn a_denied_network_is_not_reached() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    let denied = TargetFaultKind::Misconfigured("TARGET_DENIED");
    let fault = denying.open("rows", "clickhouse", server.config(TABLE, &json!({}))).await.err().expect("is denied");
    assert_eq!(fault.kind, denied);
    let by_name = json!({"url": format!("http://localhost:{}", server.port())});
    let sink = denying.open("rows", "clickhouse", server.config(TABLE, &by_name)).await.expect("looked up later");
    assert_eq!(kind(&deliver(&*sink, &records(1)).await[0]), denied);
    assert_eq!(server.statements().expect("reads the log"), Vec::<String>::new());
    server.finish();
}
