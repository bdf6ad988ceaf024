//! What is refused, and who is blamed for it.

use super::*;
use crate::sinks::cassandra::fault::DOES_NOT_FIT;

/// In a column that holds ASCII only.
const GUARDED: &str = "msgid text PRIMARY KEY, payload ascii";

#[tokio::test]
async fn poison_records_among_a_thousand_end_alone() {
    const POISON: [u64; 3] = [3, 617, 999];
    let server = server().await;
    server.make_table("guarded", GUARDED).await.expect("makes the table");
    let queue = MemoryQueue::with(
        (0..1_000).map(|number| message(number, if POISON.contains(&number) { "w\u{e4}rm" } else { "warm" })),
    );
    let task = run(&queue, server.config("guarded", &json!({ "batch_records": 1_000 })));
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), POISON);
    assert!(format!("{ends:?}").contains("Invalid byte for ascii"), "{ends:?}");
    assert_eq!(task.report().counters.send_success_total, 997);
    assert_eq!(server.count("guarded").await.expect("counts"), 997);

    // Alone, nobody else shows that the statement is taken.
    let sink = opened(server.config("guarded", &json!({}))).await;
    let outcomes = deliver(&*sink, &[record(5_000, "w\u{e4}rm")]).await;
    let fault = record_fault(&outcomes[0]);
    assert_eq!((&*fault.class, fault.offline), ("cassandra_2200", false));
    assert!(fault.message.contains("Invalid byte for ascii"), "{}", fault.message);
    assert_eq!(server.count("guarded").await.expect("counts"), 997, "a question leaves nothing");
}

#[tokio::test]
async fn a_record_that_is_too_large_or_has_no_key_ends_alone() {
    const TABLE: &str = "sizes";
    let server = server_with(TABLE).await;
    let sink = open(&server, TABLE, &json!({})).await;
    // Half of a segment of the commit log is the most that a write may have.
    let mut sent = numbered(0..20);
    sent[7] = record(7, vec![b'x'; 5 << 20]);
    let outcomes = deliver(&*sink, &sent).await;
    let fault = record_fault(&outcomes[7]);
    assert!(&*fault.class == "cassandra_2200" && fault.message.contains("oversized mutation"), "{fault:?}");
    let others = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert_eq!(others, 19, "{outcomes:?}");
    // A larger request than 16 MiB would stop the connection, so it is not sent.
    sent[7] = record(7, vec![b'x'; 17 << 20]);
    let outcomes = deliver(&*sink, &sent).await;
    let fault = record_fault(&outcomes[7]);
    assert_eq!((&*fault.class, fault.offline), ("too_large", true));
    let others = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert_eq!(others, 19, "{outcomes:?}");
    server
        .make_table("by_client", "client_id text, topic text, msgid text, PRIMARY KEY ((client_id, topic), msgid)")
        .await
        .unwrap();
    let sink = opened(server.config("by_client", &json!({}))).await;
    let mut sent = numbered(0..2);
    sent[0].message.topic = "x".repeat(65_536);
    let outcomes = deliver(&*sink, &sent).await;
    let fault = record_fault(&outcomes[0]);
    assert_eq!((&*fault.class, fault.offline, &outcomes[1]), ("key_too_long", true, &Outcome::Delivered));
    server.make_table("one_client", "client_id text PRIMARY KEY, msgid text").await.expect("makes the table");
    let sink = opened(server.config("one_client", &json!({}))).await;
    let mut sent = numbered(0..1);
    sent[0].message.client_id = String::new();
    let outcomes = deliver(&*sink, &sent).await;
    assert!(record_fault(&outcomes[0]).message.contains("Key may not be empty"), "{outcomes:?}");
}

