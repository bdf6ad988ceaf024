//! What arrives, and where.

use std::collections::BTreeMap;

use api_types::{Message as Published, Sequence};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_records_arrive_once_each_in_order() {
    const COUNT: u64 = 10_000;
    let server = server().await;
    let sink = node().sink_for(NAME, "pulsar", server.config("ten-thousand", &json!({"batch_size": 1_000})));
    let queue = MemoryQueue::numbered(COUNT);
    let started = Instant::now();
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    let found = texts(&server, "ten-thousand").await;
    let expect: Vec<String> = (0..COUNT).map(|number| format!("p{number}")).collect();
    assert!(found == expect, "{} records", found.len());
    assert_eq!(task.report().counters.send_success_total, COUNT);
}

#[tokio::test]
async fn a_message_is_its_record() {
    let server = server().await;
    let sink = opened(server.config("itself", &json!({}))).await;
    let mut full = of_client(1, "device-a", vec![0, 159, 146, 150]);
    full.message = Published {
        qos: 2,
        retain: true,
        content_type: Some("image/png".into()),
        response_topic: Some("reply/here".into()),
        correlation_data: Some(vec![0xff].into()),
        user_properties: vec![("plant".into(), "north".into()), ("n".into(), "1".into()), ("n".into(), "2".into())],
        ..full.message
    };
    let mut again = full.clone();
    again.id.sequence = Sequence(2);
    let mut nobody = of_client(3, "", "");
    nobody.message.timestamp_ms = 1_700_000_000_123;
    // One alone, and two in a batch.
    for records in [&[full][..], &[again, nobody]] {
        delivered(&*sink, records).await;
    }
    let found = messages(&server, "itself").await;
    let [alone, full, nobody] = &found[..] else { panic!("{found:?}") };
    assert_eq!((alone.batch_index, full.batch_index, nobody.batch_index), (-1, 0, 1));
    for (found, id) in [(alone, "1-7-1"), (full, "1-7-2")] {
        assert_eq!((found.key.as_str(), found.event_time_ms), ("device-a", 1_700_000_000_001));
        assert_eq!(found.payload().expect("is base64"), [0, 159, 146, 150]);
        let expect = [
            ("mqtt.client_id", "device-a"),
            ("mqtt.content_type", "image/png"),
            ("mqtt.correlation_data_base64", "/w=="),
            ("mqtt.id", id),
            ("mqtt.qos", "2"),
            ("mqtt.repeated", r#"["n"]"#),
            ("mqtt.response_topic", "reply/here"),
            ("mqtt.retain", "true"),
            ("mqtt.timestamp", "1700000000001"),
            ("mqtt.topic", "plant/one"),
            ("n", r#"["1","2"]"#),
            ("plant", "north"),
        ];
        let expect: BTreeMap<String, String> =
            expect.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found.properties, expect);
        // The same wherever the queue is delivered from: cluster, disk, connector, partitions.
        assert_eq!(found.producer, format!("sluice-{}-1-7-0", ClusterId(7)));
    }
    assert_eq!((nobody.key.as_str(), nobody.event_time_ms), ("plant/one", 1_700_000_000_123));
    assert_eq!(nobody.payload().expect("is base64"), Vec::<u8>::new());
}

#[tokio::test]
async fn an_envelope_is_json() {
    let server = server().await;
    let sink = opened(server.config("envelopes", &json!({"payload_format": "envelope"}))).await;
    delivered(&*sink, &[record(1, r#"{"celsius":21.5}"#)]).await;
    let found = texts(&server, "envelopes").await;
    let envelope: Value = serde_json::from_str(&found[0]).expect("is JSON");
    assert_eq!((&envelope["id"], &envelope["payload"]["celsius"]), (&json!("1-7-1"), &json!(21.5)));
}

#[tokio::test]
async fn a_key_goes_to_the_partition_where_other_clients_send_it() {
    const PARTITIONS: u32 = 5;
    let server = server().await;
    server.create_partitioned("partitioned", PARTITIONS).await.expect("makes the topic");
    let sink = opened(server.config("partitioned", &json!({}))).await;
    let mut keys: Vec<String> = (0..38).map(|number| format!("device-{number}")).collect();
    // Units of UTF-16 count, and not bytes.
    keys.extend(["größe-ß".to_owned(), "計器-🌡".to_owned()]);
    let mut records: Vec<Record> = Vec::new();
    for (number, key) in (1..).zip(keys.iter().chain(&keys).chain(&keys)) {
        records.push(of_client(number, key, format!("{number}")));
    }
    for batch in records.chunks(30) {
        delivered(&*sink, batch).await;
    }
    let ours = messages(&server, "partitioned").await;
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    server.send("partitioned", &keys).await.expect("sends");
    let place = |found: &[Received]| -> BTreeMap<String, u32> {
        found.iter().map(|found| (found.key.clone(), found.partition().expect("has a partition"))).collect()
    };
    let all = messages(&server, "partitioned").await;
    let theirs: Vec<Received> = all.into_iter().filter(|found| found.text().is_empty()).collect();
    assert_eq!((ours.len(), theirs.len()), (120, 40));
    assert_eq!(place(&ours), place(&theirs));
    let used: std::collections::BTreeSet<u32> = place(&ours).into_values().collect();
    assert_eq!(used.len(), PARTITIONS as usize, "{used:?}");
    // Of each key in order.
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for found in &ours {
        let number: u64 = found.text().parse().expect("is a number");
        assert!(last.insert(&found.key, number) < Some(number), "{number} came too late");
    }
}

#[tokio::test]
async fn queues_have_producers_of_their_own() {
    let server = server().await;
    let sink = opened(server.config("queues", &json!({}))).await;
    let of_disk = |disk: u64| -> Vec<Record> {
        let mut records = numbered(1..=20);
        records.iter_mut().for_each(|record| record.id.raft_id = RaftId(disk));
        records
    };
    let (first, second) = (of_disk(1), of_disk(2));
    tokio::join!(delivered(&*sink, &first), delivered(&*sink, &second));
    let mut producers: BTreeMap<String, usize> = BTreeMap::new();
    for found in messages(&server, "queues").await {
        *producers.entry(found.producer).or_default() += 1;
    }
    assert_eq!(producers.into_values().collect::<Vec<_>>(), [20, 20]);
    // One connection serves them all.
    let stats = server.stats("queues").await.expect("reads");
    let publishers = stats["publishers"].as_array().expect("are listed");
    assert_eq!(publishers.len(), 2);
    assert_eq!(publishers[0]["address"], publishers[1]["address"]);
    assert_eq!(publishers[0]["metadata"], json!({"connector": NAME}));
}
