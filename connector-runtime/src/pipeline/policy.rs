//! One table: policy × fault → retry or end. Pure; `strand` executes what it says.

use api_types::failure::{FailurePolicy, FailureStrategy, OnTargetDown};

use crate::sink::{RecordFault, TargetFault, TargetFaultKind};
use crate::source::End;

pub(crate) const REASON_REFUSED: &str = "refused";
pub(crate) const REASON_TARGET_DOWN: &str = "target_down";
pub(crate) const REASON_DEAD_LETTER_LOOP: &str = "dead_letter_loop";

/// Why one attempt of one record failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault<'a> {
    Record(&'a RecordFault),
    Target(&'a TargetFault),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Exactly `wait_time_ms` from now; this failure counts against `retry_total_times`.
    RetryByPlan,
    /// With back-off and jitter; does not count.
    RetryByBackoff,
    /// With back-off as well, and as if this attempt had never been made.
    Repeat,
    End(End),
}

/// `counted` is the number of failed attempts that counted before this one. `is_letter`: the record already is a
/// dead letter of some connector.
pub(super) fn decide(policy: &FailurePolicy, is_letter: bool, counted: u32, fault: Fault<'_>) -> Decision {
    let offline = match fault {
        Fault::Target(fault) if fault.kind == TargetFaultKind::Interrupted => return Decision::Repeat,
        Fault::Target(_) if policy.on_target_down == OnTargetDown::Wait => return Decision::RetryByBackoff,
        Fault::Target(_) => false,
        Fault::Record(fault) => fault.offline,
    };
    let retries_max = policy.strategy.retry().map_or(0, |retry| retry.retry_total_times);
    if !offline && counted < retries_max {
        return Decision::RetryByPlan;
    }
    Decision::End(end(&policy.strategy, is_letter, counted, fault))
}

fn end(strategy: &FailureStrategy, is_letter: bool, retry_times: u32, fault: Fault<'_>) -> End {
    let (class, message, reason) = match fault {
        Fault::Record(fault) => (fault.class.to_string(), fault.message.to_string(), REASON_REFUSED),
        Fault::Target(fault) => (fault.kind.class().to_owned(), fault.message.to_string(), REASON_TARGET_DOWN),
    };
    let discarded = |reason: &str| End::Discarded {
        reason: reason.to_owned(),
        error_class: class.clone(),
        error_message: message.clone(),
        retry_times,
    };
    match strategy {
        FailureStrategy::Absent | FailureStrategy::Discard | FailureStrategy::DiscardAfterRetry { .. } => {
            discarded(reason)
        }
        FailureStrategy::DeadMessageQueue { .. } if is_letter => discarded(REASON_DEAD_LETTER_LOOP),
        FailureStrategy::DeadMessageQueue { .. } => {
            End::DeadLettered { error_class: class, error_message: message, retry_times }
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::failure::RetryPlan;

    use super::*;

    const RETRY: RetryPlan = RetryPlan { retry_total_times: 2, wait_time_ms: 10 };

    fn policy(strategy: FailureStrategy, on_target_down: OnTargetDown) -> FailurePolicy {
        FailurePolicy { strategy, on_target_down }
    }

    fn letters() -> FailureStrategy {
        FailureStrategy::DeadMessageQueue { topic_name: "dlq".into(), retry: RETRY }
    }

    /// `retry`, `wait`, `repeat`, or how the record ends with its retry times.
    fn check(strategy: FailureStrategy, down: OnTargetDown, counted: u32, fault: &str, expect: &str) {
        let record = RecordFault { class: "c".into(), message: "m".into(), offline: fault == "offline" };
        let down_fault = TargetFault::new(TargetFaultKind::Down, "m");
        let interrupted = TargetFault::new(TargetFaultKind::Interrupted, "m");
        let is_letter = fault == "letter";
        let cause = match fault {
            "target" => Fault::Target(&down_fault),
            "interrupted" => Fault::Target(&interrupted),
            _ => Fault::Record(&record),
        };
        let got = match decide(&policy(strategy.clone(), down), is_letter, counted, cause) {
            Decision::RetryByPlan => "retry".to_owned(),
            Decision::RetryByBackoff => "wait".to_owned(),
            Decision::Repeat => "repeat".to_owned(),
            Decision::End(End::Discarded { reason, retry_times, .. }) => format!("discard {reason} {retry_times}"),
            Decision::End(End::DeadLettered { retry_times, .. }) => format!("letter {retry_times}"),
        };
        assert_eq!(got, expect, "{strategy:?} {down:?} counted={counted} {fault}");
    }

    #[test]
    fn every_row_of_the_table() {
        use FailureStrategy::{Absent, Discard};
        use OnTargetDown::{Strategy, Wait};
        let after_retry = || FailureStrategy::DiscardAfterRetry { retry: RETRY };

        for strategy in [Absent, Discard, after_retry(), letters()] {
            check(strategy.clone(), Wait, 2, "target", "wait");
            for down in [Wait, Strategy] {
                check(strategy.clone(), down, 2, "interrupted", "repeat");
            }
        }
        for strategy in [Absent, Discard] {
            for down in [Wait, Strategy] {
                check(strategy.clone(), down, 0, "record", "discard refused 0");
                check(strategy.clone(), down, 0, "offline", "discard refused 0");
            }
            check(strategy, Strategy, 0, "target", "discard target_down 0");
        }
        for down in [Wait, Strategy] {
            check(after_retry(), down, 0, "record", "retry");
            check(after_retry(), down, 1, "record", "retry");
            check(after_retry(), down, 2, "record", "discard refused 2");
            check(after_retry(), down, 0, "offline", "discard refused 0");
            check(letters(), down, 1, "record", "retry");
            check(letters(), down, 2, "record", "letter 2");
            check(letters(), down, 0, "offline", "letter 0");
            check(letters(), down, 2, "letter", "discard dead_letter_loop 2");
        }
        check(after_retry(), Strategy, 1, "target", "retry");
        check(after_retry(), Strategy, 2, "target", "discard target_down 2");
        check(letters(), Strategy, 2, "target", "letter 2");
    }
}
