//! What goes when a bound is reached, and what never does.

use std::ops::ControlFlow;

use super::*;
use crate::queue::bounds::EXPIRE_RECORDS_MAX;
use crate::queue::committer::Committer;
use crate::queue::reclaim::Reclaim;

/// Bytes of one stored record with a payload of one byte, as the queue counts them.
async fn one_record_bytes() -> u64 {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["x"]).await;
    bench.queues.stats().bytes
}

#[tokio::test]
async fn drop_oldest_takes_the_oldest_unsealed_and_counts_them() {
    let size = one_record_bytes().await;
    let bench = Bench::new();
    let dropping = catalogue([bounded(target(ONE, "#"), 4 * size, WhenFull::DropOldest)]);
    bench.append(&dropping, "t", &["1", "2", "3", "4"]).await;
    let position = bench.open().await;
    let sealed = bench.batch(position, 2).await;
    bench.append(&dropping, "t", &["5"]).await;
    bench.append(&dropping, "t", &["6"]).await;
    let expect = Ledger { queued: 6, dropped: 2, pending: 4, ..Ledger::default() };
    assert_eq!(bench.ledger(), expect);
    assert_eq!(bench.queues.stats().queues[0].totals.dropped, BTreeMap::from([("full".to_owned(), 2)]));
    for bench in [&bench.crash(), &bench] {
        assert_eq!(bench.ledger(), expect);
        assert_eq!(bench.batch(position, 100).await, sealed);
        let rest = bench.batch(sealed.to, 100).await;
        assert_eq!(payloads(&rest.records), ["5", "6"]);
    }
    let rest = bench.batch(sealed.to, 100).await;
    bench.commit(position, rest.to, Vec::new()).await.expect("commits");
    assert_eq!(bench.ledger(), Ledger { queued: 6, sent: 4, dropped: 2, ..Ledger::default() });
    assert_eq!(bench.queues.stats().bytes, 0);
}

#[tokio::test]
async fn a_queue_that_is_all_sealed_drops_nothing() {
    let size = one_record_bytes().await;
    let bench = Bench::new();
    let dropping = catalogue([bounded(target(ONE, "#"), 2 * size, WhenFull::DropOldest)]);
    bench.append(&dropping, "t", &["1", "2"]).await;
    let position = bench.open().await;
    let sealed = bench.batch(position, 2).await;
    bench.append(&dropping, "t", &["3"]).await;
    assert_eq!(bench.ledger().dropped, 0);
    assert_eq!(bench.batch(position, 2).await, sealed);
}

#[tokio::test]
async fn an_owner_that_stands_before_dropped_records_goes_on_behind_them() {
    let size = one_record_bytes().await;
    let bench = Bench::new();
    let dropping = catalogue([bounded(target(ONE, "#"), 2 * size, WhenFull::DropOldest)]);
    bench.append(&dropping, "t", &["1", "2"]).await;
    let position = bench.open().await;
    bench.append(&dropping, "t", &["3", "4"]).await;
    let batch = bench.batch(position, 10).await;
    assert_eq!((batch.from, payloads(&batch.records)), (position, vec!["3".to_owned(), "4".to_owned()]));
}

#[tokio::test]
async fn records_expire_by_time_that_passed_not_by_a_step_of_the_clock() {
    let bench = Bench::new();
    let mut aging = target(ONE, "#");
    aging.bounds.age_max_ms = Some(60_000);
    let aging = catalogue([aging]);
    bench.append(&aging, "t", &["old", "older"]).await;
    bench.clock.step_wall(10 * 60_000);
    bench.append(&aging, "t", &["other"]).await;
    // A tick has looked at it once the open clock was written after the step.
    let ticked = bench.disk.arrived();
    until("a tick", async || bench.disk.arrived() > ticked).await;
    assert_eq!(bench.ledger().dropped, 0);
    bench.clock.pass(59_000);
    bench.append(&aging, "t", &["young"]).await;
    bench.clock.pass(2_000);
    until("the old ones are gone", async || bench.ledger().dropped == 3).await;
    assert_eq!(bench.queues.stats().queues[0].totals.dropped, BTreeMap::from([("expired".to_owned(), 3)]));
    let position = bench.open().await;
    assert_eq!(payloads(&bench.batch(position, 10).await.records), ["young"]);
}

