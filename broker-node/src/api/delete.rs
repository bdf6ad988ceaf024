//! `POST delete`: mark → the task stops or its owner's lease runs out → the name is free.
//!
//! ```text
//! if_empty:  hold (filter out) ─► barrier ─► count ─► empty? ──yes──► mark, if the same hold still stands …
//!                                                        └──no───► restore, 409
//! otherwise:                                                       mark ─► wait until the incarnation is gone ─► barrier
//! ```

use std::sync::Arc;
use std::time::Duration;

use api_types::{ConnectorName, FieldProblem, Incarnation, Reason};
use meta_service::state::{CommandBody, Refusal, Reply, ReplyBody};

use super::Api;
use super::answer::{Answer, Failure, Outcome};
use super::control::QueueShare;
use super::create::{refused, wait_for_nodes};
use super::fields::Fields;
use super::request::Input;

const KEYS: [&str; 2] = ["connector_name", "if_empty"];
/// How often the records that will be dropped are counted while the task stops.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// A connector that was taken out must come back, so that is tried for as long as a cluster may be without a leader.
const RESTORE_EVERY: Duration = Duration::from_secs(1);
const RESTORE_TRIES_MAX: u32 = 3600;
/// A hold that another request ended is taken once more; who loses it twice contends with one that finds records.
const HOLDS_MAX: u32 = 2;

struct Request {
    name: String,
    if_empty: bool,
}

/// Runs to its end even when the caller hangs up: what was taken out is either deleted or put back.
pub async fn delete(api: Arc<Api>, input: Input) -> Outcome {
    let flow = tokio::spawn(async move { run(&api, input).await });
    flow.await.unwrap_or_else(|error| Err(Failure::new(Reason::Internal, format!("the delete broke off: {error}"))))
}

async fn run(api: &Api, input: Input) -> Outcome {
    let mut warnings = input.unknown_keys(&[], false);
    let request = parse(&input)?;
    let name = request.name.as_str();
    let (reply, incarnation) = if request.if_empty {
        mark_if_empty(api, name).await?
    } else {
        mark(api, name, CommandBody::DeleteConnector { name: ConnectorName::from(name), incarnation: None }).await?
    };
    let dropped = wait_until_gone(api, name, incarnation).await?;
    warnings.extend(dropped_warnings(&dropped));
    warnings.extend(wait_for_nodes(api, reply.index).await);
    Ok(Answer::done(warnings))
}

fn parse(input: &Input) -> Result<Request, Failure> {
    let mut problems = Vec::new();
    let mut fields = Fields::new("", &input.body, &KEYS, &mut problems);
    let name = fields.required_text("connector_name", super::spec::NAME_LENGTH_MAX).map(str::to_owned);
    let if_empty = fields.boolean("if_empty").unwrap_or_default();
    if let Some(problem) = name.as_deref().and_then(super::spec::name_problem) {
        problems.push(FieldProblem::new("connector_name", problem));
    }
    match name {
        Some(name) if problems.is_empty() => Ok(Request { name, if_empty }),
        Some(_) | None => Err(api_types::ApiError::invalid_fields(problems).into()),
    }
}

async fn mark(api: &Api, name: &str, command: CommandBody) -> Result<(Reply, Incarnation), Failure> {
    let reply = api.control.propose(command).await?;
    marked(name, reply)
}

fn marked(name: &str, reply: Reply) -> Result<(Reply, Incarnation), Failure> {
    match reply.body {
        ReplyBody::Deleting { incarnation } => Ok((reply, incarnation)),
        ReplyBody::Refused(refusal) => Err(refused(name, &refusal).into()),
        ReplyBody::Done | ReplyBody::Created { .. } | ReplyBody::Admitted { .. } | ReplyBody::Registered { .. } => {
            Err(Failure::new(Reason::Internal, "unexpected reply to a delete"))
        }
    }
}

/// Marks what was empty, and only while nothing could have come in since it was counted.
async fn mark_if_empty(api: &Api, name: &str) -> Result<(Reply, Incarnation), Failure> {
    for _ in 0..HOLDS_MAX {
        let (held, incarnation) = hold_if_empty(api, name).await?;
        let reply = api.control.propose(CommandBody::DeleteHeld { incarnation, held_at: held.index }).await?;
        if reply.body != ReplyBody::Refused(Refusal::Stale) {
            return marked(name, reply);
        }
        tracing::info!(connector = name, "another request ended the hold of a delete if_empty");
    }
    let message = format!("Connector {name} may hold records: another request put it back while they were counted.");
    Err(Failure::new(Reason::ConnectorHasRecords, message))
}

