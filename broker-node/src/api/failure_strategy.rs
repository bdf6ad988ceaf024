//! `failure_strategy`: what is asked, what is checked, what is warned of.

use api_types::FieldProblem;
use api_types::failure::{
    DEAD_LETTER_TOPIC_DEFAULT, FailurePolicy, FailureStrategy, OnTargetDown, RETRY_TOTAL_TIMES_DEFAULT, RetryPlan,
    WAIT_TIME_MS_DEFAULT,
};
use api_types::topic::check_topic_name;
use serde_json::{Map, Value};

use super::fields::Fields;

const KEYS: [&str; 5] = ["strategy", "retry_total_times", "wait_time_ms", "topic_name", "on_target_down"];
const TOPIC_LENGTH_MAX: usize = 256;
/// A hundred years: the seed has no upper bound, and sums of instants must not overflow.
const WAIT_TIME_MS_MAX: u64 = 100 * 365 * 86_400_000;

pub const TARGET_DOWN_WARNING: &str =
    "records are ended by the failure strategy while the target is down; set failure_strategy.on_target_down to wait";

const NAMES: [(&str, Name); 3] = [
    ("discard", Name::Discard),
    ("discard_after_retry", Name::DiscardAfterRetry),
    ("dead_message_queue", Name::DeadMessageQueue),
];

#[derive(Clone, Copy)]
enum Name {
    Discard,
    DiscardAfterRetry,
    DeadMessageQueue,
}

/// The policy, or problems; what is accepted without effect is named in `warnings`.
pub fn parse(map: &Map<String, Value>, problems: &mut Vec<FieldProblem>, warnings: &mut Vec<String>) -> FailurePolicy {
    let mut fields = Fields::new("failure_strategy", map, &KEYS, problems);
    if fields.value("strategy").is_none() {
        fields.problem("strategy", "is required: one of discard, discard_after_retry, dead_message_queue");
    }
    let name = fields.word("strategy", &NAMES);
    let down = fields.word("on_target_down", &[("wait", OnTargetDown::Wait), ("strategy", OnTargetDown::Strategy)]);
    let Some(name) = name else { return FailurePolicy::default() };
    let (strategy, unused): (_, &[&str]) = match name {
        Name::Discard => (FailureStrategy::Discard, &["retry_total_times", "wait_time_ms", "topic_name"]),
        Name::DiscardAfterRetry => {
            for key in ["retry_total_times", "wait_time_ms"] {
                if fields.value(key).is_none() {
                    fields.problem(key, "is required with strategy discard_after_retry: a whole number > 0");
                }
            }
            (FailureStrategy::DiscardAfterRetry { retry: plan(&mut fields) }, &["topic_name"])
        }
        Name::DeadMessageQueue => {
            let topic_name = topic_name(&mut fields).unwrap_or(DEAD_LETTER_TOPIC_DEFAULT).to_owned();
            (FailureStrategy::DeadMessageQueue { topic_name, retry: plan(&mut fields) }, &[])
        }
    };
    for key in unused.iter().filter(|key| fields.value(key).is_some()) {
        let strategy = strategy.name().unwrap_or_default();
        warnings.push(format!("failure_strategy.{key} has no effect with strategy {strategy}"));
    }
    let policy = FailurePolicy { strategy, on_target_down: down.unwrap_or(OnTargetDown::Strategy) };
    if policy.on_target_down == OnTargetDown::Strategy {
        warnings.push(TARGET_DOWN_WARNING.to_owned());
    }
    policy
}

fn plan(fields: &mut Fields<'_, '_>) -> RetryPlan {
    let times = fields.number("retry_total_times", 1, u64::from(u32::MAX)).and_then(|times| u32::try_from(times).ok());
    let wait = fields.number("wait_time_ms", 1, WAIT_TIME_MS_MAX);
    RetryPlan {
        retry_total_times: times.unwrap_or(RETRY_TOTAL_TIMES_DEFAULT),
        wait_time_ms: wait.unwrap_or(WAIT_TIME_MS_DEFAULT),
    }
}

fn topic_name<'a>(fields: &mut Fields<'a, '_>) -> Option<&'a str> {
    let text = fields.text("topic_name")?;
    let text = fields.in_length("topic_name", text, TOPIC_LENGTH_MAX)?;
    if let Err(error) = check_topic_name(text) {
        fields.problem("topic_name", error.to_string());
        return None;
    }
    if text.starts_with('$') {
        fields.problem("topic_name", "must not begin with $: those topics are the broker's own");
        return None;
    }
    Some(text)
}
