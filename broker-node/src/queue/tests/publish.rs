//! Appending: what is let in, what is refused, what one sync stands for.

use super::*;

#[tokio::test]
async fn only_synced_records_can_be_fetched() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["a"]).await;
    let position = bench.open().await;
    let first = bench.batch(position, 10).await;
    bench.disk.hold();
    let arrived = bench.disk.arrived();
    let ticket = bench.submit(&all_to_one(), vec![message("t", "b")]).expect("let in");
    until("the write is at the gate", async || bench.disk.arrived() > arrived).await;
    assert!(matches!(bench.fetch(first.to, 10).await, Ok(Fetched::Empty { head }) if head == first.to));
    bench.disk.release();
    ticket.await.expect("synced");
    assert_eq!(payloads(&bench.batch(first.to, 10).await.records), ["b"]);
}

#[tokio::test]
async fn submissions_that_wait_share_one_sync() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["first"]).await;
    let syncs = bench.sync_seconds.get_sample_count();
    bench.disk.hold();
    let arrived = bench.disk.arrived();
    let mut tickets = vec![bench.submit(&all_to_one(), vec![message("t", "held")]).expect("let in")];
    until("the write is at the gate", async || bench.disk.arrived() > arrived).await;
    for number in 0..50 {
        tickets.push(bench.submit(&all_to_one(), vec![message("t", &number.to_string())]).expect("let in"));
    }
    bench.disk.release();
    for ticket in tickets {
        ticket.await.expect("synced");
    }
    // The held one, and one for the fifty; a tick may have brought them apart by one.
    let syncs = bench.sync_seconds.get_sample_count() - syncs;
    assert!((2..=3).contains(&syncs), "{syncs} syncs");
    assert_eq!(bench.ledger().queued, 52);
}

#[tokio::test]
async fn a_message_goes_to_every_connector_that_matches() {
    let bench = Bench::new();
    let both = catalogue([target(ONE, "a/#"), target(TWO, "+/b")]);
    bench.append(&both, "a/b", &["both"]).await;
    bench.append(&both, "a/c", &["one"]).await;
    bench.append(&both, "x/y", &["nobody"]).await;
    assert_eq!(bench.queues.local_lag(ONE), 2);
    assert_eq!(bench.queues.local_lag(TWO), 1);
    let position = bench.queues.open_queue(TWO, EPOCH).await.expect("opens");
    let batch = batch(bench.queues.fetch(TWO, EPOCH, position, limits(10)).await.expect("fetches"));
    assert_eq!(batch.records[0].id.incarnation, TWO);
    assert_eq!(batch.records[0].id.raft_id, RaftId(1));
    assert_eq!(batch.records[0].message, message("a/b", "both"));
}

#[tokio::test]
async fn one_full_queue_that_blocks_refuses_the_whole_submission() {
    let bench = Bench::new();
    let both = catalogue([bounded(target(ONE, "a"), 400, WhenFull::Block), target(TWO, "#")]);
    bench.append(&both, "a", &["1"]).await;
    let refused = bench.submit(&both, vec![message("b", "2"), message("a", &"x".repeat(400))]);
    assert_eq!(refused.err(), Some(SubmitRefusal::QueueFull));
    bench.append(&both, "b", &["3"]).await;
    assert_eq!((bench.queues.local_lag(ONE), bench.queues.local_lag(TWO)), (1, 2));
    // What was reserved for the refused one is free again.
    assert_eq!(bench.queues.stats().waiting_bytes, 0);
}

#[tokio::test]
async fn an_empty_queue_takes_a_submission_above_its_bound() {
    let bench = Bench::new();
    let small = catalogue([bounded(target(ONE, "#"), 100, WhenFull::Block)]);
    bench.append(&small, "t", &["0123456789"; 100]).await;
    assert_eq!(bench.ledger().pending, 100);
    assert_eq!(bench.submit(&small, vec![message("t", "")]).err(), Some(SubmitRefusal::QueueFull));
}

#[tokio::test]
async fn what_waits_for_its_sync_is_bounded() {
    let bench = Bench::with(|options| options.submit_bytes_max = 1000);
    bench.append(&all_to_one(), "t", &["first"]).await;
    bench.disk.hold();
    let payload = "x".repeat(400);
    let mut tickets = Vec::new();
    let refused = loop {
        match bench.submit(&all_to_one(), vec![message("t", &payload)]) {
            Ok(ticket) => tickets.push(ticket),
            Err(refusal) => break refusal,
        }
        assert!(tickets.len() < 10, "never refused");
    };
    assert_eq!(refused, SubmitRefusal::QueueFull);
    bench.disk.release();
    for ticket in tickets {
        ticket.await.expect("synced");
    }
    bench.append(&all_to_one(), "t", &["after"]).await;
}

#[tokio::test]
async fn a_letter_is_not_queued_for_a_connector_it_came_from() {
    let bench = Bench::new();
    let both = catalogue([target(ONE, "#"), target(TWO, "#")]);
    let letter = Message { dead_letter_of: vec![ONE], ..message("letters", "l") };
    bench.submit(&both, vec![letter]).expect("let in").await.expect("synced");
    assert_eq!((bench.queues.local_lag(ONE), bench.queues.local_lag(TWO)), (0, 1));
}

#[tokio::test]
async fn what_nobody_wants_needs_no_disk() {
    let bench = Bench::new();
    bench.disk.set_broken(true);
    let nobody = catalogue([target(ONE, "wanted")]);
    bench.submit(&nobody, vec![message("t", "x")]).expect("let in").await.expect("nothing to sync");
}

#[tokio::test]
async fn closed_queues_refuse_and_keep_what_they_took() {
    let mut bench = Bench::new();
    let ticket = bench.submit(&all_to_one(), vec![message("t", "taken")]).expect("let in");
    bench.queues.close().await;
    ticket.await.expect("synced before the close");
    assert_eq!(bench.submit(&all_to_one(), vec![message("t", "late")]).err(), Some(SubmitRefusal::Closed));
    assert_eq!(bench.queues.open_queue(ONE, EPOCH).await, Err(CallError::Closed));
    bench.restart().await;
    let position = bench.open().await;
    assert_eq!(payloads(&bench.batch(position, 10).await.records), ["taken"]);
}