#[tokio::test]
async fn what_a_person_must_mend_is_the_targets() {
    const TABLE: &str = "persons";
    let server = server_with(TABLE).await;
    let statements = [
        format!("CREATE TABLE {KEYSPACE}.odd (msgid text PRIMARY KEY, qos uuid)"),
        format!("CREATE TABLE {KEYSPACE}.buckets (bucket int, msgid text, PRIMARY KEY (bucket, msgid))"),
    ];
    server.run(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await.expect("makes them");
    for (table, more, kind, words) in [
        (TABLE, json!({ "password": "wrong" }), TargetFaultKind::Auth, "incorrect"),
        (TABLE, json!({ "username": "nobody" }), TargetFaultKind::Auth, "incorrect"),
        (TABLE, json!({ "username": "" }), TargetFaultKind::Auth, "username is empty"),
        ("nope", json!({}), TargetFaultKind::Missing, "table nope does not exist"),
        ("Persons", json!({}), TargetFaultKind::Missing, "table Persons does not exist"),
        (TABLE, json!({ "keyspace": "nowhere" }), TargetFaultKind::Missing, "keyspace nowhere does not exist"),
        (TABLE, json!({ "datacenter": "elsewhere" }), TargetFaultKind::Missing, "there is datacenter1"),
        ("odd", json!({}), DOES_NOT_FIT, "column qos of"),
        ("buckets", json!({}), DOES_NOT_FIT, "column bucket of the primary key"),
    ] {
        let fault = refused(server.config(table, &more)).await;
        assert_eq!(fault.kind, kind, "{table} {more} {fault:?}");
        assert!(fault.message.contains(words) && !fault.message.contains(PASSWORD), "{more}: {}", fault.message);
    }

    // No value is to blame where the statement is not taken with any.
    let sink = open(&server, TABLE, &json!({ "consistency": "three" })).await;
    let outcomes = deliver(&*sink, &numbered(0..3)).await;
    for outcome in &outcomes {
        assert_eq!(fault(outcome).kind, DOES_NOT_FIT, "{outcomes:?}");
        assert!(fault(outcome).message.contains(FORBIDDEN), "{outcomes:?}");
    }
    // Too few replicas are waited for.
    let sink = open(&server, TABLE, &json!({ "consistency": "two" })).await;
    let outcomes = deliver(&*sink, &numbered(0..3)).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Down);
    assert!(fault(&outcomes[0]).message.contains("Cannot achieve consistency level TWO"), "{outcomes:?}");
}

#[tokio::test]
async fn a_right_or_a_table_that_comes_is_seen_and_a_rotated_password_too() {
    const TABLE: &str = "rights";
    let server = server_with(TABLE).await;
    let health = |task: &RunningTask| task.report().health_reason;
    server.run(&[&format!("REVOKE MODIFY ON {KEYSPACE}.{TABLE} FROM {USER}")]).await.expect("revokes");
    let queue = MemoryQueue::with((0..10).map(numbered_message));
    let task = run(&queue, server.config(TABLE, &json!({})));
    double::until("it has no right", || health(&task).as_deref() == Some("TARGET_PERMISSION")).await;
    server.run(&[&format!("GRANT MODIFY ON {KEYSPACE}.{TABLE} TO {USER}")]).await.expect("grants");
    queue.all_committed().await;
    assert_eq!(server.count(TABLE).await.expect("counts"), 10);

    let queue = MemoryQueue::with((0..10).map(numbered_message));
    let task = run(&queue, server.config("later", &json!({})));
    double::until("it has no table", || health(&task).as_deref() == Some("TARGET_MISSING")).await;
    server.make_table("later", COLUMNS).await.expect("makes the table");
    queue.all_committed().await;
    assert_eq!(server.count("later").await.expect("counts"), 10);

    let temporary = tempfile::tempdir().expect("temporary folder");
    let folder = std::fs::canonicalize(temporary.path()).expect("exists");
    std::fs::write(folder.join("password"), "old").expect("writes");
    let node = TestNode::new(std::slice::from_ref(&folder), PathBuf::from("/nowhere"), &[]);
    let password = format!("${{file:{}}}", folder.join("password").display());
    let statements = [
        "CREATE ROLE IF NOT EXISTS rotating WITH LOGIN = true AND PASSWORD = 'another'".to_owned(),
        format!("GRANT MODIFY ON {KEYSPACE}.{TABLE} TO rotating"),
    ];
    server.run(&statements.each_ref().map(String::as_str)).await.expect("makes a user");
    let more = json!({ "username": "rotating", "password": password });
    let sink = node.sink_for("rows", "cassandra", server.config(TABLE, &more));
    let queue = MemoryQueue::numbered(3);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("it wants another password", || health(&task).as_deref() == Some("TARGET_AUTH")).await;
    server.run(&["ALTER ROLE rotating WITH PASSWORD = 'new'"]).await.expect("changes");
    std::fs::write(folder.join("password"), "new").expect("writes");
    queue.all_committed().await;
}

