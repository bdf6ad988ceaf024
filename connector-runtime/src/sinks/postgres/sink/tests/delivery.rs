//! What arrives, and how.

use std::time::Instant;

use api_types::Record;
use sha2::{Digest, Sha256};

use super::*;

const RECORDS: u64 = 10_000;
const BATCH: usize = 1_000;

/// Twelve shapes in turn; two of them are no text.
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
        7 => "\"double\" and $1 and ${payload} and {}".into(),
        8 => "back\\slash \\x00 \\N \\.".into(),
        9 => "line\nbreak\r\nand\ttab".into(),
        10 => "NULL".into(),
        _ => format!("r{number}").into_bytes(),
    }
}

fn is_text(number: u64) -> bool {
    ![3, 4].contains(&(number % 12))
}

fn records() -> Vec<Record> {
    (0..RECORDS)
        .map(|number| {
            let mut record = record(number, payload(number));
            record.message.topic = format!("plant/ü/{}", number % 7);
            record
        })
        .collect()
}

#[tokio::test]
async fn ten_thousand_records_of_all_shapes_arrive_as_they_were() {
    let server = server().await;
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    server
        .sql_of_role("ALTER TABLE mqtt_messages ALTER id DROP NOT NULL, ALTER payload SET NOT NULL")
        .await
        .expect("alters");
    let records = records();
    for name in MODES {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let sink = open(&server, &mode(name)).await;
        let started = Instant::now();
        let mut outcomes = Vec::new();
        for batch in records.chunks(BATCH) {
            outcomes.extend(deliver(&*sink, batch).await);
        }
        println!("measured: {name}: {:.0} records/s", RECORDS as f64 / started.elapsed().as_secs_f64());
        for (number, outcome) in (0..RECORDS).zip(&outcomes) {
            match outcome {
                Outcome::Delivered => assert!(is_text(number), "{name} {number}"),
                Outcome::RecordFault(fault) if fault.offline => {
                    let expect = if number % 12 == 3 { "nul_in_text" } else { "not_utf8" };
                    assert_eq!((is_text(number), &*fault.class), (false, expect), "{name} {number}");
                }
                other => panic!("{name} {number}: {other:?}"),
            }
        }
        let found = server
            .sql(
                "SELECT client_id, topic, timestamp, encode(sha256(data), 'hex'), convert_to(payload, 'UTF8') = data \
                 FROM mqtt_messages ORDER BY timestamp",
            )
            .await
            .expect("reads");
        let expect = records.iter().filter(|record| is_text(record.id.sequence.0)).map(|record| {
            let message = &record.message;
            let digest: String = Sha256::digest(&message.payload).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}|{}|{}|{digest}|t", message.client_id, message.topic, message.timestamp_ms)
        });
        let (found, expect): (Vec<&str>, Vec<String>) = (found.lines().collect(), expect.collect());
        assert_eq!(found.len(), expect.len(), "{name}");
        assert!(found == expect, "{name}: the rows differ");
    }
    server.finish();
}

#[tokio::test]
async fn the_documented_table_keeps_every_payload() {
    let server = Postgres::start().await.expect("PostgreSQL starts");
    server.sql_of_role(crate::sinks::postgres::config::DDL).await.expect("makes the table of the documentation");
    server.sql_of_role("ALTER TABLE mqtt_messages ALTER id DROP NOT NULL").await.expect("alters");
    for column in ["text", "jsonb"] {
        for name in MODES {
            server.sql("TRUNCATE mqtt_messages").await.expect("empties");
            let sink = open(&server, &mode(name)).await;
            let payloads = [b"1".to_vec(), vec![0xff, 0xfe], b"2".to_vec(), b"a\0b".to_vec()];
            let records: Vec<Record> =
                payloads.into_iter().zip(0..).map(|(payload, number)| record(number, payload)).collect();
            assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 4], "{column} {name}");
            let found = server
                .sql("SELECT payload, encode(data, 'hex'), payload IS NULL FROM mqtt_messages ORDER BY timestamp")
                .await
                .expect("reads");
            assert_eq!(found, "1|31|f\n|fffe|t\n2|32|f\n|610062|t", "{column} {name}");
            sink.close().await;
        }
        server
            .sql_of_role("ALTER TABLE mqtt_messages ALTER payload TYPE jsonb USING payload::jsonb")
            .await
            .expect("alters");
    }
    server.finish();
}

#[tokio::test]
async fn bytes_columns_take_any_payload() {
    let server = server().await;
    server.sql_of_role("ALTER TABLE mqtt_messages ALTER payload TYPE bytea USING ''::bytea").await.expect("alters");
    for name in ["rows", "copy"] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let sink = open(&server, &mode(name)).await;
        let records: Vec<Record> = (0..36).map(|number| record(number, payload(number))).collect();
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 36], "{name}");
        let found =
            server.sql("SELECT encode(payload, 'hex') FROM mqtt_messages ORDER BY timestamp").await.expect("reads");
        let expect = records
            .iter()
            .map(|record| record.message.payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        assert!(found.split('\n').eq(expect), "{name}: {found}");
    }
    server.finish();
}

