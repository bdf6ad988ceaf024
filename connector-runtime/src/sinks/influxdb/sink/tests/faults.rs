//! What is refused, and who is blamed for it.

use super::*;

#[tokio::test]
async fn a_target_that_wants_a_person_says_so() {
    let server = server().await;
    let records = [record(1, "x"), record(2, "y")];
    for (more, expect, words) in [
        (json!({"password": "wrong"}), TargetFaultKind::Auth, "authorization failed"),
        (json!({"username": "nobody"}), TargetFaultKind::Auth, "authorization failed"),
        (json!({"username": null, "password": null}), TargetFaultKind::Auth, "unable to parse authentication"),
        (json!({"username": READER}), TargetFaultKind::Permission, "not authorized to write"),
        (json!({"database": "nowhere"}), TargetFaultKind::Missing, "database not found"),
    ] {
        let outcomes = deliver(&*open(&server, &more).await, &records).await;
        assert_eq!(kind(&outcomes[0]), expect, "{more}");
        assert_eq!(outcomes[0], outcomes[1]);
        assert!(format!("{outcomes:?}").contains(words), "{outcomes:?}");
    }
    server.finish();
}

#[tokio::test]
async fn version_2_refuses_in_its_own_way() {
    let Some(server) = InfluxDb::with_version_2().await.expect("InfluxDB 1.8 starts") else { return };
    for (more, expect) in [
        (json!({"token": "token:wrong"}), TargetFaultKind::Auth),
        (json!({"token": "no-token"}), TargetFaultKind::Auth),
        (json!({"bucket": "nowhere"}), TargetFaultKind::Missing),
        (json!({"bucket": "sluice/nothing"}), TargetFaultKind::Missing),
        (json!({"server": format!("{}/deeper", server.url())}), TargetFaultKind::Missing),
    ] {
        let sink = node().open("points", "influxdb", server.config_v2(&more)).await.expect("opens");
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}");
    }
    let sink = node().open("points", "influxdb", server.config_v2(&json!({}))).await.expect("opens");
    let records = [record(1, "{\"t\":1}"), record(2, "{\"t\":\"x\"}"), record(3, "{\"t\":3}")];
    assert_eq!(deliver(&*sink, &records[..1]).await, [Outcome::Delivered]);
    let outcomes = deliver(&*sink, &records).await;
    assert!(
        matches!(&outcomes[1], Outcome::RecordFault(fault) if &*fault.class == "field_type_conflict"),
        "{outcomes:?}"
    );
    assert!(matches!((&outcomes[0], &outcomes[2]), (Outcome::Unclear(_), Outcome::Unclear(_))), "{outcomes:?}");
    server.run(&format!("REVOKE ALL ON {DATABASE} FROM {TOKEN_USER}")).await.expect("takes the right away");
    assert_eq!(kind(&deliver(&*sink, &records[..1]).await[0]), TargetFaultKind::Permission);
    server.finish();
}

#[tokio::test]
async fn a_database_that_is_made_later_gets_what_waited_for_it() {
    let server = server().await;
    let queue = MemoryQueue::with((0..10).map(|number| message(number, &json!({"n": number}))));
    let config = server.config(&json!({"database": "later", "username": "admin", "password": "admin"}));
    let task = run(&queue, config);
    double::until("it is missed", || task.report().health_reason.as_deref() == Some("TARGET_MISSING")).await;
    server.run("CREATE DATABASE later").await.expect("makes it");
    queue.all_committed().await;
    assert_eq!(task.report().counters.send_success_total, 10);
    let rows = server.rows("SELECT count(n) FROM later..mqtt").await.expect("counts");
    assert_eq!(rows[0]["count"], 10);
    server.finish();
}

/// A thousand readings; those of `poison` are texts.
fn readings(poison: &[u64]) -> std::sync::Arc<MemoryQueue> {
    MemoryQueue::with((0..1_000).map(|number| {
        let reading = if poison.contains(&number) { json!("hot") } else { json!(number) };
        message(number, &json!({"t": reading}))
    }))
}

