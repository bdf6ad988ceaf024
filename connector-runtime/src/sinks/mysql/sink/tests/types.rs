//! What a value becomes by its column's type, and which values do not fit.

use super::*;

#[tokio::test]
async fn a_value_takes_the_form_of_its_column() {
    let server = server().await;
    let time = "timestamp";
    for (column, of, payload, expect) in [
        ("BIGINT", time, "", "1700000000007"),
        ("BIGINT UNSIGNED", time, "", "1700000000007"),
        ("DECIMAL(20,3)", time, "", "1700000000007.000"),
        ("DOUBLE", time, "", "1700000000007"),
        ("VARCHAR(20)", time, "", "1700000000007"),
        ("TEXT", time, "", "1700000000007"),
        ("JSON", time, "", "1700000000007"),
        ("DATETIME(3)", time, "", "2023-11-14 22:13:20.007"),
        ("DATETIME(6)", time, "", "2023-11-14 22:13:20.007000"),
        ("DATETIME", time, "", "2023-11-14 22:13:20"),
        ("TIMESTAMP(3) NULL", time, "", "2023-11-14 22:13:20.007"),
        ("DATE", time, "", "2023-11-14"),
        ("JSON", "payload", "{\"a\": [1, \"\\u00e4\"]}", "{\"a\": [1, \"\\\\u00e4\"]}"),
        ("LONGBLOB", "payload", "größer", "größer"),
        ("MEDIUMTEXT", "payload", "größer 😀", "größer 😀"),
        ("VARCHAR(9) CHARACTER SET latin1", "payload", "größer", "größer"),
        ("INT", "payload", "-17", "-17"),
        ("DECIMAL(5,2)", "payload", "21.50", "21.50"),
        ("DATETIME", "payload", "2026-01-02T03:04:05", "2026-01-02 03:04:05"),
        ("ENUM('on','off')", "payload", "off", "off"),
        ("INET6", "payload", "::1", "::1"),
        ("VARBINARY(20)", "record_key", "", "device-7"),
        ("JSON", "record_key", "", "\"device-7\""),
    ] {
        server
            .sql_of_user(&format!("CREATE OR REPLACE TABLE t (`{of}` {column}, id VARCHAR(96) UNIQUE)"))
            .await
            .expect("makes");
        for name in MODES {
            let mut config = mode(name);
            config["table"] = json!("t");
            config["payload_format"] = json!("raw");
            let sink = open(&server, &config).await;
            let outcomes = deliver(&*sink, &[record(7, payload)]).await;
            // MariaDB's JSON is a text with a check: a key is not quoted for it.
            if (column, of) == ("JSON", "record_key") {
                assert_eq!(class(&outcomes[0]), "mysql_4025", "{name}");
            } else {
                assert_eq!(outcomes, [Outcome::Delivered], "{of} {column} {name}");
                server.sql("TRUNCATE t").await.expect("empties").clear();
                assert_eq!(deliver(&*sink, &[record(7, payload)]).await, [Outcome::Delivered]);
                let found =
                    server.sql(&format!("SET time_zone = '+00:00'; SELECT `{of}` FROM t")).await.expect("reads");
                assert_eq!(found, expect, "{of} {column} {name}");
                server.sql("TRUNCATE t").await.expect("empties");
            }
            sink.close().await;
        }
    }
    server.finish();
}

