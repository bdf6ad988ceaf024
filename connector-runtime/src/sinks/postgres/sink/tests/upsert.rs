//! The same record, and the same key, twice.

use api_types::{ClusterId, Record};

use super::*;
use crate::pipeline::tests::double::{self, MemoryQueue, Setup};

#[tokio::test]
async fn a_record_that_comes_twice_stands_there_once() {
    let server = server().await;
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    for batch_insert in [false, true] {
        let sink = open(&server, &json!({"id_column": "id", "enable_batch_insert": batch_insert})).await;
        let records: Vec<Record> = (0..100).map(|number| record(number, "x")).collect();
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &records[..60]).await, vec![Outcome::Delivered; 60]);
            assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
        }
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 100);
        assert_eq!(
            server.sql("SELECT id FROM mqtt_messages WHERE id LIKE '%-99'").await.expect("reads"),
            format!("{}-1-7-99", ClusterId(7))
        );
    }
    // Another unique key is not ours: its duplicate is refused.
    server.sql_of_role("CREATE UNIQUE INDEX once ON mqtt_messages (timestamp, topic)").await.expect("makes");
    for batch_insert in [false, true] {
        let sink = open(&server, &json!({"id_column": "id", "enable_batch_insert": batch_insert})).await;
        let mut other = record(500, "x");
        other.message.timestamp_ms = record(5, "x").message.timestamp_ms;
        let outcomes = deliver(&*sink, &[other]).await;
        assert!(
            matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "sqlstate_23505"),
            "{outcomes:?}"
        );
    }
    server.finish();
}

#[tokio::test]
async fn equal_record_ids_of_two_clusters_are_two_rows() {
    let server = server().await;
    server.sql_of_role(ID_COLUMN).await.expect("adds the column");
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        for cluster in [ClusterId(7), ClusterId(8)] {
            let config = server.config(&json!({"id_column": "id", "enable_batch_insert": batch_insert}));
            let sink = node().of_cluster(cluster).open("rows", "postgres", config).await.expect("opens");
            for _ in 0..2 {
                let outcomes = deliver(&*sink, &[record(1, format!("of {}", cluster.0))]).await;
                assert_eq!(outcomes, [Outcome::Delivered], "{batch_insert} {cluster}");
            }
        }
        let found = server.sql("SELECT payload FROM mqtt_messages ORDER BY 1").await.expect("reads");
        assert_eq!(found, "of 7\nof 8", "{batch_insert}");
    }
    server.finish();
}

#[tokio::test]
async fn without_an_id_column_a_repeat_is_a_second_row() {
    let server = server().await;
    for name in ["rows", "copy"] {
        let sink = open(&server, &mode(name)).await;
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 4);
    server.finish();
}

#[tokio::test]
async fn an_id_column_that_is_not_unique_is_told_at_once() {
    let server = server().await;
    server.sql_of_role("ALTER TABLE mqtt_messages ADD COLUMN id text").await.expect("adds");
    let fault = refused(&server, &json!({"id_column": "id"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT"));
    assert!(fault.message.contains("unique or exclusion constraint"), "{}", fault.message);
    let fault = refused(&server, &json!({"id_column": "absent"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing);
    assert!(fault.message.contains("\"absent\"") && fault.message.contains("42703"), "{}", fault.message);
    let fault = refused(&server, &json!({"enable_upsert": true, "conflict_columns": "id"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{}", fault.message);
    server.finish();
}

/// Record `number` about this topic.
fn about(number: u64, topic: &str) -> Record {
    let mut record = record(number, format!("v{number}"));
    record.message.topic = topic.into();
    record
}

#[tokio::test]
async fn the_last_of_a_key_stays() {
    let server = server().await;
    server.sql_of_role("CREATE UNIQUE INDEX latest ON mqtt_messages (topic)").await.expect("makes");
    server.sql_of_role("ALTER TABLE mqtt_messages ALTER payload SET NOT NULL").await.expect("alters");
    let state = "SELECT topic, payload, client_id, timestamp FROM mqtt_messages ORDER BY topic";
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let config = json!({"enable_upsert": true, "conflict_columns": "topic", "enable_batch_insert": batch_insert});
        let sink = open(&server, &config).await;
        let batch = [about(1, "a"), about(2, "b"), about(3, "a"), about(4, "b"), about(5, "c"), about(6, "a")];
        assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; 6]);
        let expect = "a|v6|device-6|1700000000006\nb|v4|device-4|1700000000004\nc|v5|device-5|1700000000005";
        assert_eq!(server.sql(state).await.expect("reads"), expect);
        assert_eq!(deliver(&*sink, &[about(9, "b")]).await, [Outcome::Delivered]);
        assert!(server.sql(state).await.expect("reads").contains("b|v9|device-9"));
        // A record that is refused does not stand in for one before it.
        let mut unfit = about(11, "a");
        unfit.message.payload = vec![0].into();
        let outcomes = deliver(&*sink, &[about(10, "a"), unfit]).await;
        assert!(matches!(&outcomes[..], [Outcome::Delivered, Outcome::RecordFault(_)]), "{outcomes:?}");
        assert!(server.sql(state).await.expect("reads").contains("a|v10|"));
    }
    server.finish();
}

#[tokio::test]
async fn a_key_of_several_columns_is_compared_as_a_whole() {
    let server = server().await;
    server.sql_of_role("CREATE UNIQUE INDEX latest ON mqtt_messages (topic, client_id)").await.expect("makes");
    let config =
        json!({"enable_upsert": true, "conflict_columns": ["client_id", "topic"], "enable_batch_insert": true});
    let sink = open(&server, &config).await;
    let mut batch = [about(1, "ab"), about(2, "a"), about(3, "ab"), about(4, "a")];
    for (record, client) in batch.iter_mut().zip(["c", "bc", "c", "c"]) {
        record.message.client_id = client.into();
    }
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; 4]);
    let found = server.sql("SELECT topic, client_id, payload FROM mqtt_messages ORDER BY 1, 2").await.expect("reads");
    assert_eq!(found, "a|bc|v2\na|c|v4\nab|c|v3");
    server.finish();
}

#[tokio::test]
async fn keys_that_only_the_server_knows_to_be_equal_are_found_in_halves() {
    let server = server().await;
    server.sql("CREATE EXTENSION citext").await.expect("is there");
    server
        .sql_of_role(
            "ALTER TABLE mqtt_messages ALTER topic TYPE citext; CREATE UNIQUE INDEX latest ON mqtt_messages (topic)",
        )
        .await
        .expect("alters");
    let config = json!({"enable_upsert": true, "conflict_columns": "topic", "enable_batch_insert": true});
    let sink = node().sink_for("rows", "postgres", server.config(&config));
    let queue = MemoryQueue::with(
        ["a", "B", "A", "b", "c"]
            .into_iter()
            .zip(0..)
            .map(|(topic, number)| api_types::Message { topic: topic.into(), ..double::message(number) }),
    );
    let task = Setup::default().start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 5);
    let found = server.sql("SELECT lower(topic), payload FROM mqtt_messages ORDER BY 1").await.expect("reads");
    assert_eq!(found, "a|p2\nb|p3\nc|p4");
    server.finish();
}
