//! What stands in the target.

use super::*;
use crate::sinks::shared::line_protocol::awkward::awkward_texts;

const COUNT: u64 = 10_000;

fn numbered(count: u64) -> std::sync::Arc<MemoryQueue> {
    MemoryQueue::with((0..count).map(|number| {
        let payload =
            json!({"n": number, "half": number as f64 / 2.0, "even": number % 2 == 0, "name": format!("r {number}")});
        message(number, &payload)
    }))
}

async fn all_are_there(server: &InfluxDb, count: u64) {
    let rows = server.rows("SELECT n, half, even, \"name\", topic, client_id FROM mqtt").await.expect("reads");
    assert_eq!(rows.len() as u64, count);
    for (number, row) in rows.iter().enumerate() {
        // Their sequences are ten apart.
        let time = 1_700_000_000_123_000_000 + number as u64 * 10;
        assert_eq!(row["time"], time);
        assert_eq!((&row["topic"], &row["client_id"]), (&json!("plant/one"), &json!("device")));
        let number_read = row["n"].as_f64().expect("a number");
        assert_eq!((number_read, row["half"].as_f64()), (number as f64, Some(number as f64 / 2.0)));
        assert_eq!((&row["even"], &row["name"]), (&json!(number % 2 == 0), &json!(format!("r {number}"))));
    }
}

#[tokio::test]
async fn ten_thousand_records_of_one_moment_are_all_there_with_their_values() {
    let server = server().await;
    let queue = numbered(COUNT);
    let started = std::time::Instant::now();
    let task = run(&queue, server.config(&json!({})));
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    all_are_there(&server, COUNT).await;
    assert_eq!(task.report().counters.send_success_total, COUNT);
    let writes = server.writes().expect("reads the log");
    assert_eq!(writes, vec!["204 /write?db=sluice&precision=n"; 2], "no secret in the URL, a batch is a request");
    server.finish();
}

#[tokio::test]
async fn version_2_writes_with_a_token() {
    let Some(server) = InfluxDb::with_version_2().await.expect("InfluxDB 1.8 starts") else { return };
    let queue = numbered(COUNT);
    run(&queue, server.config_v2(&json!({"batch_records": 2_500})));
    queue.all_committed().await;
    all_are_there(&server, COUNT).await;
    let writes = server.writes().expect("reads the log");
    assert_eq!(writes, vec!["204 /api/v2/write?org=any&bucket=sluice&precision=ns"; 4]);
    for (precision, parameter) in [("s", "s"), ("ms", "ms"), ("us", "us"), ("ns", "ns")] {
        let config = server.config_v2(&json!({"precision": precision, "unique_time": false}));
        let sink = node().open("points", "influxdb", config).await.expect("opens");
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered], "{precision}");
        let last = server.writes().expect("reads the log").pop().expect("a request");
        assert!(last.ends_with(&format!("precision={parameter}")), "{last}");
    }
    server.finish();
}

#[tokio::test]
async fn names_and_texts_are_read_back_as_they_were() {
    let server = server().await;
    let sink = open(&server, &json!({"measurement": "${user.measurement}"})).await;
    let texts = awkward_texts(5 * 600);
    let records: Vec<Record> = texts
        .chunks(5)
        .zip(1..)
        .map(|(texts, number)| {
            // In its own measurement each, where a field has no type yet.
            let mut record = record(number, json!({texts[3].clone(): texts[4], "n": number}).to_string());
            record.message.user_properties = vec![("measurement".to_owned(), format!("{}{number}", texts[0]))];
            record.message.topic.clone_from(&texts[1]);
            record.message.client_id.clone_from(&texts[2]);
            record
        })
        .collect();
    let outcomes = deliver(&*sink, &records).await;
    let rows = server.rows("SELECT * FROM /.*/").await.expect("reads");
    let mut delivered = 0;
    for (record, outcome) in records.iter().zip(&outcomes) {
        let time = 1_700_000_000_000_000_000 + record.id.sequence.0 * 1_000_001;
        let row = rows.iter().find(|row| row["time"] == time);
        match (outcome, row) {
            (Outcome::RecordFault(fault), None) => assert!(fault.offline, "{fault:?}"),
            (Outcome::Delivered, Some(row)) => {
                delivered += 1;
                let text = |name: &str| row[name].as_str().unwrap_or_default();
                assert_eq!(text(MEASUREMENT), record.message.user_properties[0].1);
                assert_eq!((text("topic"), text("client_id")), (&*record.message.topic, &*record.message.client_id));
                let fields: Value = serde_json::from_slice(&record.message.payload).expect("is JSON");
                for (name, value) in fields.as_object().expect("an object") {
                    let same = match value {
                        Value::Number(number) => row[name].as_f64() == number.as_f64(),
                        _ => row[name] == *value,
                    };
                    assert!(same, "{name:?}: {value} is {} in {row}", row[name]);
                }
            }
            (outcome, row) => panic!("{record:?} {outcome:?} {row:?}"),
        }
    }
    println!("measured: {delivered} of {} have a form", records.len());
    assert!((100..600).contains(&delivered), "{delivered}");
    server.finish();
}

#[tokio::test]
async fn a_record_that_comes_again_changes_nothing() {
    let server = server().await;
    let sink = open(&server, &json!({"precision": "s"})).await;
    let records: Vec<Record> = (0..100).map(|number| record(number, format!("{{\"n\":{number}}}"))).collect();
    for _ in 0..3 {
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 100]);
        // Another owner, another batch.
        assert_eq!(deliver(&*open(&server, &json!({"precision": "s"})).await, &records[50..]).await.len(), 50);
    }
    assert_eq!(server.count("mqtt", "n").await.expect("counts"), 100);
    server.finish();
}