#[tokio::test]
async fn many_old_records_expire_over_several_groups_between_those_of_others() {
    let bench = Bench::new();
    let aging = |incarnation, filter| {
        let mut target = target(incarnation, filter);
        target.bounds.age_max_ms = Some(60_000);
        target
    };
    let aging = catalogue([aging(ONE, "one"), aging(TWO, "two")]);
    let records = EXPIRE_RECORDS_MAX as usize + 10;
    bench.append(&aging, "one", &vec!["x"; records]).await;
    bench.append(&aging, "two", &["x"; 10]).await;
    let syncs = bench.sync_seconds.get_sample_count();
    bench.clock.pass(61_000);
    until("both are empty", async || bench.ledger().pending == 0 && bench.queues.local_lag(TWO) == 0).await;
    assert_eq!(bench.ledger().dropped, records as u64);
    until("two groups are synced", async || bench.sync_seconds.get_sample_count() >= syncs + 2).await;
}

#[tokio::test]
async fn time_while_the_queues_are_closed_does_not_age() {
    let mut bench = Bench::new();
    let mut aging = target(ONE, "#");
    aging.bounds.age_max_ms = Some(60_000);
    let aging = catalogue([aging]);
    bench.append(&aging, "t", &["kept"]).await;
    bench.queues.close().await;
    bench.clock.pass(3_600_000);
    bench.restart().await;
    bench.append(&aging, "t", &["fresh"]).await;
    let ticked = bench.disk.arrived();
    until("a tick", async || bench.disk.arrived() > ticked).await;
    assert_eq!(bench.ledger(), Ledger { queued: 2, pending: 2, ..Ledger::default() });
}

#[tokio::test]
async fn a_full_node_drops_from_the_largest_queue_that_may_and_then_refuses() {
    let size = one_record_bytes().await;
    let bench = Bench::with(|options| options.total_bytes_max = Some(6 * size));
    let mixed = catalogue([
        bounded(target(ONE, "a"), 1 << 30, WhenFull::DropOldest),
        bounded(target(TWO, "b"), 1 << 30, WhenFull::Block),
    ]);
    bench.append(&mixed, "a", &["1", "2"]).await;
    bench.append(&mixed, "b", &["1", "2", "3", "4"]).await;
    bench.append(&mixed, "b", &["5", "6"]).await;
    assert_eq!(bench.ledger(), Ledger { queued: 2, dropped: 2, ..Ledger::default() });
    assert_eq!(bench.submit(&mixed, vec![message("b", "7")]).err(), Some(SubmitRefusal::QueueFull));
    assert_eq!(bench.queues.local_lag(TWO), 6);
}

#[tokio::test]
async fn below_the_disk_reserve_only_commits_are_written() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1", "2"]).await;
    bench.disk.set_free(1 << 20);
    let position = bench.open().await;
    assert_eq!(bench.submit(&all_to_one(), vec![message("t", "3")]).err(), Some(SubmitRefusal::DiskFull));
    assert!(bench.queues.stats().disk_low);
    assert_eq!(bench.queues.writable(), Err(NotWritable::DiskFull { free_bytes: 1 << 20, reserve_bytes: 5 << 30 }));
    let first = bench.batch(position, 10).await;
    bench.commit(position, first.to, Vec::new()).await.expect("commits");
    assert_eq!(bench.ledger().sent, 2);
    bench.disk.set_free(90 << 30);
    until("the free space is seen", async || bench.submit(&all_to_one(), vec![message("t", "4")]).is_ok()).await;
}

#[tokio::test]
async fn below_the_disk_reserve_what_may_be_dropped_goes_first() {
    let bench = Bench::new();
    let dropping = catalogue([bounded(target(ONE, "#"), 1 << 30, WhenFull::DropOldest)]);
    bench.append(&dropping, "t", &["1", "2"]).await;
    bench.disk.set_free(1 << 20);
    assert_eq!(bench.queues.writable(), Ok(()));
    bench.append(&dropping, "t", &["3"]).await;
    assert_eq!(bench.ledger(), Ledger { queued: 3, dropped: 2, pending: 1, ..Ledger::default() });
}

#[tokio::test]
async fn below_the_disk_reserve_one_record_that_may_go_does_not_let_more_in_than_it_frees() {
    let bench = Bench::new();
    let mixed = catalogue([
        bounded(target(ONE, "a"), 1 << 30, WhenFull::DropOldest),
        bounded(target(TWO, "b"), 1 << 30, WhenFull::Block),
    ]);
    bench.append(&mixed, "a", &["1"]).await;
    bench.disk.set_free(1 << 20);
    bench.open().await;
    let two = vec![message("b", "1"), message("b", "2")];
    assert_eq!(bench.submit(&mixed, two).err(), Some(SubmitRefusal::DiskFull));
    bench.append(&mixed, "b", &["1"]).await;
    assert_eq!(bench.ledger(), Ledger { queued: 1, dropped: 1, ..Ledger::default() });
}

