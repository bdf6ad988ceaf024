//! What arrives, and how.

use std::time::Instant;

use ::tests::mariadb::MariaDbOptions;
use api_types::Record;
use api_types::envelope::envelope;
use sha2::{Digest, Sha256};

use super::*;
use crate::pipeline::tests::double::{MemoryQueue, Setup};

const RECORDS: u64 = 10_000;
const BATCH: usize = 1_000;

/// Twelve shapes in turn; one of them is no text.
fn payload(number: u64) -> Vec<u8> {
    match number % 12 {
        0 => Vec::new(),
        1 => vec![b'x'],
        2 if number % 1_200 == 2 => format!("{number}-").repeat(1 << 15).into_bytes(),
        2 => b"{\"t\": 21.5, \"s\": \"\\u00e4\"}".to_vec(),
        3 => format!("before\0after {number}").into_bytes(),
        4 => vec![0xff, 0xfe, b'a', 0x80],
        5 => "größer → 😀 \u{202e}".into(),
        6 => "'; DROP TABLE mqtt_messages; --".into(),
        7 => "\"double\" and ? and ${payload} and {}".into(),
        8 => "back\\slash \\x00 \\N \\. \\' \\".into(),
        9 => "line\nbreak\r\nand\ttab \u{1a}".into(),
        10 => "NULL".into(),
        _ => format!("r{number}   ").into_bytes(),
    }
}

fn is_text(number: u64) -> bool {
    number % 12 != 4
}

fn records(count: u64) -> Vec<Record> {
    (0..count)
        .map(|number| {
            let mut record = record(number, payload(number));
            record.message.topic = format!("plant/ü/{}", number % 7);
            if number % 5 == 0 {
                record.message.client_id.clear();
            }
            record
        })
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn ten_thousand_records_of_all_shapes_arrive_as_they_were() {
    let server = server_for_all_modes().await;
    server.sql_of_user("ALTER TABLE mqtt_messages MODIFY payload LONGBLOB NOT NULL").await.expect("alters");
    let records = records(RECORDS);
    for name in MODES {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let mut config = mode(name);
        config["payload_format"] = json!("raw");
        let sink = open(&server, &config).await;
        let started = Instant::now();
        for batch in records.chunks(BATCH) {
            assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; batch.len()], "{name}");
        }
        println!("measured: {name}: {:.0} records/s", RECORDS as f64 / started.elapsed().as_secs_f64());
        let found = server
            .sql("SELECT record_key, timestamp, SHA2(payload, 256) FROM mqtt_messages ORDER BY timestamp")
            .await
            .expect("reads");
        let expect = records.iter().map(|record| {
            let message = &record.message;
            format!("{}|{}|{}", message.key(), message.timestamp_ms, digest(&message.payload))
        });
        let (found, expect): (Vec<&str>, Vec<String>) = (found.lines().collect(), expect.collect());
        assert_eq!(found.len(), expect.len(), "{name}");
        assert!(found == expect, "{name}: the rows differ");
    }
    server.finish();
}

