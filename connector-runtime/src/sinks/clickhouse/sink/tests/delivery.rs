//! What stands in the target.

use super::*;

const COUNT: u64 = 10_000;

#[tokio::test]
async fn ten_thousand_records_are_one_insert_with_all_their_values() {
    let server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| Message {
        qos: u8::try_from(number % 3).expect("is small"),
        retain: number % 2 == 0,
        topic: format!("plant/{}", number % 7),
        client_id: if number % 5 == 0 { String::new() } else { format!("device-{number}") },
        ..message(number, format!("{{\"n\":{number}}}"))
    }));
    let started = std::time::Instant::now();
    let task = start(&queue, server.config(TABLE, &json!({})));
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    assert_eq!(task.report().counters.send_success_total, COUNT);
    assert_eq!(server.inserts(TABLE).expect("reads the log"), 1, "a batch is one insert");
    let query = format!(
        "SELECT id, topic, client_id, qos, retain, toUInt32(timestamp) AS seconds, payload, key FROM {DATABASE}.{TABLE}"
    );
    let mut found = rows(&server, &query).await;
    assert_eq!(found.len() as u64, COUNT);
    let sequence = |row: &Value| -> u64 {
        let id = row["id"].as_str().expect("is text");
        id.strip_prefix("1-7-").expect("is of this queue").parse().expect("ends with a number")
    };
    found.sort_by_key(sequence);
    for (number, row) in (0..COUNT).zip(&found) {
        let topic = format!("plant/{}", number % 7);
        let client_id = if number % 5 == 0 { String::new() } else { format!("device-{number}") };
        let key = if client_id.is_empty() { &topic } else { &client_id };
        let expect = json!({
            // Their sequences are ten apart.
            "id": format!("1-7-{}", number * 10), "topic": topic, "client_id": client_id, "qos": number % 3,
            "retain": u64::from(number % 2 == 0), "seconds": 1_700_000_000 + number / 1_000,
            "payload": format!("{{\"n\":{number}}}"), "key": key,
        });
        assert_eq!(*row, expect);
    }
    server.finish();
}

#[tokio::test]
async fn the_pages_statement_for_old_releases_fits_this_one() {
    let page = include_str!("../../../../../../docs/connectors/clickhouse.md");
    let (_, statement) = page.split_once("```sql\nCREATE TABLE messages (\n").expect("a statement");
    let (_, statement) = statement.split_once("```sql\nCREATE TABLE messages (\n").expect("a second one");
    let (columns, rest) = statement.split_once("```").expect("its end").0.split_once("\n) ").expect("columns");
    let server = server().await;
    let rest = rest.trim_end().trim_end_matches(';');
    run(&server, &format!("CREATE TABLE {DATABASE}.old ({columns}) {rest}")).await;
    assert_eq!(
        deliver(&*open(&server, &json!({"table": "old"})).await, &records(3)).await,
        vec![Outcome::Delivered; 3]
    );
    let query =
        format!("SELECT count() AS all, min(toUInt32(timestamp)) AS first, any(topic) AS topic FROM {DATABASE}.old");
    let expect = json!({"all": 3, "first": 1_700_000_000, "topic": "plant/one"});
    assert_eq!(rows(&server, &query).await, [expect]);
    server.finish();
}

#[tokio::test]
async fn every_byte_arrives_as_it_was() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let all: Vec<u8> = (0..=255).collect();
    let mut payloads: Vec<Vec<u8>> = all.iter().flat_map(|byte| [vec![*byte], vec![b'a', *byte, b'z']]).collect();
    payloads.extend([
        all.clone(),
        all.repeat(4_000),
        b"\\N".to_vec(),
        b"\r\n".to_vec(),
        b"x\r".to_vec(),
        b"\\".to_vec(),
        b"'); DROP TABLE messages; --".to_vec(),
        Vec::new(),
    ]);
    let texts = ["", "a\tb", "line\nbreak", "back\\slash", "it's `quoted`", "ü 東京 🚀", "\\N", "\u{0}"];
    let sent: Vec<Record> = payloads
        .into_iter()
        .enumerate()
        .map(|(number, payload)| {
            let mut record = record(number as u64, payload);
            record.message.topic = format!("t/{}", texts[number % texts.len()]);
            record.message.client_id = texts[(number / 3) % texts.len()].to_owned();
            record
        })
        .collect();
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; sent.len()]);
    let query = format!(
        "SELECT id, hex(payload) AS payload, hex(topic) AS topic, hex(client_id) AS client, hex(key) AS key FROM {DATABASE}.{TABLE}"
    );
    let found = rows(&server, &query).await;
    assert_eq!(found.len(), sent.len());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    for record in &sent {
        let row = found.iter().find(|row| row["id"] == record.id.to_string()).expect("is there");
        let message = &record.message;
        let expect =
            [&*message.payload, message.topic.as_bytes(), message.client_id.as_bytes(), message.key().as_bytes()];
        let read = ["payload", "topic", "client", "key"].map(|column| row[column].as_str().expect("is text"));
        assert_eq!(read.map(str::to_owned), expect.map(hex), "{record:?}");
    }
    server.finish();
}

