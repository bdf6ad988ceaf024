//! Against the engine of a current release: its types, its tokens, its views. Left out, and said so, where it is not here.

use std::sync::atomic::Ordering;

use ::tests::clickhouse::engine::Engine;
use api_types::ClusterId;

use super::*;
use crate::sinks::clickhouse::config::DDL;
use crate::sinks::opened::Counted;

const PAGE: &str = include_str!("../../../../../../docs/connectors/clickhouse.md");

async fn made(engine: &Engine, table: &str, columns: &str, rest: &str) {
    let statement = format!("CREATE TABLE {DATABASE}.{table} ({columns}) ENGINE = MergeTree {rest}");
    engine.interface().run(&statement).await.expect("makes the table");
}

async fn opened(engine: &Engine, table: &str) -> Box<dyn Sink> {
    node().open("rows", "clickhouse", engine.config(table, &json!({}))).await.expect("opens")
}

async fn read(engine: &Engine, query: &str) -> Vec<Value> {
    engine.interface().rows(query).await.expect("reads")
}

/// The statement of the kind's page, and what it says of a record.
#[tokio::test]
async fn the_pages_statement_takes_the_pages_example() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    assert!(PAGE.contains(DDL), "the page shows the statement");
    engine.interface().run(&DDL.replacen("messages", "sluice.messages", 1)).await.expect("the statement runs");
    let (_, example) = PAGE.split_once("## Example\n\n```json\n").expect("an example");
    let example: Value = serde_json::from_str(example.split_once("```").expect("its end").0).expect("is JSON");
    let here = engine.config("messages", &json!({}));
    let mut config = example["config"].clone();
    for field in ["url", "database", "username", "password"] {
        config[field] = here[field].clone();
    }
    let queue = MemoryQueue::with([Message { qos: 1, retain: true, ..message(123, "{\"celsius\":21.5}") }]);
    let task = start(&queue, config);
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 1);
    let query = format!("SELECT * EXCEPT timestamp, toUnixTimestamp64Milli(timestamp) AS ms FROM {DATABASE}.messages");
    let expect = json!({
        "id": "1-7-0", "topic": "plant/one", "client_id": "device-123", "qos": 1, "retain": true,
        "payload": "{\"celsius\":21.5}", "key": "device-123", "ms": 1_700_000_000_123_u64,
    });
    assert_eq!(read(&engine, &query).await, [expect]);
    engine.finish();
}

#[tokio::test]
async fn a_batch_is_stored_once_however_often_it_comes() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    made(
        &engine,
        "once",
        "id String, payload String",
        "ORDER BY id SETTINGS non_replicated_deduplication_window = 100",
    )
    .await;
    let sent = records(1_000);
    let delivered = vec![Outcome::Delivered; 1_000];
    let first = opened(&engine, "once").await;
    for _ in 0..3 {
        assert_eq!(deliver(&*first, &sent).await, delivered);
    }
    // Another owner after a crash; and one that knows of other columns meanwhile.
    assert_eq!(deliver(&*opened(&engine, "once").await, &sent).await, delivered);
    engine.interface().run(&format!("ALTER TABLE {DATABASE}.once ADD COLUMN topic String")).await.expect("alters");
    assert_eq!(deliver(&*opened(&engine, "once").await, &sent).await, delivered);
    let count = async || engine.interface().count(&format!("{DATABASE}.once")).await.expect("counts");
    assert_eq!(count().await, 1_000);
    // Other bounds are another batch, and so is the same batch of another cluster.
    assert_eq!(deliver(&*first, &sent[..500]).await, vec![Outcome::Delivered; 500]);
    assert_eq!(count().await, 1_500);
    let other = node().of_cluster(ClusterId(8));
    let other = other.open("rows", "clickhouse", engine.config("once", &json!({}))).await.expect("opens");
    assert_eq!(deliver(&*other, &sent).await, delivered);
    assert_eq!(count().await, 2_500);
    let inserts = engine.inserts().expect("reads the log");
    let token = format!("insert_deduplication_token={}-1-7-0-1000", ClusterId(7));
    assert!(inserts[0].contains(&token), "{inserts:?}");
    // What this release would do otherwise.
    assert!(
        inserts.iter().all(|insert| insert.contains("async_insert=0 input_format_parallel_parsing=0")),
        "{inserts:?}"
    );
    engine.finish();
}

/// Of several blocks with one token, this release stores those that come again once more.
#[tokio::test]
async fn a_batch_is_one_block_whatever_the_settings_say() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    let rest = "ORDER BY id SETTINGS non_replicated_deduplication_window = 100";
    let sent: Vec<Record> = (0..2_000).map(|number| record(number, format!("{number:0100}"))).collect();
    for (table, settings) in [
        ("rows", "max_insert_block_size=100&use_strict_insert_block_limits=1"),
        ("bytes", "max_insert_block_size_bytes=1000&use_strict_insert_block_limits=1"),
        ("parsed", "input_format_max_block_size_bytes=1000&min_insert_block_size_rows=0&min_insert_block_size_bytes=0"),
    ] {
        made(&engine, table, "id String, payload String", rest).await;
        let url = format!("{}/?{settings}", engine.interface().url());
        let config = engine.config(table, &json!({"url": url}));
        let sink = node().open("rows", "clickhouse", config).await.expect("opens");
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 2_000], "{table}");
        }
        assert_eq!(engine.interface().count(&format!("{DATABASE}.{table}")).await.expect("counts"), 2_000, "{table}");
    }
    engine.finish();
}

