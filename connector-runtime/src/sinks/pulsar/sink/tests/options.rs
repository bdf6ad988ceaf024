//! Every option, as the broker sees it.

use rustix::process::Signal;

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
    for (topic, more, largest) in [
        ("batch-size", json!({"batch_size": 7, "linger_ms": 60_000}), Some(7)),
        ("single", json!({"batch_size": 1}), None),
        ("pending", json!({"batch_size": 100, "linger_ms": 60_000, "max_pending_messages": 9}), Some(9)),
    ] {
        let sink = node().sink_for(NAME, "pulsar", server.config(topic, &more));
        let queue = MemoryQueue::numbered(700);
        let _task = Setup { order: sink.order, ..Setup::default() }.start_with(&queue, sink.opener, sink.options);
        queue.all_committed().await;
        let entries = server.entries(topic).await.expect("reads");
        assert_eq!(entries.iter().map(|entry| entry.batched.unwrap_or(1)).sum::<u64>(), 700, "{topic}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_messages_wait_for_receipts_than_they_may() {
    const DISKS: u64 = 4;
    const BATCH_BYTES: u64 = 10 * 2_000;
    let server = Pulsar::start().await.expect("Pulsar starts");
    let open = async |topic: &str, pending: u64| {
        let more = json!({"max_pending_messages": pending, "send_timeout_secs": 300});
        Arc::<dyn Sink>::from(opened(server.config(topic, &more)).await)
    };
    let of_disk = |disk: u64, from: u64| -> Vec<Record> {
        let mut records: Vec<Record> = (from..from + 10).map(|number| record(number, vec![b'x'; 2_000])).collect();
        records.iter_mut().for_each(|record| record.id.raft_id = RaftId(disk));
        records
    };
    let (narrow, wide) = (open("narrow", 10).await, open("wide", 1_000).await);
    for sink in [&narrow, &wide] {
        for disk in 1..=DISKS {
            delivered(&**sink, &of_disk(disk, 1)).await;
        }
    }
    server.signal(Signal::STOP).expect("stops");
    let mut delivering = Vec::new();
    let mut sent = 0;
    // One batch of the four, and then all four of another sink.
    for (sink, batches) in [(&narrow, 1), (&wide, DISKS)] {
        for disk in 1..=DISKS {
            let (sink, records) = (Arc::clone(sink), of_disk(disk, 11));
            delivering.push(tokio::spawn(async move { deliver(&*sink, &records).await }));
        }
        let least = sent + batches * BATCH_BYTES;
        let all = wait::until(LIMIT, "it is sent", async || {
            let unread = unread_bytes(server.port());
            ensure!(unread >= least, "{unread} bytes");
            Ok(unread)
        });
        sent = all.await.expect("is sent");
        assert!(sent < least + BATCH_BYTES, "{sent} bytes, where {least} were expected");
    }
    server.signal(Signal::CONT).expect("continues");
    for delivering in delivering {
        assert_eq!(delivering.await.expect("ends"), vec![Outcome::Delivered; 10]);
    }
    server.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_costs_no_more_than_the_timeouts() {
    let server = Pulsar::start().await.expect("Pulsar starts");
    let timeouts = |name: &str, other: u64| {
        let mut config = server.config("still", &json!({}));
        for timeout in ["connection_timeout_secs", "operation_timeout_secs", "send_timeout_secs"] {
            config[timeout] = if timeout == name { 1 } else { other }.into();
        }
        config
    };
    let sending = opened(timeouts("send_timeout_secs", 300)).await;
    let asking = opened(timeouts("operation_timeout_secs", 300)).await;
    delivered(&*sending, &numbered(1..=2)).await;
    server.signal(Signal::STOP).expect("stops");
    let started = Instant::now();
    let connecting = refused(timeouts("connection_timeout_secs", 300));
    let records = numbered(3..=4);
    let sent = deliver(&*sending, &records);
    let (connecting, sent, asked) = tokio::join!(connecting, sent, async {
        let mut records = numbered(1..=1);
        records[0].id.raft_id = RaftId(2);
        deliver(&*asking, &records).await
    });
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(60), "{took:?}");
    let says = [
        (&connecting, "within 1 s"),
        (fault(&sent[0]), "no receipt within 1 s"),
        (fault(&asked[0]), "no owner of the topic within 1 s"),
    ];
    for (fault, words) in says {
        assert_eq!(fault.kind, TargetFaultKind::Down, "{fault:?}");
        assert!(fault.message.contains(words), "{}", fault.message);
    }
    server.signal(Signal::CONT).expect("continues");
    delivers(&*sending, &records).await;
    server.finish();
}

/// Bytes that were sent to a server on this port of 127.0.0.1 and that it has not read, by the word of the kernel.
fn unread_bytes(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("is Linux");
    let local = format!(":{port:04X}");
    let queues = sockets.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_here = fields.next()?.ends_with(&local);
        let (_, unread) = fields.nth(2)?.split_once(':')?;
        is_here.then(|| u64::from_str_radix(unread, 16).ok())?
    });
    queues.sum()
}