#[tokio::test]
async fn a_queue_goes_only_when_all_of_the_rule_holds() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1", "2"]).await;
    let there = |bench: &Bench| bench.queues.ledger(ONE).is_some();
    // A write that is answered behind the deletes tells that they were looked at.
    let settled = async |bench: &Bench| bench.append(&catalogue([target(TWO, "#")]), "t", &["x"]).await;
    let mut cases = Vec::new();
    for (index, present, leased) in [(10, false, true), (11, true, true), (11, false, false)] {
        bench.set_state(|state| {
            state.connectors.clear();
            if present {
                state.connectors.insert(ONE, Arc::new(connector(ONE, "#")));
            }
            state.connectors.insert(TWO, Arc::new(connector(TWO, "#")));
            applied(state, index);
        });
        bench.queues.reconcile(&bench.state.load(), leased);
        settled(&bench).await;
        cases.push(there(&bench));
    }
    assert_eq!(cases, [true, true, true]);
    bench.queues.reconcile(&bench.state.load(), true);
    settled(&bench).await;
    assert!(!there(&bench));
    let stats = bench.queues.stats();
    assert_eq!((stats.queues_deleted, stats.deleted_dropped["connector_deleted"]), (1, 2));
    assert_eq!(bench.queues.open_queue(ONE, EPOCH).await, Err(CallError::Gone));
    let after = bench.crash();
    assert!(!there(&after) && after.queues.ledger(TWO).is_some());
    assert_eq!(after.queues.stats().deleted_dropped["connector_deleted"], 2);
}

#[tokio::test]
async fn an_append_that_was_on_its_way_does_not_bring_a_deleted_queue_back() {
    let bench = Bench::new();
    bench.set_state(|state| applied(state, 50));
    bench.queues.reconcile(&bench.state.load(), true);
    bench.append(&all_to_one(), "t", &["late"]).await;
    until("the orphan is gone", async || bench.queues.ledger(ONE).is_none()).await;
}

#[tokio::test]
async fn a_stuck_committer_is_asked_once_and_takes_over_the_latest() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1"]).await;
    let name = |bench: &Bench| bench.queues.stats().queues[0].name.clone();
    let rename = |index: u64| {
        bench.set_state(|state| {
            let mut renamed = connector(ONE, "#");
            renamed.spec.name = format!("name-{index}").into();
            state.connectors.insert(ONE, Arc::new(renamed));
            applied(state, index);
        });
        bench.queues.reconcile(&bench.state.load(), true);
    };
    bench.disk.hold();
    let writes = bench.disk.arrived();
    let ticket = bench.submit(&all_to_one(), vec![message("t", "2")]).expect("let in");
    until("the committer is stuck", async || bench.disk.arrived() > writes).await;
    let asked = bench.queues.shared.inbox.waiting();
    (20..30).for_each(rename);
    assert!(bench.queues.shared.inbox.waiting() <= asked + 1);
    bench.disk.release();
    ticket.await.expect("synced");
    until("the latest name", async || name(&bench) == "name-29").await;
    // An entry that changes nothing here asks for nothing.
    bench.disk.hold();
    let writes = bench.disk.arrived();
    until("the committer is stuck", async || bench.disk.arrived() > writes).await;
    let asked = bench.queues.shared.inbox.waiting();
    bench.set_state(|state| applied(state, 31));
    bench.queues.reconcile(&bench.state.load(), true);
    assert_eq!(bench.queues.shared.inbox.waiting(), asked);
    bench.disk.release();
}

#[tokio::test]
async fn what_was_to_be_taken_over_survives_a_failed_store() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["1"]).await;
    bench.disk.set_broken(true);
    let ticket = bench.submit(&all_to_one(), vec![message("t", "lost")]).expect("let in");
    assert_eq!(ticket.await, Err(TicketError::Failed));
    bench.set_state(|state| {
        let mut renamed = connector(ONE, "#");
        renamed.spec.name = "renamed".into();
        state.connectors.insert(ONE, Arc::new(renamed));
    });
    bench.queues.reconcile(&bench.state.load(), true);
    until("the request is refused", async || bench.queues.shared.inbox.waiting() == 0).await;
    bench.disk.set_broken(false);
    until("the name is there", async || bench.queues.stats().queues[0].name == "renamed").await;
}

