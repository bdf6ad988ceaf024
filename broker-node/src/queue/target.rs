//! What an append needs to know of a connector, and which bounds hold for its queue right now.

use api_types::connector::{Connector, Desired, WhenFull};
use api_types::topic::TopicFilter;
use api_types::{ConnectorName, Incarnation};
use meta_service::state::{ClusterState, NodeState};

/// The `[queue]` section's defaults for what a connector does not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDefaults {
    pub bytes_max: u64,
    pub age_max_ms: Option<u64>,
    /// `None`: by the connector's state, see [`QueueTarget::of`].
    pub when_full: Option<WhenFull>,
}

impl Default for QueueDefaults {
    fn default() -> Self {
        Self { bytes_max: 8 << 30, age_max_ms: None, when_full: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub bytes_max: u64,
    pub age_max_ms: Option<u64>,
    pub when_full: WhenFull,
}

/// One connector as the listener's filter table holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTarget {
    pub incarnation: Incarnation,
    pub name: ConnectorName,
    pub kind: String,
    pub filter: TopicFilter,
    /// Where the failure strategy sends its letters; `None` when it has no dead letters.
    pub dead_letter_topic: Option<String>,
    pub bounds: Bounds,
}

impl QueueTarget {
    /// `when_full` as spec'd on the connector holds in every state. Unset it is `block` while the connector is to run
    /// and a node offers its kind, else `drop_oldest`: a forgotten connector cannot stop ingest.
    pub fn of(connector: &Connector, state: &ClusterState, defaults: &QueueDefaults) -> Self {
        let spec = &connector.spec;
        let when_full = spec.queue.when_full.or(defaults.when_full).unwrap_or_else(|| {
            if spec.desired == Desired::Running && offered_kinds(state).any(|kind| kind == spec.kind) {
                WhenFull::Block
            } else {
                WhenFull::DropOldest
            }
        });
        Self {
            incarnation: connector.incarnation,
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            filter: spec.filter.clone(),
            dead_letter_topic: spec.failure.strategy.dead_letter_topic().map(str::to_owned),
            bounds: Bounds {
                bytes_max: spec.queue.bytes_max.unwrap_or(defaults.bytes_max),
                age_max_ms: spec.queue.age_max_ms.or(defaults.age_max_ms),
                when_full,
            },
        }
    }
}

/// A node that is down still counts: its return is expected, and dropping records because of a crash is not.
pub fn offered_kinds(state: &ClusterState) -> impl Iterator<Item = &str> {
    let offering = state.nodes.values().filter(|node| match node.state {
        NodeState::Up | NodeState::Fenced { .. } => true,
        NodeState::Admitted | NodeState::Left => false,
    });
    offering.flat_map(|node| node.kinds.iter().map(String::as_str))
}
