//! One connector as `list` and `show` print it, field by field, so that a filter costs only the field it looks at.

use std::sync::Arc;

use api_types::Connector;
use api_types::assignment::Assignment;
use api_types::connector::{Desired, QueueOptions};
use api_types::status::{Status, TaskReport};
use chrono::{DateTime, Utc};
use connector_runtime::{config, registry};
use meta_service::state::ClusterState;
use serde_json::{Map, Value, json};

use super::control::{Observed, View};
use crate::config::show_duration;

/// The fields of a row that a filter or a sort may name, in the order of the answer; the seed's eight first.
pub const FIELDS: [&str; 19] = [
    "connector_name",
    "connector_type",
    "config",
    "topic_name",
    "status",
    "broker_id",
    "create_time",
    "update_time",
    "config_effective",
    "broker_name",
    "failure_strategy",
    "queue",
    "placement",
    "labels",
    "description",
    "revision",
    "epoch",
    "state_reason",
    "delivery",
];

/// The health reason of a connector whose queue is full on some node.
const QUEUE_FULL: &str = "QUEUE_FULL";
/// What stands where a node has no share in a connector.
pub const NOBODY: &str = "-";
/// What stands where nobody could be asked; never 0 and never a guess.
pub const UNKNOWN: &str = "unknown";

/// One connector in one state of the cluster.
pub struct Row<'a> {
    pub state: &'a ClusterState,
    pub connector: &'a Arc<Connector>,
    assignment: Option<&'a Arc<Assignment>>,
}

impl<'a> Row<'a> {
    pub fn new(state: &'a ClusterState, connector: &'a Arc<Connector>) -> Self {
        Self { state, connector, assignment: state.assignment(connector.incarnation) }
    }

    /// One of [`FIELDS`]; `None` for any other name.
    pub fn field(&self, name: &str) -> Option<Value> {
        let spec = &self.connector.spec;
        Some(match name {
            "connector_name" => json!(spec.name),
            "connector_type" => json!(spec.kind),
            "config" => json!(masked(&spec.kind, &spec.config_sent)),
            "topic_name" => json!(spec.filter),
            "status" => json!(self.status().as_str()),
            "broker_id" => json!(self.broker_id()),
            "create_time" => json!(time_text(self.connector.created_at_ms)),
            "update_time" => json!(time_text(self.connector.updated_at_ms)),
            "config_effective" => json!(masked(&spec.kind, &spec.config_effective)),
            "broker_name" => json!(self.broker_name()),
            "failure_strategy" => spec.failure.to_json(),
            "queue" => queue_json(&spec.queue),
            "placement" => json!(spec.placement),
            "labels" => json!(spec.labels),
            "description" => json!(spec.description),
            "revision" => json!(self.connector.revision),
            "epoch" => json!(self.assignment.map(|assignment| assignment.epoch)),
            "state_reason" => json!(self.state_reason()),
            "delivery" => json!(spec.delivery.as_str()),
            _ => return None,
        })
    }

    /// All fields, and the health that the leader last heard of.
    pub fn to_json(&self, observed: &Observed) -> Map<String, Value> {
        let mut row: Map<String, Value> =
            FIELDS.iter().filter_map(|name| Some(((*name).to_owned(), self.field(name)?))).collect();
        let (health, reason) = self.health(observed);
        row.insert("health".into(), json!(health));
        row.insert("health_reason".into(), json!(reason));
        row
    }

    pub fn status(&self) -> Status {
        self.state.status(self.connector)
    }

    pub fn assignment(&self) -> Option<&'a Assignment> {
        self.assignment.map(Arc::as_ref)
    }

    pub fn broker_id(&self) -> String {
        let owner = self.assignment.and_then(|assignment| assignment.owner());
        owner.map_or_else(|| NOBODY.to_owned(), |owner| owner.node.to_string())
    }

    pub fn broker_name(&self) -> String {
        let owner = self.assignment.and_then(|assignment| assignment.owner());
        let node = owner.and_then(|owner| self.state.nodes.get(&owner.node));
        node.map_or_else(|| NOBODY.to_owned(), |node| node.name.to_string())
    }

    /// Why it is idle or stopped; `None` while it runs.
    pub fn state_reason(&self) -> Option<String> {
        if self.connector.deleting {
            return Some("a delete is under way".to_owned());
        }
        match self.status() {
            Status::Running => None,
            Status::Stopped => Some("desired is stopped".to_owned()),
            Status::Idle => {
                let why = self.assignment.map(|assignment| assignment.why.as_str()).unwrap_or_default();
                Some(if why.is_empty() { "not assigned yet".to_owned() } else { why.to_owned() })
            }
        }
    }

    /// Health and its reason, from the report of the present owner under the present epoch.
    pub fn health(&self, observed: &Observed) -> (&'static str, Option<String>) {
        match self.status() {
            Status::Stopped => ("stopped", self.reason(observed, None)),
            Status::Idle => ("unassigned", self.reason(observed, None)),
            Status::Running => match self.report(observed) {
                Some(task) => (task.report.health.as_str(), self.reason(observed, Some(&task.report))),
                None => (UNKNOWN, self.reason(observed, None)),
            },
        }
    }

    /// A full queue holds publishers back on some node, which is worse than what its task suffers from.
    pub fn reason(&self, observed: &Observed, report: Option<&TaskReport>) -> Option<String> {
        let incarnation = self.connector.incarnation;
        let full = observed.nodes.values().any(|node| node.load.full_queues.contains(&incarnation));
        if full { Some(QUEUE_FULL.to_owned()) } else { report.and_then(|report| report.health_reason.clone()) }
    }

    /// The leader's last report of the task that runs now; one of an earlier epoch does not count.
    pub fn report<'o>(&self, observed: &'o Observed) -> Option<&'o super::control::ObservedTask> {
        let epoch = self.assignment?.epoch;
        observed.tasks.get(&self.connector.incarnation).filter(|task| task.report.epoch == epoch)
    }
}

/// The connector of this name and the state it was found in.
pub fn find<'a>(view: &'a View, name: &str) -> Result<Row<'a>, api_types::ApiError> {
    match view.state.connector(name) {
        Some(connector) => Ok(Row::new(&view.state, connector)),
        None => Err(api_types::ApiError::connector_not_found(name)),
    }
}

pub fn desired_name(desired: Desired) -> &'static str {
    match desired {
        Desired::Running => "running",
        Desired::Stopped => "stopped",
    }
}

/// As it was asked for; `null` where the node's `[queue]` section decides.
fn queue_json(queue: &QueueOptions) -> Value {
    let age = queue.age_max_ms.map(|millis| show_duration(std::time::Duration::from_millis(millis)));
    json!({
        "bytes_max": queue.bytes_max,
        "age_max": age,
        "when_full": queue.when_full.map(|when_full| when_full.as_str()),
    })
}

/// Same keys, same order, secrets masked. What cannot be judged is not shown.
fn masked(kind: &str, text: &str) -> String {
    let (Ok(entry), Ok(map)) = (registry::kind(kind), config::parse_sent(text)) else {
        return api_types::secret::MASK.to_owned();
    };
    Value::Object(config::mask(entry, &map)).to_string()
}

/// `YYYY-MM-DD HH:MM:SS` in UTC.
pub fn time_text(millis: u64) -> String {
    let time = i64::try_from(millis).ok().and_then(DateTime::<Utc>::from_timestamp_millis);
    time.map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_else(|| NOBODY.to_owned())
}
