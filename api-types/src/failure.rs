//! What happens to a record that its target does not take.

use serde::{Deserialize, Serialize};

pub const DEAD_LETTER_TOPIC_DEFAULT: &str = "dead_letter_queue";
pub const RETRY_TOTAL_TIMES_DEFAULT: u32 = 3;
pub const WAIT_TIME_MS_DEFAULT: u64 = 1000;

/// The end of a refused record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureStrategy {
    /// No strategy was given: a refused record is discarded at once and counted.
    #[default]
    Absent,
    Discard,
    DiscardAfterRetry {
        retry: RetryPlan,
    },
    DeadMessageQueue {
        topic_name: String,
        retry: RetryPlan,
    },
}

/// Retries exclude the first attempt and come exactly `wait_time_ms` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPlan {
    pub retry_total_times: u32,
    pub wait_time_ms: u64,
}

/// Whether a target that is down ends records by the strategy, or is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnTargetDown {
    Wait,
    Strategy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailurePolicy {
    pub strategy: FailureStrategy,
    pub on_target_down: OnTargetDown,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self { strategy: FailureStrategy::Absent, on_target_down: OnTargetDown::Wait }
    }
}

impl FailureStrategy {
    /// The name in the API; none when no strategy was given.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Discard => Some("discard"),
            Self::DiscardAfterRetry { .. } => Some("discard_after_retry"),
            Self::DeadMessageQueue { .. } => Some("dead_message_queue"),
        }
    }

    pub fn retry(&self) -> Option<RetryPlan> {
        match self {
            Self::Absent | Self::Discard => None,
            Self::DiscardAfterRetry { retry } | Self::DeadMessageQueue { retry, .. } => Some(*retry),
        }
    }

    pub fn dead_letter_topic(&self) -> Option<&str> {
        match self {
            Self::Absent | Self::Discard | Self::DiscardAfterRetry { .. } => None,
            Self::DeadMessageQueue { topic_name, .. } => Some(topic_name),
        }
    }
}

impl FailurePolicy {
    /// As the API shows it, with the defaults filled in.
    pub fn to_json(&self) -> serde_json::Value {
        let retry = self.strategy.retry();
        serde_json::json!({
            "strategy": self.strategy.name(),
            "retry_total_times": retry.map(|retry| retry.retry_total_times),
            "wait_time_ms": retry.map(|retry| retry.wait_time_ms),
            "topic_name": self.strategy.dead_letter_topic(),
            "on_target_down": match self.on_target_down {
                OnTargetDown::Wait => "wait",
                OnTargetDown::Strategy => "strategy",
            },
        })
    }
}
