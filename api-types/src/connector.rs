//! What a user wants: the specification of a connector, and the connector as the cluster keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::FailurePolicy;
use crate::ids::{ConnectorName, Incarnation, Revision};
use crate::topic::TopicFilter;

/// Everything a user can say about a connector, parsed and validated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorSpec {
    pub name: ConnectorName,
    /// One of the kinds of `connector-runtime`'s registry. The cluster's state never looks inside.
    pub kind: String,
    /// JSON text with the keys in the order the user sent them.
    pub config_sent: String,
    /// JSON text with the defaults filled in: what the sink is opened with.
    pub config_effective: String,
    pub filter: TopicFilter,
    pub failure: FailurePolicy,
    pub queue: QueueOptions,
    pub placement: Placement,
    pub desired: Desired,
    pub labels: BTreeMap<String, String>,
    pub description: String,
    pub delivery: Delivery,
}

/// A connector in the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    pub incarnation: Incarnation,
    pub revision: Revision,
    pub spec: ConnectorSpec,
    pub created_at_ms: u64,
    pub updated_at_ms: u64,
    /// A delete was accepted; the name is free once its task has stopped.
    pub deleting: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    #[default]
    Running,
    Stopped,
}

/// What the user gave up, if anything. See `docs/connectors`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    #[default]
    AtLeastOnce,
    AtMostOnce,
}

impl Delivery {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at_least_once",
            Self::AtMostOnce => "at_most_once",
        }
    }
}

/// Bounds of the connector's queues; what is `None` comes from the node's `[queue]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueOptions {
    pub bytes_max: Option<u64>,
    pub age_max_ms: Option<u64>,
    pub when_full: Option<WhenFull>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    Block,
    DropOldest,
}

impl WhenFull {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::DropOldest => "drop_oldest",
        }
    }
}

/// Where the task may run; empty means anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub nodes: Vec<String>,
    pub zones: Vec<String>,
}