/// Whether the statement is taken with a deletion says nothing: that has no time to live.
#[tokio::test]
async fn a_time_to_live_that_the_server_does_not_take_is_no_records_fault() {
    let server = server().await;
    // Beyond 2038, where the server's files have no room for it.
    let more = json!({ "ttl_secs": 630_720_000 });
    for (table, columns) in [
        ("short_lived", COLUMNS),
        ("short_lived_keys", "topic text, msgid text, PRIMARY KEY (topic, msgid)"),
        ("short_lived_static", "topic text, payload blob STATIC, msgid text, qos int, PRIMARY KEY (topic, msgid)"),
    ] {
        server.make_table(table, columns).await.expect("makes the table");
        let sink = open(&server, table, &more).await;
        for outcome in deliver(&*sink, &numbered(0..3)).await {
            let fault = fault(&outcome);
            assert_eq!(fault.kind, DOES_NOT_FIT, "{fault:?}");
            assert!(fault.message.contains("exceeds maximum supported expiration date"), "{fault:?}");
        }
        assert_eq!(server.count(table).await.expect("counts"), 0, "a question leaves nothing");
    }
    // With a time that it takes, the same question finds out that the record is to blame, and leaves nothing either.
    for table in ["short_lived_keys", "short_lived_static"] {
        let sink = open(&server, table, &json!({ "ttl_secs": 3_600 })).await;
        let mut large = numbered(0..1);
        large[0].message.topic = "x".repeat(70_000);
        let outcomes = deliver(&*sink, &large).await;
        assert!(record_fault(&outcomes[0]).message.contains("65535"), "{outcomes:?}");
        assert_eq!(server.count(table).await.expect("counts"), 0, "a question leaves nothing");
    }
}

/// A key whose values are read from the payload has an innocent one too.
#[tokio::test]
async fn a_record_alone_is_judged_whatever_the_types_of_the_key_are() {
    let server = server().await;
    let columns = "payload boolean, qos int, retain tinyint, arrived timestamp, topic ascii, msgid text, \
                   PRIMARY KEY ((payload, qos), retain, arrived, topic, msgid)) WITH CLUSTERING ORDER BY \
                   (retain DESC, arrived ASC, topic ASC, msgid ASC";
    server.make_table("keyed", columns).await.expect("makes the table");
    let sink = open(&server, "keyed", &json!({})).await;
    let mut sent = records(["true", "false"]);
    sent[0].message.topic = "w\u{e4}rm".into();
    let outcomes = deliver(&*sink, &sent[..1]).await;
    assert!(record_fault(&outcomes[0]).message.contains("Invalid byte for ascii"), "{outcomes:?}");
    assert_eq!(server.count("keyed").await.expect("counts"), 0, "a question leaves nothing");
    assert_eq!(deliver(&*sink, &sent[1..]).await, [Outcome::Delivered]);
    let found = rows(&server, "keyed").await;
    assert_eq!((found.len(), &found[0]["payload"], &found[0]["qos"]), (1, &json!(false), &json!(0)));
}
