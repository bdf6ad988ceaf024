//! What arrives, and by which statements.

use std::collections::BTreeSet;

use super::*;

/// Of the server, since it was started.
async fn executed(server: &Cassandra, what: &str) -> f64 {
    let query = format!("SELECT value FROM system_views.cql_metrics WHERE name = '{what}_statements_executed'");
    server.rows(&query).await.expect("reads")[0]["value"].as_f64().expect("a number")
}

#[tokio::test]
async fn ten_thousand_records_arrive_whole_by_one_prepared_statement() {
    const COUNT: u64 = 10_000;
    let server = server_alone().await;
    let (prepared, plain) = (executed(&server, "prepared").await, executed(&server, "regular").await);
    let queue = MemoryQueue::with((0..COUNT).map(numbered_message));
    let began = std::time::Instant::now();
    let task = run(&queue, server.config(TABLE, &json!({ "batch_records": 1_000 })));
    queue.all_committed().await;
    println!("measured: {COUNT} rows in {:?}", began.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    let prepared = executed(&server, "prepared").await - prepared;
    let plain = executed(&server, "regular").await - plain;
    println!("measured: {prepared} prepared and {plain} other statements");
    assert!(prepared >= COUNT as f64 && plain < 100.0, "{prepared} prepared and {plain} other statements");
    let text = server.rows(&format!("SELECT CAST(blobAsText(payload) AS text) AS p FROM {KEYSPACE}.{TABLE}")).await;
    let found: BTreeSet<String> = text.expect("reads").iter().map(|row| row["p"].to_string()).collect();
    let expect: BTreeSet<String> =
        (0..COUNT).map(|number| Value::from(json!({ "n": number }).to_string()).to_string()).collect();
    assert_eq!(found.len() as u64, COUNT);
    assert!(found == expect, "a payload is missing or altered");
    assert_eq!(server.count(TABLE).await.expect("counts"), COUNT);
}

#[tokio::test]
async fn a_row_has_the_parts_of_its_record() {
    const TABLE: &str = "parts";
    let server = server_with(TABLE).await;
    server
        .run(&[&format!("ALTER TABLE {KEYSPACE}.{TABLE} ADD (client_id text, retain boolean, other int)")])
        .await
        .unwrap();
    let mut sent = records([&b"warm"[..], b"", b"\xff\0", "Z\u{fc}rich \u{1f680}'\"\n".as_bytes()]);
    let message = &mut sent[0].message;
    (message.qos, message.retain, message.topic) = (2, true, "a'); DROP TABLE x; --/ü".into());
    let sink = open(&server, TABLE, &json!({})).await;
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 4]);
    let found = rows(&server, TABLE).await;
    let cluster = ClusterId(7);
    let first = json!({
        "msgid": format!("{cluster}-1-7-0"), "arrived": 1_700_000_000_000_u64, "client_id": "device-0",
        "other": null, "payload": hex(b"warm"), "qos": 2, "retain": true, "topic": "a'); DROP TABLE x; --/ü",
    });
    assert_eq!(found[0], first);
    assert_eq!(found[1]["payload"], hex(b""));
    assert_eq!(found[2]["payload"], hex(b"\xff\0"));
    assert_eq!(found[3]["payload"], hex("Z\u{fc}rich \u{1f680}'\"\n".as_bytes()));
    assert_eq!((&found[3]["qos"], &found[3]["retain"]), (&json!(0), &json!(false)));
    let query = format!("SELECT msgid, WRITETIME(payload) AS w, TTL(payload) AS t FROM {KEYSPACE}.{TABLE}");
    let written = server.rows(&query).await.expect("reads");
    let third = written.iter().find(|row| row["msgid"] == format!("{cluster}-1-7-3")).expect("is there");
    assert_eq!((&third["w"], &third["t"]), (&json!(1_700_000_000_003_003_u64), &Value::Null));

    // The same records of another cluster are others.
    let other = TestNode::new(&[], PathBuf::from("/nowhere"), &[]).of_cluster(ClusterId(8));
    let sink = other.open("rows", "cassandra", server.config(TABLE, &json!({}))).await.expect("opens");
    for _ in 0..2 {
        assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 4]);
    }
    assert_eq!(server.count(TABLE).await.expect("counts"), 8);
}

