//! What stands in the bucket.

use std::io::Read;

use api_types::ClusterId;
use api_types::envelope::envelope;

use super::*;

const COUNT: u64 = 10_000;

#[tokio::test]
async fn ten_thousand_records_are_all_there_in_few_objects() {
    let server = server().await;
    let queue = MemoryQueue::with((0..COUNT).map(|number| {
        let payload = json!({"n": number, "half": number as f64 / 2.0, "name": format!("r {number}")});
        message(number, payload.to_string())
    }));
    let started = std::time::Instant::now();
    let task = run(&queue, server.config(BUCKET, &json!({"batch_records": 1_000})));
    queue.all_committed().await;
    println!("measured: {COUNT} records in {:?}", started.elapsed());
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.retry_total), (COUNT, 0));
    let objects = server.objects(BUCKET).expect("reads");
    assert_eq!(objects.len(), 10);
    for (key, bytes) in &objects {
        let records = array(bytes);
        assert_eq!(records.len(), 1_000);
        let id = |envelope: &Value| envelope["id"].as_str().expect("an id").to_owned();
        let (first, last) = (id(&records[0]), id(&records[999]));
        assert_eq!(*key, format!("mqtt/2023-11-14/{}-{first}-{last}.json", ClusterId(7)));
        for record in &records {
            let number = record["payload"]["n"].as_u64().expect("a number");
            assert_eq!(record["payload"]["half"].as_f64(), Some(number as f64 / 2.0));
            assert_eq!(record["payload"]["name"], format!("r {number}"));
            assert_eq!(record["topic"], format!("t/{}", number % 5));
            assert_eq!(record["timestamp"], 1_700_000_000_123 + number);
        }
    }
    all_are_there_once(&server, COUNT);
    let (key, _) = objects.first_key_value().expect("one");
    let head = server.head(BUCKET, key).await.expect("asks");
    assert!(head.contains("content-type: application/json\r"), "{head}");
    server.finish();
}

#[tokio::test]
async fn count_bytes_and_time_bound_an_object() {
    for (more, expect) in
        [(json!({"batch_records": 40, "linger_ms": 60_000}), vec![40, 40]), (json!({"linger_ms": 300}), vec![90])]
    {
        let server = server().await;
        let queue = numbered(90);
        let started = std::time::Instant::now();
        let task = run(&queue, server.config(BUCKET, &more));
        let full = u64::from(expect.iter().sum::<u32>());
        double::until("the objects are there", || task.report().counters.send_success_total == full).await;
        let sizes: Vec<u32> = server
            .objects(BUCKET)
            .expect("reads")
            .values()
            .map(|bytes| u32::try_from(array(bytes).len()).expect("few"))
            .collect();
        assert_eq!(sizes, expect, "{more}");
        if full == 90 {
            assert!(started.elapsed() >= Duration::from_millis(300), "not before its time");
        }
        drop(task);
        server.finish();
    }
    let options =
        node().sink_for("objects", "s3", json!({"bucket": "b-1", "region": "r", "batch_bytes": 2_048})).options;
    assert_eq!((options.limits.bytes_max, options.limits.sync_bounds), (2_048, true), "the queue seals by bytes");
}

#[tokio::test]
async fn a_batch_that_comes_again_is_the_same_object_byte_by_byte() {
    let server = server().await;
    let records = records(300);
    for compression in ["none", "gzip", "zstd"] {
        let more = json!({"compression": compression, "root": compression});
        assert_eq!(deliver(&*open(&server, &more).await, &records).await, vec![Outcome::Delivered; 300]);
    }
    let before = server.objects(BUCKET).expect("reads");
    assert_eq!(before.len(), 3);
    for compression in ["none", "gzip", "zstd"] {
        let more = json!({"compression": compression, "root": compression});
        // Another node's, later.
        let other = TestNode::new(&[], PathBuf::from("/elsewhere"), &[]);
        let sink = other.open("objects", "s3", server.config(BUCKET, &more)).await.expect("opens");
        assert_eq!(deliver(&*sink, &records).await, vec![Outcome::Delivered; 300]);
    }
    assert!(before == server.objects(BUCKET).expect("reads"), "another object, or other bytes");
    assert_eq!(server.count("PutObject").expect("counts"), 6);
    // Another cluster's batch is another one, though its records have the same ids there.
    let other = node().of_cluster(ClusterId(8)).open("objects", "s3", server.config(BUCKET, &json!({}))).await;
    assert_eq!(deliver(&*other.expect("opens"), &records).await, vec![Outcome::Delivered; 300]);
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 4);
    server.finish();
}

