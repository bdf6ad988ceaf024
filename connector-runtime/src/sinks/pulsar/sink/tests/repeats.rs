//! What comes twice, and a broker that drops it.

use super::*;

const NAMESPACE: &str = "public/once";

/// A namespace that drops what comes twice, made by whoever is first.
async fn deduplicating() -> Arc<Pulsar> {
    static MADE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let server = server().await;
    let _turn = MADE.lock().await;
    // It may be there already.
    if server.set(&format!("{NAMESPACE}/deduplication"), json!(true)).await.is_err() {
        server.create_deduplicating(NAMESPACE).await.expect("makes the namespace");
    }
    server
}

fn topic(name: &str) -> String {
    format!("{NAMESPACE}/{name}")
}

#[tokio::test]
async fn what_comes_twice_stands_there_once_also_after_a_change_of_owner() {
    let server = deduplicating().await;
    let topic = topic("owners");
    let first = opened(server.config(&topic, &json!({}))).await;
    delivered(&*first, &numbered(1..=60)).await;
    delivered(&*first, &numbered(1..=60)).await;
    first.close().await;
    // Another node has the same batch, and does not know what became of it; the next one has other bounds.
    let second = opened(server.config(&topic, &json!({"compression": "zstd"}))).await;
    delivered(&*second, &numbered(1..=60)).await;
    second.close().await;
    let third = opened(server.config(&topic, &json!({}))).await;
    delivered(&*third, &numbered(41..=100)).await;
    delivered(&*third, &numbered(101..=120)).await;
    assert_eq!(texts(&server, &topic).await, as_texts(1..=120));
}

#[tokio::test]
async fn what_comes_again_with_more_behind_it_takes_nothing_with_it() {
    let server = deduplicating().await;
    let topic = topic("overlapping");
    // The broker knows nothing of this producer when it is made: what it has is known by its receipts alone.
    let sink = opened(server.config(&topic, &json!({}))).await;
    delivered(&*sink, &numbered(1..=10)).await;
    delivered(&*sink, &numbered(5..=15)).await;
    delivered(&*sink, &numbered(1..=20)).await;
    assert_eq!(texts(&server, &topic).await, as_texts(1..=20));
}

#[tokio::test]
async fn without_deduplication_a_repeat_stands_there_twice() {
    let server = server().await;
    let sink = opened(server.config("repeats", &json!({}))).await;
    delivered(&*sink, &numbered(1..=3)).await;
    delivered(&*sink, &numbered(1..=3)).await;
    assert_eq!(texts(&server, "repeats").await, as_texts([1, 2, 3, 1, 2, 3]));
}

#[tokio::test]
async fn every_partition_knows_its_own() {
    let server = deduplicating().await;
    let topic = topic("partitions");
    server.create_partitioned(&topic, 3).await.expect("makes the topic");
    for _ in 0..3 {
        let sink = opened(server.config(&topic, &json!({}))).await;
        delivered(&*sink, &numbered(1..=90)).await;
        sink.close().await;
    }
    let mut found = texts(&server, &topic).await;
    found.sort_by_key(|text| text.parse::<u64>().unwrap_or(0));
    assert_eq!(found, as_texts(1..=90));
}

#[tokio::test]
async fn a_record_that_was_refused_before_others_is_not_taken_for_a_repeat() {
    let server = deduplicating().await;
    let topic = topic("refused");
    server.create_topic(&topic).await.expect("makes the topic");
    server.limit_entries(&topic, 2_000).await.expect("sets the limit");
    let first = opened(server.config(&topic, &json!({}))).await;
    let mut records = numbered(1..=20);
    records[9].message.payload = vec![b'x'; 3_000].into();
    let limited = wait::until(LIMIT, "the limit holds", async || {
        let outcomes = deliver(&*first, &records).await;
        ensure!(matches!(outcomes[9], Outcome::RecordFault(_)), "{outcomes:?}");
        Ok(outcomes)
    });
    let outcomes = limited.await.expect("holds");
    assert_eq!(outcomes[..9], vec![Outcome::Delivered; 9]);
    assert_eq!(record_fault(&outcomes[9]), ("message_too_large", true));
    // They wait for it: it may come again, and must not stand below what the broker has.
    assert!(outcomes[10..].iter().all(|outcome| *outcome == Outcome::TargetFault(TargetFault::held())), "{outcomes:?}");
    first.close().await;
    server.unlimit_entries(&topic).await.expect("takes the limit back");
    let second = opened(server.config(&topic, &json!({}))).await;
    delivers(&*second, &records[9..]).await;
    let found = texts(&server, &topic).await;
    assert_eq!(found.len(), 20, "{found:?}");
    assert_eq!((found[..9].to_vec(), found[10..].to_vec()), (as_texts(1..=9), as_texts(11..=20)));
    assert_eq!(found[9].len(), 3_000);
}

#[tokio::test]
async fn a_name_that_another_has_is_waited_for() {
    let server = server().await;
    let config = server.config("same-name", &json!({}));
    let (first, second) = (opened(config.clone()).await, opened(config).await);
    delivered(&*first, &numbered(1..=2)).await;
    let outcomes = deliver(&*second, &numbered(3..=4)).await;
    let kept_out = fault(&outcomes[0]);
    // An earlier owner that is not gone yet: nobody's fault, and no attempt.
    assert_eq!((kept_out.kind, kept_out.reopen), (TargetFaultKind::Interrupted, false));
    assert!(kept_out.message.contains("is already connected to topic"), "{}", kept_out.message);
    first.close().await;
    delivers(&*second, &numbered(3..=4)).await;
    assert_eq!(texts(&server, "same-name").await, as_texts(1..=4));
}
