//! Every option, as the broker sees it.

use super::*;

#[tokio::test]
async fn each_compression_is_the_brokers_and_is_read_by_another_client() {
    let server = server().await;
    for (compression, expect) in
        [("none", "NONE"), ("lz4", "LZ4"), ("zlib", "ZLIB"), ("zstd", "ZSTD"), ("snappy", "SNAPPY")]
    {
        let topic = format!("compressed-{compression}");
        let sink = opened(server.config(&topic, &json!({"compression": compression}))).await;
        let payload = |number: u64| format!("{number} {}", "compressible ".repeat(40));
        let records: Vec<Record> = (1..=50).map(|number| record(number, payload(number))).collect();
        delivered(&*sink, &records).await;
        delivered(&*sink, &[record(51, payload(51))]).await;
        let entries = server.entries(&topic).await.expect("reads");
        let [batch, alone] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((batch.compression.as_str(), alone.compression.as_str()), (expect, expect));
        assert_eq!((batch.batched, alone.batched), (Some(50), None));
        assert_eq!((batch.sequence_id, alone.sequence_id), (1, 51));
        assert_eq!(texts(&server, &topic).await, (1..=51).map(payload).collect::<Vec<_>>());
        let stored = server.stats(&topic).await.expect("reads")["storageSize"].as_u64().expect("is a number");
        let plain = batch.uncompressed_bytes + alone.uncompressed_bytes;
        assert_eq!(stored < plain / 2, compression != "none", "{compression}: {stored} of {plain}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_has_as_many_records_as_it_is_told() {
    let server = server().await;
    for (topic, more, count, largest) in [
        ("batch-size", json!({"batch_size": 7, "linger_ms": 60_000}), 70, Some(7)),
        ("single", json!({"batch_size": 1}), 70, None),
        ("pending", json!({"batch_size": 100, "linger_ms": 60_000, "max_pending_messages": 9}), 100, Some(9)),
    ] {
        let sink = node().sink_for(NAME, "pulsar", server.config(topic, &more));
        let queue = MemoryQueue::numbered(count);
        let _task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
        queue.all_committed().await;
        let entries = server.entries(topic).await.expect("reads");
        assert_eq!(entries.iter().map(|entry| entry.batched.unwrap_or(1)).sum::<u64>(), count, "{topic}");
        assert_eq!(entries.iter().filter_map(|entry| entry.batched).max(), largest, "{topic}");
    }
}

#[tokio::test]
async fn a_message_alone_carries_its_key_for_subscriptions_that_are_shared_by_it() {
    let server = server().await;
    let sink = opened(server.config("keys", &json!({}))).await;
    delivered(&*sink, &[of_client(1, "a", "1")]).await;
    delivered(&*sink, &[of_client(2, "b", "2"), of_client(3, "c", "3")]).await;
    let keys: Vec<Option<String>> =
        server.entries("keys").await.expect("reads").into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, [Some("a".to_owned()), Some("b".to_owned())]);
}
