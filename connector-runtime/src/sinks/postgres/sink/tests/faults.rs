//! Whose fault it is.

use std::sync::atomic::Ordering;

use api_types::Message;
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::status::Health;

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup, policy};

#[tokio::test]
async fn one_poison_record_among_a_thousand_is_found_and_its_neighbours_arrive_once() {
    let server = server().await;
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    server.sql_of_role("ALTER TABLE mqtt_messages ALTER id DROP NOT NULL").await.expect("alters");
    server.sql_of_role("ALTER TABLE mqtt_messages ADD CHECK (payload <> 'poison')").await.expect("adds the check");
    // The server names the row, but for INSERT from arrays: that is halved, 2 · 1 · ⌈log2 1000⌉ + 1.
    for (name, requests_max) in [("rows", 3), ("copy", 3), ("arrays", 21)] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let mut config = mode(name);
        config["batch_size"] = json!(1000);
        let sink = node().sink_for("rows", "postgres", server.config(&config));
        let (opener, requests) = Counted::new(sink.opener);
        let messages = (0..1000).map(|number| Message {
            payload: if number == 617 { "poison".into() } else { format!("r{number}").into() },
            timestamp_ms: number,
            ..double::message(number)
        });
        let queue = MemoryQueue::with(messages);
        let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
        let task = Setup { policy, ..Setup::default() }.start_with(&queue, opener, sink.options);
        queue.all_committed().await;
        let ends = queue.ends();
        assert_eq!(ends.keys().collect::<Vec<_>>(), [&617], "{name}");
        let found = server.sql("SELECT payload FROM mqtt_messages ORDER BY timestamp").await.expect("reads");
        let expect = (0..1000).filter(|number| *number != 617).map(|number| format!("r{number}"));
        assert!(found.lines().eq(expect), "{name}: each once");
        let asked = requests.load(Ordering::Relaxed);
        println!("measured: {name}: {asked} requests for one poison record");
        assert!(asked <= requests_max, "{name}: {asked} requests");
        assert_eq!(task.report().health, Health::Ok, "{name}");
    }
    server.finish();
}

#[tokio::test]
async fn the_server_names_the_record_and_says_why() {
    let server = server().await;
    server
        .sql_of_role(
            "ALTER TABLE mqtt_messages ADD CONSTRAINT warm CHECK (payload <> 'cold'), ALTER payload SET NOT NULL",
        )
        .await
        .expect("alters");
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        let unfit = record(1, b"\xff".to_vec());
        let outcomes =
            deliver(&*sink, &[unfit, record(2, "x"), record(3, "cold"), record(4, "y"), record(5, "cold")]).await;
        let Outcome::RecordFault(fault) = &outcomes[2] else { panic!("{name}: {outcomes:?}") };
        assert_eq!((&*fault.class, fault.offline), ("sqlstate_23514", false), "{name}");
        for word in ["warm", "SQLSTATE 23514", "device-3"] {
            assert!(fault.message.contains(word), "{name}: {}", fault.message);
        }
        assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if fault.offline), "{name}: {outcomes:?}");
        for place in [1, 3, 4] {
            assert!(matches!(&outcomes[place], Outcome::Unclear(_)), "{name}: {outcomes:?}");
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn a_fault_that_shows_at_the_end_of_the_batch_is_nobodys_by_name() {
    let server = server().await;
    server
        .sql_of_role(
            "CREATE TABLE known (name text PRIMARY KEY); INSERT INTO known VALUES ('x'), ('y');
             ALTER TABLE mqtt_messages ADD FOREIGN KEY (payload) REFERENCES known DEFERRABLE INITIALLY DEFERRED",
        )
        .await
        .expect("makes");
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "nobody"), record(3, "y")]).await;
        for outcome in &outcomes {
            assert!(
                matches!(outcome, Outcome::Unclear(fault) if &*fault.class == "sqlstate_23503"),
                "{name} {outcomes:?}"
            );
        }
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0, "{name}");
    }
    server.finish();
}

/// Text that does not become smaller when it is compressed.
fn noise(length: usize) -> String {
    use sha2::{Digest, Sha256};
    let parts = (0u32..).flat_map(|number| Sha256::digest(number.to_be_bytes()));
    parts.map(|byte| char::from(b'a' + byte % 26)).take(length).collect()
}

