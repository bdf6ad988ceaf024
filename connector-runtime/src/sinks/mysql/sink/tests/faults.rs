//! Whose fault it is.

use std::sync::atomic::Ordering;

use api_types::Message;
use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::status::Health;

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup, policy};

/// A thousand records of which these are poison, and the requests that it took.
async fn deliver_with_poison(server: &MariaDb, name: &str, is_poison: fn(u64) -> bool) -> usize {
    server.sql("TRUNCATE mqtt_messages").await.expect("empties");
    let mut config = mode(name);
    config["batch_size"] = json!(1000);
    config["payload_format"] = json!("raw");
    let sink = node().sink_for("rows", "mysql", server.config(&config));
    let (opener, requests) = Counted::new(sink.opener);
    let messages = (0..1000).map(|number| Message {
        payload: if is_poison(number) { "poison".into() } else { format!("r{number}").into() },
        timestamp_ms: number,
        ..double::message(number)
    });
    let queue = MemoryQueue::with(messages);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    let task = Setup { policy, ..Setup::default() }.start_with(&queue, opener, sink.options);
    queue.all_committed().await;
    assert!(queue.ends().keys().copied().eq((0..1000).filter(|number| is_poison(*number))), "{name}");
    let found = server.sql("SELECT payload FROM mqtt_messages ORDER BY timestamp").await.expect("reads");
    let expect = (0..1000).filter(|number| !is_poison(*number)).map(|number| format!("r{number}"));
    assert!(found.lines().eq(expect), "{name}: each once");
    assert_eq!(task.report().health, Health::Ok, "{name}");
    requests.load(Ordering::Relaxed)
}

#[tokio::test]
async fn poison_records_are_found_at_once_and_their_neighbours_arrive_once() {
    let server = server_for_all_modes().await;
    server.sql_of_user("ALTER TABLE mqtt_messages ADD CHECK (payload <> 'poison')").await.expect("adds the check");
    for name in MODES {
        let of_one = deliver_with_poison(&server, name, |number| number == 617).await;
        let of_half = deliver_with_poison(&server, name, |number| number % 2 == 1).await;
        println!("measured: {name}: {of_one} requests for one poison record in 1,000, {of_half} for 500");
        assert!(of_one <= 3, "{name}: {of_one} requests");
        // One for the batch, one for each of those in between.
        assert!(of_half <= 501, "{name}: {of_half} requests");
    }
    server.finish();
}

