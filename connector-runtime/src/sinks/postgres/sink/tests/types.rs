//! Values by the type of their column.

use super::*;

/// What each type of column makes of the record, whatever the way to write.
#[tokio::test]
async fn the_columns_type_decides_what_is_written() {
    let server = server().await;
    server
        .sql(
            "CREATE EXTENSION citext; CREATE DOMAIN short AS varchar(40) CHECK (value <> 'bad'); \
              CREATE TYPE mood AS ENUM ('sad', 'happy'); GRANT ALL ON SCHEMA public TO sluice",
        )
        .await
        .expect("makes types");
    let json = "{\"a\": [1, 2],  \"b\": \"ü\"}";
    for (column, of, payload, expect) in [
        ("bigint", "timestamp", json, "1700000000007"),
        ("timestamp", "timestamp", json, "2023-11-14 22:13:20.007"),
        ("timestamptz", "timestamp", json, "2023-11-14 22:13:20.007+00"),
        ("timestamptz(0)", "timestamp", json, "2023-11-14 22:13:20+00"),
        ("date", "timestamp", json, "2023-11-14"),
        ("numeric", "timestamp", json, "1700000000007"),
        ("numeric(16,2)", "timestamp", json, "1700000000007.00"),
        ("double precision", "timestamp", json, "1700000000007"),
        ("text", "timestamp", json, "1700000000007"),
        ("jsonb", "timestamp", json, "1700000000007"),
        ("varchar(40)", "payload", json, json),
        ("char(10)", "payload", "ten", "ten       "),
        ("json", "payload", json, json),
        ("jsonb", "payload", json, "{\"a\": [1, 2], \"b\": \"ü\"}"),
        ("bytea", "payload", "ü", "\\xc3bc"),
        ("short", "payload", json, json),
        ("citext", "payload", "Text", "Text"),
        ("mood", "payload", "happy", "happy"),
        ("numeric", "payload", "21.50", "21.50"),
        ("integer", "payload", "-3", "-3"),
        ("boolean", "payload", "on", "t"),
        ("inet", "payload", "10.0.0.1/8", "10.0.0.1/8"),
        ("int[]", "payload", "{1,2}", "{1,2}"),
        ("uuid", "payload", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("text", "data", "ü", "ü"),
        ("jsonb", "data", json, "{\"a\": [1, 2], \"b\": \"ü\"}"),
        ("bytea", "topic", json, "\\x706c616e742f6f6e65"),
        ("jsonb", "topic", json, "\"plant/one\""),
        ("jsonb", "client_id", json, "\"device-7\""),
        ("name", "client_id", json, "device-7"),
    ] {
        server
            .sql_of_role(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (\"{of}\" {column}, id text UNIQUE)"))
            .await
            .expect("makes");
        for name in MODES {
            let mut config = mode(name);
            config["table"] = json!("t");
            let sink = open(&server, &config).await;
            let outcomes = deliver(&*sink, &[record(7, payload)]).await;
            assert_eq!(outcomes, [Outcome::Delivered], "{of} {column} {name}");
            sink.close().await;
        }
        let found = server.sql(&format!("SET timezone = 'UTC'; SELECT \"{of}\" FROM t")).await.expect("reads");
        assert_eq!(found.split('\n').collect::<Vec<_>>(), [expect; 3], "{of} {column}");
    }
    server.finish();
}

#[tokio::test]
async fn values_that_do_not_fit_are_their_records_own_fault() {
    let server = server().await;
    for (column, of, payload, class) in [
        ("smallint", "timestamp", "x", "out_of_range"),
        ("integer", "timestamp", "x", "out_of_range"),
        ("json", "payload", "no JSON", "sqlstate_22p02"),
        ("jsonb", "payload", "{\"a\":", "sqlstate_22p02"),
        ("jsonb", "payload", "{\"a\":\"\\u0000\"}", "sqlstate_22p05"),
        ("jsonb", "payload", "\0", "nul_in_text"),
        ("varchar(3)", "payload", "four", "sqlstate_22001"),
        ("integer", "payload", "four", "sqlstate_22p02"),
        ("smallint", "payload", "40000", "sqlstate_22003"),
        ("text CHECK (payload <> 'bad')", "payload", "bad", "sqlstate_23514"),
    ] {
        server
            .sql_of_role(&format!("DROP TABLE IF EXISTS t; CREATE TABLE t (\"{of}\" {column}, id text UNIQUE)"))
            .await
            .expect("makes");
        for name in MODES {
            let mut config = mode(name);
            config["table"] = json!("t");
            let sink = open(&server, &config).await;
            let outcomes = deliver(&*sink, &[record(7, payload)]).await;
            // Alone in its batch, a record that is refused without a name is the culprit.
            let (Outcome::RecordFault(fault) | Outcome::Unclear(fault)) = &outcomes[0] else {
                panic!("{of} {column} {name}: {outcomes:?}")
            };
            assert_eq!(&*fault.class, class, "{of} {column} {name}");
            assert_eq!(fault.offline, !class.starts_with("sqlstate"), "{of} {column} {name}");
            sink.close().await;
        }
        assert_eq!(server.count("t").await.expect("counts"), 0, "{of} {column}");
    }
    server.finish();
}

#[tokio::test]
async fn both_forms_of_templates_bind_by_type() {
    let server = server().await;
    server
        .sql_of_role(
            "CREATE TABLE r (n numeric, i bigint, b boolean, at timestamptz, sent timestamp, day date, j jsonb, \
             u uuid, ip inet, tags text[], s varchar(20), raw bytea, seconds int, who text)",
        )
        .await
        .expect("makes");
    let template = "INSERT INTO r VALUES (${payload.n}, ${payload.i}, ${payload.b}, ${timestamp}, ${payload.sent}, \
                    ${timestamp_s}, ${payload.j}, ${payload.u}, ${payload.ip}, ${payload.tags}, ${topic[1]}, ${payload}, \
                    ${timestamp_s}, ${user.who})";
    let sink = open(&server, &json!({"sql_template": template})).await;
    let payload = json!({
        "n": 12.50, "i": 9_007_199_254_740_993_i64, "b": true, "sent": "2026-01-02T03:04:05.6", "j": {"x": "y"},
        "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "ip": "::1", "tags": "{a,b}",
    });
    let mut whole = record(7, payload.to_string());
    whole.message.user_properties = vec![("who".into(), "me".into())];
    let mut without = whole.clone();
    without.message.payload = json!({"n": 1}).to_string().into();
    let mut nameless = whole.clone();
    nameless.message.user_properties.clear();
    let outcomes = deliver(&*sink, &[without, whole.clone(), nameless]).await;
    for place in [0, 2] {
        assert!(
            matches!(&outcomes[place], Outcome::RecordFault(fault) if fault.offline && &*fault.class == "missing_value"),
            "{outcomes:?}"
        );
    }
    assert_eq!(outcomes[1], Outcome::Delivered);
    let found = server
        .sql(
            "SET timezone = 'UTC'; SELECT n, i, b, at, sent, day, j, u, ip, tags, s, encode(raw, 'escape')::jsonb = \
              (SELECT encode(raw, 'escape')::jsonb FROM r), seconds, who FROM r",
        )
        .await
        .expect("reads");
    assert_eq!(
        found,
        "12.5|9007199254740993|t|2023-11-14 22:13:20.007+00|2026-01-02 03:04:05.6|2023-11-14|{\"x\": \"y\"}|\
         a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|::1|{a,b}|one|t|1700000000|me"
    );

    let seed =
        "INSERT INTO mqtt_messages (client_id, topic, timestamp, payload, data) VALUES ($1, $2, $3, upper($4), $5)";
    for batch_insert in [false, true] {
        let sink = open(&server, &json!({"sql_template": seed, "enable_batch_insert": batch_insert})).await;
        assert_eq!(deliver(&*sink, &[record(1, "a"), record(2, "b")]).await, vec![Outcome::Delivered; 2]);
    }
    let found = server.sql("SELECT client_id, payload, timestamp, convert_from(data, 'UTF8') FROM mqtt_messages").await;
    let twice = "device-1|A|1700000000001|a\ndevice-2|B|1700000000002|b";
    assert_eq!(found.expect("reads"), format!("{twice}\n{twice}"));

    let fault = refused(&server, &json!({"sql_template": "INSERT INTO r (n) VALUES (${qos}) RETURNING nothing"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing, "{fault:?}");
    let fault = refused(&server, &json!({"sql_template": "INSERT INTO r (n) VALUE (${qos})"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT"), "{fault:?}");
    server.finish();
}

#[tokio::test]
async fn a_template_value_of_the_wrong_form_is_named() {
    let server = server().await;
    server.sql_of_role("CREATE TABLE r (at timestamptz, n numeric(4,1))").await.expect("makes");
    let sink = open(&server, &json!({"sql_template": "INSERT INTO r VALUES (${payload.at}, ${payload.n})"})).await;
    let good = r#"{"at":"2026-01-02T03:04:05Z","n":1}"#;
    for (bad, class) in [
        (r#"{"at":"yesterday noon","n":1}"#, "sqlstate_22007"),
        (r#"{"at":"2026-01-02","n":"'); DROP TABLE r; --"}"#, "sqlstate_22p02"),
        (r#"{"at":"2026-01-02","n":12345}"#, "sqlstate_22003"),
    ] {
        let outcomes = deliver(&*sink, &[record(1, good), record(2, bad), record(3, good)]).await;
        assert!(matches!(&outcomes[1], Outcome::RecordFault(fault) if &*fault.class == class), "{bad}: {outcomes:?}");
        assert!(matches!((&outcomes[0], &outcomes[2]), (Outcome::Unclear(_), Outcome::Unclear(_))), "{bad}");
        assert_eq!(server.count("r").await.expect("counts"), 0, "nothing of the batch is kept");
    }
    assert_eq!(deliver(&*sink, &[record(1, good), record(3, good)]).await, vec![Outcome::Delivered; 2]);
    server.finish();
}