#[tokio::test]
async fn the_documented_table_gets_the_envelope() {
    let server = MariaDb::start().await.expect("MariaDB starts");
    server.sql_of_user(crate::sinks::mysql::config::DDL).await.expect("makes the table of the documentation");
    let records = records(120);
    for name in ["rows by id", "many by id"] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let sink = open(&server, &mode(name)).await;
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; records.len()], "{name}");
        let found = server.sql("SELECT HEX(payload) FROM mqtt_messages ORDER BY timestamp").await.expect("reads");
        for (record, hex) in records.iter().zip(found.lines()) {
            let bytes: Vec<u8> = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("is hex"))
                .collect();
            let found: Value = serde_json::from_slice(&bytes).expect("is JSON");
            assert_eq!(found, envelope(record), "{name}");
        }
        assert_eq!(found.lines().count(), records.len(), "{name}");
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn a_text_column_takes_text_and_refuses_the_rest() {
    let server = server_for_all_modes().await;
    for name in MODES {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let mut config = mode(name);
        config["payload_format"] = json!("raw");
        let sink = open(&server, &config).await;
        let records = records(24);
        let outcomes = deliver(&*sink, &records).await;
        for (number, outcome) in (0..24).zip(&outcomes) {
            match outcome {
                Outcome::RecordFault(fault) => {
                    assert_eq!((is_text(number), &*fault.class), (false, "mysql_1366"), "{name} {number}");
                }
                Outcome::Unclear(_) => assert!(is_text(number), "{name} {number}"),
                other => panic!("{name} {number}: {other:?}"),
            }
        }
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 0, "{name}: all or none");
        let fit: Vec<Record> = records.into_iter().filter(|record| is_text(record.id.sequence.0)).collect();
        assert_eq!(deliver(&*sink, &fit).await, vec![Outcome::Delivered; fit.len()], "{name}");
        let found = server.sql("SELECT SHA2(payload, 256) FROM mqtt_messages ORDER BY timestamp").await.expect("reads");
        assert!(found.lines().eq(fit.iter().map(|record| digest(&record.message.payload))), "{name}: the texts differ");
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn only_columns_that_the_table_has_are_written() {
    let server = server().await;
    server.sql_of_user("CREATE TABLE few (seen INT DEFAULT 7, `Record_Key` TEXT, other TEXT)").await.expect("makes");
    server.sql_of_user("CREATE TABLE none (other TEXT)").await.expect("makes");
    for name in ["rows", "many"] {
        let mut config = mode(name);
        config["table"] = json!("few");
        let sink = open(&server, &config).await;
        assert_eq!(deliver(&*sink, &[record(1, "x"), record(2, "y")]).await, vec![Outcome::Delivered; 2], "{name}");
    }
    let found = server.sql("SELECT * FROM few").await.expect("reads");
    assert_eq!(found, "7|device-1|NULL\n7|device-2|NULL\n7|device-1|NULL\n7|device-2|NULL");
    let fault = refused(&server, &json!({"table": "none"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing);
    assert!(fault.message.contains("record_key, payload, timestamp"), "{}", fault.message);
    server.finish();
}

#[tokio::test]
async fn a_view_and_a_partitioned_table_are_tables_too() {
    let server = server().await;
    server
        .sql_of_user(
            "CREATE VIEW narrow AS SELECT record_key, payload, timestamp FROM mqtt_messages;
             CREATE TABLE parts LIKE mqtt_messages;
             ALTER TABLE parts PARTITION BY HASH (timestamp) PARTITIONS 3",
        )
        .await
        .expect("makes");
    for (table, stored) in [("narrow", "mqtt_messages"), ("parts", "parts")] {
        for name in ["rows", "many"] {
            let mut config = mode(name);
            config["table"] = json!(table);
            let sink = open(&server, &config).await;
            let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "y")]).await;
            assert_eq!(outcomes, vec![Outcome::Delivered; 2], "{table}");
        }
        assert_eq!(server.count(stored).await.expect("counts"), 4, "{table}");
    }
    server.finish();
}