#[tokio::test]
async fn only_columns_that_the_table_has_are_written() {
    let server = server().await;
    server.sql_of_role("CREATE TABLE few (seen int DEFAULT 7, topic text, other text)").await.expect("makes");
    server.sql_of_role("CREATE TABLE none (other text)").await.expect("makes");
    for name in ["rows", "copy"] {
        let mut config = mode(name);
        config["table"] = json!("few");
        let sink = open(&server, &config).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{name}");
    }
    assert_eq!(server.sql("SELECT * FROM few").await.expect("reads"), "7|plant/one|\n7|plant/one|");
    let fault = refused(&server, &json!({"table": "none"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing);
    assert!(fault.message.contains("client_id, topic, timestamp, payload, data"), "{}", fault.message);
    server.finish();
}

#[tokio::test]
async fn a_schema_a_view_and_a_partitioned_table_are_tables_too() {
    let server = server().await;
    server
        .sql_of_role(
            "CREATE SCHEMA plant;
             CREATE TABLE plant.log (LIKE mqtt_messages);
             CREATE VIEW narrow AS SELECT client_id, topic, timestamp, payload, data FROM mqtt_messages;
             CREATE TABLE parts (LIKE mqtt_messages) PARTITION BY RANGE (timestamp);
             CREATE TABLE parts_all PARTITION OF parts DEFAULT",
        )
        .await
        .expect("makes");
    for (table, stored) in [("plant.log", "plant.log"), ("narrow", "mqtt_messages"), ("parts", "parts_all")] {
        for name in ["rows", "copy"] {
            let mut config = mode(name);
            config["table"] = json!(table);
            let sink = open(&server, &config).await;
            assert_eq!(
                deliver(&*sink, &[record(1, "x"), record(2, "y")]).await,
                vec![Outcome::Delivered; 2],
                "{table}"
            );
        }
        assert_eq!(server.count(stored).await.expect("counts"), 4, "{table}");
    }
    server.finish();
}

#[tokio::test]
async fn neither_values_nor_names_become_sql() {
    let server = server().await;
    let evil = "x\"; DROP TABLE mqtt_messages; --";
    server
        .sql_of_role("CREATE TABLE \"x\"\"; DROP TABLE mqtt_messages; --\" (LIKE mqtt_messages)")
        .await
        .expect("makes");
    let mut attack = record(1, "'); DROP TABLE mqtt_messages; --");
    attack.message.client_id = "$1'; DROP TABLE mqtt_messages; --".into();
    attack.message.topic = "a\\'; DROP TABLE mqtt_messages; --".into();
    for name in ["rows", "copy"] {
        let mut config = mode(name);
        config["table"] = json!(evil);
        let sink = open(&server, &config).await;
        assert_eq!(deliver(&*sink, std::slice::from_ref(&attack)).await, [Outcome::Delivered], "{name}");
    }
    for more in [
        json!({"table": "mqtt_messages\"; DROP TABLE mqtt_messages; --"}),
        json!({"id_column": "id\") DO NOTHING; DROP TABLE mqtt_messages; --"}),
        json!({"enable_upsert": true, "conflict_columns": ["topic\") DO NOTHING; DROP TABLE mqtt_messages; --"]}),
    ] {
        let fault = refused(&server, &more).await;
        assert!(fault.kind.needs_a_person(), "{more} {fault:?}");
    }
    let template = "INSERT INTO mqtt_messages VALUES (${client_id}, ${topic}, ${timestamp}, ${payload}, ${payload})";
    let sink = open(&server, &json!({"sql_template": template})).await;
    assert_eq!(deliver(&*sink, std::slice::from_ref(&attack)).await, [Outcome::Delivered]);
    let found = server.sql("SELECT client_id, topic, payload FROM mqtt_messages").await.expect("still there");
    assert_eq!(
        found,
        format!("{}|{}|'); DROP TABLE mqtt_messages; --", attack.message.client_id, attack.message.topic)
    );
    server.finish();
}

#[tokio::test]
async fn batches_are_transactions_and_rows_statements_as_configured() {
    use crate::pipeline::tests::double::{MemoryQueue, Setup};

    let server = server().await;
    for (batch_insert, statements) in [(false, 40), (true, 1)] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let config = server.config(&json!({"batch_size": 40, "enable_batch_insert": batch_insert}));
        let sink = node().sink_for("rows", "postgres", config);
        assert_eq!(sink.options.limits.records_max, 40);
        let queue = MemoryQueue::numbered(100);
        Setup::default().start_with(&queue, sink.opener, sink.options);
        queue.all_committed().await;
        let found = server
            .sql("SELECT count(*), count(DISTINCT cmin::text) FROM mqtt_messages GROUP BY xmin::text ORDER BY 1 DESC")
            .await
            .expect("reads");
        let last = if batch_insert { 1 } else { 20 };
        assert_eq!(found, format!("40|{statements}\n40|{statements}\n20|{last}"));
    }
    server.finish();
}
