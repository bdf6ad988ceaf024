//! Fetching, sealing, splitting and committing.

use super::*;

#[tokio::test]
async fn a_sealed_batch_keeps_its_bounds_whoever_asks_and_however() {
    let mut bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c", "d"]).await;
    let position = bench.open().await;
    let first = bench.batch(position, 2).await;
    assert_eq!(payloads(&first.records), ["a", "b"]);
    assert_eq!(bench.batch(position, 100).await, first);
    assert_eq!(bench.batch(position, 1).await, first);
    let newer = bench.queues.fetch(ONE, Epoch(101), position, limits(9)).await.expect("fetches");
    assert_eq!(batch(newer), first);
    bench.restart().await;
    let after = bench.queues.fetch(ONE, Epoch(101), position, limits(9)).await.expect("fetches");
    assert_eq!(batch(after), first);
}

#[tokio::test]
async fn synced_bounds_survive_a_kill() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c"]).await;
    let position = bench.open().await;
    let synced = BatchLimits { sync_bounds: true, ..limits(2) };
    let first = batch(bench.queues.fetch(ONE, EPOCH, position, synced).await.expect("fetches"));
    let after = bench.crash();
    assert_eq!(after.batch(position, 100).await, first);
}

#[tokio::test]
async fn bounds_sealed_without_a_sync_are_synced_for_whoever_needs_it() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c"]).await;
    let position = bench.open().await;
    let first = bench.batch(position, 2).await;
    let syncs = bench.sync_seconds.get_sample_count();
    let synced = BatchLimits { sync_bounds: true, ..limits(2) };
    assert_eq!(batch(bench.queues.fetch(ONE, EPOCH, position, synced).await.expect("fetches")), first);
    assert!(bench.sync_seconds.get_sample_count() > syncs);
}

#[tokio::test]
async fn batches_follow_each_other_by_records_and_by_bytes() {
    let bench = Bench::new();
    let large = "x".repeat(1000);
    bench.append(&all_to_one(), "t", &["a", "b", &large, &large, "c"]).await;
    let mut from = bench.open().await;
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let by_bytes = BatchLimits { bytes_max: 1200, ..limits(2) };
        let next = batch(bench.queues.fetch(ONE, EPOCH, from, by_bytes).await.expect("fetches"));
        assert_eq!(next.from, from);
        sizes.push(next.records.len());
        from = next.to;
    }
    // Two by number; one, because the next large one would be too much; the last two fit again.
    assert_eq!(sizes, [2, 1, 2]);
}

#[tokio::test]
async fn a_fetch_from_elsewhere_is_refused() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c"]).await;
    let position = bench.open().await;
    bench.batch(position, 2).await;
    assert_eq!(bench.fetch(position.next(), 1).await, Err(CallError::Moved));
    assert_eq!(bench.queues.fetch(TWO, EPOCH, position, limits(1)).await, Err(CallError::Gone));
}

#[tokio::test]
async fn linger_waits_for_more_and_then_takes_what_is_there() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.open().await;
    let patient = BatchLimits { linger: PATIENCE, ..limits(3) };
    let fetched = bench.queues.fetch(ONE, EPOCH, position, patient);
    let appended = async {
        bench.append(&all_to_one(), "t", &["b"]).await;
        bench.append(&all_to_one(), "t", &["c"]).await;
    };
    let (fetched, ()) = tokio::join!(fetched, appended);
    let full = batch(fetched.expect("fetches"));
    assert_eq!(payloads(&full.records), ["a", "b", "c"]);
    bench.append(&all_to_one(), "t", &["d"]).await;
    let short = BatchLimits { linger: Duration::from_millis(20), ..limits(3) };
    let rest = batch(bench.queues.fetch(ONE, EPOCH, full.to, short).await.expect("fetches"));
    assert_eq!(payloads(&rest.records), ["d"]);
}

