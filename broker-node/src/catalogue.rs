//! What the listener matches publishes with: one immutable table per index of the cluster's state.

use std::sync::Arc;

use api_types::LogIndex;
use api_types::topic::FilterMap;
use meta_service::state::ClusterState;

use crate::queue::{QueueDefaults, QueueTarget};

#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Every create and delete up to this index is in it.
    pub index: LogIndex,
    pub filters: FilterMap<Arc<QueueTarget>>,
}

impl Catalogue {
    /// A connector that is being deleted matches nothing any more.
    pub fn build(state: &ClusterState, defaults: &QueueDefaults) -> Self {
        let mut filters = FilterMap::default();
        for connector in state.connectors.values().filter(|connector| !connector.deleting) {
            filters.insert(&connector.spec.filter, Arc::new(QueueTarget::of(connector, state, defaults)));
        }
        Self { index: state.catalogue_index, filters }
    }

    pub fn targets<'a>(&'a self, topic: &str, found: impl FnMut(&'a Arc<QueueTarget>)) {
        self.filters.matches(topic, found);
    }

    pub fn wanted(&self, topic: &str) -> bool {
        let mut wanted = false;
        self.targets(topic, |_| wanted = true);
        wanted
    }
}
