//! What is refused, and who is blamed for it.

use ::tests::ferretdb::FerretDb;

use super::*;

/// A thousand readings; the poisoned ones have something that another document has already.
async fn only_these_end(more: &Value, poison: &[u64]) {
    let server = server().await;
    make_unique(&server, "payload.once").await;
    let sink = open(&server, &json!({})).await;
    assert_eq!(deliver(&*sink, &[record(9_999_999, r#"{"once":1}"#)]).await, [Outcome::Delivered]);
    sink.close().await;
    let before = server.told("insert into").expect("reads its log").len();
    let queue = MemoryQueue::with((0..1_000).map(|number| {
        let once = if poison.contains(&number) { json!({ "once": 1 }) } else { json!({ "n": number }) };
        message(number, &once)
    }));
    let mut config = server.config(more);
    config["batch_size"] = json!(1_000);
    let task = run(&queue, config);
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), poison);
    assert!(format!("{ends:?}").contains("E11000 duplicate key error"), "{ends:?}");
    assert_eq!(task.report().counters.send_success_total, 1_000 - poison.len() as u64);
    assert_eq!(server.count(COLLECTION).await.expect("counts"), 1_001 - poison.len() as u64);
    let requests = server.told("insert into").expect("reads its log").len() - before;
    println!("measured: {more}: {requests} requests for {} poisoned of 1,000", poison.len());
    assert!(requests <= 1 + poison.len(), "{requests} requests");
    server.finish();
}

#[tokio::test]
async fn a_poison_record_among_a_thousand_ends_alone() {
    only_these_end(&json!({}), &[617]).await;
}

#[tokio::test]
async fn several_poison_records_end_alone_and_in_order() {
    only_these_end(&json!({ "ordered_insert": true }), &[3, 617, 999]).await;
}

#[tokio::test]
async fn a_record_that_comes_again_is_there_once_and_delivered() {
    for more in [json!({}), json!({ "ordered_insert": true }), json!({ "payload_format": "raw" }), json!({ "w": "0" })]
    {
        let server = server().await;
        let sink = open(&server, &more).await;
        assert_eq!(deliver(&*sink, &numbered((0..100).step_by(3))).await, vec![Outcome::Delivered; 34], "{more}");
        for _ in 0..2 {
            assert_eq!(deliver(&*sink, &numbered(0..100)).await, vec![Outcome::Delivered; 100], "{more}");
        }
        let mut found = ids(&server).await;
        found.dedup();
        assert_eq!(found.len(), 100, "{more}");
        let requests = server.told("insert into").expect("reads its log").len();
        assert!(requests <= 4, "{more}: {requests} requests");
        server.finish();
    }
}

#[tokio::test]
async fn a_raw_record_whose_number_is_none_comes_again_and_is_delivered() {
    let server = server().await;
    let sink = open(&server, &json!({ "payload_format": "raw" })).await;
    let sent = records([r#"{"t":{"$numberDouble":"NaN"}}"#, r#"{"t":-0.0}"#]);
    for _ in 0..2 {
        assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; 2]);
    }
    assert_eq!(ids(&server).await.len(), 2);
    server.finish();
}

#[tokio::test]
async fn a_document_of_another_cluster_with_the_same_id_is_no_delivery() {
    let server = server().await;
    let theirs = json!({ "insert": COLLECTION, "documents": [{ "_id": "1-7-1", "topic": "plant/two" }] });
    server.command(&theirs).await.expect("inserts");
    for (more, expect) in [
        (json!({}), [true, false, true]),
        (json!({ "ordered_insert": true, "payload_format": "raw" }), [true, false, false]),
    ] {
        let sink = open(&server, &more).await;
        let outcomes = deliver(&*sink, &numbered(0..3)).await;
        assert_eq!(outcomes.iter().map(|outcome| *outcome == Outcome::Delivered).collect::<Vec<_>>(), expect, "{more}");
        let fault = record_fault(&outcomes[1]);
        assert_eq!((&*fault.class, fault.offline), ("mongodb_11000", false));
        assert!(fault.message.contains("1-7-1"), "{}", fault.message);
        server
            .command(&json!({ "delete": COLLECTION, "deletes": [{ "q": { "_id": "1-7-0" }, "limit": 1 }] }))
            .await
            .expect("deletes");
        sink.close().await;
    }
    server.finish();
}

#[tokio::test]
async fn what_follows_a_refused_document_waits_where_order_counts() {
    let server = server().await;
    make_unique(&server, "payload.once").await;
    let sink = open(&server, &json!({ "ordered_insert": true })).await;
    let sent = records([r#"{"once":1}"#, r#"{"n":1}"#, r#"{"once":1}"#, r#"{"n":3}"#, r#"{"n":4}"#]);
    let outcomes = deliver(&*sink, &sent).await;
    assert_eq!(&*record_fault(&outcomes[2]).class, "mongodb_11000");
    assert_eq!((&outcomes[..2], &outcomes[3..]), (&vec![Outcome::Delivered; 2][..], &vec![held(); 2][..]));
    assert_eq!(ids(&server).await, ["1-7-0", "1-7-1"]);
    // Those before it are there already, and do not hold up the others.
    let rest = [&sent[..2], &sent[3..]].concat();
    assert_eq!(deliver(&*sink, &rest).await, vec![Outcome::Delivered; 4]);
    assert_eq!(ids(&server).await, ["1-7-0", "1-7-1", "1-7-3", "1-7-4"]);
    server.finish();
}

#[tokio::test]
async fn a_document_that_is_too_large_is_not_sent() {
    let server = server_with(MongoDbOptions { document_bytes_max: Some(1_000), ..MongoDbOptions::default() }).await;
    let sink = open(&server, &json!({})).await;
    let large = "x".repeat(1_000);
    let outcomes = deliver(&*sink, &records(["small", large.as_str(), r#"{"a\u0000b":1}"#, "small"])).await;
    assert_eq!((&outcomes[0], &outcomes[3]), (&Outcome::Delivered, &Outcome::Delivered));
    let faults = [record_fault(&outcomes[1]), record_fault(&outcomes[2])];
    assert_eq!(faults.map(|fault| (&*fault.class, fault.offline)), [("too_large", true), ("no_bson", true)]);
    assert!(faults[0].message.ends_with("the server takes at most 1000"), "{}", faults[0].message);
    assert_eq!(server.count(COLLECTION).await.expect("counts"), 2);
    server.finish();
}

/// At FerretDB: the other server says so of the first document only.
#[tokio::test]
async fn an_error_of_the_whole_request_is_the_targets() {
    let Some(server) = FerretDb::start().await.expect("FerretDB starts") else { return };
    let config = server.config(&json!({ "collection": "no$name" }));
    let sink = node().open("documents", "mongodb", config).await.expect("opens");
    let outcomes = deliver(&*sink, &numbered(0..2)).await;
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(fault(&outcomes[0]).kind, TargetFaultKind::Misconfigured("TARGET_REFUSES_REQUESTS"));
    assert!(fault(&outcomes[0]).message.contains("no$name"), "{outcomes:?}");
    server.finish();
}