/// Takes the filter out, then counts; puts it back when anything waits, or when a node cannot be asked.
async fn hold_if_empty(api: &Api, name: &str) -> Result<(Reply, Incarnation), Failure> {
    let command = CommandBody::HoldConnector { name: ConnectorName::from(name), incarnation: None };
    let (reply, incarnation) = mark(api, name, command).await?;
    // A node that has not confirmed may still store for it, so it counts as one that holds records.
    let mut holders: Vec<String> = match api.control.barrier(reply.index).await {
        Ok(missing) => missing.into_iter().map(|node| format!("{node} (not confirmed)")).collect(),
        Err(error) => vec![error.to_string()],
    };
    holders.extend(holders_of(&api.control.shares(incarnation).await));
    if holders.is_empty() {
        return Ok((reply, incarnation));
    }
    restore(api, name, incarnation).await;
    let message = format!("Connector {name} holds records: {}.", holders.join(", "));
    Err(Failure::new(Reason::ConnectorHasRecords, message))
}

async fn restore(api: &Api, name: &str, incarnation: Incarnation) {
    for attempt in 1..=RESTORE_TRIES_MAX {
        // Any reply is final: it is back, or somebody deleted it meanwhile.
        let Err(error) = api.control.propose(CommandBody::RestoreConnector { incarnation }).await else { return };
        tracing::warn!(connector = name, attempt, %error, "connector could not be put back after a delete if_empty");
        tokio::time::sleep(RESTORE_EVERY).await;
    }
    tracing::error!(connector = name, "connector takes no records: put it back by a delete if_empty");
}

fn holders_of(shares: &[QueueShare]) -> Vec<String> {
    let holders = shares.iter().filter_map(|share| match &share.holds {
        None => Some(format!("{} (cannot be asked)", share.name)),
        Some(holding) if holding.ledger.pending > 0 => Some(format!("{} ({})", share.name, holding.ledger.pending)),
        Some(_) => None,
    });
    holders.collect()
}

/// Waits until this incarnation has left the replica; answers with the last count of what went with it.
async fn wait_until_gone(api: &Api, name: &str, incarnation: Incarnation) -> Result<Vec<QueueShare>, Failure> {
    let mut applied = api.control.applied();
    let deadline = tokio::time::Instant::now() + api.options.delete_wait;
    let mut last_count = api.control.shares(incarnation).await;
    while api.control.local_state().connectors.contains_key(&incarnation) {
        if tokio::time::Instant::now() >= deadline {
            let message = format!(
                "Connector {name} is being deleted, but its task has not stopped within {}; the name is free once it has.",
                crate::config::show_duration(api.options.delete_wait)
            );
            return Err(Failure::new(Reason::DeletePending, message));
        }
        let gone = async {
            // The sender lives as long as the node.
            let _ = applied.changed().await;
        };
        if tokio::time::timeout(COUNT_EVERY, gone).await.is_err() {
            last_count = api.control.shares(incarnation).await;
        }
    }
    Ok(last_count)
}

fn dropped_warnings(shares: &[QueueShare]) -> Vec<String> {
    let mut warnings = Vec::new();
    let held: Vec<(String, u64)> = shares
        .iter()
        .filter_map(|share| Some((share.name.to_string(), share.holds?.ledger.pending)))
        .filter(|(_, pending)| *pending > 0)
        .collect();
    let total: u64 = held.iter().map(|(_, pending)| pending).sum();
    if total > 0 {
        let parts: Vec<String> = held.iter().map(|(node, pending)| format!("{pending} on {node}")).collect();
        warnings.push(format!("{total} undelivered records were dropped: {}", parts.join(", ")));
    }
    for share in shares.iter().filter(|share| share.holds.is_none()) {
        let name = &share.name;
        warnings.push(format!("node {name} cannot be asked: what it holds is unknown and is dropped when it is back"));
    }
    warnings
}