#[tokio::test]
async fn the_server_names_each_record_and_says_why() {
    let server = server_for_all_modes().await;
    server
        .sql_of_user("ALTER TABLE mqtt_messages ADD CONSTRAINT warm CHECK (payload <> 'cold')")
        .await
        .expect("alters");
    for name in MODES {
        let mut config = mode(name);
        config["payload_format"] = json!("raw");
        let sink = open(&server, &config).await;
        let unfit = record(1, b"\xff".to_vec());
        let batch = [unfit, record(2, "x"), record(3, "cold"), record(4, "y"), record(5, "cold")];
        let outcomes = deliver(&*sink, &batch).await;
        assert_eq!(class(&outcomes[0]), "mysql_1366", "{name}");
        for place in [2, 4] {
            let Outcome::RecordFault(fault) = &outcomes[place] else { panic!("{name}: {outcomes:?}") };
            assert_eq!((&*fault.class, fault.offline), ("mysql_4025", false), "{name}");
            for word in ["warm", "error 4025", "SQLSTATE 23000"] {
                assert!(fault.message.contains(word), "{name}: {}", fault.message);
            }
        }
        for place in [1, 3] {
            assert!(matches!(&outcomes[place], Outcome::Unclear(_)), "{name}: {outcomes:?}");
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0);
    server.finish();
}

#[tokio::test]
async fn a_row_that_a_view_or_a_foreign_key_does_not_take_is_its_records_fault() {
    let server = server().await;
    server
        .sql_of_user(
            "CREATE VIEW plant AS SELECT * FROM mqtt_messages WHERE record_key LIKE 'plant%' WITH CHECK OPTION;
             CREATE TABLE known (record_key VARCHAR(512) CHARACTER SET utf8mb4 PRIMARY KEY);
             INSERT INTO known VALUES ('plant');
             CREATE TABLE child LIKE mqtt_messages;
             ALTER TABLE child ADD FOREIGN KEY (record_key) REFERENCES known (record_key)",
        )
        .await
        .expect("makes");
    for (table, expect) in [("plant", "mysql_1369"), ("child", "mysql_1452")] {
        for name in ["rows", "many"] {
            let mut config = mode(name);
            config["table"] = json!(table);
            let sink = open(&server, &config).await;
            let mut friend = record(2, "x");
            friend.message.client_id = "plant".into();
            let outcomes = deliver(&*sink, &[friend.clone(), record(1, "x")]).await;
            assert_eq!(class(&outcomes[1]), expect, "{table} {name}");
            assert_eq!(deliver(&*sink, &[friend]).await, [Outcome::Delivered], "{table} {name}");
        }
    }
    server.finish();
}

/// What the server answers when a trigger raises this error.
#[tokio::test]
async fn each_number_means_what_the_table_says() {
    let server = server().await;
    server
        .sql(
            "DELIMITER //\nCREATE TRIGGER raise BEFORE INSERT ON mqtt_messages FOR EACH ROW \
             IF NEW.payload <> 'good' THEN BEGIN \
               DECLARE number INT DEFAULT NEW.payload; \
               IF number > 22000 THEN \
                 IF number = 22000 + 1 THEN SIGNAL SQLSTATE '22001'; ELSE SIGNAL SQLSTATE '45000'; END IF; \
               END IF; \
               SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = number, MESSAGE_TEXT = 'as told'; END; END IF//",
        )
        .await
        .expect("makes");
    let raw = |name: &str| {
        let mut config = mode(name);
        config["payload_format"] = json!("raw");
        config
    };
    for name in ["rows", "many"] {
        let sink = open(&server, &raw(name)).await;
        for (code, expect) in [
            ("1205", TargetFaultKind::Down),
            ("1213", TargetFaultKind::Down),
            ("1040", TargetFaultKind::Down),
            ("1290", TargetFaultKind::Down),
            ("1836", TargetFaultKind::Down),
            ("1317", TargetFaultKind::Down),
            ("45000", TargetFaultKind::Down),
            ("1021", TargetFaultKind::Full),
            ("1114", TargetFaultKind::Full),
            ("1142", TargetFaultKind::Permission),
            ("1146", TargetFaultKind::Missing),
            ("1045", TargetFaultKind::Auth),
            ("1064", TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT")),
        ] {
            let outcomes = deliver(&*sink, &[record(1, "good"), record(2, code), record(3, "good")]).await;
            assert_eq!(kind(&outcomes[0]), expect, "{name} {code}");
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{name} {code}");
        }
        for code in ["1264", "1366", "1406", "22001"] {
            let outcomes = deliver(&*sink, &[record(1, "good"), record(2, code)]).await;
            let expect = if code == "22001" { "mysql_1644" } else { &format!("mysql_{code}") };
            assert_eq!(class(&outcomes[1]), expect, "{name} {code} {outcomes:?}");
        }
        assert_eq!(deliver(&*sink, &[record(1, "good")]).await, [Outcome::Delivered], "{name}");
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 2, "nothing of the others was kept");
    server.finish();
}

#[tokio::test]
async fn what_the_target_lacks_is_told_when_it_is_opened() {
    let server = server().await;
    server
        .sql(
            "CREATE USER weak@'%' IDENTIFIED BY 'weak';
             GRANT SELECT ON sluice.mqtt_messages TO weak@'%';
             CREATE TABLE not_transactional (record_key TEXT, payload TEXT) ENGINE = MyISAM",
        )
        .await
        .expect("makes");
    let weak = |more: Value| {
        let mut config = json!({"username": "weak", "password": "weak"});
        for (name, value) in more.as_object().expect("is one") {
            config[name] = value.clone();
        }
        config
    };
    let does_not_fit = TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT");
    for (more, expect, words) in [
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "1045"),
        (json!({"password": ""}), TargetFaultKind::Auth, "1045"),
        (json!({"username": "nobody"}), TargetFaultKind::Auth, "1045"),
        (json!({"database": "absent"}), TargetFaultKind::Auth, "1044"),
        (json!({"username": "root", "password": "", "database": "absent"}), TargetFaultKind::Missing, "1049"),
        (json!({"table": "absent"}), TargetFaultKind::Missing, "'sluice.absent' doesn't exist"),
        (weak(json!({})), TargetFaultKind::Permission, "INSERT command denied"),
        (json!({"table": "not_transactional"}), does_not_fit, "MyISAM"),
        (json!({"enable_tls": true}), TargetFaultKind::Misconfigured("TARGET_WITHOUT_TLS"), "TLS"),
    ] {
        let fault = refused(&server, &more).await;
        assert_eq!(fault.kind, expect, "{more} {fault:?}");
        assert!(fault.message.contains(words), "{more} {}", fault.message);
        assert!(!fault.message.contains("wrong"), "{}", fault.message);
    }
    // Each right that the page names, one after the other.
    server.sql(ID_COLUMN).await.expect("adds the column");
    server.sql("CREATE UNIQUE INDEX latest ON mqtt_messages (record_key)").await.expect("makes");
    server.sql("REVOKE SELECT ON sluice.mqtt_messages FROM weak@'%'").await.expect("takes");
    server.sql("GRANT INSERT ON sluice.mqtt_messages TO weak@'%'").await.expect("gives");
    for (more, right) in [
        (json!({"id_column": "id"}), "SELECT (id)"),
        (json!({"enable_upsert": true, "conflict_columns": "record_key"}), "SELECT, UPDATE"),
    ] {
        let config = weak(more);
        let fault = refused(&server, &config).await;
        assert_eq!(fault.kind, TargetFaultKind::Permission, "{config} {fault:?}");
        server.sql(&format!("GRANT {right} ON sluice.mqtt_messages TO weak@'%'")).await.expect("gives");
        let sink = open(&server, &config).await;
        server.sql("TRUNCATE mqtt_messages; ALTER TABLE mqtt_messages MODIFY id VARCHAR(96)").await.expect("empties");
        sink.close().await;
        let sink = open(&server, &config).await;
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{config}");
        }
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 1);
    }
    server.finish();
}