#[tokio::test]
async fn a_large_batch_that_comes_again_is_the_same_object_byte_by_byte() {
    let server = server().await;
    let records = large(8 << 20);
    let mut before = None;
    for _ in 0..2 {
        for compression in ["none", "gzip", "zstd"] {
            let more = json!({"compression": compression, "part_bytes": PART_BYTES, "root": compression});
            assert_eq!(deliver(&*open(&server, &more).await, &records).await, vec![Outcome::Delivered; records.len()]);
        }
        let objects = server.objects(BUCKET).expect("reads");
        assert_eq!(objects.len(), 3);
        assert!(*before.get_or_insert_with(|| objects.clone()) == objects, "another object, or other bytes");
    }
    assert_eq!(server.count("CompleteMultipartUpload").expect("counts"), 6);
    server.finish();
}

#[tokio::test]
async fn formats_compressions_and_extensions_are_what_was_asked_for() {
    let server = server().await;
    let records = records(100);
    let expect: Vec<Value> = records.iter().map(envelope).collect();
    for (format, compression, extension, content_type) in [
        ("json", "none", "json", "application/json"),
        ("ndjson", "none", "json", "application/x-ndjson"),
        ("json", "gzip", "json.gz", "application/gzip"),
        ("ndjson", "gzip", "json.gz", "application/gzip"),
        ("json", "zstd", "json.zst", "application/zstd"),
        ("ndjson", "zstd", "json.zst", "application/zstd"),
    ] {
        let root = format!("{format}-{compression}");
        let more = json!({"format": format, "compression": compression, "root": root});
        assert_eq!(deliver(&*open(&server, &more).await, &records).await, vec![Outcome::Delivered; 100]);
        let objects = server.objects(BUCKET).expect("reads");
        let (key, bytes) = objects.iter().find(|(key, _)| key.starts_with(&format!("{root}/"))).expect("is there");
        assert!(key.ends_with(&format!("-1-7-0-1-7-99.{extension}")), "{key}");
        let head = server.head(BUCKET, key).await.expect("asks");
        assert!(head.contains(&format!("content-type: {content_type}\r")), "{head}");
        let mut text = String::new();
        match compression {
            "none" => text.push_str(std::str::from_utf8(bytes).expect("text")),
            "gzip" => drop(flate2::read::GzDecoder::new(&**bytes).read_to_string(&mut text).expect("is gzip")),
            _ => text = String::from_utf8(zstd::stream::decode_all(&**bytes).expect("is zstd")).expect("text"),
        }
        if compression != "none" {
            assert!(bytes.len() < text.len() / 4, "{} of {}", bytes.len(), text.len());
        }
        let found: Vec<Value> = match format {
            "json" => serde_json::from_str(&text).expect("an array"),
            _ => text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect(),
        };
        assert_eq!(found, expect, "{format} {compression}");
    }
    let more = json!({"file_extension": "log1", "object_key_prefix": ""});
    assert_eq!(deliver(&*open(&server, &more).await, &records).await, vec![Outcome::Delivered; 100]);
    let objects = server.objects(BUCKET).expect("reads");
    assert!(objects.keys().any(|key| key.starts_with("2023-11-14/") && key.ends_with("-1-7-99.log1")), "no prefix");
    server.finish();
}

