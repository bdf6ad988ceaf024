//! Every field has an effect that somebody else sees.

use std::time::{Duration, Instant};

use ::tests::ports;
use futures::future::join_all;
use rustix::process::Signal;

use super::*;
use crate::pipeline::tests::double::until;

#[tokio::test]
async fn database_and_table_say_where() {
    let server = server().await;
    run(&server, "CREATE DATABASE other").await;
    run(&server, &format!("CREATE TABLE other.things ({COLUMNS}) ENGINE = MergeTree ORDER BY id")).await;
    let sink = open(&server, &json!({"database": "other", "table": "things"})).await;
    assert_eq!(deliver(&*sink, &records(3)).await, vec![Outcome::Delivered; 3]);
    assert_eq!((server.interface().count("other.things").await.expect("counts"), count(&server, TABLE).await), (3, 0));
    server.finish();
}

#[tokio::test]
async fn rows_are_compressed_and_the_login_is_a_header() {
    let server = server().await;
    let lines = format!("location / {{ proxy_pass {}; client_max_body_size 0; }}", server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let sink = open(&server, &json!({"url": front.url()})).await;
    let sent: Vec<Record> = (0..1_000).map(|number| record(number, format!("{{\"celsius\":{number}}}"))).collect();
    for batch in [&sent[..], &sent[..1]] {
        assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; batch.len()]);
    }
    assert_eq!(count(&server, TABLE).await, 1_001);
    // The columns and the settings were asked for first, once.
    let passed = front.passed_are(4).await.expect("four requests");
    let plain: usize = sent.iter().map(|record| record.message.payload.len() + 60).sum();
    println!("measured: {} bytes instead of about {plain}", passed[2].bytes);
    assert!((passed[2].bytes as usize) < plain / 4, "{}", passed[2].bytes);
    for request in &passed {
        assert_eq!((request.status, &*request.method), (200, "POST"));
        assert!(request.authorization.starts_with("Basic "), "{request:?}");
        assert!(!request.uri.contains("p%40ss") && !request.uri.contains("p@ss"), "{request:?}");
        assert!(request.uri.contains("wait_end_of_query=1"), "{request:?}");
        assert_eq!(request.connection, passed[0].connection, "the connection is used again");
    }
    assert_eq!([&*passed[2].encoding, &*passed[3].encoding], ["gzip", "gzip"]);
    front.finish();
    server.finish();
}

#[tokio::test]
async fn the_url_may_have_a_path_and_a_query_of_its_own() {
    let server = server().await;
    let lines = format!("location /deep/ {{ proxy_pass {}/; }}", server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let url = format!("{}/deep/?max_query_size=300000", front.url());
    let sink = open(&server, &json!({"url": url})).await;
    assert_eq!(deliver(&*sink, &records(3)).await, vec![Outcome::Delivered; 3]);
    let passed = front.passed_are(3).await.expect("three requests");
    for request in passed {
        assert!(request.uri.starts_with("/deep/?max_query_size=300000&wait_end_of_query=1"), "{request:?}");
    }
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_user_and_a_password_are_what_the_server_wants() {
    let server = server().await;
    for (more, expect) in [
        (json!({}), None),
        (json!({"password": "wrong"}), Some((TargetFaultKind::Auth, "Wrong password for user sluice"))),
        (json!({"username": "nobody"}), Some((TargetFaultKind::Auth, "Unknown user nobody"))),
        (json!({"password": ""}), Some((TargetFaultKind::Auth, "sluice"))),
        // Without both it is the server's `default`, which may read only here; with a password alone as well.
        (json!({"username": "", "password": ""}), Some((TargetFaultKind::Permission, "readonly"))),
        (json!({"username": "", "password": "x"}), Some((TargetFaultKind::Auth, "Wrong password for user default"))),
        (json!({"username": READER}), Some((TargetFaultKind::Permission, "readonly"))),
    ] {
        let outcomes = deliver(&*open(&server, &more).await, &records(2)).await;
        match expect {
            None => assert_eq!(outcomes, vec![Outcome::Delivered; 2]),
            Some((expect, words)) => {
                assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}");
                assert!(format!("{outcomes:?}").contains(words), "{more} {outcomes:?}");
                assert_eq!(outcomes[0], outcomes[1]);
            }
        }
    }
    server.finish();
}

#[tokio::test]
async fn the_pool_bounds_the_connections() {
    let server = server().await;
    for size in [1_usize, 3] {
        let sink = open(&server, &json!({"pool_size": size, "timeout_secs": 60})).await;
        assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
        let batches: Vec<Vec<Record>> = (0..8).map(|number| vec![record(number, number.to_string())]).collect();
        server.signal(Signal::STOP).expect("pauses");
        let (outcomes, ()) = tokio::join!(join_all(batches.iter().map(|batch| deliver(&*sink, batch))), async {
            let connections = || ports::connections_to(server.port()).expect("counts");
            // One that was not kept may still be on its way out.
            until("the pool is used", || ports::unread(server.port()) >= size && connections() == size).await;
            server.signal(Signal::CONT).expect("continues");
        });
        assert_eq!(outcomes, vec![vec![Outcome::Delivered]; 8]);
        until("no more are kept", || ports::connections_to(server.port()).expect("counts") <= size).await;
        drop(sink);
        until("they close", || ports::connections_to(server.port()).expect("counts") == 0).await;
    }
    server.finish();
}

#[tokio::test]
async fn a_request_and_a_wait_for_a_connection_end_with_the_time_limit() {
    let server = server().await;
    let sink = open(&server, &json!({"pool_size": 1, "timeout_secs": 1})).await;
    assert_eq!(deliver(&*sink, &records(1)).await, [Outcome::Delivered]);
    server.signal(Signal::STOP).expect("pauses");
    let started = Instant::now();
    let batch = records(1);
    let outcomes = join_all((0..3).map(|_| deliver(&*sink, &batch))).await;
    let took = started.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&took), "{took:?}");
    let said: Vec<String> = outcomes.iter().map(|outcomes| format!("{outcomes:?}")).collect();
    assert!(outcomes.iter().all(|outcomes| kind(&outcomes[0]) == TargetFaultKind::Down), "{said:?}");
    assert!(said.iter().any(|text| text.contains("no answer within 1000 ms")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("no connection of the pool was free within 1000 ms")), "{said:?}");
    server.signal(Signal::CONT).expect("continues");
    server.finish();
}