#[tokio::test]
async fn passed_records_leave_the_disk() {
    let bench = Bench::new();
    let payload = "x".repeat(10_000);
    for _ in 0..20 {
        bench.append(&all_to_one(), "t", &[payload.as_str(); 20]).await;
    }
    let position = bench.open().await;
    let mut from = position;
    for _ in 0..19 {
        let by_bytes = BatchLimits { bytes_max: 1 << 30, ..limits(20) };
        from = batch(bench.queues.fetch(ONE, EPOCH, from, by_bytes).await.expect("fetches")).to;
    }
    bench.commit(position, from, Vec::new()).await.expect("commits");
    let shared = &bench.queues.shared;
    shared.store.compact().expect("compacts");
    let mut left = 0;
    let visit = |_, _: &[u8]| {
        left += 1;
        Ok(std::ops::ControlFlow::Continue(()))
    };
    shared.store.scan(ONE, Sequence(0), Sequence(u64::MAX), visit).expect("scans");
    assert_eq!(left, 20);
    // The file now begins at the position: it must not go with the range below it.
    shared.store.delete_files(ONE, from).expect("deletes");
    assert_eq!(payloads(&bench.batch(from, 100).await.records).len(), 20);
}

#[tokio::test]
async fn space_is_given_back_without_writing_anew_what_is_alive() {
    let bench = Bench::new();
    let payload = "x".repeat(10_000);
    bench.append(&all_to_one(), "t", &[payload.as_str(); 20]).await;
    let store = &bench.queues.shared.store;
    store.compact_queue(ONE).expect("nothing is dead");
    assert_eq!(store.file_bytes().expect("a number"), 0, "written to a table");
    let position = bench.open().await;
    let first = bench.batch(position, 10).await;
    bench.commit(position, first.to, Vec::new()).await.expect("commits");
    store.compact_queue(ONE).expect("compacts");
    let mut left = 0;
    let visit = |_, _: &[u8]| {
        left += 1;
        Ok(ControlFlow::Continue(()))
    };
    store.scan(ONE, Sequence(0), Sequence(u64::MAX), visit).expect("scans");
    assert_eq!(left, 10);
}

/// A request that was waiting while the store was opened again, before it is known what is dead.
#[tokio::test]
async fn a_queue_of_which_nothing_is_known_to_be_dead_is_left_alone() {
    let bench = Bench::new();
    bench.append(&all_to_one(), "t", &["x".repeat(10_000).as_str(); 20]).await;
    let store = &bench.queues.shared.store;
    store.set_dead([(ONE, None)]);
    store.compact_queue(ONE).expect("nothing to do");
    assert_eq!(store.file_bytes().expect("a number"), 0, "written to a table");
    store.compact_deleted(ONE).expect("compacts");
    assert!(store.file_bytes().expect("a number") > 0, "a queue that is gone is looked at whole");
}

#[tokio::test]
async fn a_busy_reclaim_thread_is_asked_again_and_never_waited_for() {
    let bench = Bench::new();
    let (wanted, taken) = mpsc::sync_channel(1);
    let mut committer = Committer::new(bench.queues.shared.clone(), wanted);
    for _ in 0..3 {
        committer.reclaim(Reclaim::Queue(ONE));
        committer.reclaim(Reclaim::Queue(TWO));
    }
    // The one that was taken, and one more of each.
    assert_eq!(bench.queues.shared.squeezing.load(Ordering::SeqCst), 3);
    let mut asked = Vec::new();
    while let Ok(Reclaim::Queue(incarnation)) = taken.try_recv() {
        asked.push(incarnation);
        committer.give_back().expect("syncs nothing");
    }
    assert_eq!(asked, [ONE, ONE, TWO]);
}

#[tokio::test]
async fn without_fsync_passed_records_stay_until_their_commit_is_synced() {
    let bench = Bench::with(|options| options.fsync = Fsync::Off);
    let shared = &bench.queues.shared;
    let stored = || {
        shared.store.compact().expect("compacts");
        let mut stored = 0;
        let visit = |_, _: &[u8]| {
            stored += 1;
            Ok(ControlFlow::Continue(()))
        };
        shared.store.scan(ONE, Sequence(0), Sequence(u64::MAX), visit).expect("scans");
        stored
    };
    bench.append(&all_to_one(), "t", &["0"]).await;
    let mut from = bench.open().await;
    loop {
        let batch = bench.batch(from, 10).await;
        let writes = bench.disk.arrived();
        bench.commit(from, batch.to, Vec::new()).await.expect("commits");
        bench.disk.hold();
        // Else a tick came in between.
        if bench.disk.arrived() == writes + 1 {
            break;
        }
        bench.disk.release();
        bench.append(&all_to_one(), "t", &["next"]).await;
        from = batch.to;
    }
    assert!(stored() > 0);
    bench.disk.release();
    until("the space is given back", async || stored() == 0).await;
}