#[tokio::test]
async fn a_value_that_no_code_for_data_refuses_is_its_records_fault() {
    let server = server().await;
    server.sql("CREATE EXTENSION ltree; CREATE EXTENSION hstore").await.expect("are there");
    server.sql_of_role("CREATE INDEX ON mqtt_messages (topic)").await.expect("makes the index");
    let deep = "[".repeat(100_000);
    let long = noise(13_000);
    for (column, good, poison, topic, class) in [
        ("jsonb", "1", &*deep, "plant/deep", "sqlstate_54001"),
        ("text", "1", "1", &*long, "sqlstate_54000"),
        ("ltree", "a.b", "a..b", "plant/tree", "sqlstate_42601"),
        ("hstore", "a=>1", "a=>", "plant/map", "sqlstate_xx000"),
    ] {
        server
            .sql_of_role(&format!(
                "TRUNCATE mqtt_messages; ALTER TABLE mqtt_messages DROP payload; \
                 ALTER TABLE mqtt_messages ADD payload {column} NOT NULL"
            ))
            .await
            .expect("alters");
        for batch_insert in [false, true] {
            server.sql("TRUNCATE mqtt_messages").await.expect("empties");
            let config = server.config(&json!({"enable_batch_insert": batch_insert}));
            let sink = node().sink_for("rows", "postgres", config);
            let messages = (0..8).map(|number| {
                let (payload, topic) = if number == 3 { (poison, topic) } else { (good, "plant/one") };
                Message { payload: payload.to_owned().into(), topic: topic.into(), ..double::message(number) }
            });
            let queue = MemoryQueue::with(messages);
            let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
            let task = Setup { policy, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
            queue.all_committed().await;
            let ends = format!("{:?}", queue.ends());
            assert_eq!(queue.ends().keys().collect::<Vec<_>>(), [&3], "{column} {batch_insert}");
            assert!(ends.contains(class), "{column} {batch_insert}: {ends}");
            assert_eq!(server.count("mqtt_messages").await.expect("counts"), 7, "{column} {batch_insert}");
            assert_eq!(task.report().health, Health::Ok, "{column} {batch_insert}");
        }
    }
    server.finish();
}

#[tokio::test]
async fn a_table_with_policies_takes_the_rows_that_they_allow() {
    let server = server().await;
    // The owner passes his own policies by, unless they are forced.
    server
        .sql_of_role(
            "ALTER TABLE mqtt_messages ENABLE ROW LEVEL SECURITY; ALTER TABLE mqtt_messages FORCE ROW LEVEL SECURITY;
             CREATE POLICY plant ON mqtt_messages FOR INSERT WITH CHECK (topic LIKE 'plant/%')",
        )
        .await
        .expect("makes");
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        let mut stranger = record(1, "x");
        stranger.message.topic = "office/one".into();
        let outcomes = deliver(&*sink, &[stranger]).await;
        assert!(
            matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "sqlstate_42501"),
            "{name} {outcomes:?}"
        );
        assert_eq!(deliver(&*sink, &[record(2, "x"), record(3, "y")]).await, vec![Outcome::Delivered; 2], "{name}");
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 4);
    server.finish();
}

#[tokio::test]
async fn policies_that_come_later_are_seen() {
    let server = server().await;
    let sink = node().sink_for("rows", "postgres", server.config(&mode("copy")));
    let queue = MemoryQueue::numbered(5);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    server
        .sql_of_role(
            "ALTER TABLE mqtt_messages ENABLE ROW LEVEL SECURITY; ALTER TABLE mqtt_messages FORCE ROW LEVEL SECURITY;
             CREATE POLICY all_of_them ON mqtt_messages FOR INSERT WITH CHECK (true)",
        )
        .await
        .expect("makes");
    queue.append((5..10).map(double::message));
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 10);
    assert_eq!(task.report().counters.discard_total, 0);
    server.finish();
}

#[tokio::test]
async fn rules_for_insert_are_followed_by_every_way_to_write() {
    let server = server().await;
    server
        .sql_of_role(
            "CREATE TABLE elsewhere (LIKE mqtt_messages);
             CREATE RULE moved AS ON INSERT TO mqtt_messages DO INSTEAD INSERT INTO elsewhere
               VALUES (NEW.client_id, NEW.topic, NEW.timestamp, NEW.payload, NEW.data)",
        )
        .await
        .expect("makes");
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        assert_eq!(deliver(&*sink, &[record(1, "x"), record(2, "y")]).await, vec![Outcome::Delivered; 2], "{name}");
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0);
    assert_eq!(server.count("elsewhere").await.expect("counts"), 4);
    server.finish();
}

#[tokio::test]
async fn a_row_that_a_view_does_not_take_is_its_records_fault() {
    let server = server().await;
    server
        .sql_of_role("CREATE VIEW plant AS SELECT * FROM mqtt_messages WHERE topic LIKE 'plant/%' WITH CHECK OPTION")
        .await
        .expect("makes");
    for name in ["rows", "copy"] {
        let mut config = mode(name);
        config["table"] = json!("plant");
        let sink = open(&server, &config).await;
        let mut stranger = record(1, "x");
        stranger.message.topic = "office/one".into();
        let outcomes = deliver(&*sink, &[stranger]).await;
        assert!(
            matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "sqlstate_44000"),
            "{name} {outcomes:?}"
        );
        assert_eq!(deliver(&*sink, &[record(2, "x")]).await, [Outcome::Delivered], "{name}");
    }
    server.finish();
}