#[tokio::test]
async fn a_table_that_is_made_later_gets_what_has_waited() {
    let server = server().await;
    server.sql("DROP TABLE mqtt_messages").await.expect("drops");
    let sink = node().sink_for("rows", "mysql", server.config(&json!({})));
    let queue = MemoryQueue::numbered(5);
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    double::until("the table is missed", || task.report().health_reason.as_deref() == Some("TARGET_MISSING")).await;
    assert_eq!(task.report().health, Health::Blocked);
    server.sql_of_user(TABLE).await.expect("makes the table");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 5);

    // Rights on a database count from when it is chosen: the connections have to be new ones.
    server
        .sql(
            "REVOKE ALL ON sluice.* FROM sluice@'%'; GRANT SELECT ON sluice.mqtt_messages TO sluice@'%';
             KILL CONNECTION USER sluice",
        )
        .await
        .expect("takes");
    queue.append((5..10).map(double::message));
    double::until("it is forbidden", || task.report().health_reason.as_deref() == Some("TARGET_PERMISSION")).await;
    server.sql("GRANT ALL ON sluice.* TO sluice@'%'").await.expect("gives");
    queue.all_committed().await;
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 10);
    assert_eq!(task.report().counters.discard_total, 0);
    server.finish();
}

#[tokio::test]
async fn a_column_that_goes_is_missed_and_not_left_out() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    let rename = |from: &str, to: &str| format!("ALTER TABLE mqtt_messages CHANGE {from} {to} LONGTEXT NULL");
    server.sql_of_user(&rename("payload", "other")).await.expect("alters");
    for attempt in 0..3 {
        let outcomes = deliver(&*sink, &[record(2, "y")]).await;
        let Outcome::TargetFault(fault) = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(fault.kind, TargetFaultKind::Missing, "{fault:?}");
        assert!(attempt == 0 || fault.message.contains("no column payload any more"), "{}", fault.message);
    }
    server.sql_of_user(&rename("other", "payload")).await.expect("alters");
    assert_eq!(deliver(&*sink, &[record(2, "y")]).await, [Outcome::Delivered]);
    assert_eq!(server.count("mqtt_messages WHERE payload IS NOT NULL").await.expect("counts"), 2);
    server.finish();
}

#[tokio::test]
async fn a_table_that_changes_is_looked_at_again() {
    let server = server().await;
    for name in ["rows", "many"] {
        for (before, after, expect) in
            [("BIGINT", "DATETIME(3)", "2023-11-14 22:13:20.002"), ("DATETIME(3)", "BIGINT", "1700000000002")]
        {
            let alter = |column: &str| {
                format!("TRUNCATE mqtt_messages; ALTER TABLE mqtt_messages MODIFY timestamp {column} NOT NULL")
            };
            server.sql_of_user(&alter(before)).await.expect("alters");
            let sink = open(&server, &mode(name)).await;
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{name}");
            server.sql_of_user(&alter(after)).await.expect("alters");
            let outcomes = deliver(&*sink, &[record(2, "y")]).await;
            assert_eq!(kind(&outcomes[0]), TargetFaultKind::Down, "{name} {after}: nobody is blamed");
            assert!(format!("{outcomes:?}").contains("have changed"), "{outcomes:?}");
            assert_eq!(deliver(&*sink, &[record(2, "y")]).await, [Outcome::Delivered], "{name} {after}");
            let found = server.sql("SELECT timestamp FROM mqtt_messages").await.expect("reads");
            assert_eq!(found, expect, "{name} {after}");
            sink.close().await;
        }
    }
    server.finish();
}
