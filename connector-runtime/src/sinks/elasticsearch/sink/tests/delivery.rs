//! What stands in the target.

use std::collections::BTreeMap;

use api_types::ClusterId;
use api_types::envelope::envelope;

use super::*;

const COUNT: u64 = 10_000;

#[tokio::test]
async fn ten_thousand_records_are_all_there_with_their_values() {
    let server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| {
        let payload =
            json!({"n": number, "half": number as f64 / 2.0, "even": number % 2 == 0, "name": format!("r {number}")});
        message(number, &payload)
    }));
    let started = std::time::Instant::now();
    let task = run(&queue, server.config("ten-thousand", &json!({})));
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.retry_total), (COUNT, 0));
    let hits = server.hits("ten-thousand", 10_000).await.expect("reads");
    let mut found = BTreeMap::new();
    for hit in &hits {
        let document = hit.value().expect("is JSON");
        // Their sequences are ten apart.
        let number = document["payload"]["n"].as_u64().expect("a number");
        assert_eq!(hit.id, format!("{}-1-7-{}", ClusterId(7), number * 10));
        assert_eq!(document["id"], format!("1-7-{}", number * 10));
        assert_eq!(
            (&document["topic"], &document["timestamp"]),
            (&json!(format!("t/{}", number % 5)), &json!(1_700_000_000_123_u64))
        );
        assert_eq!(document["@timestamp"], "2023-11-14T22:13:20.123Z");
        let payload = &document["payload"];
        assert_eq!(
            (payload["half"].as_f64(), payload["even"].as_bool()),
            (Some(number as f64 / 2.0), Some(number % 2 == 0))
        );
        assert_eq!(payload["name"], format!("r {number}"));
        assert!(found.insert(number, ()).is_none(), "{number} twice");
    }
    assert_eq!(found.len() as u64, COUNT);
    server.finish();
}

#[tokio::test]
async fn the_least_configuration_of_the_document_is_enough_for_an_open_server() {
    let server = server().await;
    // Whoever has no login of its own has that of the front.
    let login = "proxy_set_header Authorization \"Basic YWRtaW46czNjcmV0LVB3\";";
    let front = front(&server, login).await;
    let least = json!({"url": front.url(), "index": "mqtt_messages"});
    let sink = node().open("documents", "elasticsearch", least).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "{\"t\":21.5}")]).await, [Outcome::Delivered]);
    assert_eq!(server.count("mqtt_messages").await.expect("counts"), 1);
    let passed = front.passed_are(1).await.expect("one request");
    assert_eq!(passed[0].authorization, "");
    front.finish();
    server.finish();
}

#[tokio::test]
async fn a_record_that_comes_again_changes_nothing() {
    let server = server().await;
    let records: Vec<Record> = (0..100).map(|number| record(number, format!("{{\"n\":{number}}}"))).collect();
    for _ in 0..3 {
        let sink = open(&server, "again", &json!({})).await;
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
        // Another owner, another batch, and another payload: the first one stays.
        let mut later = records[50..].to_vec();
        later[7].message.payload = "{\"n\":-1}".into();
        assert_eq!(deliver(&*open(&server, "again", &json!({})).await, &later).await, vec![Outcome::Delivered; 50]);
    }
    numbers(&server, "again", 100).await;
    // A record of another cluster is another one, though it has the same id there.
    let other =
        node().of_cluster(ClusterId(8)).open("other", "elasticsearch", server.config("again", &json!({}))).await;
    assert_eq!(deliver(&*other.expect("opens"), &records).await, vec![Outcome::Delivered; 100]);
    assert_eq!(server.count("again").await.expect("counts"), 200);
    server.finish();
}

#[tokio::test]
async fn indices_are_named_by_dates_and_levels_and_nothing_leaves_the_prefix() {
    let server = server().await;
    let template = json!({
        "index_patterns": ["plant-*"],
        "template": {"mappings": {"properties": {"payload": {"properties": {"t": {"type": "half_float"}}}}}},
    });
    server.call("PUT", "_index_template/plant", &template).await.expect("makes the template");
    let sink = open(&server, "plant-${topic[1]}-${date:%Y.%m.%d}", &json!({})).await;
    let topics =
        ["a/one", "a/Two words", "a/..", "a/*", "a/\"x\",\"_index\":\"taken\"", "a/<x-{now}>", "a/.security-7", "a/"];
    let names = ["one", "two_words", "..", "_", "_x____index___taken_", "_x-{now}_", ".security-7", ""];
    let mut records: Vec<Record> = Vec::new();
    for (number, topic) in (1..).zip(topics) {
        let mut record = record(number, "{\"t\":21.5}");
        record.message.topic = topic.to_owned();
        records.push(record);
    }
    let mut nowhere = record(100, "{}");
    nowhere.message.topic = "a".to_owned();
    records.push(nowhere);
    let outcomes = deliver(&*sink, &records).await;
    assert_eq!(outcomes[..topics.len()], vec![Outcome::Delivered; topics.len()]);
    assert!(matches!(&outcomes[topics.len()], Outcome::RecordFault(fault) if fault.offline), "{outcomes:?}");
    let mut expect: Vec<String> = names.iter().map(|name| format!("plant-{name}-2023.11.14")).collect();
    expect.sort();
    let mut made: Vec<String> = server.indices().await.expect("lists");
    made.retain(|name| name.starts_with("plant") || name.contains("taken") || name.starts_with('x'));
    made.sort();
    assert_eq!(made, expect);
    let mapping = server.call("GET", "plant-one-2023.11.14/_mapping", &Value::Null).await.expect("reads");
    let properties = &mapping["plant-one-2023.11.14"]["mappings"]["properties"];
    assert_eq!(properties["payload"]["properties"]["t"]["type"], "half_float", "of the template");
    assert_eq!((&properties["@timestamp"]["type"], &properties["timestamp"]["type"]), (&json!("date"), &json!("long")));
    server.finish();
}

