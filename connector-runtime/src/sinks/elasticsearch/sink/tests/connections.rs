//! Secrets that change, and where a sink may go.

use ::tests::elasticsearch::PASSWORD;

use super::*;

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    let server = server().await;
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let sink = node.sink_for("documents", "elasticsearch", server.config("rotated", &json!({"password": password})));
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
    for url in ["http://u:p@127.0.0.1:1", "http://u@127.0.0.1:1"] {
        let config = json!({"url": url, "index": "mqtt"});
        let fault = node().open("documents", "elasticsearch", config).await.err().expect("is refused");
        assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{url}");
        assert!(fault.message.contains("user or password"), "{url}: {}", fault.message);
    }
}

#[tokio::test]
async fn a_denied_network_is_not_reached() {
    let server = server().await;
    let denying = TestNode::new(&[], PathBuf::from("/nowhere"), &["127.0.0.0/8", "::1/128"]);
    let denied = TargetFaultKind::Misconfigured("TARGET_DENIED");
    let config = server.config("denied", &json!({}));
    let fault = denying.open("documents", "elasticsearch", config).await.err().expect("is denied");
    assert_eq!(fault.kind, denied);
    let by_name = json!({"url": format!("http://localhost:{}", server.port())});
    let sink = denying.open("documents", "elasticsearch", server.config("denied", &by_name)).await;
    let outcomes = deliver(&*sink.expect("looked up later"), &[record(1, "{}")]).await;
    assert_eq!(kind(&outcomes[0]), denied);
    assert!(!server.indices().await.expect("lists").contains(&"denied".to_owned()));
    server.finish();
}