/// By itself this release takes a first row that names columns for a header, and the others in the header's order.
#[tokio::test]
async fn a_first_row_that_looks_like_a_header_is_a_row() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    let two = json!([{"topic": "plant/one", "payload": "2"}, {"topic": "payload", "payload": "topic"}]);
    for (table, columns, topic, payload, expect) in [
        ("two", "topic String, payload String", "payload", "topic", two),
        ("one", "payload String", "plant/one", "payload", json!([{"payload": "2"}, {"payload": "payload"}])),
    ] {
        made(&engine, table, columns, "ORDER BY payload").await;
        let (mut named, other) = (record(1, payload), record(2, "2"));
        named.message.topic = topic.to_owned();
        let outcomes = deliver(&*opened(&engine, table).await, &[named, other]).await;
        assert_eq!(outcomes, vec![Outcome::Delivered; 2], "{table}");
        let found = read(&engine, &format!("SELECT * FROM {DATABASE}.{table} ORDER BY payload")).await;
        assert_eq!(Value::Array(found), expect, "{table}");
    }
    engine.finish();
}

#[tokio::test]
async fn current_types_take_what_they_can_hold() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    for (table, columns, query, expect) in [
        ("seconds", "timestamp DateTime64(0)", "toString(timestamp, 'UTC') AS t", json!({"t": "2023-11-14 22:13:20"})),
        (
            "nanoseconds",
            "timestamp DateTime64(9, 'Asia/Tokyo')",
            "toString(timestamp, 'UTC') AS t",
            json!({"t": "2023-11-14 22:13:20.007000000"}),
        ),
        ("days", "timestamp Date32", "timestamp", json!({"timestamp": "2023-11-14"})),
        ("decimals", "timestamp Decimal(18, 3)", "timestamp", json!({"timestamp": 1_700_000_000_007_u64})),
        ("booleans", "retain Nullable(Bool)", "retain", json!({"retain": false})),
        ("wide", "qos Int256, retain UInt8", "*", json!({"qos": 0, "retain": 0})),
        (
            "rare",
            "topic LowCardinality(Nullable(String)), key LowCardinality(String)",
            "*",
            json!({"topic": "plant/one", "key": "device-7"}),
        ),
        ("documents", "payload JSON", "payload.celsius AS c, payload.on AS on", json!({"c": 21.5, "on": true})),
        (
            "computed",
            "payload String EPHEMERAL, celsius Float64 DEFAULT JSONExtractFloat(payload, 'celsius')",
            "*",
            json!({"celsius": 21.5}),
        ),
    ] {
        made(&engine, table, columns, "ORDER BY tuple() SETTINGS allow_nullable_key = 1").await;
        let sent = record(7, "{\"celsius\":21.5,\"on\":true}");
        assert_eq!(deliver(&*opened(&engine, table).await, &[sent]).await, [Outcome::Delivered], "{table}");
        assert_eq!(read(&engine, &format!("SELECT {query} FROM {DATABASE}.{table}")).await, [expect], "{table}");
    }
    let sink = opened(&engine, "documents").await;
    let outcomes = deliver(&*sink, &[record(1, "no document")]).await;
    assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "clickhouse_117"), "{outcomes:?}");
    engine.finish();
}

/// Of a thousand records one is refused; gives how many inserts that took.
async fn one_ends(engine: &Engine, table: &str, text: &str, class: &str) -> usize {
    let queue = MemoryQueue::with(
        (0..1_000).map(|number| message(number, if number == 617 { text.to_owned() } else { number.to_string() })),
    );
    let sink = node().sink_for("rows", "clickhouse", engine.config(table, &json!({})));
    let (opener, requests) = Counted::new(sink.opener);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    let task = Setup { policy, order: sink.order, ..Setup::default() }.start_with(&queue, opener, sink.options);
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), [617], "{table}");
    assert!(format!("{ends:?}").contains(class), "{ends:?}");
    assert_eq!(task.report().counters.send_success_total, 999);
    requests.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_row_that_is_refused_ends_alone() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    for (table, columns, class, named) in [
        ("parsed", "payload Float64, id String", "clickhouse_72", true),
        ("whole", "payload UInt64, id String", "clickhouse_27", true),
        (
            "constrained",
            "payload String, id String, CONSTRAINT believable CHECK payload != 'hot'",
            "clickhouse_469",
            true,
        ),
        ("computed", "payload String, id String, c Float64 MATERIALIZED toFloat64(payload)", "clickhouse_", false),
    ] {
        made(&engine, table, columns, "ORDER BY tuple()").await;
        let requests = one_ends(&engine, table, "hot", class).await;
        println!("measured: {requests} inserts for one of 1,000 in {table}");
        assert!(if named { requests == 4 } else { requests <= 2 * 10 + 1 }, "{table}: {requests}");
        let query = format!("SELECT count() AS all, uniqExact(id) AS different FROM {DATABASE}.{table}");
        assert_eq!(read(&engine, &query).await, [json!({"all": 999, "different": 999})], "{table}");
    }
    engine.finish();
}

