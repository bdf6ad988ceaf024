//! What arrives, where, and in which order.

use std::time::Instant;

use api_types::Message;

use super::*;
use crate::registry::OrderClass;

/// Topics and payloads of every kind that MQTT allows.
fn shapes(count: u64) -> Vec<Message> {
    let payload = |number: u64| -> Vec<u8> {
        match number % 8 {
            0 => Vec::new(),
            1 => vec![number as u8],
            2 => b"\0\0nul\0".to_vec(),
            3 => b"\xff\xfe\x80".to_vec(),
            4 => format!("{{\"number\":{number}}}").into_bytes(),
            5 if number % 1000 == 5 => vec![b'x'; 256 << 10],
            5 => vec![b'm'; 1 + (number % 300) as usize],
            6 => "text with umlauts: äöü".into(),
            _ => number.to_be_bytes().to_vec(),
        }
    };
    let topics = ["plain", "deep/er/and/deeper", "späße/日本/😀", "with space", "/leading", "trailing/", "a=b,c\"'\\n"];
    let message = |number: u64| Message {
        topic: topics[(number % 7) as usize].to_owned(),
        client_id: if number % 50 == 49 { String::new() } else { format!("device {}", number % 20) },
        qos: (number % 3) as u8,
        retain: number.is_multiple_of(4),
        payload: payload(number).into(),
        timestamp_ms: 1_700_000_000_000 + number,
        // Names the message, whatever its payload; and shapes that a list of pairs would have to escape.
        user_properties: vec![
            ("number".into(), number.to_string()),
            ("a,b=c".into(), " \"quoted\\\n".into()),
            ("twice".into(), "1".into()),
            ("twice".into(), "2".into()),
            (String::new(), String::new()),
        ],
        ..Message::default()
    };
    (0..count).map(message).collect()
}

fn number_of(received: &Received) -> usize {
    received.header("number").and_then(|number| number.parse().ok()).expect("is numbered")
}

