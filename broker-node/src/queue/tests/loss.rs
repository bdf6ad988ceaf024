//! Records that go between their read and their bounds, and records that the store cannot give back.

use super::*;
use crate::queue::op::SealFront;
use crate::queue::store::Batch;

/// The store loses these records.
fn lose(bench: &Bench, sequences: &[Sequence]) {
    let mut batch = Batch::default();
    sequences.iter().for_each(|sequence| batch.delete_record(ONE, *sequence));
    bench.queues.shared.store.write(batch, true).expect("written");
}

/// As many bytes as before, in a version that nobody knows.
fn spoil(bench: &Bench, sequences: &[Sequence]) {
    let mut batch = Batch::default();
    for sequence in sequences {
        let mut value = bench.queues.shared.store.record(ONE, *sequence).expect("read").expect("there");
        value[0] = 0xff;
        batch.put_record(ONE, *sequence, value.into());
    }
    bench.queues.shared.store.write(batch, true).expect("written");
}

fn dropped(bench: &Bench) -> BTreeMap<String, u64> {
    bench.queues.stats().queues[0].totals.dropped.clone()
}

fn counted(reason: &str, records: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(reason.to_owned(), records)])
}

/// Everything that is left is delivered and committed: what is not `sent` must have been counted otherwise.
async fn deliver(bench: &Bench) -> Vec<String> {
    let mut from = bench.open().await;
    let mut delivered = Vec::new();
    while let Fetched::Batch(batch) = bench.fetch(from, 2).await.expect("fetches") {
        delivered.extend(payloads(&batch.records));
        bench.commit(from, batch.to, Vec::new()).await.expect("commits");
        from = batch.to;
    }
    let ledger = bench.ledger();
    assert_eq!((ledger.sent, ledger.pending), (delivered.len() as u64, 0), "{ledger:?}");
    assert_eq!(bench.queues.stats().bytes, 0);
    delivered
}

/// A queue with room for two, whose first two records go while a fetch of four waits for more.
#[tokio::test]
async fn a_batch_is_sealed_without_what_was_dropped_while_it_was_gathered() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1", "2"]).await;
    let dropping = catalogue([bounded(target(ONE, "#"), bench.queues.stats().bytes, WhenFull::DropOldest)]);
    let position = bench.open().await;
    let patient = BatchLimits { linger: 10 * PATIENCE, ..limits(4) };
    let fetched = tokio::time::timeout(PATIENCE, bench.queues.fetch(ONE, EPOCH, position, patient));
    let appended = async {
        bench.append(&dropping, "t", &["3"]).await;
        bench.append(&dropping, "t", &["4"]).await;
    };
    let (fetched, ()) = tokio::join!(fetched, appended);
    let sealed = batch(fetched.expect("does not begin anew").expect("fetches"));
    assert_eq!((sealed.from, payloads(&sealed.records)), (position, vec!["3".to_owned(), "4".to_owned()]));
    assert_eq!(bench.ledger(), Ledger { queued: 4, dropped: 2, pending: 2, ..Ledger::default() });
    for bench in [&bench.crash(), &bench] {
        assert_eq!(bench.batch(position, 100).await, sealed);
    }
    assert_eq!(deliver(&bench).await, ["3", "4"]);
}

#[tokio::test]
async fn the_front_is_read_and_sealed_in_one_turn() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1", "2", "3"]).await;
    let mut from = bench.open().await;
    for (records_max, bytes_max, expect) in [(2, u64::MAX, ["1", "2"].as_slice()), (9, 1, &["3"])] {
        let front = SealFront { incarnation: ONE, epoch: EPOCH, from, records_max, bytes_max, sync: false };
        assert!(bench.queues.shared.call(Call::SealFront(front)).await.is_ok());
        let sealed = bench.batch(from, 100).await;
        assert_eq!(payloads(&sealed.records), expect);
        from = sealed.to;
    }
    assert_eq!(bench.queues.stats().queues[0].sealed_batches, 2);
    assert_eq!(deliver(&bench).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn what_is_missing_of_a_sealed_batch_is_counted_and_not_as_sent() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c", "d"]).await;
    let position = bench.open().await;
    let whole = bench.batch(position, 3).await;
    lose(&bench, &[whole.records[1].id.sequence]);
    let rest = bench.batch(position, 3).await;
    assert_eq!((payloads(&rest.records), rest.to), (vec!["a".to_owned(), "c".to_owned()], whole.to));
    let expect = Ledger { queued: 4, dropped: 1, pending: 3, ..Ledger::default() };
    for bench in [&bench.crash(), &bench] {
        assert_eq!(bench.batch(position, 3).await, rest);
        assert_eq!((bench.ledger(), dropped(bench)), (expect, counted("missing", 1)));
    }
    lose(&bench, &[rest.records[0].id.sequence, rest.records[1].id.sequence]);
    assert_eq!(deliver(&bench).await, ["d"]);
    assert_eq!(dropped(&bench), counted("missing", 3));
}

#[tokio::test]
async fn a_queue_goes_on_behind_records_that_are_missing() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b"]).await;
    let position = bench.open().await;
    lose(&bench, &[position, position.next()]);
    assert!(matches!(bench.fetch(position, 9).await, Ok(Fetched::Empty { .. })));
    assert_eq!((bench.ledger().pending, dropped(&bench)), (0, counted("missing", 2)));
    bench.append(&all_to_one(), "t", &["c", "d", "e"]).await;
    // One in the middle shows only when all the others are delivered.
    lose(&bench, &[Sequence(position.0 + 3)]);
    assert_eq!(deliver(&bench).await, ["c", "e"]);
    assert_eq!(dropped(&bench), counted("missing", 3));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_ends_and_holds_nothing_up() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c", "d", "e", "f"]).await;
    let position = bench.open().await;
    let at = |offset: u64| Sequence(position.0 + offset);
    // A whole batch, one among others, and later one of a sealed batch.
    spoil(&bench, &[at(0), at(1), at(3)]);
    assert_eq!(bench.queues.lag(Vec::new()).await.expect("tells").len(), 1);
    let sealed = bench.batch(position, 2).await;
    assert_eq!(payloads(&sealed.records), ["c"]);
    assert_eq!(dropped(&bench), counted("unreadable", 3));
    let last = bench.batch(sealed.to, 2).await;
    assert_eq!(payloads(&last.records), ["e", "f"]);
    spoil(&bench, &[at(4)]);
    for bench in [&bench.crash(), &bench] {
        assert_eq!(payloads(&bench.batch(sealed.to, 2).await.records), ["f"]);
        assert_eq!(dropped(bench), counted("unreadable", 4));
    }
    assert_eq!(deliver(&bench).await, ["c", "f"]);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_at_its_end_is_dropped_without_a_letter() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b"]).await;
    let position = bench.open().await;
    let sealed = bench.batch(position, 2).await;
    spoil(&bench, &[position]);
    let end = || End::DeadLettered { error_class: "c".to_owned(), error_message: "m".to_owned(), retry_times: 1 };
    let ends = sealed.records.iter().map(|record| (record.id.sequence, end())).collect();
    bench.commit(position, sealed.to, ends).await.expect("commits");
    assert_eq!(bench.ledger(), Ledger { queued: 2, dead_lettered: 1, dropped: 1, ..Ledger::default() });
    assert_eq!(bench.queues.letters(None, 0, 9).await.expect("reads").len(), 1);
}
