//! What arrives, and how.

use std::collections::BTreeMap;

use api_types::Message as Published;

use super::*;

const RECORDS: u64 = 10_000;
const PUBLISHERS: u64 = 50;

/// Some are no text, one in a thousand is larger than a frame.
fn payload(number: u64) -> Vec<u8> {
    match number % 10 {
        0 => Vec::new(),
        1 => vec![0xff, 0xfe, b'a', 0x80, 0],
        2 if number % 1_000 == 2 => format!("{number}-").repeat(1 << 15).into_bytes(),
        3 => "größer → 😀 \u{202e} ${payload} {}".into(),
        _ => format!("r{number}").into_bytes(),
    }
}

fn published(number: u64) -> Published {
    Published {
        topic: format!("plant/ü/{}", number % 3),
        client_id: format!("device-{}", number % PUBLISHERS),
        payload: payload(number).into(),
        timestamp_ms: 1_700_000_000_000 + number,
        user_properties: vec![("number".into(), number.to_string())],
        ..Published::default()
    }
}

#[tokio::test]
async fn ten_thousand_records_arrive_once_each_publisher_in_its_order() {
    for (name, more) in [
        ("confirmed", json!({"batch_size": 1_000})),
        ("one channel", json!({"channel_max": 1, "delivery_mode": "Persistent"})),
        ("unconfirmed", json!({"publisher_confirms": false, "batch_size": 1_000})),
    ] {
        let place = Place::new(&format!("ten thousand {name}")).await;
        let sink = node().sink_for(NAME, "rabbitmq", place.config(&more));
        let queue = MemoryQueue::with((0..RECORDS).map(published));
        let started = Instant::now();
        let task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
        queue.all_committed().await;
        println!("measured: {name}: {:.0} records/s", RECORDS as f64 / started.elapsed().as_secs_f64());
        assert_eq!(task.report().counters.send_success_total, RECORDS, "{name}");

        let messages = place.messages_when(QUEUE, RECORDS as usize).await;
        let mut of_publishers: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
        for message in &messages {
            let number: u64 = message.header("number").and_then(|text| text.parse().ok()).expect("has a number");
            assert!(message.payload == payload(number), "{name}: payload of {number}");
            let header = |header: &str| message.header(header).expect("is there").to_owned();
            of_publishers.entry((header("mqtt.client_id"), header("mqtt.topic"))).or_default().push(number);
        }
        let total: usize = of_publishers.values().map(Vec::len).sum();
        assert_eq!((messages.len(), total as u64), (RECORDS as usize, RECORDS), "{name}");
        for (publisher, numbers) in of_publishers {
            assert!(numbers.is_sorted_by(|before, after| before < after), "{name} {publisher:?}: {numbers:?}");
        }
    }
}