#[tokio::test]
async fn times_are_cut_to_the_precision_and_unique_unless_that_is_switched_off() {
    let server = server().await;
    for (precision, unique, uri, times) in [
        ("s", true, "n", [1_700_000_007_000_000_001_u64, 1_700_000_007_000_000_002]),
        ("ms", true, "n", [1_700_000_007_654_000_001, 1_700_000_007_654_000_002]),
        ("us", true, "n", [1_700_000_007_654_000_001, 1_700_000_007_654_000_002]),
        ("ns", true, "n", [1_700_000_007_654_000_001, 1_700_000_007_654_000_002]),
        ("s", false, "s", [1_700_000_007_000_000_000; 2]),
        ("ms", false, "ms", [1_700_000_007_654_000_000; 2]),
        ("us", false, "u", [1_700_000_007_654_000_000; 2]),
        ("ns", false, "n", [1_700_000_007_654_000_000; 2]),
    ] {
        let measurement = format!("{precision}{unique}");
        let sink =
            open(&server, &json!({"measurement": measurement, "precision": precision, "unique_time": unique})).await;
        let mut records = [record(1, "{\"v\":1}"), record(2, "{\"v\":2}")];
        for record in &mut records {
            record.message.timestamp_ms = 1_700_000_007_654;
            record.message.client_id.clear();
        }
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 2], "{measurement}");
        let rows = server.rows(&format!("SELECT v FROM \"{measurement}\"")).await.expect("reads");
        let found: Vec<(u64, u64)> = rows
            .iter()
            .map(|row| (row["time"].as_u64().expect("a time"), row["v"].as_u64().expect("a value")))
            .collect();
        // Of two in one moment the later one stays.
        let expect = if unique { vec![(times[0], 1), (times[1], 2)] } else { vec![(times[0], 2)] };
        assert_eq!(found, expect, "{measurement}");
        let last = server.writes().expect("reads the log").pop().expect("a request");
        assert!(last.ends_with(&format!("precision={uri}")), "{measurement}: {last}");
    }
    server.finish();
}

#[tokio::test]
async fn fields_have_the_types_that_are_asked_for() {
    let server = server().await;
    let payload = r#"{"whole":21,"part":21.5,"on":true,"say":"x","in":{"side":1},"list":[1,2],"time":5,"topic":"t"}"#;
    for (integers, whole) in [("float", "float"), ("integer", "integer")] {
        let more = json!({"measurement": format!("of_${{qos}}_{integers}"), "integers": integers});
        assert_eq!(deliver(&*open(&server, &more).await, &[record(1, payload)]).await, [Outcome::Delivered]);
        let rows = server.rows(&format!("SHOW FIELD KEYS FROM of_0_{integers}")).await.expect("reads");
        let types: Vec<String> = rows
            .iter()
            .map(|row| {
                format!(
                    "{}:{}",
                    row["fieldKey"].as_str().unwrap_or_default(),
                    row["fieldType"].as_str().unwrap_or_default()
                )
            })
            .collect();
        let mut expect = vec![
            format!("in.side:{whole}"),
            "list:string".to_owned(),
            "on:boolean".to_owned(),
            "part:float".to_owned(),
            "say:string".to_owned(),
            format!("time_:{whole}"),
            "topic_:string".to_owned(),
            format!("whole:{whole}"),
        ];
        expect.sort();
        assert_eq!(types, expect, "{integers}");
    }
    assert_eq!(
        deliver(&*open(&server, &json!({"measurement": "text"})).await, &[record(1, "off")]).await,
        [Outcome::Delivered]
    );
    let rows = server.rows("SELECT payload FROM \"text\"").await.expect("reads");
    assert_eq!(rows[0]["payload"], "off");
    server.finish();
}

#[tokio::test]
async fn batches_are_compressed_and_the_secret_is_a_header() {
    let server = server().await;
    let lines = format!("location / {{ proxy_pass {}; }}", server.url());
    let front = Front::start(FrontOptions { lines, ..FrontOptions::default() }).await.expect("nginx starts");
    let sink = open(&server, &json!({"server": front.url()})).await;
    let records: Vec<Record> = (0..1_000).map(|number| record(number, format!("{{\"n\":{number}}}"))).collect();
    for batch in [&records[..], &records[..1]] {
        assert_eq!(deliver(&*sink, batch).await, vec![Outcome::Delivered; batch.len()]);
    }
    assert_eq!(server.count("mqtt", "n").await.expect("counts"), 1_000);
    let passed = front.passed_are(2).await.expect("two requests");
    let plain: usize = records.iter().map(|record| record.message.payload.len() + 60).sum();
    println!("measured: {} bytes instead of about {plain}", passed[0].bytes);
    assert!((passed[0].bytes as usize) < plain / 4, "{}", passed[0].bytes);
    for request in &passed {
        assert_eq!((&*request.encoding, request.status), ("gzip", 204));
        assert!(request.authorization.starts_with("Basic "), "{request:?}");
        assert_eq!((&*request.uri, &*request.method), ("/write?db=sluice&precision=n", "POST"));
    }
    assert_eq!(passed[0].connection, passed[1].connection, "the connection is used again");
    front.finish();
    server.finish();
}
