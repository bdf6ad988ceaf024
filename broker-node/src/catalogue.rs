//! What this node matches publishes with: one filter table per catalogue, swapped whole.
//!
//! ```text
//! replica ──► follow ──► changed? build ──► swap ──► index in use ──► heartbeat
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use api_types::LogIndex;
use api_types::topic::FilterMap;
use arc_swap::ArcSwap;
use meta_service::state::ClusterState;
use tokio::sync::watch;

use crate::queue::{QueueDefaults, QueueTarget, offered_kinds};

/// One filter table. Readers take one `Arc` per socket read.
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

/// The table in use and the index up to which it is known to be right. A clone shares both.
#[derive(Clone)]
pub struct SharedCatalogue {
    current: Arc<ArcSwap<Catalogue>>,
    defaults: Arc<QueueDefaults>,
    built_from: Arc<Mutex<Option<Inputs>>>,
    in_use: Arc<watch::Sender<InUse>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InUse {
    /// Last catalogue entry that is in the table: changes of this one are worth an early heartbeat.
    catalogue: LogIndex,
    applied: LogIndex,
}

/// What a table depends on besides the defaults.
#[derive(PartialEq, Eq)]
struct Inputs {
    catalogue: LogIndex,
    offered_kinds: BTreeSet<String>,
}

impl Inputs {
    fn of(state: &ClusterState) -> Self {
        let offered_kinds = offered_kinds(state).map(str::to_owned).collect();
        Self { catalogue: state.catalogue_index, offered_kinds }
    }
}

impl SharedCatalogue {
    pub fn new(defaults: QueueDefaults) -> Self {
        Self {
            current: Arc::default(),
            defaults: Arc::new(defaults),
            built_from: Arc::default(),
            in_use: Arc::new(watch::Sender::new(InUse::default())),
        }
    }

    /// Makes the table of this state the one in use. The index is reported only after the swap.
    pub fn follow(&self, state: &ClusterState) {
        let mut built_from = self.built_from.lock().unwrap_or_else(PoisonError::into_inner);
        let inputs = Inputs::of(state);
        if built_from.as_ref() != Some(&inputs) {
            self.current.store(Arc::new(Catalogue::build(state, &self.defaults)));
            *built_from = Some(inputs);
        }
        let now = InUse { catalogue: state.catalogue_index, applied: state.applied };
        self.in_use.send_if_modified(|in_use| {
            let newer_catalogue = now.catalogue != in_use.catalogue;
            *in_use = now;
            newer_catalogue
        });
    }

    pub fn load(&self) -> arc_swap::Guard<Arc<Catalogue>> {
        self.current.load()
    }

    /// The catalogue of this index, and of every earlier one, is what new reads are matched with.
    pub fn index_in_use(&self) -> LogIndex {
        self.in_use.borrow().applied
    }

    /// Changes with every catalogue entry that came into use.
    pub fn watch(&self) -> CatalogueWatch {
        CatalogueWatch(self.in_use.subscribe())
    }
}

pub struct CatalogueWatch(watch::Receiver<InUse>);

impl CatalogueWatch {
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
