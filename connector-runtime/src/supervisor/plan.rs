//! Pure: what to do about the difference between what should run and what does.

use std::collections::BTreeMap;

use api_types::{Epoch, Incarnation, Revision};

/// One version of one task: a change of either is a new run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// Told to stop and not yet joined.
    Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start(Incarnation),
    Stop(Incarnation),
}

/// A task that is being replaced stops first; its successor starts when it is gone.
pub(super) fn plan(
    desired: &BTreeMap<Incarnation, Version>,
    running: &BTreeMap<Incarnation, (Version, Phase)>,
) -> Vec<Action> {
    let stops = running.iter().filter_map(|(incarnation, (version, phase))| match phase {
        Phase::Running if desired.get(incarnation) != Some(version) => Some(Action::Stop(*incarnation)),
        Phase::Running | Phase::Stopping => None,
    });
    let starts = desired.keys().filter(|incarnation| !running.contains_key(incarnation));
    stops.chain(starts.copied().map(Action::Start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (u64, u64, u64);

    fn check(desired: &[Row], running: &[(Row, Phase)], expect: &[Action]) {
        let version = |(_, epoch, revision): Row| Version { epoch: Epoch(epoch), revision: Revision(revision) };
        let desired = desired.iter().map(|row| (Incarnation(row.0), version(*row))).collect();
        let running = running.iter().map(|(row, phase)| (Incarnation(row.0), (version(*row), *phase))).collect();
        assert_eq!(plan(&desired, &running), expect, "{desired:?} {running:?}");
    }

    #[test]
    fn difference_becomes_actions() {
        use Action::{Start, Stop};
        use Phase::{Running, Stopping};
        let (one, two) = (Incarnation(1), Incarnation(2));
        check(&[], &[], &[]);
        check(&[(1, 5, 3)], &[], &[Start(one)]);
        check(&[(1, 5, 3)], &[((1, 5, 3), Running)], &[]);
        check(&[], &[((1, 5, 3), Running)], &[Stop(one)]);
        check(&[], &[((1, 5, 3), Stopping)], &[]);
        check(&[(1, 6, 3)], &[((1, 5, 3), Running)], &[Stop(one)]);
        check(&[(1, 5, 4)], &[((1, 5, 3), Running)], &[Stop(one)]);
        check(&[(1, 6, 3)], &[((1, 5, 3), Stopping)], &[]);
        check(&[(2, 7, 7)], &[((1, 5, 3), Running)], &[Stop(one), Start(two)]);
    }
}