#[tokio::test]
async fn values_that_do_not_fit_are_their_records_own_fault() {
    let server = server().await;
    let (time, payload) = ("timestamp", "payload");
    for (column, of, value, expect) in [
        ("SMALLINT", time, "x", "mysql_1264"),
        ("INT", time, "x", "mysql_1264"),
        ("JSON", payload, "no JSON", "mysql_4025"),
        ("JSON", payload, "{\"a\":", "mysql_4025"),
        ("VARCHAR(3)", payload, "four", "mysql_1406"),
        ("VARBINARY(3)", payload, "four", "mysql_1406"),
        ("TINYTEXT", payload, &*"x".repeat(300), "mysql_1406"),
        ("INT", payload, "four", "mysql_1366"),
        ("INT", payload, "4 and more", "mysql_1265"),
        ("INT", payload, "", "mysql_1366"),
        ("SMALLINT", payload, "40000", "mysql_1264"),
        ("DECIMAL(3,1)", payload, "1234", "mysql_1264"),
        ("DATETIME", payload, "yesterday", "mysql_1292"),
        ("DATE", payload, "0000-00-00", "mysql_1292"),
        ("ENUM('on','off')", payload, "maybe", "mysql_1265"),
        ("VARCHAR(9) CHARACTER SET latin1", payload, "日本", "mysql_1366"),
        ("VARCHAR(9) CHARACTER SET utf8mb3", payload, "😀", "mysql_1366"),
        ("TEXT CHECK (payload <> 'bad')", payload, "bad", "mysql_4025"),
    ] {
        server
            .sql_of_user(&format!("CREATE OR REPLACE TABLE t (`{of}` {column}, id VARCHAR(96) UNIQUE)"))
            .await
            .expect("makes");
        for name in MODES {
            let mut config = mode(name);
            config["table"] = json!("t");
            config["payload_format"] = json!("raw");
            let sink = open(&server, &config).await;
            let outcomes = deliver(&*sink, &[record(7, value), record(8, value)]).await;
            for outcome in &outcomes {
                assert_eq!(class(outcome), expect, "{of} {column} {name} {outcomes:?}");
                assert!(matches!(outcome, Outcome::RecordFault(fault) if !fault.offline));
            }
            sink.close().await;
        }
        assert_eq!(server.count("t").await.expect("counts"), 0, "{of} {column}");
    }
    server.finish();
}

#[tokio::test]
async fn both_forms_of_templates_bind_their_values() {
    let server = server().await;
    server
        .sql_of_user(
            "CREATE TABLE r (n DECIMAL(5,2), i BIGINT, b BOOLEAN, at BIGINT, sent DATETIME(1), j JSON, \
             u UUID, s VARCHAR(20), raw LONGBLOB, seconds INT, who TEXT, qos INT, kept BOOLEAN, id VARCHAR(60))",
        )
        .await
        .expect("makes");
    let template = "INSERT INTO r VALUES (${payload.n}, ${payload.i}, ${payload.b}, ${timestamp}, ${payload.sent}, \
                    ${payload.j}, ${payload.u}, ${topic[1]}, ${payload}, ${timestamp_s}, ${user.who}, ${qos}, \
                    ${retain}, ${id}) -- not a parameter: ?";
    let sink = open(&server, &json!({"sql_template": template})).await;
    let payload = json!({
        "n": 12.50, "i": 9_007_199_254_740_993_i64, "b": true, "sent": "2026-01-02T03:04:05.6", "j": {"x": "y"},
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
    });
    let mut whole = record(7, payload.to_string());
    whole.message.user_properties = vec![("who".into(), "me".into())];
    (whole.message.qos, whole.message.retain) = (1, true);
    let mut without = whole.clone();
    without.message.payload = json!({"n": 1}).to_string().into();
    let mut nameless = whole.clone();
    nameless.message.user_properties.clear();
    let outcomes = deliver(&*sink, &[without, whole.clone(), nameless]).await;
    for place in [0, 2] {
        assert_eq!(class(&outcomes[place]), "missing_value");
        assert!(matches!(&outcomes[place], Outcome::RecordFault(fault) if fault.offline));
    }
    assert_eq!(outcomes[1], Outcome::Delivered);
    let found = server
        .sql("SELECT n, i, b, at, sent, j, u, s, SHA2(raw, 256) = SHA2(j, 256), seconds, who, qos, kept, id FROM r")
        .await
        .expect("reads");
    assert_eq!(
        found,
        "12.50|9007199254740993|1|1700000000007|2026-01-02 03:04:05.6|{\"x\":\"y\"}|\
         a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|one|0|1700000000|me|1|1|1-7-7"
    );
    let found = server.sql("SELECT raw FROM r").await.expect("reads");
    assert_eq!(found, payload.to_string());

    let seed = "INSERT INTO mqtt_messages (record_key, payload, timestamp) VALUES (?, UPPER(?), ?)";
    for batch_insert in [false, true] {
        let more = json!({"sql_template": seed, "enable_batch_insert": batch_insert, "payload_format": "raw"});
        let sink = open(&server, &more).await;
        assert_eq!(deliver(&*sink, &[record(1, "a"), record(2, "b")]).await, vec![Outcome::Delivered; 2]);
    }
    let found = server.sql("SELECT record_key, payload, timestamp FROM mqtt_messages").await.expect("reads");
    let twice = "device-1|A|1700000000001\ndevice-2|B|1700000000002";
    assert_eq!(found, format!("{twice}\n{twice}"));
    server.finish();
}