/// What the server answers when a trigger raises this SQLSTATE.
#[tokio::test]
async fn each_sqlstate_means_what_the_table_says() {
    let server = server().await;
    server
        .sql_of_role(
            "CREATE FUNCTION raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.payload <> 'good' THEN RAISE EXCEPTION 'as told' USING ERRCODE = NEW.payload; END IF;
               RETURN NEW;
             END $$;
             CREATE TRIGGER raise BEFORE INSERT ON mqtt_messages FOR EACH ROW EXECUTE FUNCTION raise()",
        )
        .await
        .expect("makes");
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        for (code, expect) in [
            ("40001", TargetFaultKind::Down),
            ("40P01", TargetFaultKind::Down),
            ("53300", TargetFaultKind::Down),
            ("53100", TargetFaultKind::Full),
            ("57014", TargetFaultKind::Down),
            ("P0001", TargetFaultKind::Down),
            ("42501", TargetFaultKind::Permission),
            ("42P01", TargetFaultKind::Missing),
            ("28000", TargetFaultKind::Auth),
        ] {
            let outcomes = deliver(&*sink, &[record(1, "good"), record(2, code)]).await;
            assert_eq!(kind(&outcomes[0]), expect, "{name} {code}");
            assert_eq!(outcomes[0], outcomes[1], "{name} {code}");
        }
        for code in ["22000", "23000"] {
            let outcomes = deliver(&*sink, &[record(1, "good"), record(2, code)]).await;
            assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if fault.class.ends_with(code)), "{outcomes:?}");
        }
        assert_eq!(deliver(&*sink, &[record(1, "good")]).await, [Outcome::Delivered], "{name}");
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2);
    server.finish();
}

#[tokio::test]
async fn what_the_target_lacks_is_told_when_it_is_opened() {
    let server = server().await;
    server.sql("CREATE TABLE locked (LIKE mqtt_messages)").await.expect("makes");
    for (more, expect, words) in [
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "28P01"),
        (json!({"username": "nobody"}), TargetFaultKind::Auth, "28P01"),
        (json!({"database": "absent"}), TargetFaultKind::Missing, "3D000"),
        (json!({"table": "absent"}), TargetFaultKind::Missing, "relation \"absent\" does not exist"),
        (json!({"table": "absent.absent"}), TargetFaultKind::Missing, "absent"),
        (json!({"table": "locked"}), TargetFaultKind::Permission, "permission denied for table locked"),
        (json!({"enable_tls": true}), TargetFaultKind::Misconfigured("TARGET_WITHOUT_TLS"), "TLS"),
    ] {
        let fault = refused(&server, &more).await;
        assert_eq!(fault.kind, expect, "{more} {fault:?}");
        assert!(fault.message.contains(words), "{more} {}", fault.message);
        assert!(!fault.message.contains("wrong"), "{}", fault.message);
    }
    server.finish();
}

#[tokio::test]
async fn a_table_that_is_made_later_gets_what_has_waited() {
    let server = server().await;
    server.sql("DROP TABLE mqtt_messages").await.expect("drops");
    let sink = node().sink_for("rows", "postgres", server.config(&json!({})));
    let queue = MemoryQueue::numbered(5);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("the table is missed", || task.report().health_reason.as_deref() == Some("TARGET_MISSING")).await;
    assert_eq!(task.report().health, Health::Blocked);
    server.sql_of_role(TABLE).await.expect("makes the table");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 5);

    server
        .sql("REVOKE ALL ON mqtt_messages FROM sluice; ALTER TABLE mqtt_messages OWNER TO postgres")
        .await
        .expect("takes");
    queue.append((5..10).map(double::message));
    double::until("it is forbidden", || task.report().health_reason.as_deref() == Some("TARGET_PERMISSION")).await;
    server.sql("GRANT INSERT ON mqtt_messages TO sluice").await.expect("gives");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 10);
    assert_eq!(task.report().counters.discard_total, 0);
    server.finish();
}

#[tokio::test]
async fn a_table_that_changes_is_looked_at_again() {
    let server = server().await;
    for (name, failures_max) in [("rows", 1), ("copy", 1)] {
        server
            .sql_of_role("TRUNCATE mqtt_messages; ALTER TABLE mqtt_messages ALTER timestamp TYPE bigint USING 0")
            .await
            .expect("alters");
        let sink = open(&server, &mode(name)).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{name}");
        // Eight bytes of another meaning: binary COPY would take them as they are.
        server
            .sql_of_role(
                "ALTER TABLE mqtt_messages ALTER timestamp TYPE timestamptz USING to_timestamp(timestamp / 1000.0)",
            )
            .await
            .expect("alters");
        let mut failures = 0;
        while deliver(&*sink, &[record(2, "y")]).await != [Outcome::Delivered] {
            failures += 1;
            assert!(failures <= failures_max, "{name}: it is not looked at again");
        }
        let found = server.sql("SET timezone = 'UTC'; SELECT timestamp FROM mqtt_messages ORDER BY 1").await;
        assert_eq!(found.expect("reads"), "2023-11-14 22:13:20.001+00\n2023-11-14 22:13:20.002+00", "{name}");
        sink.close().await;
    }
    server.finish();
}
