//! The same record, and the same key, twice.

use api_types::{ClusterId, Record};

use super::*;

#[tokio::test]
async fn a_record_that_comes_twice_stands_there_once() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
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
    server.finish();
}

#[tokio::test]
async fn a_duplicate_of_another_key_is_not_hidden() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    server.sql_of_user("CREATE UNIQUE INDEX once ON mqtt_messages (timestamp)").await.expect("makes");
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let sink = open(&server, &json!({"id_column": "id", "enable_batch_insert": batch_insert})).await;
        let records: Vec<Record> = (0..10).map(|number| record(number, "x")).collect();
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 10]);
        // One that is there, one that is new, one that meets another's key.
        let mut other = record(500, "x");
        other.message.timestamp_ms = record(5, "x").message.timestamp_ms;
        let outcomes = deliver(&*sink, &[record(3, "x"), record(11, "x"), other]).await;
        assert_eq!(class(&outcomes[2]), "mysql_1062", "{batch_insert}");
        assert!(format!("{:?}", outcomes[2]).contains("once"), "{outcomes:?}");
        assert!(matches!(&outcomes[..2], [Outcome::Unclear(_), Outcome::Unclear(_)]), "{outcomes:?}");
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 10);
        assert_eq!(deliver(&*sink, &[record(3, "x"), record(11, "x")]).await, vec![Outcome::Delivered; 2]);
        assert_eq!(server.count("mqtt_messages").await.expect("counts"), 11);
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn equal_record_ids_of_two_clusters_are_two_rows() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        for cluster in [ClusterId(7), ClusterId(8)] {
            let config = server.config(&json!({
                "id_column": "id", "enable_batch_insert": batch_insert, "payload_format": "raw",
            }));
            let sink = node().of_cluster(cluster).open("rows", "mysql", config).await.expect("opens");
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
async fn the_longest_id_fits_into_the_documented_column() {
    let server = server().await;
    server.sql_of_user(ID_COLUMN).await.expect("adds the column");
    let config = server.config(&json!({"id_column": "id"}));
    let sink = node().of_cluster(ClusterId(u128::MAX)).open("rows", "mysql", config).await.expect("opens");
    let mut longest = record(0, "x");
    longest.id.sequence = api_types::Sequence(u64::MAX - 1);
    longest.id.raft_id = api_types::RaftId(u64::MAX);
    longest.id.incarnation = api_types::Incarnation(u64::MAX);
    for _ in 0..2 {
        assert_eq!(deliver(&*sink, std::slice::from_ref(&longest)).await, [Outcome::Delivered]);
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 1);
    server.finish();
}

#[tokio::test]
async fn without_an_id_column_a_repeat_is_a_second_row() {
    let server = server().await;
    for name in ["rows", "many"] {
        let sink = open(&server, &mode(name)).await;
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &[record(1, "x"), record(2, "x")]).await, vec![Outcome::Delivered; 2]);
        }
    }
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 8);
    server.finish();
}

#[tokio::test]
async fn a_key_that_is_not_unique_is_told_at_once() {
    let server = server().await;
    let does_not_fit = TargetFaultKind::Misconfigured("TARGET_REFUSES_STATEMENT");
    server.sql_of_user("ALTER TABLE mqtt_messages ADD COLUMN id VARCHAR(96)").await.expect("adds");
    let fault = refused(&server, &json!({"id_column": "id"})).await;
    assert_eq!(fault.kind, does_not_fit);
    assert!(fault.message.contains("no unique key on exactly id"), "{}", fault.message);
    server.sql_of_user("CREATE UNIQUE INDEX of_a_prefix ON mqtt_messages (id(10))").await.expect("makes");
    assert_eq!(refused(&server, &json!({"id_column": "id"})).await.kind, does_not_fit, "a prefix is not the id");
    let fault = refused(&server, &json!({"id_column": "absent"})).await;
    assert_eq!(fault.kind, TargetFaultKind::Missing);
    assert!(fault.message.contains("absent") && fault.message.contains("1054"), "{}", fault.message);
    let upsert = |columns: Value| json!({"enable_upsert": true, "conflict_columns": columns});
    assert_eq!(refused(&server, &upsert(json!("record_key"))).await.kind, does_not_fit);
    let fault = refused(&server, &upsert(json!("id"))).await;
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{}", fault.message);

    // ON DUPLICATE KEY UPDATE would replace by the other key too.
    server
        .sql_of_user(
            "CREATE UNIQUE INDEX latest ON mqtt_messages (record_key);
             CREATE UNIQUE INDEX other ON mqtt_messages (timestamp)",
        )
        .await
        .expect("makes");
    let fault = refused(&server, &upsert(json!("record_key"))).await;
    assert_eq!(fault.kind, does_not_fit);
    assert!(fault.message.contains("other on timestamp"), "{}", fault.message);
    // A number that the server gives, and NULL, meet nothing.
    server
        .sql_of_user(
            "DROP INDEX other ON mqtt_messages; ALTER TABLE mqtt_messages ADD n INT AUTO_INCREMENT PRIMARY KEY",
        )
        .await
        .expect("alters");
    open(&server, &upsert(json!("record_key"))).await;
    server.finish();
}

