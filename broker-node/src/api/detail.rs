//! `GET detail` and `GET show`: one connector, as its owner sees it now and as the queues count it.

use std::time::Duration;

use api_types::status::{Health, Ledger, TaskReport};
use api_types::{ApiError, FieldProblem};
use serde_json::{Map, Value, json};

use super::Api;
use super::answer::{Answer, Failure, Outcome};
use super::control::{QueueShare, View};
use super::request::Input;
use super::row::{Row, UNKNOWN, desired_name, find};

const KEYS: [&str; 1] = ["connector_name"];

/// A report and how fresh it is.
struct Seen {
    report: TaskReport,
    as_of_ms: u64,
    /// It comes from the leader's memory, because the owner could not be asked.
    stale: bool,
}

/// The name that `detail`, `show` and `explain` take.
pub fn named(input: &Input) -> Result<(String, Vec<String>), Failure> {
    let name = input.required_text("connector_name")?;
    if let Some(problem) = super::spec::name_problem(&name) {
        return Err(ApiError::invalid_fields(vec![FieldProblem::new("connector_name", problem)]).into());
    }
    Ok((name, input.unknown_keys(&KEYS, true)))
}

pub async fn detail(api: &Api, input: Input) -> Outcome {
    let (name, warnings) = named(&input)?;
    let view = api.control.read().await?;
    let row = find(&view, &name)?;
    let (seen, shares) = tokio::join!(look(api, &view, &row), api.control.shares(row.connector.incarnation));
    // Not running, or nobody knows of a task that does.
    let seen = seen.ok_or_else(|| ApiError::connector_not_running(&name))?;
    let mut data = counters(&seen);
    data.extend(lifetime(&shares));
    data.extend(condition(&view, &row, &seen));
    Ok(Answer::new(Value::Object(data)).with_warnings(warnings))
}

/// Answers in every state: what is not known is null or named.
pub async fn show(api: &Api, input: Input) -> Outcome {
    let (name, warnings) = named(&input)?;
    let view = api.control.read().await?;
    let row = find(&view, &name)?;
    let (seen, shares) = tokio::join!(look(api, &view, &row), api.control.shares(row.connector.incarnation));
    let mut data = row.to_json(&view.observed);
    data.insert("desired".into(), json!(desired_name(row.connector.spec.desired)));
    data.insert("deleting".into(), json!(row.connector.deleting));
    data.insert("why".into(), json!(row.assignment().map(|assignment| &assignment.why)));
    if let Some(seen) = &seen {
        data.insert("health".into(), json!(seen.report.health.as_str()));
        data.insert("health_reason".into(), json!(row.reason(&view.observed, Some(&seen.report))));
    }
    data.insert("counters".into(), seen.as_ref().map_or(Value::Null, |seen| Value::Object(counters(seen))));
    data.insert("task".into(), seen.as_ref().map_or(Value::Null, |seen| Value::Object(condition(&view, &row, seen))));
    data.extend(lifetime(&shares));
    data.insert("nodes".into(), shares.iter().map(share_json).collect());
    Ok(Answer::new(Value::Object(data)).with_warnings(warnings))
}

/// Asks the owner; else takes the leader's last report of this very task.
async fn look(api: &Api, view: &View, row: &Row<'_>) -> Option<Seen> {
    if row.status() != api_types::status::Status::Running {
        return None;
    }
    let assignment = row.assignment()?;
    let owner = assignment.owner()?;
    let now_ms = api.now_ms();
    let asked = tokio::time::timeout(super::ASK_TIMEOUT, api.control.live_task(owner.node, row.connector.incarnation));
    match asked.await {
        Ok(Ok(Some(report))) if report.epoch == assignment.epoch => {
            Some(Seen { report, as_of_ms: now_ms, stale: false })
        }
        // The owner has not started it yet, or still runs it under an older epoch.
        Ok(Ok(_)) => {
            let report = TaskReport {
                incarnation: row.connector.incarnation,
                epoch: assignment.epoch,
                health: Health::Starting,
                health_since_ms: assignment.since_ms,
                since_ms: assignment.since_ms,
                ..TaskReport::default()
            };
            Some(Seen { report, as_of_ms: now_ms, stale: false })
        }
        Ok(Err(_)) | Err(_) => {
            let task = row.report(&view.observed)?;
            let as_of_ms = now_ms.saturating_sub(task.age.as_millis() as u64);
            Some(Seen { report: task.report.clone(), as_of_ms, stale: true })
        }
    }
}

/// The seed's four numbers first; all restart at 0 with the task.
fn counters(seen: &Seen) -> Map<String, Value> {
    let counters = &seen.report.counters;
    object(json!({
        "last_send_time": counters.last_send_time_s,
        "send_success_total": counters.send_success_total,
        "send_fail_total": counters.send_fail_total,
        "last_msg": counters.last_msg,
        "retry_total": counters.retry_total,
        "discard_total": counters.discard_total,
        "dead_letter_total": counters.dead_letter_total,
        "bytes_total": counters.bytes_total,
    }))
}

/// How the task is; times are seconds since the Unix epoch, as `last_send_time`.
fn condition(view: &View, row: &Row<'_>, seen: &Seen) -> Map<String, Value> {
    let report = &seen.report;
    object(json!({
        "status": row.status().as_str(),
        "health": report.health.as_str(),
        "health_reason": row.reason(&view.observed, Some(report)),
        "health_since": seconds(report.health_since_ms),
        "broker_id": row.broker_id(),
        "broker_name": row.broker_name(),
        "epoch": report.epoch,
        "since": seconds(report.since_ms),
        "in_flight": report.in_flight_records,
        "restarts_total": report.restarts_total,
        "last_error": report.last_error,
        "last_error_time": seconds(report.last_error_time_ms),
        "as_of": seconds(seen.as_of_ms),
        "stale": seen.stale,
    }))
}

/// The ledgers of all nodes that could be asked, summed; the others are named.
fn lifetime(shares: &[QueueShare]) -> Map<String, Value> {
    let mut sum = Ledger::default();
    let mut oldest_ms: u64 = 0;
    let mut unreachable = Vec::new();
    for share in shares {
        match &share.holds {
            Some(holding) => {
                sum.add(&holding.ledger);
                oldest_ms = oldest_ms.max(holding.oldest_age_ms.unwrap_or_default());
            }
            None => unreachable.push(share.name.as_str()),
        }
    }
    object(json!({
        "lifetime": sum,
        "lag_records": sum.pending,
        "lag_seconds": Duration::from_millis(oldest_ms).as_secs(),
        "unreachable_nodes": unreachable,
    }))
}

fn share_json(share: &QueueShare) -> Value {
    match &share.holds {
        Some(holding) => json!({
            "broker_id": share.node.to_string(),
            "broker_name": share.name,
            "lag_records": holding.ledger.pending,
            "lag_bytes": holding.pending_bytes,
            "lag_seconds": holding.oldest_age_ms.unwrap_or_default() / 1000,
            "lifetime": holding.ledger,
        }),
        None => json!({
            "broker_id": share.node.to_string(),
            "broker_name": share.name,
            "lag_records": UNKNOWN,
            "lag_bytes": UNKNOWN,
            "lag_seconds": UNKNOWN,
            "lifetime": UNKNOWN,
        }),
    }
}

fn seconds(millis: u64) -> u64 {
    millis / 1000
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