#[tokio::test]
async fn values_follow_the_types_of_the_columns() {
    let server = server().await;
    let columns = "msgid blob PRIMARY KEY, topic ascii, client_id varchar, qos varint, retain tinyint, payload double, \
                   arrived date";
    server.make_table("numbers", columns).await.expect("makes the table");
    let sink = opened(server.config("numbers", &json!({}))).await;
    let outcomes = deliver(&*sink, &records(["21.5", "warm", "-3e2"])).await;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Delivered, &Outcome::Delivered));
    let fault = record_fault(&outcomes[1]);
    assert_eq!((&*fault.class, fault.offline), ("unreadable_value", true));
    let found = rows(&server, "numbers").await;
    let mut payloads: Vec<f64> = found.iter().map(|row| row["payload"].as_f64().expect("a number")).collect();
    payloads.sort_by(f64::total_cmp);
    assert_eq!(payloads, [-300.0, 21.5]);
    let row = found.iter().find(|row| row["payload"] == 21.5).expect("is there");
    assert_eq!(row["msgid"], hex(format!("{}-1-7-0", ClusterId(7)).as_bytes()));
    let parts = ["topic", "client_id", "qos", "retain", "arrived"].map(|name| row[name].clone());
    assert_eq!(parts, [json!("plant/one"), json!("device-0"), json!(0), json!(0), json!("2023-11-14")]);

    server
        .make_table(
            "texts",
            "topic text, msgid text, payload text, arrived bigint, qos text, PRIMARY KEY (topic, msgid)",
        )
        .await
        .unwrap();
    for (format, expect) in [("raw", None), ("envelope", Some("payload_base64"))] {
        let sink = opened(server.config("texts", &json!({ "payload_format": format }))).await;
        let outcomes = deliver(&*sink, &records([&b"warm"[..], b"\xff"])).await;
        assert_eq!(outcomes[0], Outcome::Delivered);
        let found = rows(&server, "texts").await;
        match expect {
            None => {
                assert_eq!((&*record_fault(&outcomes[1]).class, found.len()), ("not_utf8", 1));
                assert_eq!((&found[0]["payload"], &found[0]["qos"]), (&json!("warm"), &json!("0")));
                assert_eq!(found[0]["arrived"], json!(1_700_000_000_000_u64));
                server.run(&[&format!("TRUNCATE {KEYSPACE}.texts")]).await.expect("empties");
            }
            Some(field) => {
                assert_eq!((&outcomes[1], found.len()), (&Outcome::Delivered, 2));
                let envelope: Value = serde_json::from_str(found[1]["payload"].as_str().unwrap()).expect("is JSON");
                assert_eq!((&envelope["topic"], &envelope[field]), (&json!("plant/one"), &json!("/w==")));
            }
        }
    }
}

#[tokio::test]
async fn a_repeat_changes_nothing_and_the_latest_of_a_key_stays() {
    const TABLE: &str = "repeated";
    let server = server_with(TABLE).await;
    let sink = open(&server, TABLE, &json!({})).await;
    for _ in 0..3 {
        assert_eq!(deliver(&*sink, &numbered(0..100)).await, vec![Outcome::Delivered; 100]);
    }
    assert_eq!(server.count(TABLE).await.expect("counts"), 100);

    // A row for each topic: what was published last, in whichever order it is written.
    server.make_table("latest", "topic text PRIMARY KEY, msgid text, payload text").await.expect("makes the table");
    let sink = opened(server.config("latest", &json!({}))).await;
    let mut sent = records(["first", "second", "third"]);
    sent.iter_mut().for_each(|record| record.message.timestamp_ms = 1_700_000_000_000);
    for place in [1, 2, 0] {
        assert_eq!(deliver(&*sink, &sent[place..=place]).await, [Outcome::Delivered]);
    }
    let found = rows(&server, "latest").await;
    assert_eq!((found.len(), &found[0]["payload"]), (1, &json!("third")));
    // There is room for a thousand in a millisecond, so across a multiple of that the earlier one may stay.
    for (sequence, payload, expect) in [(998, "a", "a"), (999, "b", "b"), (1_000, "c", "b")] {
        let mut record = record(sequence, payload);
        (record.message.timestamp_ms, record.message.topic) = (1_700_000_000_000, "border".into());
        assert_eq!(deliver(&*sink, &[record]).await, [Outcome::Delivered]);
        let found = rows(&server, "latest").await;
        let row = found.iter().find(|row| row["topic"] == "border").expect("is there");
        assert_eq!(row["payload"], json!(expect), "after {sequence}");
    }
}

#[tokio::test]
async fn the_example_of_the_page_works() {
    let page = include_str!("../../../../../../docs/connectors/cassandra.md");
    let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let mut config = serde_json::from_str::<Value>(example).expect("is JSON")["config"].clone();
    let server = server().await;
    let (_, statements) = page.split_once("```sql\n").expect("statements");
    let (statements, _) = statements.split_once("```").expect("their end");
    // The keyspace is there, for one node.
    let statements = statements.split(';').skip(1).map(str::trim).filter(|statement| !statement.is_empty());
    let statements: Vec<String> = statements
        .map(|statement| {
            let lines = statement.lines().map(|line| line.split("--").next().unwrap_or_default());
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect();
    server.run(&statements.iter().map(String::as_str).collect::<Vec<_>>()).await.expect("makes the table");
    server.run(&[&format!("GRANT MODIFY ON {KEYSPACE}.{TABLE} TO {USER}")]).await.expect("grants");
    (config["port"], config["password"]) = (json!(server.port()), json!(PASSWORD));
    let sink = opened(config).await;
    assert_eq!(deliver(&*sink, &records(["x"])).await, [Outcome::Delivered]);
    let found = rows(&server, TABLE).await;
    assert_eq!((&found[0]["payload"], &found[0]["client_id"]), (&hex(b"x"), &json!("device-0")));
}
