//! Takes over what the replica says: bounds and names of the queues, and which of them are to go.
//!
//! ```text
//! applied entry ──► changed since the last? ──► slot (latest wins) ──► one Call::Reconcile ──► committer
//! ```
//!
//! Every applied entry comes here, most of which change nothing for the queues; and the committer may be stuck at its
//! disk for minutes. So nothing is asked twice, and at most one request waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use api_types::Incarnation;
use api_types::connector::Connector;
use meta_service::state::ClusterState;

use super::op::Call;
use super::store::StoreError;
use super::target::{self, QueueTarget};
use super::turn::Turn;
use super::{Queues, Shared, lock};

/// What the committer is to take over.
#[derive(Default)]
pub(super) struct Reconciliation {
    targets: Vec<Arc<QueueTarget>>,
    gone: Vec<Incarnation>,
}

/// A queue of this node and its connector, if there is one.
type Known = (Incarnation, Option<Arc<Connector>>);

/// All that a reconciliation follows from.
struct Inputs {
    /// A connector that changes is another allocation, and this one is held: comparing addresses is enough.
    queues: Vec<Known>,
    offered_kinds: BTreeSet<String>,
    gone: Vec<Incarnation>,
}

impl Inputs {
    fn same(&self, other: &Self) -> bool {
        let same_connector = |(left, right): (&Known, &Known)| {
            left.0 == right.0
                && match (&left.1, &right.1) {
                    (Some(left), Some(right)) => Arc::ptr_eq(left, right),
                    (None, None) => true,
                    (Some(_), None) | (None, Some(_)) => false,
                }
        };
        self.queues.len() == other.queues.len()
            && self.queues.iter().zip(&other.queues).all(same_connector)
            && self.offered_kinds == other.offered_kinds
            && self.gone == other.gone
    }
}

/// Between the agent and the committer.
#[derive(Default)]
pub(super) struct Reconciling {
    last: Option<Inputs>,
    waiting: Option<Reconciliation>,
}

impl Queues {
    /// To be called after every change of the state, with whether this process has held a lease.
    pub fn reconcile(&self, state: &ClusterState, lease_held_since_boot: bool) {
        let shared = &self.shared;
        shared.lease_held_since_boot.store(lease_held_since_boot, Ordering::SeqCst);
        let known: Vec<Incarnation> = lock(&shared.state).queues.keys().copied().collect();
        let inputs = Inputs {
            gone: shared.gone(state, &known),
            offered_kinds: target::offered_kinds(state).map(str::to_owned).collect(),
            queues: known
                .into_iter()
                .map(|incarnation| (incarnation, state.connectors.get(&incarnation).cloned()))
                .collect(),
        };
        let mut reconciling = lock(&shared.reconciling);
        if reconciling.last.as_ref().is_some_and(|last| last.same(&inputs)) {
            return;
        }
        let target = |connector: &Arc<Connector>| QueueTarget::of(connector, state, &shared.settings.defaults);
        let connectors = inputs.queues.iter().filter_map(|(_, connector)| connector.as_ref());
        let targets = connectors.map(|connector| Arc::new(target(connector))).collect();
        let latest = Reconciliation { targets, gone: inputs.gone.clone() };
        reconciling.last = Some(inputs);
        let asked = reconciling.waiting.replace(latest).is_some();
        drop(reconciling);
        if !asked {
            shared.tell(Call::Reconcile);
        }
    }
}

impl Shared {
    /// Queues whose connector is gone, by the rule: the replica has applied at least the incarnation, the connector is
    /// not in it, and this process has held a lease.
    fn gone(&self, state: &ClusterState, known: &[Incarnation]) -> Vec<Incarnation> {
        if !self.lease_held_since_boot.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let gone =
            |incarnation: &Incarnation| state.applied.0 >= incarnation.0 && !state.connectors.contains_key(incarnation);
        known.iter().copied().filter(gone).collect()
    }

    /// An append that was on its way when its queue was deleted makes the queue again; and a delete that met a store
    /// that failed is asked for anew. Called by the committer, so at most one of each queue waits.
    pub(super) fn delete_orphans(&self) {
        let known: Vec<Incarnation> = lock(&self.state).queues.keys().copied().collect();
        for incarnation in self.gone(&(self.view)(), &known) {
            self.tell(Call::Delete { incarnation });
        }
    }

    /// After the store was opened again: a request that was refused meanwhile left what it asked for in the slot, and
    /// one that was taken may be lost, so the next state is taken over whatever it says.
    pub(super) fn reconcile_again(&self) {
        let waiting = {
            let mut reconciling = lock(&self.reconciling);
            reconciling.last = None;
            reconciling.waiting.is_some()
        };
        if waiting {
            self.tell(Call::Reconcile);
        }
    }
}

impl Turn<'_> {
    pub fn reconcile(&mut self) -> Result<(), StoreError> {
        let Some(latest) = lock(&self.shared.reconciling).waiting.take() else { return Ok(()) };
        for target in latest.targets {
            if self.state.queues.contains_key(&target.incarnation) {
                self.meet(&target)?;
            }
        }
        latest.gone.into_iter().for_each(|incarnation| self.delete(incarnation));
        Ok(())
    }
}