async fn ten_thousand(topic: &str, more: Value) {
    const COUNT: u64 = 10_000;
    let server = server_with(topic, 6, &[]).await;
    let sink = node().sink_for(NAME, "kafka", server.config(topic, &more));
    assert_eq!(sink.order, OrderClass::Lanes);
    let sent = shapes(COUNT);
    let queue = MemoryQueue::with(sent.clone());
    let started = Instant::now();
    let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
    queue.all_committed().await;
    println!("measured: {more}: {COUNT} records in {:?}", started.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.send_fail_total), (COUNT, 0));

    let arrived = messages(&server, topic).await;
    assert_eq!(arrived.len(), COUNT as usize);
    let mut seen = vec![false; COUNT as usize];
    let mut last: BTreeMap<(String, String), (i32, usize)> = BTreeMap::new();
    for received in &arrived {
        let number = number_of(received);
        let message = &sent[number];
        assert!(!std::mem::replace(&mut seen[number], true), "{number} arrived twice");
        assert!(received.value == message.payload, "{number}");
        assert_eq!(received.key.as_deref(), Some(message.key().as_bytes()));
        assert_eq!(received.timestamp_ms, message.timestamp_ms as i64);
        assert_eq!(received.header("mqtt.topic"), Some(message.topic.as_str()));
        assert_eq!(received.header("mqtt.client_id"), Some(message.client_id.as_str()));
        assert_eq!(received.header("mqtt.qos"), Some(message.qos.to_string().as_str()));
        assert_eq!(received.header("mqtt.retain"), Some(message.retain.to_string().as_str()));
        let own = received.headers.len() - message.user_properties.len();
        let properties = received.headers[own..].iter().map(|(name, value)| (name.as_str(), &value[..]));
        let expect = message.user_properties.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        assert!(properties.eq(expect), "{:?}", received.headers);
        // A publisher's messages of a topic share a partition, in their order.
        let before = last.insert((message.client_id.clone(), message.topic.clone()), (received.partition, number));
        if let Some((partition, earlier)) = before {
            assert!(partition == received.partition && earlier < number, "{number} came after {earlier}");
        }
    }
    let partitions: std::collections::BTreeSet<i32> = arrived.iter().map(|received| received.partition).collect();
    assert!(partitions.len() > 3, "twenty devices stand on partitions {partitions:?} only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_records_of_every_shape_arrive_equal_in_order_and_once() {
    ten_thousand("shapes", json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_by_an_idempotent_producer_in_compressed_batches() {
    ten_thousand("shapes-idempotent", json!({"acks": "all", "compression_type": "zstd"})).await;
}

#[tokio::test]
async fn kafkas_own_consumer_sees_key_value_headers_and_time() {
    let server = server_with("own-consumer", 1, &[]).await;
    let more = json!({"key": "${topic[1]}/${user.room}", "headers": {"site": "north ${payload.t}", "a": "3"}});
    let sink = opened(server.config("own-consumer", &more)).await;
    let mut record = record(5, "{\"t\":21.5}");
    record.message.qos = 2;
    record.message.retain = true;
    record.message.content_type = Some("application/json".into());
    record.message.response_topic = Some("answers/here".into());
    record.message.correlation_data = Some(b"abc".to_vec().into());
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    record.message.user_properties =
        vec![property("a", "1"), property("a", "2"), property("room", "r7"), property("mqtt.id", "of an earlier hop")];
    assert_eq!(deliver(&*sink, &[record]).await, [Outcome::Delivered]);

    let bootstrap = server.bootstrap(Listener::Plain);
    let arguments = ["--bootstrap-server", &bootstrap, "--topic", "own-consumer", "--from-beginning"];
    let show = ["--formatter-property", "print.key=true", "--formatter-property", "print.headers=true"];
    let more = ["--formatter-property", "print.timestamp=true", "--max-messages", "1", "--timeout-ms", "20000"];
    let class = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let text = server.tool(class, &[&arguments[..], &show, &more].concat()).await.expect("consumes");
    let expect = "CreateTime:1700000000005\tmqtt.topic:plant/one,mqtt.client_id:device-5,mqtt.qos:2,mqtt.retain:true,\
                  mqtt.timestamp:1700000000005,mqtt.id:1-7-5,mqtt.content_type:application/json,\
                  mqtt.response_topic:answers/here,mqtt.correlation_data:abc,a:1,a:2,room:r7,a:3,site:north 21.5\t\
                  one/r7\t{\"t\":21.5}";
    assert_eq!(text.lines().next(), Some(expect));
}

#[tokio::test]
async fn a_key_template_chooses_the_partition_and_a_missing_value_is_the_records_own() {
    let server = server_with("keys", 8, &[]).await;
    let sink = opened(server.config("keys", &json!({"key": "${payload.room}"}))).await;
    let records: Vec<Record> =
        (0..40).map(|number| record(number, format!("{{\"room\":\"r{}\"}}", number % 10))).collect();
    assert_eq!(delivered(&deliver(&*sink, &records).await), 40);
    let mut places: BTreeMap<Vec<u8>, std::collections::BTreeSet<i32>> = BTreeMap::new();
    for received in messages(&server, "keys").await {
        places.entry(received.key.expect("has a key")).or_default().insert(received.partition);
    }
    assert_eq!(places.len(), 10);
    assert!(places.values().all(|partitions| partitions.len() == 1), "{places:?}");
    let used: std::collections::BTreeSet<&i32> = places.values().flatten().collect();
    assert!(used.len() > 2, "{places:?}");

    let outcomes = deliver(&*sink, &[record(40, "{}"), record(41, "{\"room\":\"r1\"}")]).await;
    assert_eq!(record_fault(&outcomes[0]), ("missing_value", false));
    assert_eq!(outcomes[1], Outcome::Delivered);

    let sink = opened(server.config("keys", &json!({"key": "fixed"}))).await;
    let records: Vec<Record> = (50..90).map(|number| record(number, "x")).collect();
    assert_eq!(delivered(&deliver(&*sink, &records).await), 40);
    let all = messages(&server, "keys").await;
    let fixed: Vec<i32> = all
        .iter()
        .filter(|message| message.key.as_deref() == Some(b"fixed"))
        .map(|message| message.partition)
        .collect();
    assert!(fixed.len() == 40 && fixed.iter().all(|partition| *partition == fixed[0]), "{fixed:?}");
}

#[tokio::test]
async fn murmur2_puts_a_key_where_kafkas_own_producer_does() {
    let server = server_with("murmur2", 7, &[]).await;
    server.create_topic("murmur2-own", 7, &[]).await.expect("makes the topic");
    let keys: Vec<String> = (0..50).map(|number| format!("device-{number}-ü")).collect();
    let records: Vec<Record> =
        keys.iter().zip(0..).map(|(key, number)| of_client(number, key, number.to_string())).collect();
    let sink = opened(server.config("murmur2", &json!({"partitioner": "murmur2"}))).await;
    assert_eq!(delivered(&deliver(&*sink, &records).await), 50);

    let scratch = ::tests::scratch::Scratch::new("keys").expect("scratch");
    let (input, mut scratch) = (scratch.path().join("input"), scratch);
    let lines: String = keys.iter().map(|key| format!("{key}\tx\n")).collect();
    std::fs::write(&input, lines).expect("writes");
    server.produce_lines("murmur2-own", &input).await.expect("produces");
    let places = |messages: Vec<Received>| -> BTreeMap<Vec<u8>, i32> {
        messages.into_iter().map(|message| (message.key.expect("has a key"), message.partition)).collect()
    };
    let ours = places(messages(&server, "murmur2").await);
    assert_eq!(ours.len(), 50);
    assert_eq!(ours, places(messages(&server, "murmur2-own").await));
    scratch.passed();
}

#[tokio::test]
async fn an_envelope_is_one_json_object() {
    let server = server_with("envelopes", 1, &[]).await;
    let sink = opened(server.config("envelopes", &json!({"payload_format": "envelope"}))).await;
    assert_eq!(
        deliver(&*sink, &[record(5, "{\"t\":1}"), record(6, b"\xff".to_vec())]).await,
        [Outcome::Delivered, Outcome::Delivered]
    );
    let values: Vec<Value> = messages(&server, "envelopes")
        .await
        .iter()
        .map(|received| serde_json::from_slice(&received.value).expect("is JSON"))
        .collect();
    assert_eq!((&values[0]["id"], &values[0]["payload"]), (&json!("1-7-5"), &json!({"t": 1})));
    assert_eq!(values[1]["payload_base64"], json!("/w=="));
}

#[tokio::test]
async fn a_topic_that_grows_is_used_whole_without_a_restart() {
    let server = server_with("grows", 1, &[]).await;
    let sink = opened(server.config("grows", &json!({}))).await;
    let records: Vec<Record> = (0..60).map(|number| record(number, "x")).collect();
    assert_eq!(delivered(&deliver(&*sink, &records).await), 60);
    server.grow_topic("grows", 4).await.expect("grows the topic");
    let started = Instant::now();
    let spread = ::tests::wait::until(LIMIT * 2, "new partitions are used", async || {
        anyhow::ensure!(delivered(&deliver(&*sink, &records).await) == 60);
        let partitions: std::collections::BTreeSet<i32> =
            server.messages("grows").await?.iter().map(|message| message.partition).collect();
        anyhow::ensure!(partitions.len() == 4, "{partitions:?}");
        Ok(())
    });
    spread.await.expect("spreads");
    println!("measured: new partitions are used after {:?}", started.elapsed());
}
