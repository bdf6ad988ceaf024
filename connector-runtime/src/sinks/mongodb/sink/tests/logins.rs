//! Users and passwords, at FerretDB, which has both.

use ::tests::ferretdb::{FerretDb, PASSWORD, USER};
use ::tests::mongodb::DATABASE;

use super::*;

async fn ferretdb() -> Option<FerretDb> {
    FerretDb::start().await.expect("FerretDB starts")
}

#[tokio::test]
async fn a_login_with_special_characters_is_taken_and_a_wrong_one_is_not() {
    let Some(server) = ferretdb().await else { return };
    let sink = node().open("documents", "mongodb", server.config(&json!({}))).await.expect("opens");
    for _ in 0..2 {
        assert_eq!(deliver(&*sink, &numbered(0..100)).await, vec![Outcome::Delivered; 100]);
    }
    let found = server.admin().find(DATABASE, COLLECTION, &json!({})).await.expect("finds");
    assert_eq!(found.len(), 100);
    sink.close().await;
    connections_become(server.port(), 0).await;

    for (more, words) in [
        (json!({ "password": "wrong" }), "Authentication failed"),
        (json!({ "username": "nobody" }), "Authentication failed"),
        (json!({ "auth_source": "elsewhere" }), "Authentication failed"),
    ] {
        let fault = refused(server.config(&more)).await;
        assert_eq!(fault.kind, TargetFaultKind::Auth, "{more} {fault:?}");
        assert!(fault.message.contains(words), "{more}: {}", fault.message);
        assert!(!fault.message.contains(PASSWORD), "{more}: {}", fault.message);
    }
    server.finish();
}

#[tokio::test]
async fn who_does_not_log_in_may_not_insert() {
    let Some(server) = ferretdb().await else { return };
    let config = server.config(&json!({ "username": null, "password": null }));
    let fault = match node().open("documents", "mongodb", config).await {
        Ok(sink) => super::fault(&deliver(&*sink, &numbered(0..1)).await[0]).clone(),
        Err(fault) => fault,
    };
    assert_eq!(fault.kind, TargetFaultKind::Auth, "{fault:?}");
    server.finish();
}

#[tokio::test]
async fn a_rotated_password_is_read_again() {
    let Some(server) = ferretdb().await else { return };
    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let sink = node.sink_for("documents", "mongodb", server.config(&json!({ "password": password, "username": USER })));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another password", || task.report().health_reason.as_deref() == Some("TARGET_AUTH")).await;
    server.change_password("new").await.expect("changes");
    std::fs::write(folder.join("password"), "new").expect("writes");
    queue.all_committed().await;
    assert_eq!(server.admin().find(DATABASE, COLLECTION, &json!({})).await.expect("finds").len(), 3);
    server.finish();
}

/// Where nobody has users, without its login.
#[tokio::test]
async fn the_example_of_the_page_works() {
    let page = include_str!("../../../../../../docs/connectors/mongodb.md");
    let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let mut config = serde_json::from_str::<Value>(example).expect("is JSON")["config"].clone();
    let sent = [record(1, r#"{"t":21.5}"#), record(2, "x")];
    let found = match ferretdb().await {
        Some(server) => {
            (config["port"], config["password"]) = (json!(server.port()), json!(PASSWORD));
            let sink = node().open("documents", "mongodb", config).await.expect("opens");
            assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
            let found = server.admin().find(DATABASE, COLLECTION, &json!({})).await.expect("finds");
            server.finish();
            found
        }
        None => {
            let server = server().await;
            config["port"] = json!(server.port());
            (config["username"], config["password"]) = (Value::Null, Value::Null);
            let sink = node().open("documents", "mongodb", config).await.expect("opens");
            assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
            let found = server.documents(COLLECTION).await.expect("finds");
            server.finish();
            found
        }
    };
    assert_eq!((&found[0]["_id"], &found[1]["payload"]), (&json!("1-7-1"), &json!("x")));
    assert_eq!(found[0]["payload"]["t"], json!({ "$numberDouble": "21.5" }));
}
