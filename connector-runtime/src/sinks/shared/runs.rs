//! Calls of `deliver` that wait for their outcomes, for the sinks whose connection is owned by one task.
//!
//! ```text
//!   Run ──take──► current ──next──► on the wire ──settle──► the run is answered when all its records have an outcome
//! ```

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::sink::{Outcome, TargetFault};

/// The records of one call of `deliver`, in their order, each as the sink sends it.
pub(crate) struct Run<P> {
    pub(crate) publishes: Vec<P>,
    pub(crate) done: oneshot::Sender<Vec<Outcome>>,
}

impl<P> Run<P> {
    /// The same for all of them.
    pub(crate) fn answer(self, outcome: &Outcome) {
        // Who no longer waits was dropped half-way.
        let _ = self.done.send(vec![outcome.clone(); self.publishes.len()]);
    }
}

/// A record's place in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    run: RunId,
    at: usize,
}

type RunId = u64;

pub(crate) struct Runs<P> {
    open: HashMap<RunId, OpenRun>,
    next_run: RunId,
    /// The run that is being sent.
    current: Option<Current<P>>,
}

struct OpenRun {
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    /// The first record that has to go again: what stands behind it is not sent before it.
    held_from: Option<usize>,
    done: oneshot::Sender<Vec<Outcome>>,
}

struct Current<P> {
    run: RunId,
    rest: std::iter::Enumerate<std::vec::IntoIter<P>>,
}

impl<P> Default for Runs<P> {
    fn default() -> Self {
        Self { open: HashMap::new(), next_run: 0, current: None }
    }
}

impl<P> Runs<P> {
    /// Nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// A run is being sent; only then no other is taken.
    pub(crate) fn has_current(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn take(&mut self, run: Run<P>) {
        let Run { publishes, done } = run;
        let id = self.next_run;
        self.next_run += 1;
        self.open.insert(
            id,
            OpenRun { outcomes: vec![None; publishes.len()], left: publishes.len(), held_from: None, done },
        );
        self.current = Some(Current { run: id, rest: publishes.into_iter().enumerate() });
    }

    /// The next record of the run that is being sent.
    pub(crate) fn next(&mut self) -> Option<(Place, P)> {
        let current = self.current.as_mut()?;
        let run = current.run;
        // Nobody waits for the rest any more. What was sent of it still counts until the target has answered.
        if self.open.get(&run).is_none_or(|open| open.done.is_closed()) {
            self.current = None;
            self.open.remove(&run);
            return None;
        }
        let next = current.rest.next();
        if current.rest.len() == 0 {
            self.current = None;
        }
        next.map(|(at, publish)| (Place { run, at }, publish))
    }

    pub(crate) fn has_waiter(&self, place: Place) -> bool {
        self.open.get(&place.run).is_some_and(|open| !open.done.is_closed())
    }

    pub(crate) fn settle(&mut self, place: Place, outcome: Outcome) {
        let Place { run, at } = place;
        let must_go_again = matches!(outcome, Outcome::TargetFault(_));
        if must_go_again {
            self.end_rest(place, &held());
        }
        let Some(open) = self.open.get_mut(&run) else { return };
        if must_go_again {
            open.held_from = Some(open.held_from.map_or(at, |first| first.min(at)));
        }
        if open.outcomes[at].replace(outcome).is_none() {
            open.left -= 1;
        }
        if open.left == 0
            && let Some(open) = self.open.remove(&run)
        {
            // Who no longer waits was dropped half-way.
            let _ = open.done.send(open.outcomes.into_iter().flatten().collect());
        }
    }

    /// A record before it has to go again.
    pub(crate) fn is_held(&self, place: Place) -> bool {
        let held_from = self.open.get(&place.run).and_then(|open| open.held_from);
        held_from.is_some_and(|first| first < place.at)
    }

    /// Of what was not yet sent of the run of this record, which itself has no outcome yet.
    pub(crate) fn end_rest(&mut self, place: Place, outcome: &Outcome) {
        let Some(current) = self.current.take_if(|current| current.run == place.run) else { return };
        let Some(open) = self.open.get_mut(&place.run) else { return };
        for (at, _) in current.rest {
            if open.outcomes[at].replace(outcome.clone()).is_none() {
                open.left -= 1;
            }
        }
    }

    /// Everything that has no outcome yet gets this one.
    pub(crate) fn end_all(&mut self, outcome: &Outcome) {
        self.current = None;
        for (_, run) in self.open.drain() {
            let outcomes = run.outcomes.into_iter().map(|known| known.unwrap_or_else(|| outcome.clone())).collect();
            // Who no longer waits was dropped half-way.
            let _ = run.done.send(outcomes);
        }
    }
}

pub(crate) fn held() -> Outcome {
    Outcome::TargetFault(TargetFault::held())
}
