//! A table that changes while it is written.

use super::*;

#[tokio::test]
async fn a_column_that_is_added_is_filled_and_one_that_goes_is_left_out() {
    const TABLE: &str = "altered";
    let server = server_with(TABLE).await;
    let sink = open(&server, TABLE, &json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(0..10)).await, vec![Outcome::Delivered; 10]);
    server.run(&[&format!("ALTER TABLE {KEYSPACE}.{TABLE} ADD client_id text")]).await.expect("alters");
    // What met the table as it was is written again.
    delivered_at_last(&*sink, &numbered(10..20)).await;
    let found = rows(&server, TABLE).await;
    let filled = found.iter().filter(|row| !row["client_id"].is_null()).count();
    assert_eq!((found.len(), filled), (20, 10));
    server.run(&[&format!("ALTER TABLE {KEYSPACE}.{TABLE} DROP qos")]).await.expect("alters");
    delivered_at_last(&*sink, &numbered(20..30)).await;
    assert_eq!(server.count(TABLE).await.expect("counts"), 30);
}

/// The driver prepares a statement again by itself, and its bytes are those of the types that were.
#[tokio::test]
async fn a_table_that_is_made_anew_with_other_types_gets_values_of_those() {
    const TABLE: &str = "anew";
    let server = server_with(TABLE).await;
    let sink = open(&server, TABLE, &json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered]);
    server.run(&[&format!("DROP TABLE {KEYSPACE}.{TABLE}")]).await.expect("drops");
    let outcomes = deliver(&*sink, &numbered(0..2)).await;
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Missing, "{outcomes:?}");
    server.make_table(TABLE, COLUMNS).await.expect("makes the table");
    delivered_at_last(&*sink, &numbered(0..2)).await;
    let anew = "msgid text PRIMARY KEY, qos bigint, payload text, arrived text";
    server.run(&[&format!("DROP TABLE {KEYSPACE}.{TABLE}")]).await.expect("drops");
    server.make_table(TABLE, anew).await.expect("makes the table");
    let mut sent = numbered(0..3);
    // No text.
    sent.push(record(3, &b"\xff"[..]));
    let outcomes = settled(&*sink, &sent).await;
    assert_eq!(outcomes[..3], vec![Outcome::Delivered; 3]);
    assert_eq!(&*record_fault(&outcomes[3]).class, "not_utf8");
    let found = rows(&server, TABLE).await;
    assert_eq!(found.len(), 3);
    for row in found {
        assert_eq!((&row["qos"], &row["arrived"].as_str().map(str::len)), (&json!(0), &Some(13)), "{row}");
    }
}

/// Once more until the target has nothing to do with what becomes of them.
async fn settled(sink: &dyn Sink, sent: &[Record]) -> Vec<Outcome> {
    let again = wait::until(LIMIT, "they are settled", async || {
        let outcomes = deliver(sink, sent).await;
        let waits = outcomes.iter().any(|outcome| matches!(outcome, Outcome::TargetFault(_)));
        ensure!(!waits, "{outcomes:?}");
        Ok(outcomes)
    });
    again.await.expect("settles")
}

/// A cell that is older than the time at which its column was dropped is never seen again.
fn newer_than_any_drop(mut sent: Vec<Record>) -> Vec<Record> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("is later").as_millis();
    let later = u64::try_from(now).expect("is near") + 600_000;
    sent.iter_mut().for_each(|record| record.message.timestamp_ms = later);
    sent
}

/// No record is asked for its value by types that the table has no more.
#[tokio::test]
async fn what_did_not_fit_the_table_as_it_was_is_written_into_the_table_as_it_is() {
    let server = server().await;
    server.make_table("widened", "msgid text PRIMARY KEY, payload text").await.expect("makes the table");
    let sink = open(&server, "widened", &json!({})).await;
    assert_eq!(deliver(&*sink, &numbered(0..1)).await, [Outcome::Delivered]);
    for change in ["DROP payload", "ADD payload blob"] {
        server.run(&[&format!("ALTER TABLE {KEYSPACE}.widened {change}")]).await.expect("alters");
    }
    let sent = newer_than_any_drop(records([&b"\xff\0"[..], b"\xfe"]));
    let outcomes = deliver(&*sink, &sent).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::TargetFault(_))), "{outcomes:?}");
    assert_eq!(settled(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
    let found = rows(&server, "widened").await;
    assert_eq!((&found[0]["payload"], &found[1]["payload"]), (&hex(b"\xff\0"), &hex(b"\xfe")));
}

/// Bytes of one type that another one takes as well: the larger ones would stay, as both have the time of the record.
#[tokio::test]
async fn no_value_is_read_by_another_type_than_it_was_written_for() {
    let server = server().await;
    server.make_table("retyped", "msgid text PRIMARY KEY, payload text").await.expect("makes the table");
    let sink = open(&server, "retyped", &json!({})).await;
    // As long as a number of 32 bits.
    let sent = records(["1234", "0000"]);
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
    server.run(&[&format!("DROP TABLE {KEYSPACE}.retyped")]).await.expect("drops");
    server.make_table("retyped", "msgid text PRIMARY KEY, payload int").await.expect("makes the table");
    assert_eq!(settled(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
    let found = rows(&server, "retyped").await;
    assert_eq!((&found[0]["payload"], &found[1]["payload"]), (&json!(1234), &json!(0)));
}
