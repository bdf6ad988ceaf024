//! Every row of the failure strategies, with its exact times and counters.

use std::time::Duration;

use api_types::failure::{FailurePolicy, FailureStrategy, OnTargetDown};
use api_types::status::Health;
use api_types::{Incarnation, Message};

use super::double::*;
use crate::sink::{Outcome, TargetFaultKind};
use crate::source::End;

/// What one record did.
struct Expect {
    /// When the sink was called.
    times: &'static [u64],
    /// `delivered`, or how it ended: the reason or `letter`, and the retries.
    end: &'static str,
    /// first failures, retries, discards, letters
    counters: [u64; 4],
}

/// One record whose attempts end as `outcomes` say; after them everything is delivered.
async fn check(name: &str, policy: FailurePolicy, outcomes: Vec<Outcome>, expect: Expect) {
    let queue = MemoryQueue::numbered(1);
    let sink =
        ScriptedSink::new(move |call, _| Answer::All(outcomes.get(call.number).cloned().unwrap_or(Outcome::Delivered)));
    let task = Setup { policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    let end = match queue.ends().get(&0) {
        None => "delivered".to_owned(),
        Some(End::Discarded { reason, retry_times, .. }) => format!("{reason} {retry_times}"),
        Some(End::DeadLettered { retry_times, .. }) => format!("letter {retry_times}"),
    };
    assert_eq!(end, expect.end, "{name}");
    assert_eq!(sink.times(), expect.times, "{name}");
    let counters = task.report().counters;
    let counted = [counters.send_fail_total, counters.retry_total, counters.discard_total, counters.dead_letter_total];
    assert_eq!(counted, expect.counters, "{name}");
    assert_eq!(counters.send_success_total, u64::from(expect.end == "delivered"), "{name}");
}

#[tokio::test(start_paused = true)]
async fn record_faults_end_by_the_strategy_in_both_modes() {
    for down in [OnTargetDown::Wait, OnTargetDown::Strategy] {
        let with = |strategy| policy(strategy, down);
        let at_once = || Expect { times: &[0], end: "refused 0", counters: [1, 0, 1, 0] };
        check("absent", with(FailureStrategy::Absent), vec![refused()], at_once()).await;
        check("discard", with(FailureStrategy::Discard), vec![refused()], at_once()).await;
        check(
            "discard after retry",
            with(discard_after(3, 1000)),
            vec![refused(); 4],
            Expect { times: &[0, 1000, 2000, 3000], end: "refused 3", counters: [1, 3, 1, 0] },
        )
        .await;
        check(
            "delivered by the last retry",
            with(discard_after(3, 1000)),
            vec![refused(); 3],
            Expect { times: &[0, 1000, 2000, 3000], end: "delivered", counters: [1, 3, 0, 0] },
        )
        .await;
        check(
            "dead letter",
            with(dead_letter_after(2, 500)),
            vec![refused(); 3],
            Expect { times: &[0, 500, 1000], end: "letter 2", counters: [1, 2, 0, 1] },
        )
        .await;
        check(
            "a refusal of the whole request is one of its only record",
            with(dead_letter_after(1, 70)),
            vec![unclear(); 2],
            Expect { times: &[0, 70], end: "letter 1", counters: [1, 1, 0, 1] },
        )
        .await;
        check(
            "found offline",
            with(dead_letter_after(5, 500)),
            vec![offline()],
            Expect { times: &[0], end: "letter 0", counters: [1, 0, 0, 1] },
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn target_faults_under_strategy_are_failed_attempts() {
    let with = |strategy| policy(strategy, OnTargetDown::Strategy);
    check(
        "discard",
        with(FailureStrategy::Discard),
        vec![down()],
        Expect { times: &[0], end: "target_down 0", counters: [1, 0, 1, 0] },
    )
    .await;
    check(
        "discard after retry",
        with(discard_after(2, 300)),
        vec![down(); 3],
        Expect { times: &[0, 300, 600], end: "target_down 2", counters: [1, 2, 1, 0] },
    )
    .await;
    let throttled = fault(TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(60)) });
    check(
        "Retry-After is ignored",
        with(dead_letter_after(1, 300)),
        vec![throttled; 2],
        Expect { times: &[0, 300], end: "letter 1", counters: [1, 1, 0, 1] },
    )
    .await;
    check(
        "faults of both sorts add up",
        with(dead_letter_after(2, 100)),
        vec![down(), refused(), down()],
        Expect { times: &[0, 100, 200], end: "letter 2", counters: [1, 2, 0, 1] },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_waited_for_never_ends_a_record() {
    for strategy in [FailureStrategy::Absent, FailureStrategy::Discard, discard_after(1, 10), dead_letter_after(1, 10)]
    {
        let queue = MemoryQueue::numbered(3);
        let sink =
            ScriptedSink::new(|call, _| Answer::All(if call.number < 200 { down() } else { Outcome::Delivered }));
        let task = Setup { policy: policy(strategy, OnTargetDown::Wait), ..Setup::default() }.start(&queue, &sink);
        until("the target is retried", || sink.calls().len() > 100).await;
        let report = task.report();
        assert_eq!((report.health, report.health_reason.as_deref()), (Health::Retrying, Some("TARGET_UNREACHABLE")));
        assert_eq!(report.counters.last_msg.as_deref(), Some("Connection refused"));
        assert_eq!(queue.position(), 0);
        queue.all_committed().await;
        assert!(queue.ends().is_empty());
        let report = task.report();
        assert_eq!(report.health, Health::Ok);
        assert_eq!(report.counters.last_msg.as_deref(), Some("Batch sent successfully"));
        assert_eq!((report.counters.send_success_total, report.counters.send_fail_total), (3, 3));
        assert_eq!(report.counters.retry_total, 600);
        let gaps = sink.times().windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(gaps <= Some(10_001), "back-off is bounded: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_does_not_use_up_the_retries_of_the_strategy() {
    check(
        "wait, then refused",
        policy(dead_letter_after(2, 400), OnTargetDown::Wait),
        vec![refused(), refused(), refused()],
        Expect { times: &[0, 400, 800], end: "letter 2", counters: [1, 2, 0, 1] },
    )
    .await;
    let queue = MemoryQueue::numbered(1);
    let outcomes = [refused(), down(), down(), refused(), refused()];
    let sink = ScriptedSink::new(move |call, _| Answer::All(outcomes[call.number].clone()));
    let policy = policy(dead_letter_after(2, 400), OnTargetDown::Wait);
    Setup { policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert!(matches!(queue.ends()[&0], End::DeadLettered { retry_times: 2, .. }));
    assert_eq!(sink.calls().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_least_wait() {
    let queue = MemoryQueue::numbered(1);
    let throttled = fault(TargetFaultKind::Throttled { retry_after: Some(Duration::from_secs(90)) });
    let sink = ScriptedSink::new(move |call, _| {
        Answer::All(if call.number == 0 { throttled.clone() } else { Outcome::Delivered })
    });
    let task = Setup::default().start(&queue, &sink);
    until("throttled", || task.report().health_reason.as_deref() == Some("TARGET_THROTTLED")).await;
    queue.all_committed().await;
    assert_eq!(sink.times(), [0, 90_000]);
}

#[tokio::test(start_paused = true)]
async fn faults_that_need_a_person_are_blocked_with_their_reason() {
    for (kind, health, reason) in [
        (TargetFaultKind::Auth, Health::Blocked, "TARGET_AUTH"),
        (TargetFaultKind::Missing, Health::Blocked, "TARGET_MISSING"),
        (TargetFaultKind::Permission, Health::Blocked, "TARGET_PERMISSION"),
        (TargetFaultKind::Misconfigured("FILE_OUTSIDE_ROOT"), Health::Blocked, "FILE_OUTSIDE_ROOT"),
        (TargetFaultKind::Full, Health::Retrying, "TARGET_FULL"),
        (TargetFaultKind::Down, Health::Retrying, "TARGET_UNREACHABLE"),
    ] {
        let queue = MemoryQueue::numbered(1);
        let sink = ScriptedSink::new(move |_, _| Answer::All(fault(kind)));
        let task = Setup::default().start(&queue, &sink);
        until("asked", || sink.calls().len() > 2).await;
        let report = task.report();
        assert_eq!((report.health, report.health_reason.as_deref()), (health, Some(reason)));
        let reopens =
            matches!(kind, TargetFaultKind::Auth | TargetFaultKind::Permission | TargetFaultKind::Misconfigured(_));
        assert_eq!(sink.opens() > 1, reopens, "{kind:?}: secrets are read again when they may have changed");
        task.handle.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_not_dead_lettered_again() {
    let letter = Message { dead_letter_of: vec![Incarnation(3)], ..message(0) };
    let queue = MemoryQueue::with([letter, message(1)]);
    let sink = ScriptedSink::new(|_, _| Answer::All(refused()));
    let policy = policy(dead_letter_after(2, 10), OnTargetDown::Wait);
    let task = Setup { policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    let ends = queue.ends();
    assert!(
        matches!(&ends[&0], End::Discarded { reason, retry_times: 2, .. } if reason == "dead_letter_loop"),
        "{ends:?}"
    );
    assert!(matches!(&ends[&1], End::DeadLettered { retry_times: 2, error_class, .. } if error_class == "http_422"));
    assert_eq!((task.report().counters.discard_total, task.report().counters.dead_letter_total), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn one_refused_record_takes_no_neighbour_with_it() {
    let queue = MemoryQueue::numbered(10);
    let sink = ScriptedSink::new(|call, _| {
        let outcome = |number: &u64| if *number == 4 { refused() } else { Outcome::Delivered };
        Answer::Each(call.records.iter().map(outcome).collect())
    });
    let policy = policy(discard_after(2, 50), OnTargetDown::Strategy);
    let task = Setup { policy, ..Setup::default() }.start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let asked: Vec<Vec<u64>> = sink.calls().into_iter().skip(1).map(|call| call.records).collect();
    assert_eq!(asked, [[4], [4]]);
    let counters = task.report().counters;
    assert_eq!((counters.send_success_total, counters.send_fail_total, counters.discard_total), (9, 1, 1));
    assert_eq!(counters.bytes_total, 18);
}

#[tokio::test(start_paused = true)]
async fn a_sink_with_the_wrong_number_of_outcomes_loses_nothing() {
    let queue = MemoryQueue::numbered(3);
    let sink = ScriptedSink::new(|call, _| match call.number {
        0 => Answer::Each(vec![Outcome::Delivered]),
        _ => Answer::All(Outcome::Delivered),
    });
    Setup::default().start(&queue, &sink);
    queue.all_committed().await;
    assert_eq!(sink.delivered(), [0, 0, 1, 2]);
}
