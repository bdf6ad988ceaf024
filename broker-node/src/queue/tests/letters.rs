//! Dead letters: stored with the position, published from there.

use std::collections::VecDeque;

use api_types::failure::{FailureStrategy, OnTargetDown, RetryPlan};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::queue::store::Batch;

fn dead(message: &str) -> End {
    End::DeadLettered { error_class: "rejected".to_owned(), error_message: message.to_owned(), retry_times: 3 }
}

/// Takes letters in; refuses the first few.
#[derive(Default)]
struct Shelf {
    refuse: AtomicU64,
    taken: Mutex<VecDeque<Message>>,
}

#[async_trait]
impl LetterPublisher for Shelf {
    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        if self.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err("refused for a test".into());
        }
        lock(&self.taken).push_back(message);
        Ok(())
    }
}

impl Shelf {
    async fn wait_for(&self, letters: usize) {
        until("letters published", async || lock(&self.taken).len() >= letters).await;
    }
}

/// Appends, fetches and dead-letters everything under `ONE`.
async fn dead_letter(bench: &Bench, messages: Vec<Message>) {
    let position = bench.queues.open_queue(ONE, EPOCH).await.ok();
    let number = messages.len();
    bench.submit(&all_to_one(), messages).expect("let in").await.expect("synced");
    let position = match position {
        Some(position) => position,
        None => bench.open().await,
    };
    let batch = bench.batch(position, u32::try_from(number).expect("small")).await;
    let ends = batch.records.iter().map(|record| (record.id.sequence, dead("no such table"))).collect();
    bench.commit(position, batch.to, ends).await.expect("commits");
}

