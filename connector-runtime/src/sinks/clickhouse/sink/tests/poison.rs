//! A record that the server refuses ends alone, however it is found.

use std::sync::atomic::Ordering;

use super::*;
use crate::sinks::opened::Counted;

const COUNT: u64 = 1_000;

/// Columns that take numbers only, and say the row of what is none.
const READ_BY_ROW: &str = "id String, payload Float64";
/// The column that takes numbers only is computed from the payload, row unsaid.
const COMPUTED: &str = "id String, payload String, celsius Float64 MATERIALIZED toFloat64(payload)";

/// Writes a thousand readings, of which those of `poison` are this text, and gives how many inserts that took.
async fn only_these_end(columns: &str, poison: &[u64], text: &str, words: &str) -> usize {
    let server = server().await;
    make(&server, "readings", columns).await;
    let queue =
        MemoryQueue::with((0..COUNT).map(|number| {
            message(number, if poison.contains(&number) { text.to_owned() } else { number.to_string() })
        }));
    let sink = node().sink_for("rows", "clickhouse", server.config("readings", &json!({})));
    let (opener, requests) = Counted::new(sink.opener);
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    let task = Setup { policy, order: sink.order, ..Setup::default() }.start_with(&queue, opener, sink.options);
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), poison);
    for end in ends.values() {
        assert!(format!("{end:?}").contains(words), "{end:?}");
        assert!(!format!("{end:?}").contains("Column 0"), "a letter has nothing of its neighbours: {end:?}");
    }
    let expect = COUNT - poison.len() as u64;
    assert_eq!(task.report().counters.send_success_total, expect);
    let query = format!("SELECT count() AS all, uniqExact(id) AS different FROM {DATABASE}.readings");
    assert_eq!(rows(&server, &query).await, [json!({"all": expect, "different": expect})]);
    let inserts = server.inserts("readings").expect("reads the log");
    let requests = requests.load(Ordering::Relaxed);
    assert_eq!(inserts, requests as u64, "one insert for each");
    println!("measured: {requests} inserts for {} poisoned of {COUNT}", poison.len());
    assert!(!queue.splits().is_empty(), "parts are sealed before they are sent");
    server.finish();
    requests
}

#[tokio::test]
async fn a_row_that_is_named_costs_three_inserts_more() {
    let requests = only_these_end(READ_BY_ROW, &[617], "hot", "Cannot parse input").await;
    // All; those before it, itself, those behind it.
    assert_eq!(requests, 4);
}

#[tokio::test]
async fn several_rows_are_found_one_after_the_other_by_their_names() {
    let requests = only_these_end(READ_BY_ROW, &[0, 3, 617, 618, 999], "hot", "Cannot parse input").await;
    assert!(requests <= 3 * 5 + 1, "{requests}");
}

#[tokio::test]
async fn a_row_that_is_not_named_is_found_by_halves() {
    let requests = only_these_end(COMPUTED, &[617], "hot", "Cannot parse string 'hot' as Float64").await;
    assert!(requests <= 2 * 10 + 1, "{requests}");
}

#[tokio::test]
async fn several_rows_are_found_by_halves() {
    let requests = only_these_end(COMPUTED, &[3, 617, 998], "hot", "Cannot parse string 'hot' as Float64").await;
    assert!(requests <= 2 * 3 * 10 + 1, "{requests}");
}

#[tokio::test]
async fn a_payload_that_names_another_row_puts_the_blame_on_nobody() {
    // The server repeats it, where it would name a row itself.
    let requests = only_these_end(COMPUTED, &[617], "hot (at row 1)", "hot (at row 1)").await;
    assert!(requests <= 2 * 10 + 1 + 3, "{requests}");
}

#[tokio::test]
async fn payloads_that_name_other_rows_beside_the_servers_own_are_not_believed() {
    let requests = only_these_end(READ_BY_ROW, &[617, 800], "(at row 1)", "Cannot parse input").await;
    assert!(requests <= 2 * 2 * 10 + 1, "{requests}");
}

#[tokio::test]
async fn a_profile_that_loses_bad_rows_or_stores_half_a_batch_is_overruled() {
    let profile = "<input_format_allow_errors_num>10</input_format_allow_errors_num>\
                   <input_format_allow_errors_ratio>0.5</input_format_allow_errors_ratio>\
                   <max_insert_block_size>10</max_insert_block_size>";
    let options = ClickHouseOptions { profile: profile.to_owned(), ..ClickHouseOptions::default() };
    let server = server_with(options).await;
    make(&server, "readings", READ_BY_ROW).await;
    let queue = MemoryQueue::with(
        (0..100).map(|number| message(number, if number == 57 { "hot".to_owned() } else { number.to_string() })),
    );
    let _task = start(&queue, server.config("readings", &json!({})));
    queue.all_committed().await;
    assert_eq!(queue.ends().keys().copied().collect::<Vec<u64>>(), [57]);
    let query = format!("SELECT count() AS all, uniqExact(id) AS different FROM {DATABASE}.readings");
    assert_eq!(rows(&server, &query).await, [json!({"all": 99, "different": 99})]);
    server.finish();
}

#[tokio::test]
async fn half_of_a_batch_may_be_poisoned() {
    let server = server().await;
    make(&server, "readings", READ_BY_ROW).await;
    let queue = MemoryQueue::with(
        (0..100).map(|number| message(number, if number % 2 == 0 { "hot".to_owned() } else { number.to_string() })),
    );
    let task = start(&queue, server.config("readings", &json!({})));
    queue.all_committed().await;
    assert_eq!(queue.ends().len(), 50);
    assert_eq!(task.report().counters.send_success_total, 50);
    assert_eq!(count(&server, "readings").await, 50);
    let inserts = server.inserts("readings").expect("reads the log");
    assert!(inserts < 2 * 100, "{inserts} for 50 of 100");
    server.finish();
}

#[tokio::test]
async fn every_way_to_be_unreadable_is_the_records() {
    let server = server().await;
    for (table, columns, text, class) in [
        ("number", "payload UInt8", "-1", "clickhouse_27"),
        ("fixed", "payload FixedString(3)", "four", "clickhouse_131"),
        ("uuid", "payload UUID", "6d-no-uuid-at-all", "clickhouse_"),
        ("enum", "payload Enum8('1' = 1, '0' = 0, '2' = 2)", "hot", "clickhouse_49"),
        ("date", "payload DateTime", "yesterday", "clickhouse_"),
        ("array", "payload Array(UInt8)", "[1,", "clickhouse_"),
        ("checked", "payload String, c UInt8 MATERIALIZED throwIf(payload = 'hot')", "hot", "clickhouse_395"),
    ] {
        make(&server, table, columns).await;
        let sink = open(&server, &json!({"table": table})).await;
        let outcomes = deliver(&*sink, &[record(1, text)]).await;
        assert!(
            matches!(&outcomes[0], Outcome::RecordFault(fault) if fault.class.starts_with(class) && !fault.offline),
            "{table}: {outcomes:?}"
        );
        println!("measured: {table}: {outcomes:?}");
        assert_eq!(count(&server, table).await, 0, "{table}");
    }
    server.finish();
}
