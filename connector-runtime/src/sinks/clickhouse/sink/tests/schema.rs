//! A table that changes while a connector writes to it.

use super::*;

#[tokio::test]
async fn the_columns_are_asked_for_once() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    for _ in 0..5 {
        assert_eq!(deliver(&*sink, &records(2)).await, vec![Outcome::Delivered; 2]);
    }
    let statements = server.statements().expect("reads the log");
    let described = statements.iter().filter(|statement| statement.starts_with("DESCRIBE TABLE")).count();
    let settings = statements.iter().filter(|statement| statement.contains("system.settings")).count();
    assert_eq!((described, settings, statements.len()), (1, 1, 7), "{statements:?}");
    server.finish();
}

#[tokio::test]
async fn a_column_that_is_added_is_filled_soon() {
    let server = server().await;
    make(&server, "grows", "payload String").await;
    let sink = open(&server, &json!({"table": "grows", "columns_refresh_secs": 1})).await;
    let slow = open(&server, &json!({"table": "grows", "columns_refresh_secs": 3600})).await;
    for sink in [&sink, &slow] {
        assert_eq!(deliver(&**sink, &records(1)).await, [Outcome::Delivered]);
    }
    run(&server, &format!("ALTER TABLE {DATABASE}.grows ADD COLUMN topic String")).await;
    let started = std::time::Instant::now();
    loop {
        assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
        if !rows(&server, &format!("SELECT topic FROM {DATABASE}.grows WHERE topic = 'plant/one'")).await.is_empty() {
            break;
        }
        assert!(started.elapsed().as_secs() < 30, "the new column stays empty");
    }
    assert!(started.elapsed().as_millis() >= 500, "it was asked for again before it was time");
    let before = rows(&server, &format!("SELECT topic FROM {DATABASE}.grows WHERE topic != ''")).await.len();
    assert_eq!(deliver(&*slow, &records(1)).await, [Outcome::Delivered]);
    let after = rows(&server, &format!("SELECT topic FROM {DATABASE}.grows WHERE topic != ''")).await.len();
    assert_eq!(before, after, "who asks rarely does not know it yet");
    server.finish();
}

/// What the change makes unfit is nobody's fault, and written as the table wants it now.
async fn changes_unnoticed(before: &str, change: &[&str], expect: Value) {
    let server = server().await;
    make(&server, "changes", before).await;
    let queue = numbered(1);
    let task = start(&queue, server.config("changes", &json!({"columns_refresh_secs": 3600})));
    queue.all_committed().await;
    for statement in change {
        run(&server, statement).await;
    }
    queue.append((1..200).map(|number| message(number, number.to_string())));
    queue.all_committed().await;
    assert_eq!(queue.ends(), std::collections::BTreeMap::new(), "nothing ended");
    assert_eq!(task.report().counters.send_success_total, 200);
    let query = format!("SELECT * FROM {DATABASE}.changes WHERE id = '1-7-1990'");
    assert_eq!(rows(&server, &query).await, [expect]);
    server.finish();
}

#[tokio::test]
async fn a_column_that_is_dropped_is_left_out() {
    let change = [&*format!("ALTER TABLE {DATABASE}.changes DROP COLUMN topic")];
    changes_unnoticed("id String, topic String", &change, json!({"id": "1-7-1990"})).await;
}

#[tokio::test]
async fn a_table_that_is_made_anew_with_other_types_gets_rows_that_fit() {
    let change = [
        &*format!("DROP TABLE {DATABASE}.changes"),
        &*format!(
            "CREATE TABLE {DATABASE}.changes (id String, timestamp DateTime('UTC')) ENGINE = MergeTree ORDER BY id"
        ),
    ];
    // Milliseconds are no DateTime: each of these rows would have been refused.
    let expect = json!({"id": "1-7-1990", "timestamp": "2023-11-14 22:13:20"});
    changes_unnoticed("id String, timestamp UInt64", &change, expect).await;
}

#[tokio::test]
async fn a_table_that_lost_all_our_columns_is_missed() {
    let server = server().await;
    make(&server, "others", "own String").await;
    let outcomes = deliver(&*open(&server, &json!({"table": "others"})).await, &records(1)).await;
    assert_eq!(kind(&outcomes[0]), TargetFaultKind::Missing);
    assert!(format!("{outcomes:?}").contains("`sluice`.`others`: the table has none of the columns id, topic"));
    // No record is at fault where none would fit.
    for (table, columns, words) in [
        ("narrow", "id String, timestamp UInt32", "column timestamp has type UInt32"),
        ("decimal", "id String, timestamp Decimal(9, 2)", "column timestamp has type Decimal(9, 2)"),
        ("uuid", "id UUID, payload String", "column id has type UUID, which holds none of its values: use String"),
        ("day", "qos Date, payload String", "column qos has type Date"),
    ] {
        make(&server, table, columns).await;
        let outcomes = deliver(&*open(&server, &json!({"table": table})).await, &records(2)).await;
        assert_eq!((kind(&outcomes[0]), &outcomes[0]), (REFUSES, &outcomes[1]), "{table}");
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    server.finish();
}

/// As where two servers behind one address are not alike: what was told last is never what the insert meets.
#[tokio::test]
async fn a_table_that_changes_again_and_again_is_told() {
    let server = server().await;
    make(&server, "one", "id String, payload Float64").await;
    make(&server, "other", "payload Float64").await;
    // Of the requests of one connection: description, settings, insert, and so on.
    let lines = format!(
        r#"location / {{ if ($connection_requests ~ ^(4|10|16)$) {{ rewrite ^ /other last; }} proxy_pass {0}; }}
           location = /other {{
             internal;
             set $args "query=DESCRIBE+TABLE+{DATABASE}.other+FORMAT+TabSeparated";
             proxy_method GET;
             proxy_pass_request_body off;
             proxy_set_header Content-Length "";
             proxy_pass {0}/;
           }}"#,
        server.url()
    );
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let sink = open(&server, &json!({"table": "one", "url": front.url()})).await;
    let sent = [record(1, "hot")];
    let first = deliver(&*sink, &sent).await;
    assert_eq!(kind(&first[0]), TargetFaultKind::Interrupted, "{first:?}");
    let second = deliver(&*sink, &sent).await;
    assert_eq!(kind(&second[0]), TargetFaultKind::Down, "{second:?}");
    assert!(format!("{second:?}").contains("Cannot parse input"), "the server's own words: {second:?}");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_table_that_is_made_later_gets_what_waited_for_it() {
    let server = server().await;
    let queue = numbered(10);
    let task = start(&queue, server.config("later", &json!({})));
    let reason = || task.report().health_reason;
    double::until("it is missed", || reason().as_deref() == Some("TARGET_MISSING")).await;
    make(&server, "later", COLUMNS).await;
    queue.all_committed().await;
    all_are_there_once(&server, "later", 10).await;
    run(&server, &format!("DROP TABLE {DATABASE}.later")).await;
    queue.append((10..20).map(|number| message(number, number.to_string())));
    double::until("it is missed again", || reason().as_deref() == Some("TARGET_MISSING")).await;
    make(&server, "later", COLUMNS).await;
    queue.all_committed().await;
    assert_eq!(count(&server, "later").await, 10);
    server.finish();
}