#[tokio::test]
async fn a_letter_says_what_happened_to_which_record() {
    let bench = Bench::new();
    let mut connector = connector(ONE, "factory/#");
    connector.spec.failure.strategy = FailureStrategy::DeadMessageQueue {
        topic_name: "from/the/replica".to_owned(),
        retry: RetryPlan { retry_total_times: 3, wait_time_ms: 1 },
    };
    connector.spec.failure.on_target_down = OnTargetDown::Strategy;
    bench.set_state(|state| {
        state.connectors.insert(ONE, Arc::new(connector));
    });
    dead_letter(
        &bench,
        vec![Message { user_properties: vec![("a".into(), "b".into())], ..message("factory/1", "oops") }],
    )
    .await;
    assert_eq!(bench.ledger(), Ledger { queued: 1, dead_lettered: 1, ..Ledger::default() });
    let letters = bench.queues.letters(Some(ONE), 0, 10).await.expect("reads");
    let letter = &letters[0].letter;
    assert_eq!((letter.topic.as_str(), letter.publish), ("from/the/replica", true));
    assert_eq!(letter.origins, [ONE]);
    let record = &letter.record;
    assert_eq!(record.connector_name, "connector-11");
    assert_eq!(record.source_topic, "factory/#");
    assert_eq!((record.error_message.as_str(), record.retry_times), ("no such table", 3));
    assert_eq!(record.original_key.as_deref(), Some("device"));
    assert_eq!(record.original_data, b"oops");
    assert_eq!((record.original_timestamp, record.dead_letter_timestamp), (1_700_000_000, 1_700_000_000));
    assert_eq!(record.original_topic, "factory/1");
    assert_eq!(record.connectors, ["connector-11"]);
    assert!(record.record_id.starts_with("1-11-"), "{}", record.record_id);
    assert!(bench.queues.letters(Some(TWO), 0, 10).await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_letter_is_stored_with_the_position_and_a_repeat_adds_none() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b"]).await;
    let position = bench.open().await;
    let batch = bench.batch(position, 2).await;
    let ends = vec![(batch.records[1].id.sequence, dead("x"))];
    for _ in 0..2 {
        bench.commit(position, batch.to, ends.clone()).await.expect("commits");
    }
    for bench in [&bench.crash(), &bench] {
        assert_eq!(bench.ledger(), Ledger { queued: 2, sent: 1, dead_lettered: 1, ..Ledger::default() });
        let letters = bench.queues.letters(None, 0, 10).await.expect("reads");
        assert_eq!(letters.len(), 1);
        // Without the connector in the replica, the queue's own memory of the last append serves.
        assert_eq!(letters[0].letter.topic, "letters");
        assert_eq!(letters[0].letter.record.connector_name, "connector-11");
    }
}

#[tokio::test]
async fn a_record_that_is_a_letter_ends_as_a_loop_readable_and_unpublished() {
    let bench = Bench::new();
    let letter = Message { dead_letter_of: vec![TWO], ..message("letters", "again") };
    dead_letter(&bench, vec![letter]).await;
    assert_eq!(bench.ledger(), Ledger { queued: 1, discarded: 1, ..Ledger::default() });
    assert_eq!(bench.queues.stats().queues[0].totals.discarded["dead_letter_loop"], 1);
    let letters = bench.queues.letters(None, 0, 10).await.expect("reads");
    assert_eq!(letters[0].letter.origins, [TWO, ONE]);
    assert!(!letters[0].letter.publish);
    let shelf = Arc::new(Shelf::default());
    dead_letter(&bench, vec![message("t", "new")]).await;
    let cancel = CancellationToken::new();
    let publishing = bench.queues.publish_letters(shelf.clone(), cancel.clone());
    let ((), ()) = tokio::join!(publishing, async {
        shelf.wait_for(1).await;
        cancel.cancel();
    });
    let taken = lock(&shelf.taken);
    assert_eq!(taken.len(), 1);
    let body: serde_json::Value = serde_json::from_slice(&taken[0].payload).expect("JSON");
    assert_eq!(body["original_topic"], "t");
}

#[tokio::test]
async fn letters_are_published_in_order_again_after_a_refusal_and_not_again_after_a_restart() {
    let mut bench = Bench::new();
    let shelf = Arc::new(Shelf { refuse: AtomicU64::new(2), ..Shelf::default() });
    dead_letter(&bench, (0..5).map(|number| message("t", &number.to_string())).collect()).await;
    let cancel = CancellationToken::new();
    let publishing = bench.queues.publish_letters(shelf.clone(), cancel.clone());
    let ((), ()) = tokio::join!(publishing, async {
        shelf.wait_for(5).await;
        dead_letter(&bench, vec![message("t", "5")]).await;
        shelf.wait_for(6).await;
        until("the cursor is written", async || bench.queues.stats().letters.unpublished == 0).await;
        cancel.cancel();
    });
    bench.restart().await;
    dead_letter(&bench, vec![message("t", "6")]).await;
    let cancel = CancellationToken::new();
    let publishing = bench.queues.publish_letters(shelf.clone(), cancel.clone());
    let ((), ()) = tokio::join!(publishing, async {
        shelf.wait_for(7).await;
        cancel.cancel();
    });
    let taken = lock(&shelf.taken);
    let data: Vec<u64> = taken
        .iter()
        .map(|message| {
            assert_eq!((message.topic.as_str(), message.qos, message.retain), ("letters", 1, false));
            assert_eq!(message.dead_letter_of, [ONE]);
            let body: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
            body["original_data"][0].as_u64().expect("a byte") - u64::from(b'0')
        })
        .collect();
    assert_eq!(data, [0, 1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn the_oldest_letters_go_by_bytes_and_by_age() {
    let bench = Bench::with(|options| {
        options.dead_letter_bytes_max = 2000;
        options.dead_letter_age_max_ms = 60_000;
    });
    for number in 0..20 {
        dead_letter(&bench, vec![message("t", &format!("{number} {}", "x".repeat(200)))]).await;
    }
    until("the bound holds", async || bench.queues.stats().letters.bytes <= 2000).await;
    let stats = bench.queues.stats().letters;
    assert_eq!(stats.stored + stats.dropped["full"], 20);
    assert_eq!(stats.unpublished_dropped, stats.dropped["full"]);
    let left = bench.queues.letters(None, 0, 100).await.expect("reads");
    assert_eq!(left.last().map(|letter| letter.number), Some(19));
    bench.clock.pass(61_000);
    until("age empties the store", async || bench.queues.stats().letters.stored == 0).await;
    let crashed = bench.crash();
    // The copy may be older than what was counted: whatever is in it is too old again.
    until("nothing is left", async || crashed.queues.stats().letters.stored == 0).await;
    let stats = crashed.queues.stats().letters;
    assert_eq!((stats.stored, stats.bytes, stats.unpublished), (0, 0, 0));
}

/// Letters of a version that nobody knows.
fn spoil(bench: &Bench, letters: &[u64]) {
    let mut batch = Batch::default();
    for letter in letters {
        let mut value = bench.queues.shared.store.letter(*letter).expect("read").expect("there");
        value[0] = 0xff;
        batch.put_letter(*letter, value);
    }
    bench.queues.shared.store.write(batch, true).expect("written");
}

#[tokio::test]
async fn letters_behind_one_that_cannot_be_read_are_published() {
    let bench = Bench::new();
    dead_letter(&bench, (0..5).map(|number| message("t", &number.to_string())).collect()).await;
    spoil(&bench, &[1, 3]);
    let shelf = Arc::new(Shelf::default());
    let cancel = CancellationToken::new();
    let publishing = bench.queues.publish_letters(shelf.clone(), cancel.clone());
    let ((), ()) = tokio::join!(publishing, async {
        shelf.wait_for(3).await;
        until("the cursor is written", async || bench.queues.stats().letters.unpublished == 0).await;
        cancel.cancel();
    });
    let stats = bench.queues.stats().letters;
    assert_eq!((stats.published, stats.unpublished_dropped, stats.dropped["unreadable"]), (3, 2, 2));
    let left = bench.queues.letters(None, 0, 9).await.expect("reads");
    assert_eq!(left.iter().map(|letter| letter.number).collect::<Vec<_>>(), [0, 2, 4]);
}

#[tokio::test]
async fn a_letter_that_cannot_be_read_does_not_keep_the_bounds_from_holding() {
    let bench = Bench::with(|options| options.dead_letter_age_max_ms = 60_000);
    dead_letter(&bench, (0..3).map(|number| message("t", &number.to_string())).collect()).await;
    spoil(&bench, &[0, 1]);
    until("the unreadable are gone", async || bench.queues.stats().letters.stored == 1).await;
    assert_eq!(bench.queues.letters(None, 0, 9).await.expect("reads").len(), 1);
    bench.clock.pass(61_000);
    until("age empties the store", async || bench.queues.stats().letters.stored == 0).await;
    let stats = bench.queues.stats().letters;
    assert_eq!((stats.bytes, stats.dropped["unreadable"], stats.dropped["expired"]), (0, 2, 1));
    assert!(bench.queues.writable().is_ok());
}