async fn only_these_end(server: &InfluxDb, poison: &[u64], requests_max: usize) {
    let queue = readings(poison);
    let task = run(&queue, server.config(&json!({})));
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), poison);
    assert!(format!("{ends:?}").contains("already exists as type float"), "{ends:?}");
    let expect = 1_000 - poison.len() as u64;
    assert_eq!(task.report().counters.send_success_total, expect);
    assert_eq!(server.count("mqtt", "t").await.expect("counts"), expect);
    let writes = server.writes().expect("reads the log");
    println!("measured: {} requests for {} poisoned of 1,000", writes.len(), poison.len());
    assert!(writes.len() <= requests_max, "{} requests", writes.len());
}

#[tokio::test]
async fn a_poison_record_among_a_thousand_ends_alone() {
    let server = server().await;
    // The measurement is new: the server does not say who is wrong before it has the others.
    only_these_end(&server, &[617], 2 * 10 + 1).await;
    server.finish();
}

#[tokio::test]
async fn several_poison_records_are_found_by_halves() {
    let server = server().await;
    only_these_end(&server, &[3, 617, 998], 2 * 3 * 10 + 1).await;
    server.finish();
}

#[tokio::test]
async fn a_conflict_with_one_suspect_costs_one_more_request() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let first = Record { message: message(0, &json!({"t": 1})), ..record(9_999_999, "") };
    assert_eq!(deliver(&*sink, &[first]).await, [Outcome::Delivered]);
    let queue = readings(&[617]);
    run(&queue, server.config(&json!({})));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [617]);
    assert_eq!(server.writes().expect("reads the log").len(), 3);
    assert_eq!(server.count("mqtt", "t").await.expect("counts"), 1_000);
    server.finish();
}

#[tokio::test]
async fn a_line_that_the_server_cannot_read_is_known_by_its_text() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let mut records: Vec<Record> =
        (0..10).map(|number| record(number, format!("say {number}, \"it's\"\nso: x"))).collect();
    // Together with the other names more than the 65,535 bytes that a series may have.
    records[3].message.topic = "x".repeat(65_530);
    let outcomes = deliver(&*sink, &records).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::RecordFault(fault) if number == 3 => {
                assert_eq!((&*fault.class, fault.offline), ("unparsable", false));
            }
            Outcome::Unclear(_) if number != 3 => {}
            other => panic!("{number}: {other:?}"),
        }
    }
    records.remove(3);
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 9]);
    assert_eq!(server.count("mqtt", "payload").await.expect("counts"), 9);
    server.finish();
}

#[tokio::test]
async fn what_is_older_than_the_retention_ends_and_the_rest_does_not() {
    let server = server().await;
    server.run("CREATE RETENTION POLICY short ON sluice DURATION 1h REPLICATION 1 DEFAULT").await.expect("makes it");
    let queue = MemoryQueue::with((0..64).map(|number| {
        let now = crate::pipeline::stats::now_ms();
        Message { timestamp_ms: if number == 40 { 1_000 } else { now }, ..message(number, &json!({"n": number})) }
    }));
    run(&queue, server.config(&json!({})));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [40]);
    assert_eq!(server.count("mqtt", "n").await.expect("counts"), 63);
    // A backlog of which nothing is young enough is refused at once.
    let sink = open(&server, &json!({})).await;
    let outcomes = deliver(&*sink, &[record(1, "x"), record(2, "y")]).await;
    for outcome in &outcomes {
        assert!(matches!(outcome, Outcome::RecordFault(fault) if &*fault.class == "beyond_retention"), "{outcome:?}");
    }
    server.finish();
}