/// Record `number` of this client.
fn of(number: u64, client: &str) -> Record {
    let mut record = record(number, format!("v{number}"));
    record.message.client_id = client.into();
    record
}

#[tokio::test]
async fn the_last_of_a_key_stays() {
    let server = server().await;
    server.sql_of_user("CREATE UNIQUE INDEX latest ON mqtt_messages (record_key)").await.expect("makes");
    let state = "SELECT record_key, payload, timestamp FROM mqtt_messages ORDER BY record_key";
    for batch_insert in [false, true] {
        server.sql("TRUNCATE mqtt_messages").await.expect("empties");
        let config = json!({
            "enable_upsert": true, "conflict_columns": "record_key", "enable_batch_insert": batch_insert,
            "payload_format": "raw",
        });
        let sink = open(&server, &config).await;
        let batch = [of(1, "a"), of(2, "b"), of(3, "A"), of(4, "b"), of(5, "c"), of(6, "a"), of(7, "d")];
        assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; 7]);
        // The server takes a and A for the same key, and the key itself is not replaced.
        let expect = "a|v6|1700000000006\nb|v4|1700000000004\nc|v5|1700000000005\nd|v7|1700000000007";
        assert_eq!(server.sql(state).await.expect("reads"), expect, "{batch_insert}");
        assert_eq!(deliver(&*sink, &[of(9, "b")]).await, [Outcome::Delivered]);
        assert!(server.sql(state).await.expect("reads").contains("b|v9|"));
        // A record that is refused does not stand in for one before it.
        let mut unfit = of(11, "a");
        unfit.message.payload = vec![0xff].into();
        let outcomes = deliver(&*sink, &[of(10, "a"), unfit]).await;
        assert!(matches!(&outcomes[..], [Outcome::Unclear(_), Outcome::RecordFault(_)]), "{outcomes:?}");
        assert!(server.sql(state).await.expect("reads").contains("a|v6|"), "all or none");
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn a_row_that_is_nothing_but_its_key_is_there_already() {
    let server = server().await;
    server
        .sql_of_user("CREATE TABLE keys_only (record_key VARCHAR(100) PRIMARY KEY, n INT DEFAULT 3)")
        .await
        .expect("makes");
    let config = json!({"table": "keys_only", "enable_upsert": true, "conflict_columns": "record_key"});
    let sink = open(&server, &config).await;
    assert_eq!(deliver(&*sink, &[of(1, "a"), of(2, "a")]).await, vec![Outcome::Delivered; 2]);
    assert_eq!(server.sql("SELECT * FROM keys_only").await.expect("reads"), "a|3");
    server.finish();
}

#[tokio::test]
async fn a_key_of_several_columns_is_compared_as_a_whole() {
    let server = server().await;
    server.sql_of_user("CREATE UNIQUE INDEX latest ON mqtt_messages (timestamp, record_key)").await.expect("makes");
    let config = json!({
        "enable_upsert": true, "conflict_columns": ["record_key", "timestamp"], "enable_batch_insert": true,
        "payload_format": "raw",
    });
    let sink = open(&server, &config).await;
    let mut batch = [of(1, "a"), of(2, "a"), of(3, "b"), of(4, "a")];
    for (record, time) in batch.iter_mut().zip([7, 8, 7, 7]) {
        record.message.timestamp_ms = time;
    }
    assert_eq!(deliver(&*sink, &batch).await, vec![Outcome::Delivered; 4]);
    let found =
        server.sql("SELECT record_key, timestamp, payload FROM mqtt_messages ORDER BY 1, 2").await.expect("reads");
    assert_eq!(found, "a|7|v4\na|8|v2\nb|7|v3");
    server.finish();
}