#[tokio::test]
async fn the_statement_of_the_page_works() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/connectors/mysql.md");
    let page = std::fs::read_to_string(page).expect("reads");
    let (_, statement) = page.split_once("```sql\nINSERT INTO readings").expect("has it");
    let (statement, _) = statement.split_once("```").expect("has its end");
    let server = server().await;
    server.sql_of_user("CREATE TABLE readings (room TEXT, value DOUBLE, at DATETIME)").await.expect("makes");
    let sink = open(&server, &json!({"sql_template": format!("INSERT INTO readings{statement}")})).await;
    assert_eq!(deliver(&*sink, &[record(7, "{\"t\": 21.5}")]).await, [Outcome::Delivered]);
    assert_eq!(server.sql("SELECT * FROM readings").await.expect("reads"), "one|21.5|2023-11-14 22:13:20");
    server.finish();
}

#[tokio::test]
async fn a_statement_of_ones_own_that_cannot_be_is_told_at_once() {
    let server = server().await;
    let does_not_fit = TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT");
    for (template, expect) in [
        ("INSERT INTO mqtt_messages (nothing) VALUES (${qos})", TargetFaultKind::Missing),
        ("INSERT INTO nowhere VALUES (${qos})", TargetFaultKind::Missing),
        ("INSERT INTO mqtt_messages (payload) VALUE OF (${qos})", does_not_fit),
        ("INSERT INTO mqtt_messages (payload, timestamp) VALUES (${qos})", does_not_fit),
        ("SELECT ${qos}", does_not_fit),
        ("INSERT INTO mqtt_messages VALUES (${key}, ${payload}, ${qos}); DELETE FROM mqtt_messages", does_not_fit),
    ] {
        let fault = refused(&server, &json!({"sql_template": template})).await;
        assert_eq!(fault.kind, expect, "{template} {fault:?}");
    }
    server.finish();
}

#[tokio::test]
async fn rows_that_a_statement_answers_with_are_passed_by() {
    let server = server().await;
    server
        .sql_of_user(
            "DELIMITER //\nCREATE PROCEDURE keep(k TEXT, p TEXT) BEGIN \
               INSERT INTO mqtt_messages VALUES (k, p, 7); SELECT k; SELECT 1 UNION SELECT 2; END//",
        )
        .await
        .expect("makes the procedure");
    for template in [
        "CALL keep(${key}, ${payload})",
        "INSERT INTO mqtt_messages VALUES (${key}, ${payload}, ${qos}) RETURNING record_key, payload",
    ] {
        let sink = open(&server, &json!({"sql_template": template})).await;
        for _ in 0..2 {
            let outcomes = deliver(&*sink, &[record(1, "a"), record(2, "b")]).await;
            assert_eq!(outcomes, vec![Outcome::Delivered; 2], "{template}");
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 8);
    server.finish();
}

#[tokio::test]
async fn the_session_is_strict_whatever_the_server_is() {
    use ::tests::mariadb::MariaDbOptions;

    let settings = [
        ("sql_mode", "ANSI_QUOTES"),
        ("autocommit", "1"),
        ("default_time_zone", "+05:00"),
        ("transaction_isolation", "SERIALIZABLE"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let server = MariaDb::with(MariaDbOptions { settings, ..MariaDbOptions::default() }).await.expect("starts");
    server.sql_of_user(TABLE).await.expect("makes the table");
    let template = "INSERT INTO mqtt_messages SELECT CONCAT_WS(' ', IF(@@autocommit, 'on', 'off'), @@time_zone, @@tx_isolation, \
                    @@character_set_client, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@wait_timeout), \
                    CONCAT(@@sql_mode, LEFT(${payload}, 0)), 7";
    let sink = open(&server, &json!({"sql_template": template})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    let found = server.sql("SELECT record_key FROM mqtt_messages").await.expect("reads");
    assert_eq!(found, "off +00:00 READ-COMMITTED utf8mb4 10 10 5");
    let modes = server.sql("SELECT payload FROM mqtt_messages").await.expect("reads");
    assert!(modes.contains("STRICT_ALL_TABLES") && !modes.contains("ANSI_QUOTES"), "{modes}");
    server.finish();
}
