//! What arrives, and by which requests.

use super::*;

#[tokio::test]
async fn ten_thousand_records_arrive_whole() {
    const COUNT: u64 = 10_000;
    let server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| message(number, &json!({ "n": number }))));
    let began = std::time::Instant::now();
    let task = run(&queue, server.config(&json!({ "batch_size": 1_000 })));
    queue.all_committed().await;
    println!("measured: {COUNT} documents in {:?}", began.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (COUNT, 0));
    let documents = server.documents(COLLECTION).await.expect("finds");
    let mut numbers: Vec<u64> = documents
        .iter()
        .map(|document| document["payload"]["n"]["$numberInt"].as_str().expect("a number").parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..COUNT), "a number is missing or there twice");
    let inserts = server.told("insert into").expect("reads its log").len();
    assert!(inserts <= 12, "{inserts} requests for {COUNT} documents in batches of 1,000");
    server.finish();
}

#[tokio::test]
async fn documents_have_the_types_of_bson() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let payloads: [&[u8]; 7] = [
        br#"{"t":21.5,"n":7,"wide":9007199254740993,"wider":18446744073709551615,"on":true,"no":null}"#,
        br#"{"list":[1,[2.0]],"at":{"$date":"2023-11-14T22:13:20Z"},"id":{"$oid":"65f0c0ffee65f0c0ffee65f0"}}"#,
        b"warm",
        b"",
        b"\xff\x00",
        b"-0.0",
        "\"Z\u{fc}rich\"".as_bytes(),
    ];
    let mut sent = records(payloads);
    let message = &mut sent[0].message;
    (message.qos, message.retain) = (1, true);
    message.content_type = Some("application/json".into());
    message.correlation_data = Some(b"\x01"[..].into());
    message.user_properties = vec![("k".into(), "1".into()), ("k".into(), "2".into())];
    assert_eq!(deliver(&*sink, &sent).await, vec![Outcome::Delivered; payloads.len()]);

    let found = server.documents(COLLECTION).await.expect("finds");
    let binary = |base64: &str| json!({ "$binary": { "base64": base64, "subType": "00" } });
    let first = json!({
        "_id": "1-7-0", "topic": "plant/one", "client_id": "device-0", "qos": { "$numberInt": "1" }, "retain": true,
        "timestamp": { "$date": { "$numberLong": "1700000000000" } },
        "payload": {
            "t": { "$numberDouble": "21.5" }, "n": { "$numberInt": "7" },
            "wide": { "$numberLong": "9007199254740993" }, "wider": { "$numberDecimal": "18446744073709551615" },
            "on": true, "no": null,
        },
        "content_type": "application/json", "correlation_data": binary("AQ=="),
        "user_properties": [{ "name": "k", "value": "1" }, { "name": "k", "value": "2" }],
    });
    assert_eq!(found[0], first);
    let payloads: Vec<&Value> = found[1..].iter().map(|document| &document["payload"]).collect();
    let second = json!({
        "list": [{ "$numberInt": "1" }, [{ "$numberDouble": "2.0" }]],
        "at": { "$date": { "$numberLong": "1700000000000" } }, "id": { "$oid": "65f0c0ffee65f0c0ffee65f0" },
    });
    let zero = json!({ "$numberDouble": "-0.0" });
    assert_eq!(payloads, [&second, &json!("warm"), &json!(""), &binary("/wA="), &zero, &json!("Zürich")]);
    server.finish();
}

#[tokio::test]
async fn raw_payloads_are_the_documents() {
    let server = server().await;
    let sink = open(&server, &json!({ "payload_format": "raw" })).await;
    let outcomes = deliver(&*sink, &records([r#"{"t":1}"#, "no object", r#"{"_id":7}"#, r#"{"t":4}"#])).await;
    assert_eq!((&outcomes[0], &outcomes[3]), (&Outcome::Delivered, &Outcome::Delivered));
    let faults = [record_fault(&outcomes[1]), record_fault(&outcomes[2])].map(|fault| (&*fault.class, fault.offline));
    assert_eq!(faults, [("no_object", true), ("has_id", true)]);
    let number = |text: &str| json!({ "$numberInt": text });
    let expect = [json!({ "_id": "1-7-0", "t": number("1") }), json!({ "_id": "1-7-3", "t": number("4") })];
    assert_eq!(server.documents(COLLECTION).await.expect("finds"), expect);
    server.finish();
}

#[tokio::test]
async fn the_way_of_inserting_is_what_was_configured() {
    let server = server().await;
    for (number, (more, expect)) in [
        (json!({}), r#"ordered=false writeConcern={"w" : 1}"#),
        (json!({ "ordered_insert": true }), r#"ordered=true writeConcern={"w" : 1}"#),
        (json!({ "w": "majority" }), r#"ordered=false writeConcern={"w" : "majority"}"#),
        (json!({ "w": "0" }), r#"ordered=false writeConcern={"w" : 0}"#),
        (json!({ "w": "0", "ordered_insert": true }), r#"ordered=true writeConcern={"w" : 0}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let sink = open(&server, &more).await;
        let begin = number as u64 * 10;
        assert_eq!(deliver(&*sink, &numbered(begin..begin + 3)).await, vec![Outcome::Delivered; 3], "{more}");
        let told = server.told("insert into").expect("reads its log");
        assert_eq!(told.last().map(String::as_str), Some(&*format!("insert into {COLLECTION} documents=3 {expect}")));
        sink.close().await;
    }
    assert_eq!(ids(&server).await.len(), 15);
    server.finish();
}

#[tokio::test]
async fn more_than_a_command_holds_goes_in_several() {
    let server = server().await;
    for w in ["0", "1"] {
        let sink = open(&server, &json!({ "w": w, "collection": format!("w{w}") })).await;
        let large = records((0..30).map(|_| vec![b'x'; 1 << 20]));
        assert_eq!(deliver(&*sink, &large).await, vec![Outcome::Delivered; 30], "{w}");
        assert_eq!(server.count(&format!("w{w}")).await.expect("counts"), 30);
        sink.close().await;
    }
    let told = |w: &str| server.told(&format!("insert into w{w} ")).expect("reads its log").len();
    assert_eq!((told("0"), told("1")), (3, 1), "14 MiB in a command, 48 MB beside it");
    server.finish();
}