#[tokio::test]
async fn a_message_says_all_of_its_record() {
    let place = Place::new("all of it").await;
    place.exchange("by_key", "direct").await;
    place.queue("kitchen", json!({})).await;
    place.bind("by_key", "kitchen", "plant.kitchen").await;
    let mut full = record(7, vec![0xff, 0]);
    full.message.topic = "plant/kitchen/x".into();
    full.message.qos = 2;
    full.message.retain = true;
    full.message.content_type = Some("image/png".into());
    full.message.response_topic = Some("amq.rabbitmq.reply-to".into());
    full.message.correlation_data = Some("c-1".into());
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    full.message.user_properties = vec![property("a", "1"), property("ü", ""), property("a", "2")];
    let more = json!({
        "exchange": "by_key", "routing_key": "${topic[0]}.${topic[1]}", "delivery_mode": "Persistent",
    });
    let sink = place.open(&more).await;
    assert_eq!(deliver(&*sink, std::slice::from_ref(&full)).await, [Outcome::Delivered]);
    let messages = place.messages_when("kitchen", 1).await;
    let message = &messages[0];
    assert_eq!((&message.payload[..], &*message.routing_key), (&[0xff, 0][..], "plant.kitchen"));
    let expect = json!({
        "delivery_mode": 2, "message_id": "1-7-7", "timestamp": 1_700_000_000, "content_type": "image/png",
        "correlation_id": "c-1",
        "headers": {
            "mqtt.topic": "plant/kitchen/x", "mqtt.client_id": "device-7", "mqtt.qos": "2", "mqtt.retain": "true",
            "mqtt.timestamp": "1700000000007", "mqtt.id": "1-7-7", "mqtt.response_topic": "amq.rabbitmq.reply-to",
            "a": ["1", "2"], "ü": "",
        },
    });
    assert_eq!(message.properties, expect);

    let sink = place.open(&json!({"payload_format": "envelope"})).await;
    assert_eq!(deliver(&*sink, &[full]).await, [Outcome::Delivered]);
    let messages = place.messages_when(QUEUE, 1).await;
    let envelope: Value = serde_json::from_slice(&messages[0].payload).expect("is JSON");
    assert_eq!((&envelope["id"], &envelope["topic"]), (&json!("1-7-7"), &json!("plant/kitchen/x")));
    assert_eq!(envelope["payload_base64"], "/wA=");
    let properties = &messages[0].properties;
    assert_eq!((&properties["content_type"], &properties["delivery_mode"]), (&json!("application/json"), &json!(1)));
    assert_eq!(messages[0].routing_key, "");
}

#[tokio::test]
async fn without_confirmations_delivered_means_handed_to_the_socket() {
    let place = Place::new("unconfirmed").await;
    place.exchange("nowhere", "direct").await;
    let sink = place.open(&json!({"publisher_confirms": false, "exchange": "nowhere"})).await;
    // Nobody is told that it cannot be routed.
    assert_eq!(deliver(&*sink, &numbered(10)).await, vec![Outcome::Delivered; 10]);

    let sink = place.open(&json!({"publisher_confirms": false})).await;
    assert_eq!(deliver(&*sink, &numbered(10)).await, vec![Outcome::Delivered; 10]);
    assert_eq!(place.messages_when(QUEUE, 10).await.len(), 10);

    // An exchange that is gone is told to the run after those that are lost, and to all until it is there again.
    place.server.delete(&["exchanges", &place.name, EXCHANGE]).await.expect("deletes");
    let told = wait::until(LIMIT, "the fault is told", async || {
        let outcomes = deliver(&*sink, &numbered(1)).await;
        ensure!(outcomes != [Outcome::Delivered], "delivered");
        Ok(fault(&outcomes[0]).clone())
    });
    let told = told.await.expect("is told");
    assert_eq!(told.kind, TargetFaultKind::Missing, "{told:?}");
    assert!(told.message.contains("NOT_FOUND - no exchange 'mqtt_messages' in vhost 'unconfirmed'"), "{told:?}");
    for _ in 0..3 {
        assert_eq!(fault(&deliver(&*sink, &numbered(1)).await[0]).kind, TargetFaultKind::Missing);
    }
    place.exchange(EXCHANGE, "fanout").await;
    delivers(&*sink, &numbered(1)).await;
}

#[tokio::test]
async fn the_example_of_the_page_delivers() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/connectors/rabbitmq.md"));
    let page = page.expect("is there");
    let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let example: Value = serde_json::from_str(example).expect("is JSON");
    let place = Place::new("example").await;
    // What differs from server to server.
    let here = place.config(&json!({}));
    let mut config = example["config"].clone();
    for field in ["server", "port", "username", "password", "virtual_host"] {
        config[field] = here[field].clone();
    }
    let sink = open(config).await;
    let mut sensor = record(1, "21.5");
    sensor.message.topic = "sensor/kitchen".into();
    assert_eq!(deliver(&*sink, &[sensor]).await, [Outcome::Delivered]);
    let messages = place.messages_when(QUEUE, 1).await;
    let message = &messages[0];
    assert_eq!((&message.payload[..], &*message.routing_key), (&b"21.5"[..], "sensor.kitchen"));
    assert_eq!(message.properties["delivery_mode"], 2);
}