#[tokio::test]
async fn time_that_a_record_waited_counts_for_the_linger() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["old"]).await;
    bench.clock.pass(3_600_000);
    let position = bench.open().await;
    let patient = BatchLimits { linger: Duration::from_secs(3600), ..limits(3) };
    let fetched = tokio::time::timeout(PATIENCE, bench.queues.fetch(ONE, EPOCH, position, patient)).await;
    assert_eq!(payloads(&batch(fetched.expect("at once").expect("fetches")).records), ["old"]);
}

#[tokio::test]
async fn a_lower_epoch_is_refused_by_what_was_seen_also_before_a_kill() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.queues.open_queue(ONE, Epoch(7)).await.expect("opens");
    for bench in [&bench.crash(), &bench] {
        assert_eq!(bench.queues.open_queue(ONE, Epoch(6)).await, Err(CallError::Fenced));
        assert_eq!(bench.queues.fetch(ONE, Epoch(6), position, limits(1)).await, Err(CallError::Fenced));
        assert_eq!(bench.queues.open_queue(ONE, Epoch(7)).await, Ok(position));
    }
    let first = batch(bench.queues.fetch(ONE, Epoch(7), position, limits(1)).await.expect("fetches"));
    bench.queues.open_queue(ONE, Epoch(8)).await.expect("opens");
    let commit = Commit { from: position, to: first.to, ends: Vec::new() };
    assert_eq!(bench.queues.commit(ONE, Epoch(7), commit.clone()).await, Err(CallError::Fenced));
    assert_eq!(bench.queues.split(ONE, Epoch(7), position, first.to).await, Err(CallError::Fenced));
    assert_eq!(bench.queues.commit(ONE, Epoch(8), commit).await, Ok(()));
}

#[tokio::test]
async fn a_lower_epoch_is_refused_by_what_the_replica_says() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.queues.open_queue(ONE, Epoch(7)).await.expect("opens");
    bench.set_state(|state| {
        state.assignments.insert(ONE, Arc::new(assignment(Epoch(9))));
    });
    assert_eq!(bench.queues.fetch(ONE, Epoch(7), position, limits(1)).await, Err(CallError::Fenced));
    assert!(bench.queues.fetch(ONE, Epoch(9), position, limits(1)).await.is_ok());
}

#[tokio::test]
async fn a_commit_moves_the_position_once() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c", "d"]).await;
    let position = bench.open().await;
    let first = bench.batch(position, 2).await;
    let second = bench.batch(first.to, 2).await;
    // Not sealed, and not from the position.
    for (from, to) in [(position, second.to.next()), (first.to, second.to)] {
        assert_eq!(bench.commit(from, to, Vec::new()).await, Err(CallError::Moved));
    }
    let discarded = || End::Discarded {
        reason: "record_fault".to_owned(),
        error_class: "x".to_owned(),
        error_message: "y".to_owned(),
        retry_times: 0,
    };
    let ends = vec![(first.records[0].id.sequence, discarded()), (second.to, discarded())];
    for _ in 0..2 {
        assert_eq!(bench.commit(position, first.to, ends.clone()).await, Ok(()));
        let expect = Ledger { queued: 4, sent: 1, discarded: 1, pending: 2, ..Ledger::default() };
        assert_eq!(bench.ledger(), expect);
    }
    assert_eq!(bench.commit(position, second.to, Vec::new()).await, Err(CallError::Moved));
    assert_eq!(bench.open().await, first.to);
    let after = bench.crash();
    assert_eq!(after.open().await, first.to);
    assert_eq!(after.ledger(), bench.ledger());
    assert_eq!(after.batch(first.to, 9).await, second);
}

