//! A server with room for little at a time, which speaks TLS.

use super::*;

#[tokio::test]
async fn a_batch_too_large_for_the_server_is_cut_until_it_fits() {
    let server = narrow_server().await;
    // It takes 256 KiB, counted before compression.
    let queue = MemoryQueue::with((0..400).map(|number| {
        let length = if number == 150 { 300_000 } else { 1_000 };
        message(number, &json!({"n": number, "text": "x".repeat(length)}))
    }));
    let task = run(&queue, server.config("cut", &json!({})));
    queue.all_committed().await;
    let ends = queue.ends();
    assert_eq!(ends.keys().copied().collect::<Vec<u64>>(), [150]);
    assert!(format!("{ends:?}").contains("HTTP 413"), "{ends:?}");
    assert_eq!(task.report().counters.send_success_total, 399);
    assert_eq!(server.count("cut").await.expect("counts"), 399);
    server.finish();
}

#[tokio::test]
async fn documents_without_room_are_asked_for_again_alone() {
    let server = narrow_server().await;
    const SHARDS: u64 = 6;
    for shard in 0..SHARDS {
        server.make_index(&format!("room-{shard}"), &json!({})).await.expect("makes it");
    }
    // One is written and one waits; the server refuses the shards of a request beyond these two.
    let records = |from: u64| -> Vec<Record> {
        let numbers = from..from + SHARDS;
        numbers
            .map(|number| {
                let mut record = record(number, format!("{{\"n\":{number}}}"));
                record.message.user_properties = vec![("shard".to_owned(), (number % SHARDS).to_string())];
                record
            })
            .collect()
    };
    let once = open(&server, "room-${user.shard}", &json!({"max_retries": 0})).await;
    let mut throttled = 0;
    let mut from = 0;
    // What another test does to the server at the same moment may leave no room at all.
    while throttled == 0 || throttled == SHARDS {
        let outcomes = deliver(&*once, &records(from)).await;
        let full = |outcome: &&Outcome| **outcome != Outcome::Delivered && kind(outcome) == THROTTLED;
        throttled = outcomes.iter().filter(full).count() as u64;
        from += SHARDS;
        assert!(from < 1_000 * SHARDS, "always or never room for all: {outcomes:?}");
    }
    println!("measured: {throttled} of {SHARDS} documents had no room");
    // With retries of its own one call is enough, unless others leave no room at all.
    let patient = open(&server, "room-${user.shard}", &json!({"max_retries": 10})).await;
    let delivered = ::tests::wait::until(std::time::Duration::from_secs(60), "there is room for all", async || {
        let outcomes = deliver(&*patient, &records(1_000 * SHARDS)).await;
        anyhow::ensure!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
        Ok(())
    });
    delivered.await.expect("are delivered");

    // Without retries of its own, the pipeline asks for them again: alone, and until they are there.
    let some = |from: u64| {
        (from..from + 120).map(|number| {
            let user_properties = vec![("shard".to_owned(), (number % SHARDS).to_string())];
            Message { user_properties, ..message(number, &json!({ "n": number, "of": "queue" })) }
        })
    };
    let queue = MemoryQueue::with(some(0));
    let config = server.config("room-${user.shard}", &json!({"max_retries": 0, "batch_records": 60}));
    let task = run(&queue, config);
    let mut count = 120;
    queue.all_committed().await;
    // A quick server may have had room for all of them.
    while task.report().counters.retry_total == 0 && count < 2_400 {
        queue.append(some(count));
        count += 120;
        queue.all_committed().await;
    }
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.discard_total), (count, 0));
    assert!(counters.send_fail_total > 0 && counters.retry_total > 0, "{counters:?}");
    let hits = server.hits("room-*", 10_000).await.expect("reads");
    let of_queue = hits.iter().filter(|hit| hit.text().contains("queue")).count();
    assert_eq!(of_queue as u64, count, "each once");
    server.finish();
}

#[tokio::test]
async fn tls_is_spoken_where_the_scheme_or_the_switch_says_so_and_verifies_chain_and_name() {
    let server = narrow_server().await;
    let (port, files) = (server.port(), server.certificates().expect("speaks TLS"));
    let pem = std::fs::read_to_string(&files.ca).expect("reads");
    let name = "elastic.example.org";
    let untrusted = Some(TargetFaultKind::Misconfigured("TARGET_CERTIFICATE"));
    let plain = format!("http://127.0.0.1:{port}");
    for (more, expect) in [
        (json!({}), None),
        (json!({"url": plain, "enable_tls": true}), None),
        (json!({"url": format!("HTTPS://127.0.0.1:{port}")}), None),
        (json!({"ca_cert_path": null, "ca_cert": pem}), None),
        (json!({"tls_server_name": name}), None),
        (json!({"tls_server_name": "other.example.org"}), untrusted),
        (json!({"ca_cert_path": files.other_ca}), untrusted),
        (json!({"ca_cert_path": null}), untrusted),
        (json!({"ca_cert_path": null, "tls_verify": false}), None),
        (json!({"client_cert_path": files.client, "client_key_path": files.client_key}), None),
        (json!({"url": plain}), Some(TargetFaultKind::Down)),
    ] {
        let mut config = more.clone();
        // The server has room for little, and other tests use it.
        config["max_retries"] = 10.into();
        let outcomes = deliver(&*open(&server, "secret", &config).await, &[record(1, "{}")]).await;
        match expect {
            None => assert_eq!(outcomes, [Outcome::Delivered], "{more}"),
            Some(expect) => assert_eq!(kind(&outcomes[0]), expect, "{more} {outcomes:?}"),
        }
    }
    let missing = server.config("secret", &json!({"ca_cert_path": "/nowhere/ca.pem"}));
    let fault = node().open("documents", "elasticsearch", missing).await.err().expect("is refused");
    assert_eq!(fault.kind, TargetFaultKind::Misconfigured("TLS_UNUSABLE"));
    server.finish();
}