#[tokio::test]
async fn a_prefix_may_have_every_character_and_stays_in_its_place() {
    let server = server().await;
    let (root, prefix) = ("/plant 1/ü'(!)*/a+b=c&d?e#f", "%2e%2e/$x/{y}~");
    let sink = open(&server, &json!({"root": root, "object_key_prefix": prefix})).await;
    assert_eq!(deliver(&*sink, &records(2)).await, vec![Outcome::Delivered; 2]);
    let objects = server.objects(BUCKET).expect("reads");
    let (key, _) = only(&objects);
    assert!(key.starts_with("plant 1/ü'(!)*/a+b=c&d?e#f/%2e%2e/$x/{y}~/2023-11-14/"), "{key}");
    // The answer about unfinished uploads is asked for with the same prefix.
    double::until("it is answered", || server.count("ListMultipartUploads").expect("counts") == 1).await;
    server.finish();
}

#[tokio::test]
async fn a_payload_alone_is_a_json_value_and_what_is_no_text_ends_when_its_neighbours_are_stored() {
    let server = server().await;
    let payloads = [&b"\xff\x00"[..], b"{\"t\":21.50}", b"warm", b"", b"\xfe"];
    let records: Vec<Record> = (0..).zip(payloads).map(|(number, payload)| record(number, payload)).collect();
    let sink = open(&server, &json!({"payload_format": "raw"})).await;
    server.take_away(BUCKET).expect("takes it away");
    let outcomes = deliver(&*sink, &records).await;
    assert!(outcomes.iter().all(|outcome| kind(outcome) == TargetFaultKind::Missing), "{outcomes:?}");
    server.bring_back(BUCKET).expect("brings it back");
    let outcomes = deliver(&*sink, &records).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Outcome::RecordFault(fault) => {
                assert_eq!((&*fault.class, fault.offline), ("not_text", true));
                assert!([0, 4].contains(&place));
            }
            other => assert_eq!((other, [1, 2, 3].contains(&place)), (&Outcome::Delivered, true)),
        }
    }
    let objects = server.objects(BUCKET).expect("reads");
    let (key, bytes) = only(&objects);
    assert_eq!(bytes, br#"[{"t":21.50},"warm",""]"#);
    assert!(key.ends_with("-1-7-0-1-7-4.json"), "named by the whole batch: {key}");
    // Nothing of it can be written: no object.
    let outcomes = deliver(&*sink, &[record(9, &b"\xff"[..])]).await;
    assert!(matches!(&outcomes[0], Outcome::RecordFault(fault) if &*fault.class == "not_text"), "{outcomes:?}");
    assert_eq!(server.objects(BUCKET).expect("reads").len(), 1);
    server.finish();
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_is_the_same_as_in_one() {
    let server = server().await;
    let records = large(8 << 20);
    let whole = open(&server, &json!({"part_bytes": 64 << 20, "root": "whole"})).await;
    assert_eq!(deliver(&*whole, &records).await, vec![Outcome::Delivered; records.len()]);
    assert_eq!((server.count("PutObject").expect("counts"), server.count("UploadPart").expect("counts")), (1, 0));
    let parts = open(&server, &json!({"part_bytes": PART_BYTES, "root": "parts"})).await;
    assert_eq!(deliver(&*parts, &records).await, vec![Outcome::Delivered; records.len()]);
    let packed = open(&server, &json!({"part_bytes": PART_BYTES, "root": "packed", "compression": "gzip"})).await;
    assert_eq!(deliver(&*packed, &records).await, vec![Outcome::Delivered; records.len()]);
    let objects = server.objects(BUCKET).expect("reads");
    let of =
        |root: &str| objects.iter().find(|(key, _)| key.starts_with(root)).map(|(_, bytes)| bytes).expect("is there");
    assert!(of("whole/") == of("parts/"), "parts make another object");
    assert_eq!(array(of("parts/")), records.iter().map(envelope).collect::<Vec<Value>>());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&**of("packed/")).read_to_end(&mut text).expect("is gzip");
    assert!(text == *of("whole/"), "gzip holds another object");
    assert!(of("packed/").len() > PART_BYTES, "in parts as well");
    let made = server.count("CompleteMultipartUpload").expect("counts");
    assert_eq!((made, server.unfinished(BUCKET).expect("counts")), (2, 0));
    assert!(server.count("UploadPart").expect("counts") >= 2 + 2);
    server.finish();
}
