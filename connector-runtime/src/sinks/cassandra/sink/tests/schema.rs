//! A table that changes while it is written.

use super::*;

#[tokio::test]
async fn a_column_that_is_added_is_filled_and_one_that_goes_is_left_out() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
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
    server.finish();
}

/// The driver prepares a statement again by itself, and its bytes are those of the types that were.
#[tokio::test]
async fn a_table_that_is_made_anew_with_other_types_gets_values_of_those() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
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
    let mut outcomes = deliver(&*sink, &sent).await;
    while outcomes.iter().any(|outcome| matches!(outcome, Outcome::TargetFault(_))) {
        outcomes = deliver(&*sink, &sent).await;
    }
    assert_eq!(outcomes[..3], vec![Outcome::Delivered; 3]);
    assert_eq!(&*record_fault(&outcomes[3]).class, "not_utf8");
    let found = rows(&server, TABLE).await;
    assert_eq!(found.len(), 3);
    for row in found {
        assert_eq!((&row["qos"], &row["arrived"].as_str().map(str::len)), (&json!(0), &Some(13)), "{row}");
    }
    server.finish();
}