#[tokio::test]
async fn neither_values_nor_names_become_sql() {
    let server = server().await;
    let evil = "x`; DROP TABLE mqtt_messages; -- '\\";
    server.sql_of_user("CREATE TABLE `x``; DROP TABLE mqtt_messages; -- '\\` LIKE mqtt_messages").await.expect("makes");
    let mut attack = record(1, "'); DROP TABLE mqtt_messages; --");
    attack.message.client_id = "\\'); DROP TABLE mqtt_messages; -- ?".into();
    for name in ["rows", "many"] {
        let mut config = mode(name);
        config["table"] = json!(evil);
        let sink = open(&server, &config).await;
        let outcomes = deliver(&*sink, &[attack.clone(), record(2, "x")]).await;
        assert_eq!(outcomes, vec![Outcome::Delivered; 2], "{name}");
    }
    for more in [
        json!({"table": "mqtt_messages`; DROP TABLE mqtt_messages; --"}),
        json!({"table": "' OR 1=1 -- "}),
        json!({"id_column": "id`) VALUES (1); DROP TABLE mqtt_messages; --"}),
        json!({"enable_upsert": true, "conflict_columns": ["payload`; DROP TABLE mqtt_messages; --"]}),
    ] {
        let fault = refused(&server, &more).await;
        assert!(fault.kind.needs_a_person(), "{more} {fault:?}");
    }
    let template = "INSERT INTO mqtt_messages VALUES (${client_id}, ${payload}, ${timestamp})";
    let sink = open(&server, &json!({"sql_template": template})).await;
    assert_eq!(deliver(&*sink, std::slice::from_ref(&attack)).await, [Outcome::Delivered]);
    let found = server.sql("SELECT HEX(record_key), payload FROM mqtt_messages").await.expect("still there");
    let key: String = attack.message.client_id.bytes().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(found, format!("{key}|'); DROP TABLE mqtt_messages; --"));
    server.finish();
}

async fn status(server: &MariaDb, names: [&str; 2]) -> [u64; 2] {
    let mut values = [0; 2];
    for (value, name) in values.iter_mut().zip(names) {
        let found = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'")).await.expect("reads");
        *value = found.split('|').nth(1).and_then(|number| number.parse().ok()).expect("is a number");
    }
    values
}

#[tokio::test]
async fn batches_are_transactions_and_rows_statements_as_configured() {
    let server = server().await;
    // 40 rows are 32 and 8, the last 20 are 16 and 4.
    for (batch_insert, statements) in [(false, 100), (true, 6)] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let before = status(&server, ["Com_commit", "Com_stmt_execute"]).await;
        let config = server.config(&json!({"batch_size": 40, "enable_batch_insert": batch_insert}));
        let sink = node().sink_for("rows", "mysql", config);
        assert_eq!(sink.options.limits.records_max, 40);
        let queue = MemoryQueue::numbered(100);
        Setup::default().start_with(&queue, sink.opener, sink.options);
        queue.all_committed().await;
        let after = status(&server, ["Com_commit", "Com_stmt_execute"]).await;
        assert_eq!([after[0] - before[0], after[1] - before[1]], [3, statements], "{batch_insert}");
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 100);
    }
    server.finish();
}

#[tokio::test]
async fn statements_are_as_long_as_the_server_takes() {
    let settings = vec![("max_allowed_packet".to_owned(), "1M".to_owned())];
    let server = MariaDb::with(MariaDbOptions { settings, ..MariaDbOptions::default() }).await.expect("starts");
    server.sql_of_user(TABLE).await.expect("makes the table");
    for name in ["rows", "many"] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let mut config = mode(name);
        config["payload_format"] = json!("raw");
        let sink = open(&server, &config).await;
        // Together far more than one packet; alone almost one, and more than one.
        let mut records: Vec<Record> = (0..20).map(|number| record(number, vec![b'x'; 300_000])).collect();
        records.push(record(20, vec![b'y'; (1 << 20) - 200]));
        records.push(record(21, vec![b'z'; 1 << 20]));
        let outcomes = deliver(&*sink, &records).await;
        assert_eq!(outcomes[..21], vec![Outcome::Delivered; 21], "{name}");
        assert!(matches!(&outcomes[21], Outcome::RecordFault(fault) if fault.offline), "{name}: {:?}", outcomes[21]);
        assert_eq!(class(&outcomes[21]), "too_long");
        let found = server.sql("SELECT count(*), SUM(LENGTH(payload)) FROM mqtt_messages").await.expect("reads");
        assert_eq!(found, format!("21|{}", 20 * 300_000 + (1 << 20) - 200), "{name}");
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn a_wide_statement_keeps_within_the_parameters_that_the_server_counts() {
    let server = server_for_all_modes().await;
    let records: Vec<Record> = (0..10_000).map(|number| record(number, "x")).collect();
    let sink = open(&server, &mode("many by id")).await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; records.len()]);
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 10_000);
    server.finish();
}