#[tokio::test]
async fn a_document_is_the_envelope_or_the_payload() {
    let server = server().await;
    let ignored = json!({"mappings": {"properties": {"payload": {"type": "object", "enabled": false}}}});
    server.make_index("envelopes", &ignored).await.expect("makes it");
    let payloads =
        [&b"{\"t\":21.50,\"n\":null}"[..], b"warm", b"21", b"null", b"[1,[2]]", b"\xff\x00", b"", b"{\"a\":\n1}"];
    let records: Vec<Record> = (0..).zip(payloads).map(|(number, payload)| record(number, payload)).collect();
    let sink = open(&server, "envelopes", &json!({})).await;
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; payloads.len()]);
    let hits = server.hits("envelopes", 100).await.expect("reads");
    for record in &records {
        let hit = hits.iter().find(|hit| hit.id.ends_with(&format!("-{}", record.id.sequence))).expect("is there");
        let mut document = hit.value().expect("is JSON");
        assert!(document.as_object_mut().expect("an object").shift_remove("@timestamp").is_some());
        assert_eq!(document, envelope(record));
    }
    assert!(hits.iter().any(|hit| hit.text().contains("21.50")), "bytes stay as they are");

    let sink = open(&server, "raw", &json!({"payload_format": "raw"})).await;
    let own = record(2, r#"{"@timestamp":"2020-02-03T04:05:06Z","t":1}"#);
    let outcomes = deliver(&*sink, &[record(1, "{\"t\":21.50}"), own, record(3, "warm")]).await;
    assert_eq!(outcomes[..2], [Outcome::Delivered, Outcome::Delivered]);
    let Outcome::RecordFault(fault) = &outcomes[2] else { panic!("{outcomes:?}") };
    assert_eq!((&*fault.class, fault.offline), ("not_an_object", true));
    let mut texts: Vec<String> =
        server.hits("raw", 10).await.expect("reads").iter().map(|hit| hit.text().to_owned()).collect();
    texts.sort();
    let expect =
        [r#"{"@timestamp":"2020-02-03T04:05:06Z","t":1}"#, r#"{"@timestamp":"2023-11-14T22:13:20.001Z","t":21.50}"#];
    assert_eq!(texts, expect);
    server.finish();
}

#[tokio::test]
async fn a_data_stream_knows_what_comes_again_until_it_rolls_over() {
    let server = server().await;
    let template = json!({"index_patterns": ["stream-*"], "data_stream": {}, "priority": 500});
    server.call("PUT", "_index_template/stream", &template).await.expect("makes the template");
    let sink = open(&server, "stream-${topic[0]}", &json!({})).await;
    let records = [record(1, "{\"n\":1}"), record(2, "{\"n\":2}")];
    for _ in 0..2 {
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2]);
    }
    let hits = server.hits("stream-plant", 10).await.expect("reads");
    assert_eq!(hits.len(), 2);
    assert!(hits[0].index.starts_with(".ds-stream-plant-"), "{hits:?}");
    // As docs/connectors/elasticsearch.md says: ids are unique within a backing index.
    server.call("POST", "stream-plant/_rollover", &Value::Null).await.expect("rolls over");
    assert_eq!(deliver(&*sink, &records[..1]).await, [Outcome::Delivered]);
    assert_eq!(server.count("stream-plant").await.expect("counts"), 3);
    server.finish();
}

#[tokio::test]
async fn a_request_is_small_and_carries_its_secret_in_a_header() {
    let server = server().await;
    let front = front(&server, &format!("location /below/ {{ proxy_pass {}/; }}", server.url())).await;
    let records: Vec<Record> = (0..1_000).map(|number| record(number, format!("{{\"n\":{number}}}"))).collect();
    let sink = open(&server, "small", &json!({"url": front.url(), "timeout_secs": 20})).await;
    for batch in [&records[..], &records[..1]] {
        assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; batch.len()]);
    }
    let below = json!({"url": format!("{}/below", front.url())});
    let sink = open(&server, "small-${topic[0]}", &below).await;
    assert_eq!(deliver(&*sink, &records[..1]).await, [Outcome::Delivered]);
    let passed = front.passed_are(3).await.expect("three requests");
    let plain: usize = records.iter().map(|record| record.message.payload.len() + 200).sum();
    println!("measured: {} bytes instead of about {plain}", passed[0].bytes);
    assert!((passed[0].bytes as usize) < plain / 6, "{}", passed[0].bytes);
    for request in &passed {
        assert_eq!((&*request.encoding, &*request.method, request.status), ("gzip", "POST", 200));
        assert!(request.authorization.starts_with("Basic "), "{request:?}");
    }
    let query = "filter_path=items.*.status%2Citems.*.error.type%2Citems.*.error.reason\
                 %2Citems.*.error.caused_by.reason&timeout=";
    assert_eq!(passed[0].uri, format!("/small/_bulk?{query}18000ms"));
    assert_eq!(passed[2].uri, format!("/below/_bulk?{query}27000ms"), "a path of the server's own stays");
    assert_eq!(passed[0].connection, passed[1].connection, "the connection is used again");
    assert_eq!(server.count("small").await.expect("counts"), 1_000);
    assert_eq!(server.count("small-plant").await.expect("counts"), 1);
    front.finish();
    server.finish();
}