#[tokio::test]
async fn the_payload_is_the_bytes_or_the_envelope() {
    let server = server().await;
    let mut sent = record(7, "{\"celsius\":21.50}");
    sent.message.user_properties = vec![("site".to_owned(), "north\twing".to_owned())];
    for (format, expect) in [
        (json!({}), "{\"celsius\":21.50}".to_owned()),
        (json!({"payload_format": "raw"}), "{\"celsius\":21.50}".to_owned()),
        (json!({"payload_format": "envelope"}), {
            let mut envelope = Vec::new();
            api_types::envelope::write_envelope(&sent, &mut envelope);
            String::from_utf8(envelope).expect("is text")
        }),
    ] {
        assert_eq!(deliver(&*open(&server, &format).await, std::slice::from_ref(&sent)).await, [Outcome::Delivered]);
        let found = rows(&server, &format!("SELECT payload FROM {DATABASE}.{TABLE}")).await;
        assert_eq!(found, [json!({"payload": expect})], "{format}");
        run(&server, &format!("DROP TABLE {DATABASE}.{TABLE}")).await;
        make(&server, TABLE, COLUMNS).await;
    }
    server.finish();
}

#[tokio::test]
async fn batches_are_as_large_as_they_may_be() {
    let server = server().await;
    for (table, more, expect) in [("by_count", json!({"batch_records": 250}), 4), ("by_default", json!({}), 1)] {
        make(&server, table, COLUMNS).await;
        let queue = numbered(1_000);
        let _task = start(&queue, server.config(table, &more));
        queue.all_committed().await;
        assert_eq!(server.inserts(table).expect("reads the log"), expect, "{more}");
        all_are_there_once(&server, table, 1_000).await;
    }
    server.finish();
}

#[tokio::test]
async fn as_many_batches_are_on_their_way_as_may_be() {
    let server = server().await;
    for most in [1_usize, 3] {
        let table = format!("flight_{most}");
        make(&server, &table, COLUMNS).await;
        let queue = numbered(1);
        let more = json!({"batch_records": 1, "max_in_flight": most, "timeout_secs": 60});
        let _task = start(&queue, server.config(&table, &more));
        queue.all_committed().await;
        server.signal(Signal::STOP).expect("pauses");
        queue.append((1..8).map(|number| message(number, number.to_string())));
        let waiting = || ports::unread(server.port());
        until("they wait", || queue.fetches() > most && waiting() >= most).await;
        assert_eq!(waiting(), most);
        server.signal(Signal::CONT).expect("continues");
        queue.all_committed().await;
        all_are_there_once(&server, &table, 8).await;
    }
    server.finish();
}