#[tokio::test]
async fn one_commit_may_pass_several_batches_and_end_inside_one() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c", "d", "e"]).await;
    let position = bench.open().await;
    let first = bench.batch(position, 2).await;
    let second = bench.batch(first.to, 3).await;
    let middle = second.records[1].id.sequence;
    bench.commit(position, middle, Vec::new()).await.expect("commits");
    assert_eq!(bench.ledger(), Ledger { queued: 5, sent: 3, pending: 2, ..Ledger::default() });
    for bench in [&bench, &bench.crash()] {
        let rest = bench.batch(middle, 100).await;
        assert_eq!((payloads(&rest.records), rest.to), (vec!["d".to_owned(), "e".to_owned()], second.to));
    }
    bench.commit(middle, second.to, Vec::new()).await.expect("commits");
    assert_eq!(bench.ledger(), Ledger { queued: 5, sent: 5, ..Ledger::default() });
    assert_eq!(bench.queues.stats().bytes, 0);
}

#[tokio::test]
async fn a_split_is_on_disk_when_it_is_answered() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c"]).await;
    let position = bench.open().await;
    let whole = bench.batch(position, 3).await;
    let at = whole.records[1].id.sequence;
    for bad in [position, whole.to.next()] {
        assert_eq!(bench.queues.split(ONE, EPOCH, position, bad).await, Err(CallError::Moved));
    }
    assert_eq!(bench.queues.split(ONE, EPOCH, at, whole.to).await, Err(CallError::Moved));
    for _ in 0..2 {
        assert_eq!(bench.queues.split(ONE, EPOCH, position, at).await, Ok(()));
    }
    for bench in [&bench.crash(), &bench] {
        let left = bench.batch(position, 100).await;
        assert_eq!((payloads(&left.records), left.to), (vec!["a".to_owned()], at));
        let right = bench.batch(at, 100).await;
        assert_eq!((payloads(&right.records), right.to), (vec!["b".to_owned(), "c".to_owned()], whole.to));
    }
    bench.commit(position, at, Vec::new()).await.expect("commits");
    assert_eq!(bench.ledger(), Ledger { queued: 3, sent: 1, pending: 2, ..Ledger::default() });
}

#[tokio::test]
async fn two_fetches_of_one_position_get_one_batch() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b", "c"]).await;
    let position = bench.open().await;
    let (left, right) = tokio::join!(bench.batch(position, 2), bench.batch(position, 3));
    assert_eq!(left, right);
    assert_eq!(bench.queues.stats().queues[0].sealed_batches, 1);
}

#[tokio::test]
async fn every_registration_has_sequences_of_its_own() {
    let mut bench = Bench::new();
    let mut last = Sequence(0);
    for (node_epoch, message) in [(NodeEpoch(5), "a"), (NodeEpoch(5), "b"), (NodeEpoch(9), "c")] {
        bench.queues.begin_registration(node_epoch).await.expect("begins");
        bench.append(&all_to_one(), "t", &[message]).await;
        let position = bench.open().await;
        let batch = bench.batch(position, 100).await;
        let next = batch.records[0].id.sequence;
        assert_eq!(payloads(&batch.records), [message]);
        assert!(next > last && next.0 >= node_epoch.0 << 36, "{next} after {last}");
        bench.commit(position, batch.to, Vec::new()).await.expect("commits");
        last = next;
        bench = bench.crash();
    }
}

#[tokio::test]
async fn a_new_identity_begins_a_block_and_no_batch_spans_two() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a", "b"]).await;
    bench.queues.adopt(RaftId(1042)).await.expect("adopts");
    bench.append(&all_to_one(), "t", &["c"]).await;
    let position = bench.open().await;
    for bench in [&bench.crash(), &bench] {
        let first = bench.batch(position, 100).await;
        assert_eq!(payloads(&first.records), ["a", "b"]);
        assert!(first.records.iter().all(|record| record.id.raft_id == RaftId(1)));
        let second = bench.batch(first.to, 100).await;
        assert_eq!(payloads(&second.records), ["c"]);
        assert_eq!(second.records[0].id.raft_id, RaftId(1042));
        assert!(second.records[0].id.sequence.0 >= 1 << 20);
    }
}
