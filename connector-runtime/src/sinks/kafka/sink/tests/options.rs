//! Each option's effect, as the broker has it.

use std::time::Instant;

use super::*;
use crate::config::validate;
use crate::registry;
use crate::secrets::SecretFences;

#[tokio::test]
async fn batches_are_compressed_as_configured() {
    let server = server().await;
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    let topics = codecs.map(|codec| format!("codec-{codec}"));
    for (codec, topic) in codecs.into_iter().zip(&topics) {
        server.create_topic(topic, 1, &[]).await.expect("makes the topic");
        let sink = opened(server.config(topic, &json!({"compression_type": codec}))).await;
        let records: Vec<Record> = (0..200).map(|number| record(number, vec![b'a'; 500])).collect();
        assert_eq!(delivered(&deliver(&*sink, &records).await), 200);
        assert_eq!(messages(&server, topic).await.len(), 200);
    }
    let all = server.batches(&topics.each_ref().map(|topic| &**topic)).await.expect("dumps the log");
    for (codec, topic) in codecs.into_iter().zip(&topics) {
        let batches = &all[topic];
        assert!(batches.iter().all(|batch| batch.codec == codec), "{codec}: {batches:?}");
        let bytes: u64 = batches.iter().map(|batch| batch.bytes).sum();
        assert_eq!(bytes > 100_000, codec == "none", "{codec}: {bytes} bytes");
    }
}

#[tokio::test]
async fn batch_size_bounds_a_batch_and_linger_fills_it() {
    let server = server().await;
    let topics = [("small-batches", 2_000), ("full-batches", 200_000)];
    for (topic, batch_size) in topics {
        server.create_topic(topic, 1, &[]).await.expect("makes the topic");
        let more = json!({"batch_size": batch_size, "linger_ms": 200});
        let sink = opened(server.config(topic, &more)).await;
        let records: Vec<Record> = (0..100).map(|number| record(number, vec![b'a'; 500])).collect();
        assert_eq!(delivered(&deliver(&*sink, &records).await), 100);
    }
    let all = server.batches(&topics.map(|(topic, _)| topic)).await.expect("dumps the log");
    let records_per_batch = topics.map(|(topic, batch_size)| {
        let batches = &all[topic];
        assert!(batches.iter().all(|batch| batch.bytes <= batch_size), "{topic}: {batches:?}");
        batches.iter().map(|batch| batch.records).max().expect("has batches")
    });
    assert!(records_per_batch[0] <= 3 && records_per_batch[1] > 50, "{records_per_batch:?}");

    let once = async |linger_ms: u64| {
        let sink = opened(server.config("small-batches", &json!({"linger_ms": linger_ms}))).await;
        // The first message also looks for the partition.
        deliver(&*sink, &[record(1, "x")]).await;
        let started = Instant::now();
        assert_eq!(deliver(&*sink, &[record(2, "x")]).await, [Outcome::Delivered]);
        started.elapsed()
    };
    let (at_once, late) = (once(0).await, once(2_000).await);
    println!("measured: a lone record with linger_ms 0 after {at_once:?}, with 2000 after {late:?}");
    assert!(at_once < Duration::from_millis(2_000), "{at_once:?}");
    assert!(late >= Duration::from_millis(1_900), "{late:?}");
}

#[tokio::test]
async fn the_producer_is_idempotent_with_acks_all_and_retries() {
    let server = server().await;
    let topics = [
        ("idempotent", json!({"acks": "all"}), true),
        ("all-without-retries", json!({"acks": "all", "retries": 0}), false),
        ("leader", json!({"acks": "1"}), false),
    ];
    for (topic, more, _) in &topics {
        server.create_topic(topic, 1, &[]).await.expect("makes the topic");
        let sink = opened(server.config(topic, more)).await;
        assert_eq!(deliver(&*sink, &[record(1, "x")]).await, [Outcome::Delivered]);
    }
    let all = server.batches(&topics.each_ref().map(|(topic, ..)| *topic)).await.expect("dumps the log");
    for (topic, _, idempotent) in topics {
        let batches = &all[topic];
        assert!(batches.iter().all(|batch| (batch.producer_id >= 0) == idempotent), "{topic}: {batches:?}");
    }
}

#[tokio::test]
async fn the_example_of_the_page_delivers() {
    let page = include_str!("../../../../../../docs/connectors/kafka.md");
    let (_, example) = page.split_once("## Example\n\n```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let example: Value = serde_json::from_str(example).expect("is JSON");
    let topic = example["config"]["topic"].as_str().expect("names a topic");
    let server = server_with(topic, 12, &[]).await;
    let mut config = example["config"].clone();
    config["bootstrap_servers"] = json!(server.bootstrap(Listener::Plain));
    let sink = opened(config).await;
    let records: Vec<Record> = (0..100).map(|number| record(number, vec![b'a'; 500])).collect();
    assert_eq!(delivered(&deliver(&*sink, &records).await), 100);
    assert_eq!(messages(&server, topic).await.len(), 100);
    let batches = &server.batches(&[topic]).await.expect("dumps the log")[topic];
    assert!(batches.iter().all(|batch| batch.codec == "lz4" && batch.producer_id >= 0), "{batches:?}");
}

fn problems(more: &Value) -> Result<Vec<String>, String> {
    let mut config = json!({"bootstrap_servers": "h:9092", "topic": "t"});
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    let fences = SecretFences { env_prefix: "SLUICE_SECRET_".into(), secret_dirs: Vec::new() };
    let config = config.as_object().expect("is an object");
    match validate(registry::kind("kafka").expect("is a kind"), config, &fences) {
        Ok(valid) => Ok(valid.warnings),
        Err(invalid) => Err(format!("{invalid:?}")),
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_reason() {
    for (more, field, says) in [
        (json!({"enable_tls": true, "tls_server_name": "other"}), "config.tls_server_name", "advertised.listeners"),
        (json!({"linger_ms": 2_000, "message_timeout_ms": 2_000}), "config.linger_ms", "message_timeout_ms"),
        (json!({"sasl_mechanism": "plain", "sasl_username": "u"}), "config.sasl_password", "required"),
        (json!({"partitioner": "random"}), "config.partitioner", "murmur2"),
        (json!({"key": "${payload"}), "config.key", "without its }"),
    ] {
        let refused = problems(&more).expect_err(&more.to_string());
        assert!(refused.contains(field) && refused.contains(says), "{more}: {refused}");
    }
    let sasl = json!({"sasl_mechanism": "plain", "sasl_username": "u", "sasl_password": "p"});
    let warnings = problems(&sasl).expect("is accepted");
    assert!(warnings.iter().any(|warning| warning.contains("readably")), "{warnings:?}");
    assert!(problems(&json!({})).expect("is accepted").is_empty());
}
