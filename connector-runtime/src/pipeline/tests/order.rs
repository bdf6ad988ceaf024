//! The three order classes, and the finished prefix.

use std::collections::BTreeMap;
use std::time::Duration;

use api_types::Message;
use api_types::failure::OnTargetDown;

use super::double::*;
use crate::registry::OrderClass;
use crate::sink::{Outcome, TargetFault, TargetFaultKind};

fn by(client: &str, number: u64) -> Message {
    Message { client_id: client.into(), topic: "t".into(), ..message(number) }
}

#[tokio::test(start_paused = true)]
async fn queue_class_sends_one_batch_after_the_other() {
    let queue = MemoryQueue::numbered(50);
    let sink = ScriptedSink::new(|call, _| match call.number {
        2 => Answer::All(down()),
        _ => Answer::After(Duration::from_millis(5), Outcome::Delivered),
    });
    Setup { records_max: 10, max_in_flight: 4, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), (0..50).collect::<Vec<u64>>());
    let firsts: Vec<u64> = sink.calls().iter().map(|call| call.records[0]).collect();
    assert_eq!(firsts, [0, 10, 20, 20, 30, 40], "a retried batch holds those behind it");
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_holds_back_is_asked_for_again_at_once_and_ends_for_nobody_elses_fault() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|call, _| {
        let mut is_held = false;
        let outcome = |number: &u64| {
            if is_held {
                let fault = TargetFault::new(TargetFaultKind::Interrupted, "held back");
                return Outcome::TargetFault(TargetFault { reopen: false, ..fault });
            }
            is_held = number.is_multiple_of(2);
            if is_held { fault(TargetFaultKind::Permission) } else { Outcome::Delivered }
        };
        Answer::Each(call.records.iter().map(outcome).collect())
    });
    let policy = policy(discard_after(0, 0), OnTargetDown::Strategy);
    Setup { records_max: 10, policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [0, 2, 4, 6, 8]);
    assert_eq!(sink.delivered(), [1, 3, 5, 7, 9]);
    assert!(sink.times().iter().all(|at| *at == 0), "{:?}", sink.times());
}

#[tokio::test(start_paused = true)]
async fn without_order_batches_overlap_and_commit_only_the_finished_prefix() {
    let queue = MemoryQueue::numbered(40);
    let sink = ScriptedSink::new(|call, _| {
        let first = call.records[0];
        Answer::After(Duration::from_millis(if first == 0 { 500 } else { 10 }), Outcome::Delivered)
    });
    let setup = Setup { records_max: 10, max_in_flight: 3, order: OrderClass::None, ..Setup::default() };
    setup.start(&queue, &sink);
    until("three batches are delivered but the first", || sink.delivered().len() == 20).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(queue.position(), 0, "nothing is committed before the first batch is done");
    assert_eq!(sink.calls().len(), 3, "a full window stops fetching");
    queue.all_committed().await;
    let commits: Vec<(u64, u64)> = queue.commits().iter().map(|commit| (commit.from.0, number_of(commit.to))).collect();
    assert_eq!(commits[0], (0, 29), "the whole finished prefix at once");
}

#[tokio::test(start_paused = true)]
async fn without_order_a_record_under_retry_holds_nobody() {
    let queue = MemoryQueue::numbered(30);
    let sink = ScriptedSink::new(|call, _| {
        let outcome = |number: &u64| if *number == 3 && call.at_ms < 2000 { refused() } else { Outcome::Delivered };
        Answer::Each(call.records.iter().map(outcome).collect())
    });
    let policy = policy(discard_after(5, 1000), OnTargetDown::Wait);
    Setup { records_max: 10, max_in_flight: 3, order: OrderClass::None, policy, ..Setup::default() }
        .start(&queue, &sink);
    until("all others are delivered", || sink.delivered().len() == 29).await;
    assert!(sink.times().iter().all(|at| *at == 0), "{:?}", sink.times());
    queue.all_committed().await;
    assert_eq!(sink.times(), [0, 0, 0, 1000, 2000]);
}

#[tokio::test(start_paused = true)]
async fn a_record_under_retry_holds_its_lane_and_no_other() {
    let clients = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let queue = MemoryQueue::with((0..160).map(|number| by(clients[number as usize % 8], number)));
    // Record 8 is of client a, and in the first batch.
    let sink = ScriptedSink::new(|call, _| {
        let outcome = |number: &u64| if *number == 8 && call.at_ms < 3000 { refused() } else { Outcome::Delivered };
        Answer::Each(call.records.iter().map(outcome).collect())
    });
    let policy = policy(discard_after(5, 1000), OnTargetDown::Wait);
    let setup = Setup { records_max: 40, max_in_flight: 4, order: OrderClass::Lanes, policy, ..Setup::default() };
    setup.start(&queue, &sink);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let of = |client: u64| sink.delivered().into_iter().filter(|number| number % 8 == client).collect::<Vec<u64>>();
    // Some client may share the lane of a; at least one must not.
    let free = (1..8).filter(|client| of(*client).len() == 20).count();
    assert!(free > 0, "no other lane went on");
    assert_eq!(of(0), [0, 16, 24, 32], "only what was in the same run passed record 8");
    queue.all_committed().await;
    assert_eq!(of(0)[..5], [0, 16, 24, 32, 8]);
    let mut seen: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for number in sink.delivered().into_iter().filter(|number| *number != 8) {
        seen.entry(number % 8).or_default().push(number);
    }
    for (client, numbers) in seen {
        assert!(numbers.is_sorted(), "client {client}: {numbers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_come_later_are_found() {
    let queue = MemoryQueue::numbered(1);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let task = Setup::default().start(&queue, &sink);
    queue.all_committed().await;
    let fetches = queue.fetches();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(queue.fetches(), fetches.max(2), "an empty queue is not asked again");
    queue.append([message(1)]);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), [0, 1]);
    assert_eq!(task.report().in_flight_records, 0);
}

#[tokio::test(start_paused = true)]
async fn without_order_what_is_held_back_waits_as_long_as_what_it_waits_for() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|call, _| {
        if call.at_ms >= 2_000 {
            return Answer::All(Outcome::Delivered);
        }
        let held = || Outcome::TargetFault(TargetFault::held());
        let first = fault(TargetFaultKind::Down);
        Answer::Each(std::iter::once(first).chain(std::iter::repeat_with(held)).take(call.records.len()).collect())
    });
    Setup { records_max: 10, order: OrderClass::None, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    let at_once = sink.times().iter().filter(|at| **at == 0).count();
    assert_eq!(at_once, 1, "nobody else is sent before the target had its pause: {:?}", sink.times());
}
