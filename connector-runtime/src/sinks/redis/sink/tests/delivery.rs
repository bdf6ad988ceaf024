//! What arrives, and how.

use super::*;

const RECORDS: u64 = 10_000;
const BATCH: usize = 1_000;

/// Twelve shapes in turn.
fn payload(number: u64) -> Vec<u8> {
    match number % 12 {
        0 => Vec::new(),
        1 => vec![b'x'],
        2 if number % 1_200 == 2 => format!("{number}-").repeat(1 << 15).into_bytes(),
        2 => b"{\"t\": 21.5, \"s\": \"\\u00e4\"}".to_vec(),
        3 => format!("before\0after {number}").into_bytes(),
        4 => vec![0xff, 0xfe, b'a', 0x80],
        5 => "größer → 😀".into(),
        6 => "EX 1 NX".into(),
        7 => "\"double\" 'single' ${topic} {payload}".into(),
        8 => "*1\r\n$8\r\nFLUSHALL\r\n".into(),
        9 => "line\nbreak\r\nand\ttab".into(),
        10 => (0..=255).collect(),
        _ => format!("r{number}").into_bytes(),
    }
}

/// As redis-cli prints bytes for a person.
fn quoted(bytes: &[u8]) -> String {
    let quote = |byte: &u8| match byte {
        b'\\' => "\\\\".to_owned(),
        b'"' => "\\\"".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        7 => "\\a".to_owned(),
        8 => "\\b".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("\"{}\"", bytes.iter().map(quote).collect::<String>())
}

#[tokio::test]
async fn ten_thousand_records_of_all_shapes_arrive_as_they_were() {
    let server = server().await;
    let sink = open(&server, &json!({})).await;
    let records: Vec<Record> = (0..RECORDS).map(|number| record(number, payload(number))).collect();
    let started = Instant::now();
    for batch in records.chunks(BATCH) {
        assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; BATCH]);
    }
    println!("measured: {RECORDS} records in {:?}", started.elapsed());
    let found = server.cli(&["--no-raw", "LRANGE", KEY, "0", "-1"]).await.expect("reads");
    let mut found = found.lines();
    for number in 0..RECORDS {
        let expect = format!("{}) {}", number + 1, quoted(&payload(number)));
        assert_eq!(found.next().map(str::trim_start), Some(&*expect), "{number}");
    }
    assert_eq!(found.next(), None);
    server.finish();
}

#[tokio::test]
async fn every_lane_keeps_its_order_over_all_connections() {
    let server = server().await;
    let config = server.config(&json!({"command_template": "RPUSH of:${client_id} {payload}", "batch_records": 300}));
    const COUNT: u64 = 10_000;
    let queue = MemoryQueue::with((0..COUNT).map(message));
    let started = Instant::now();
    let task = start(&queue, config);
    queue.all_committed().await;
    println!("measured: {COUNT} records through the pipeline in {:?}", started.elapsed());
    for of in 0..9 {
        let key = format!("of:c{of}");
        let found = server.cli(&["LRANGE", &key, "0", "-1"]).await.expect("reads");
        let expect = (0..COUNT).filter(|number| number % 9 == of).map(|number| number.to_string());
        assert!(found.lines().eq(expect), "{key}");
    }
    assert_eq!(task.report().counters.send_success_total, COUNT);
    assert!(connections(&server).await.expect("counts") > 1, "one connection did it all");
    server.finish();
}

#[tokio::test]
async fn arguments_are_those_of_the_template_whatever_the_values_are() {
    let server = server().await;
    let template = r#"HSET "readings of ${topic[0]}" '${client_id} {x}' {payload}"#;
    let sink = open(&server, &json!({"command_template": template})).await;
    let records = [record(1, "a b \"c\""), record(2, "' ${payload}")];
    assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2]);
    for (field, expect) in [("device-1 {x}", "a b \"c\""), ("device-2 {x}", "' ${payload}")] {
        assert_eq!(server.cli(&["HGET", "readings of plant", field]).await.expect("reads"), expect);
    }
    assert_eq!(server.cli(&["HLEN", "readings of plant"]).await.expect("reads"), "2");
    server.finish();
}

#[tokio::test]
async fn the_payload_is_the_envelope_when_that_is_asked_for() {
    let server = server().await;
    let more = json!({"command_template": "HSET all ${payload.t} {payload}", "payload_format": "envelope"});
    let sink = open(&server, &more).await;
    assert_eq!(deliver(&*sink, &[record(1, "{\"t\":21.5}")]).await, [Outcome::Delivered]);
    let found = server.cli(&["HGET", "all", "21.5"]).await.expect("reads");
    let found: Value = serde_json::from_str(&found).expect("is JSON");
    assert_eq!((&found["topic"], &found["payload"]), (&json!("plant/one"), &json!({"t": 21.5})));
    server.finish();
}

#[tokio::test]
async fn a_message_that_nobody_hears_is_delivered() {
    let server = server().await;
    let sink = open(&server, &json!({"command_template": "PUBLISH ${topic} {payload}"})).await;
    assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    let stats = server.cli(&["INFO", "commandstats"]).await.expect("reads");
    assert!(stats.contains("cmdstat_publish:calls=1,"), "{stats}");
    server.finish();
}

#[tokio::test]
async fn the_example_of_the_page_works() {
    let page = include_str!("../../../../../../docs/connectors/redis.md");
    let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let example: Value = serde_json::from_str(example).expect("is JSON");
    let server = server().await;
    let mut config = example["config"].clone();
    config["server"] = json!(server.address());
    config["username"] = json!(::tests::redis::USER);
    config["password"] = json!(::tests::redis::PASSWORD);
    let sink = node().open("lists", "redis", config).await.expect("opens");
    assert_eq!(deliver(&*sink, &[record(1, "{\"t\":1}"), record(2, "x")]).await, vec![Outcome::Delivered; 2]);
    assert_eq!(server.cli(&["XLEN", "mqtt_messages"]).await.expect("reads"), "2");
    let found = server.cli(&["XRANGE", "mqtt_messages", "-", "+"]).await.expect("reads");
    assert!(found.contains("plant/one") && found.contains("{\"t\":1}"), "{found}");
    server.finish();
}