#[tokio::test]
async fn the_columns_that_the_table_has_are_filled() {
    let server = server().await;
    for (table, columns, query, expect) in [
        ("one", "payload String", "payload", json!({"payload": "7"})),
        (
            "own",
            "n UInt64 DEFAULT 5, key String, id String",
            "n, key, id",
            json!({"n": 5, "key": "device-7", "id": "1-7-7"}),
        ),
        (
            "computed",
            "payload String, id String MATERIALIZED 'mine', topic String ALIAS 'ours'",
            "payload, id, topic",
            json!({"payload": "7", "id": "mine", "topic": "ours"}),
        ),
        (
            "typed",
            "payload Float64, qos Int32, retain String, key FixedString(8), topic Nullable(String)",
            "*",
            json!({"payload": 7, "qos": 0, "retain": "false", "key": "device-7", "topic": "plant/one"}),
        ),
        ("milliseconds", "timestamp UInt64", "timestamp", json!({"timestamp": 1_700_000_000_007_u64})),
        ("words", "timestamp String", "timestamp", json!({"timestamp": "1700000000007"})),
        ("day", "timestamp Date", "timestamp", json!({"timestamp": "2023-11-14"})),
        ("zone", "timestamp Nullable(DateTime('Asia/Tokyo'))", "toUInt32(timestamp) AS t", json!({"t": 1_700_000_000})),
    ] {
        make(&server, table, columns).await;
        let sink = open(&server, &json!({"table": table})).await;
        assert_eq!(deliver(&*sink, &[record(7, "7")]).await, [Outcome::Delivered], "{table}");
        let found = rows(&server, &format!("SELECT {query} FROM {DATABASE}.{table}")).await;
        assert_eq!(found, [expect], "{table}");
    }
    server.finish();
}

#[tokio::test]
async fn names_cannot_leave_their_quotes() {
    let server = server().await;
    let name = "it's `strange` \\ ; DROP TABLE messages";
    let quoted = "`it's \\`strange\\` \\\\ ; DROP TABLE messages`";
    run(&server, &format!("CREATE DATABASE {quoted}")).await;
    run(&server, &format!("CREATE TABLE {quoted}.{quoted} (payload String) ENGINE = MergeTree ORDER BY tuple()")).await;
    let sink = open(&server, &json!({"database": name, "table": name})).await;
    assert_eq!(deliver(&*sink, &[record(7, "7")]).await, [Outcome::Delivered]);
    assert_eq!(server.interface().count(&format!("{quoted}.{quoted}")).await.expect("counts"), 1);
    assert_eq!(count(&server, TABLE).await, 0);
    server.finish();
}

#[tokio::test]
async fn a_record_without_a_form_ends_alone_and_is_not_sent() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let mut sent = records(3);
    // A time that DateTime would wrap around.
    sent[1].message.timestamp_ms = 5_000_000_000_000;
    let outcomes = deliver(&*sink, &sent).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    assert!(
        matches!(&outcomes[1], Outcome::RecordFault(fault) if fault.offline && &*fault.class == "time_out_of_range"),
        "{outcomes:?}"
    );
    assert_eq!(count(&server, TABLE).await, 2);
    let outcomes = deliver(&*sink, &sent[1..2]).await;
    assert!(matches!(&outcomes[0], Outcome::RecordFault(_)), "{outcomes:?}");
    assert_eq!(server.inserts(TABLE).expect("reads the log"), 1, "nothing to send is not sent");
    server.finish();
}

#[tokio::test]
async fn a_hundred_thousand_records_are_one_insert() {
    let server = server().await;
    let sink = open(&server, &json!({"timeout_secs": 60})).await;
    let sent = records(100_000);
    let started = std::time::Instant::now();
    assert!(deliver(&*sink, &sent).await.iter().all(|outcome| *outcome == Outcome::Delivered));
    println!("measured: 100,000 records in one insert in {:?}", started.elapsed());
    all_are_there_once(&server, TABLE, 100_000).await;
    assert_eq!(server.inserts(TABLE).expect("reads the log"), 1);
    let parts =
        format!("SELECT count() FROM system.parts WHERE database = '{DATABASE}' AND table = '{TABLE}' AND active");
    assert_eq!(server.interface().value(&parts).await.expect("counts"), "1", "one insert makes one part");
    server.finish();
}