#[tokio::test]
async fn a_view_that_refuses_a_row_leaves_none_of_the_others_out() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    made(&engine, "source", "id String, payload String", "ORDER BY id").await;
    made(&engine, "viewed", "id String, celsius Float64", "ORDER BY id").await;
    let view = format!(
        "CREATE MATERIALIZED VIEW {DATABASE}.view TO {DATABASE}.viewed AS \
         SELECT id, toFloat64(payload) AS celsius FROM {DATABASE}.source"
    );
    engine.interface().run(&view).await.expect("makes the view");
    // The table has taken the rows when the view refuses one: halves are stored there again. Its text names a row.
    let requests = one_ends(&engine, "source", "hot (at row 1)", "while pushing to view").await;
    println!("measured: {requests} inserts");
    let query = format!("SELECT uniqExact(id) AS different FROM {DATABASE}.source");
    assert_eq!(read(&engine, &query).await, [json!({"different": 1_000})]);
    let query = format!("SELECT count() AS all, uniqExact(id) AS different FROM {DATABASE}.viewed");
    assert_eq!(read(&engine, &query).await, [json!({"all": 999, "different": 999})]);
    engine.finish();
}

#[tokio::test]
async fn a_view_that_was_broken_gets_its_rows_with_the_repeat_and_once() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    let once = "ORDER BY id SETTINGS non_replicated_deduplication_window = 100";
    made(&engine, "source", "id String, payload String", once).await;
    made(&engine, "viewed", "id String, payload String", once).await;
    let run = async |statement: &str| engine.interface().run(statement).await.expect("runs");
    run(&format!(
        "CREATE MATERIALIZED VIEW {DATABASE}.view TO {DATABASE}.viewed AS SELECT id, payload FROM {DATABASE}.source"
    ))
    .await;
    let sink = opened(&engine, "source").await;
    let sent = records(100);
    run(&format!("RENAME TABLE {DATABASE}.viewed TO {DATABASE}.away")).await;
    let outcomes = deliver(&*sink, &sent).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Missing, "{outcomes:?}");
    run(&format!("RENAME TABLE {DATABASE}.away TO {DATABASE}.viewed")).await;
    for _ in 0..3 {
        assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 100]);
    }
    for table in ["source", "viewed"] {
        assert_eq!(engine.interface().count(&format!("{DATABASE}.{table}")).await.expect("counts"), 100, "{table}");
    }
    engine.finish();
}

#[tokio::test]
async fn a_batch_of_too_many_partitions_is_cut() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    let rest = "PARTITION BY payload ORDER BY id SETTINGS non_replicated_deduplication_window = 1000";
    made(&engine, "spread", "id String, payload String", rest).await;
    let queue = numbered(350);
    let task = start(&queue, engine.config("spread", &json!({})));
    queue.all_committed().await;
    assert_eq!((queue.ends().len(), task.report().counters.send_success_total), (0, 350));
    assert_eq!(engine.interface().count(&format!("{DATABASE}.spread")).await.expect("counts"), 350);
    engine.finish();
}

#[tokio::test]
async fn its_own_words_are_understood() {
    let Some(engine) = Engine::start().await.expect("starts") else { return };
    made(&engine, "there", "id String, payload String", "ORDER BY id").await;
    let busy = "ORDER BY id SETTINGS parts_to_delay_insert = 1, parts_to_throw_insert = 1, max_delay_to_insert = 1";
    made(&engine, "busy", "id String, payload String", busy).await;
    engine.interface().run(&format!("SYSTEM STOP MERGES {DATABASE}.busy")).await.expect("stops them");
    let part = format!("INSERT INTO {DATABASE}.busy VALUES ('x', 'x')");
    engine.interface().run(&part).await.expect("makes a part");
    for (more, expect, words) in [
        (json!({"table": "nowhere"}), TargetFaultKind::Missing, "UNKNOWN_TABLE"),
        (json!({"database": "nowhere"}), TargetFaultKind::Missing, "UNKNOWN_DATABASE"),
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "Authentication failed"),
        (json!({"table": "busy"}), THROTTLED, "Too many parts"),
        (
            json!({"url": format!("{}/?max_memory_usage=10000&max_untracked_memory=1", engine.interface().url())}),
            THROTTLED,
            "memory limit exceeded",
        ),
    ] {
        let sink = node().open("rows", "clickhouse", engine.config("there", &more)).await.expect("opens");
        let outcomes = deliver(&*sink, &records(2)).await;
        assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}");
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    engine.finish();
}
