//! Requests that a target refuses as a whole.

use std::collections::BTreeSet;

use api_types::failure::{FailureStrategy, OnTargetDown};

use super::double::*;
use crate::registry::OrderClass;
use crate::sink::Outcome;

/// `poison` records among `count`, in a request that is refused when one of them is in it.
async fn check(count: u64, poison: &[u64], order: OrderClass, deduplicates: bool) {
    let poison: BTreeSet<u64> = poison.iter().copied().collect();
    let queue = MemoryQueue::numbered(count);
    let bad = poison.clone();
    let sink = ScriptedSink::new(move |call, _| {
        let refused = call.records.iter().any(|number| bad.contains(number));
        Answer::All(if refused { unclear() } else { Outcome::Delivered })
    });
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    let records_max = u32::try_from(count).expect("small");
    let setup = Setup { policy, order, deduplicates, records_max, ..Setup::default() };
    let task = setup.start(&queue, &sink);
    queue.all_committed().await;

    let name = format!("{count} records, poison {poison:?}, {order:?}");
    assert_eq!(queue.ends().into_keys().collect::<BTreeSet<u64>>(), poison, "{name}");
    let good: Vec<u64> = (0..count).filter(|number| !poison.contains(number)).collect();
    assert_eq!(sink.delivered(), good, "each once and in order: {name}");
    let (n, p) = (count, poison.len() as u64);
    let log = u64::from(n.next_power_of_two().ilog2());
    let bound = (2 * n - 1).min(2 * p * log + 1);
    let requests = sink.calls().len() as u64;
    assert!(requests <= bound, "{requests} requests, at most {bound}: {name}");
    let counters = task.report().counters;
    assert_eq!(counters.retry_total, 0, "requests of a bisection are no attempts: {name}");
    assert_eq!((counters.send_success_total, counters.send_fail_total), (n - p, p), "{name}");
    assert_eq!(queue.splits().is_empty(), !deduplicates || n == 1, "{name}");
    if deduplicates {
        for call in sink.calls() {
            let from = if call.records[0] == 0 { 0 } else { call.records[0] * 10 };
            assert_eq!(call.id.from.0, from, "a request is a sealed batch: {name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn poison_is_found_within_the_bound_and_alone() {
    for order in [OrderClass::Queue, OrderClass::None] {
        for deduplicates in [false, true] {
            check(1, &[0], order, deduplicates).await;
            check(2, &[1], order, deduplicates).await;
            check(3, &[0, 2], order, deduplicates).await;
            check(1000, &[0], order, deduplicates).await;
            check(1000, &[617], order, deduplicates).await;
            check(1000, &[999], order, deduplicates).await;
            check(1000, &[1, 2, 500, 998], order, deduplicates).await;
            check(16, &(0..16).collect::<Vec<u64>>(), order, deduplicates).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_poison_under_retry_holds_what_follows() {
    let queue = MemoryQueue::numbered(8);
    let sink = ScriptedSink::new(|call, _| {
        Answer::All(if call.records.contains(&5) { unclear() } else { Outcome::Delivered })
    });
    let policy = policy(dead_letter_after(2, 1000), OnTargetDown::Wait);
    Setup { policy, deduplicates: true, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    let calls: Vec<(u64, Vec<u64>)> = sink.calls().into_iter().map(|call| (call.at_ms, call.records)).collect();
    let expect: Vec<(u64, Vec<u64>)> = vec![
        (0, (0..8).collect()),
        (0, (0..4).collect()),
        (0, (4..8).collect()),
        (0, vec![4, 5]),
        (0, vec![4]),
        (0, vec![5]),
        (1000, vec![5]),
        (2000, vec![5]),
        (2000, vec![6, 7]),
    ];
    assert_eq!(calls, expect);
}

#[tokio::test(start_paused = true)]
async fn a_named_culprit_is_left_out_and_the_rest_goes_again() {
    for deduplicates in [false, true] {
        let queue = MemoryQueue::numbered(6);
        let sink = ScriptedSink::new(|call, _| {
            let outcome = |number: &u64| if *number == 2 { refused() } else { unclear() };
            let refuses = call.records.contains(&2);
            Answer::Each(call.records.iter().map(|n| if refuses { outcome(n) } else { Outcome::Delivered }).collect())
        });
        let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
        Setup { policy, deduplicates, ..Setup::default() }.start(&queue, &sink);
        queue.all_committed().await;
        let asked: Vec<Vec<u64>> = sink.calls().into_iter().map(|call| call.records).collect();
        assert_eq!(asked[0], [0, 1, 2, 3, 4, 5]);
        assert_eq!(sink.delivered(), [0, 1, 3, 4, 5]);
        assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_goes_down_during_a_bisection_is_waited_for() {
    let queue = MemoryQueue::numbered(64);
    let sink = ScriptedSink::new(|call, _| {
        Answer::All(match call.number {
            3..=20 => down(),
            _ if call.records.contains(&40) => unclear(),
            _ => Outcome::Delivered,
        })
    });
    let policy = policy(FailureStrategy::Discard, OnTargetDown::Wait);
    Setup { policy, deduplicates: true, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [40]);
    assert_eq!(sink.delivered(), (0..64).filter(|number| *number != 40).collect::<Vec<u64>>());
}
