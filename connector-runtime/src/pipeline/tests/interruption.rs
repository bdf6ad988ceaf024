//! Lease, epoch, moved queues, stops.

use std::sync::Arc;
use std::time::Duration;

use api_types::failure::{FailureStrategy, OnTargetDown};
use api_types::status::Health;
use api_types::{Message, Sequence};

use super::double::*;
use crate::config::PipelineOptions;
use crate::pipeline::memory::MemoryBudget;
use crate::pipeline::task::TaskEnd;
use crate::registry::OrderClass;
use crate::sink::Outcome;
use crate::source::{End, SourceError};

fn unreachable() -> SourceError {
    SourceError::Unreachable("connection refused".into())
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_stops_everything_and_a_gained_one_goes_on() {
    let queue = MemoryQueue::numbered(20);
    let sink = ScriptedSink::new(|call, _| match call.number {
        0 => Answer::All(Outcome::Delivered),
        1 => Answer::Never,
        _ => Answer::All(Outcome::Delivered),
    });
    let task = Setup { records_max: 10, ..Setup::default() }.start(&queue, &sink);
    until("the second batch is under way", || sink.calls().len() == 2).await;
    let (fetches, position) = (queue.fetches(), queue.position());

    let lost = tokio::time::Instant::now();
    task.lease.set(false);
    until("the sink is aborted", || sink.aborts() == 1).await;
    assert!(lost.elapsed() <= crate::sink::ABORT_WITHIN, "{:?}", lost.elapsed());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((queue.fetches(), queue.position(), sink.calls().len()), (fetches, position, 2));
    let report = task.report();
    assert_eq!((report.health, report.health_reason.as_deref()), (Health::Retrying, Some("NODE_WITHOUT_LEASE")));
    assert_eq!(report.in_flight_records, 0);

    task.lease.set(true);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), (0..20).collect::<Vec<u64>>());
    assert_eq!(sink.calls()[1].id, sink.calls()[2].id, "the same batch again");
    assert_eq!(sink.opens(), 2, "an aborted sink is not used again");
    assert_eq!(task.report().health, Health::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_lease_asks_nobody() {
    let queue = MemoryQueue::numbered(1);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let task = Setup::default().start(&queue, &sink);
    task.lease.set(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((queue.fetches(), sink.calls().len(), sink.opens()), (0, 0, 0));
    task.drain.cancel();
    assert_eq!(task.end().await, TaskEnd::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_task_ends_and_sends_no_more() {
    for operation in [Operation::Fetch, Operation::Commit] {
        let queue = MemoryQueue::numbered(20);
        queue.fail(operation, SourceError::Fenced);
        let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
        let task = Setup { records_max: 10, ..Setup::default() }.start(&queue, &sink);
        assert_eq!(task.end().await, TaskEnd::Fenced, "{operation:?}");
        assert_eq!(sink.aborts(), sink.opens(), "no sink is left behind");
        assert_eq!(sink.calls().len(), usize::from(operation == Operation::Commit));
        assert_eq!(queue.position(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fence_at_a_split_ends_the_task_before_a_half_is_sent() {
    let queue = MemoryQueue::numbered(20);
    queue.fail(Operation::Split, SourceError::Fenced);
    let sink = ScriptedSink::new(|_, _| Answer::All(unclear()));
    let task = Setup { deduplicates: true, ..Setup::default() }.start(&queue, &sink);
    assert_eq!(task.end().await, TaskEnd::Fenced);
    assert_eq!(sink.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_moved_is_opened_again() {
    for operation in [Operation::Fetch, Operation::Commit] {
        let queue = MemoryQueue::numbered(20);
        queue.fail(operation, SourceError::Moved);
        let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
        Setup { records_max: 10, ..Setup::default() }.start(&queue, &sink);
        queue.all_committed().await;
        let again = usize::from(operation == Operation::Commit);
        assert_eq!(sink.calls().len(), 2 + again, "{operation:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_asked_is_asked_again() {
    let queue = MemoryQueue::numbered(20);
    for operation in [Operation::Fetch, Operation::Split, Operation::Commit] {
        for _ in 0..5 {
            queue.fail(operation, unreachable());
        }
    }
    let sink = ScriptedSink::new(|call, _| {
        Answer::All(if call.records.contains(&3) { unclear() } else { Outcome::Delivered })
    });
    let task = Setup { deduplicates: true, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), (0..20).filter(|number| *number != 3).collect::<Vec<u64>>(), "nothing is sent twice");
    assert!(task.report().last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_hurts_nobody() {
    let queue = MemoryQueue::numbered(5);
    queue.fail(Operation::Fetch, SourceError::Gone);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let task = Setup::default().start(&queue, &sink);
    queue.all_committed().await;
    task.drain.cancel();
    assert_eq!(task.end().await, TaskEnd::Drained);
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_is_under_way_and_not_the_backlog() {
    let queue = MemoryQueue::numbered(100);
    let sink = ScriptedSink::new(|_, _| Answer::After(Duration::from_millis(700), Outcome::Delivered));
    let task =
        Setup { records_max: 10, max_in_flight: 2, order: OrderClass::None, ..Setup::default() }.start(&queue, &sink);
    until("two requests are under way", || sink.calls().len() == 2).await;
    let asked = tokio::time::Instant::now();
    task.drain.cancel();
    assert_eq!(task.end().await, TaskEnd::Drained);
    assert!(asked.elapsed() <= Duration::from_millis(705), "{:?}", asked.elapsed());
    assert_eq!(sink.calls().len(), 2);
    assert_eq!(number_of(Sequence(queue.position())), 19, "what was finished is committed");
    assert_eq!((sink.closes(), sink.aborts()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_comes_between_records_that_go_one_by_one() {
    for order in [OrderClass::Queue, OrderClass::None] {
        let queue = MemoryQueue::numbered(100);
        let sink = ScriptedSink::new(|_, _| Answer::After(Duration::from_secs(1), Outcome::Delivered));
        let setup = Setup { order, one_by_one: true, ..Setup::default() };
        let task = setup.clone().start(&queue, &sink);
        until("the fourth is under way", || sink.calls().len() == 4).await;
        let asked = tokio::time::Instant::now();
        task.drain.cancel();
        assert_eq!(task.end().await, TaskEnd::Drained);
        assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
        assert_eq!(queue.position(), 40, "what was delivered is committed");
        setup.start(&queue, &sink);
        queue.all_committed().await;
        assert_eq!(sink.delivered(), (0..100).collect::<Vec<u64>>(), "nothing is sent twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_goes_alone_holds_what_follows_it_and_nothing_else() {
    let queue = MemoryQueue::numbered(4);
    let sink = ScriptedSink::new(|call, _| match call.number {
        1 | 2 => Answer::All(down()),
        _ => Answer::All(if call.records == [2] { unclear() } else { Outcome::Delivered }),
    });
    let policy = policy(discard_after(1, 10), OnTargetDown::Wait);
    let task = Setup { policy, one_by_one: true, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    let asked: Vec<Vec<u64>> = sink.calls().into_iter().map(|call| call.records).collect();
    assert_eq!(asked, [[0], [1], [1], [1], [2], [2], [3]]);
    assert_eq!(queue.ends().into_keys().collect::<Vec<u64>>(), [2]);
    let counters = task.report().counters;
    assert_eq!((counters.send_fail_total, counters.retry_total), (2, 3), "those behind were not asked in vain");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_target_that_is_down() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|_, _| Answer::All(down()));
    let task = Setup::default().start(&queue, &sink);
    until("back-off is long", || sink.calls().len() > 10).await;
    let asked = tokio::time::Instant::now();
    task.drain.cancel();
    assert_eq!(task.end().await, TaskEnd::Drained);
    assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
    assert_eq!(queue.position(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_commits_what_is_settled_inside_a_batch() {
    for deduplicates in [false, true] {
        let queue = MemoryQueue::numbered(8);
        let sink = ScriptedSink::new(|call, _| {
            Answer::All(if call.records.contains(&5) { unclear() } else { Outcome::Delivered })
        });
        let policy = policy(dead_letter_after(9, 60_000), OnTargetDown::Wait);
        let task = Setup { policy: policy.clone(), deduplicates, ..Setup::default() }.start(&queue, &sink);
        until("record 5 stands alone", || sink.calls().last().is_some_and(|call| call.records == [5])).await;
        task.drain.cancel();
        assert_eq!(task.end().await, TaskEnd::Drained);
        assert_eq!(queue.position(), 50, "deduplicates: {deduplicates}");

        let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
        Setup { policy, deduplicates, ..Setup::default() }.start(&queue, &sink);
        queue.all_committed().await;
        assert_eq!(sink.delivered(), [5, 6, 7], "the next owner sends nothing twice");
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_of_a_stop_requests_are_cut_off() {
    let queue = MemoryQueue::numbered(30);
    let sink = ScriptedSink::new(|call, _| match call.records[0] {
        0 => Answer::After(Duration::from_millis(100), Outcome::Delivered),
        _ => Answer::Never,
    });
    let task =
        Setup { records_max: 10, max_in_flight: 2, order: OrderClass::None, ..Setup::default() }.start(&queue, &sink);
    until("two requests are under way", || sink.calls().len() == 2).await;
    task.drain.cancel();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!task.handle.is_finished());
    task.cut.cancel();
    assert_eq!(task.end().await, TaskEnd::Drained);
    assert_eq!(sink.aborts(), 1);
    assert_eq!(number_of(Sequence(queue.position())), 9);
}

#[tokio::test(start_paused = true)]
async fn limits_per_second_make_the_task_wait() {
    let queue = MemoryQueue::numbered(30);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let setup = Setup { records_max: 10, ..Setup::default() };
    let options = PipelineOptions { max_records_per_second: Some(5), ..setup.options() };
    setup.start_with(&queue, Arc::new(sink.clone()), options);
    queue.all_committed().await;
    assert_eq!(sink.times(), [0, 2000, 4000]);
}

#[tokio::test(start_paused = true)]
async fn memory_that_others_keep_does_not_stop_a_task() {
    let memory = MemoryBudget::new(1 << 20);
    let all = memory.reserve(u64::MAX).await;
    let queue = MemoryQueue::numbered(50);
    let sink = ScriptedSink::new(|_, _| Answer::After(Duration::from_millis(10), Outcome::Delivered));
    let order = OrderClass::None;
    Setup { records_max: 10, max_in_flight: 4, order, memory, ..Setup::default() }.start(&queue, &sink);
    until("it goes on, one batch at a time", || sink.calls().len() == 2).await;
    let times = sink.times();
    assert!(times[1] >= times[0] + 200, "{times:?}");
    drop(all);
    queue.all_committed().await;
    assert!(sink.times()[4] < times[1] + 200, "with memory the window fills again: {:?}", sink.times());
}

/// Aborts the sink in the middle of a batch, as a lease does that comes back before the task has seen it go.
#[tokio::test(start_paused = true)]
async fn an_abort_is_nobodys_fault_and_ends_no_record() {
    for strategy in [FailureStrategy::Discard, discard_after(0, 10), dead_letter_after(0, 10)] {
        for order in [OrderClass::Queue, OrderClass::None] {
            let queue = MemoryQueue::numbered(4);
            let sink = ScriptedSink::new(|call, _| match call.number {
                0 => Answer::AtAbort(vec![Outcome::Delivered, interrupted(), interrupted(), interrupted()]),
                _ => Answer::All(Outcome::Delivered),
            });
            let policy = policy(strategy.clone(), OnTargetDown::Strategy);
            let task = Setup { policy, order, ..Setup::default() }.start(&queue, &sink);
            until("the batch is under way", || sink.calls().len() == 1).await;
            task.slot.abort();
            queue.all_committed().await;
            assert!(queue.ends().is_empty(), "{strategy:?} {order:?}: {:?}", queue.ends());
            assert_eq!(sink.delivered(), [0, 1, 2, 3]);
            assert_eq!(sink.opens(), 2, "an aborted sink is not used again");
            let report = task.report();
            let counters = report.counters;
            assert_eq!((counters.send_success_total, counters.send_fail_total, counters.retry_total), (4, 0, 0));
            assert_eq!((report.health, report.last_error), (Health::Ok, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_uses_up_no_retry() {
    let queue = MemoryQueue::numbered(1);
    let outcomes = [refused(), interrupted(), interrupted(), refused(), refused()];
    let sink = ScriptedSink::new(move |call, _| Answer::All(outcomes[call.number].clone()));
    let policy = policy(dead_letter_after(2, 400), OnTargetDown::Strategy);
    let task = Setup { policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert!(matches!(queue.ends()[&0], End::DeadLettered { retry_times: 2, .. }));
    assert_eq!(sink.calls().len(), 5);
    assert_eq!(task.report().counters.send_fail_total, 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_lingers_leaves_the_memory_to_others() {
    // Room for one batch of the largest size, and a little.
    let memory = MemoryBudget::new((1 << 20) + (64 << 10));
    let few = MemoryQueue::numbered(5);
    let sink = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    let linger = Duration::from_secs(60);
    Setup { linger, memory: memory.clone(), ..Setup::default() }.start(&few, &sink);
    until("the fetch lingers", || few.lingering() == 1).await;

    let many = MemoryQueue::numbered(100);
    let other = ScriptedSink::new(|_, _| Answer::All(Outcome::Delivered));
    Setup { records_max: 10, memory, ..Setup::default() }.start(&many, &other);
    many.all_committed().await;
    assert!(other.times()[9] < 100, "{:?}", other.times());
    assert!(sink.calls().is_empty(), "the other one still lingers");
    few.all_committed().await;
    assert_eq!(sink.delivered(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_room_is_let_go_and_fetched_again() {
    let memory = MemoryBudget::new(4 << 20);
    let large = |number| Message { payload: vec![b'x'; 100 << 10].into(), ..message(number) };
    let queue = MemoryQueue::with((0..3).map(large));
    let sink = ScriptedSink::new(|call, _| match call.number {
        0 => Answer::After(Duration::from_secs(600), Outcome::Delivered),
        _ => Answer::All(Outcome::Delivered),
    });
    let (order, linger) = (OrderClass::None, Duration::from_secs(60));
    let setup = Setup { records_max: 2, max_in_flight: 2, order, linger, memory: memory.clone(), ..Setup::default() };
    setup.start(&queue, &sink);
    until("a full batch is sent, the next one lingers", || sink.calls().len() == 1 && queue.lingering() == 1).await;
    let all = memory.reserve(memory.free_bytes()).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!((sink.calls().len(), queue.fetches()), (1, 2), "it was fetched, and is not in memory");
    drop(all);
    until("it is sent", || sink.calls().len() == 2).await;
    assert!(sink.times()[1] < 121_000, "a sealed batch does not linger again: {:?}", sink.times());
    assert_eq!(queue.fetches(), 3);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), [2, 0, 1]);
}