#[tokio::test]
async fn a_batch_too_large_for_the_server_is_halved_until_it_fits() {
    let server = server_with("", "max-body-size = 4000").await;
    // Of hashes, which cannot be compressed.
    let noise = |number: u64, length: usize| -> String {
        use sha2::{Digest, Sha256};
        let hashes = (0..length as u64 / 64).flat_map(|at| Sha256::digest(format!("{number} {at}")).to_vec());
        hashes.map(|byte| format!("{byte:02x}")).collect()
    };
    let queue = MemoryQueue::with(
        (0..40).map(|number| message(number, &json!({"noise": noise(number, if number == 7 { 20_000 } else { 256 })}))),
    );
    let task = run(&queue, server.config(&json!({})));
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [7]);
    assert!(format!("{:?}", queue.ends()).contains("too_large"));
    assert_eq!(task.report().counters.send_success_total, 39);
    assert_eq!(server.count("mqtt", "noise").await.expect("counts"), 39);
    server.finish();
}

#[tokio::test]
async fn a_server_at_its_bounds_is_waited_for() {
    let server = server_with("max-series-per-database = 5", "").await;
    let sink = open(&server, &json!({})).await;
    let records: Vec<Record> = (0..10).map(|number| record(number, "{\"n\":1}")).collect();
    let outcomes = deliver(&*sink, &records).await;
    assert!(outcomes.iter().all(|outcome| kind(outcome) == TargetFaultKind::Full), "{outcomes:?}");
    assert!(format!("{outcomes:?}").contains("max-series-per-database"), "{outcomes:?}");
    server.finish();
}

#[tokio::test]
async fn what_has_no_form_is_not_sent_and_its_neighbours_are() {
    let server = server().await;
    let sink = open(&server, &json!({"measurement": "${payload.m}"})).await;
    let payloads: [&[u8]; 6] = [
        b"{\"m\":\"a\",\"n\":1}",
        b"\xff",
        b"{}",
        b"{\"m\":\"#a\"}",
        b"{\"m\":\"a\",\"n\":{},\"n\":1}",
        b"{\"m\":\"a\",\"n\":2}",
    ];
    let mut records: Vec<Record> = (0..).zip(payloads).map(|(number, payload)| record(number, payload)).collect();
    records[5].message.client_id = "device\\".to_owned();
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes[0], Outcome::Delivered);
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, Outcome::RecordFault(fault) if fault.offline), "{outcome:?}");
    }
    assert_eq!(server.count("a", "n").await.expect("counts"), 1);
    let requests = server.writes().expect("reads the log").len();
    assert_eq!(deliver(&*sink, &records[1..]).await.len(), 5);
    assert_eq!(server.writes().expect("reads the log").len(), requests, "nothing was left to send");
    server.finish();
}

#[tokio::test]
async fn a_pause_that_is_asked_for_is_kept_and_other_answers_are_not_taken_for_yes() {
    let server = server().await;
    let lines = "location /busy { add_header Retry-After 7 always; return 503; }
                 location /many { add_header Retry-After 7 always; return 429; }
                 location /login { return 200 'log in first'; }
                 location /moved { return 302 http://127.0.0.1/; }";
    let front =
        Front::start(FrontOptions { lines: lines.to_owned(), ..FrontOptions::default() }).await.expect("starts");
    let later = TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(7)) };
    for (path, expect) in [
        ("busy", later),
        ("many", later),
        ("login", TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS")),
        ("moved", TargetFaultKind::Misconfigured("TARGET_REDIRECTS")),
    ] {
        let sink = open(&server, &json!({"server": format!("{}/{path}/", front.url())})).await;
        let outcomes = deliver(&*sink, &[record(1, "x")]).await;
        assert_eq!(kind(&outcomes[0]), expect, "{path}");
    }
    let passed = front.passed_are(4).await.expect("four requests");
    assert_eq!(passed[0].uri, "/busy/write?db=sluice&precision=n", "a path of the server's own stays");
    front.finish();
    server.finish();
}
