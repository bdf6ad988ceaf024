//! The table at the end.

use std::fmt::Write;
use std::time::Duration;

use super::client::Owner;

/// What the demo saw.
pub(super) struct Outcome {
    pub acknowledged: u64,
    /// Copies that publishers sent because a node died before it could acknowledge.
    pub sent_again: u64,
    pub killed: String,
    pub delivering_again: Duration,
    pub targets: Vec<TargetOutcome>,
}

pub(super) struct TargetOutcome {
    pub connector: String,
    pub delivered: u64,
    pub duplicates: u64,
    /// Waited on the dead node's disk when all else was delivered.
    pub waited: u64,
    pub pending: u64,
    pub lost: u64,
    pub balances: bool,
    pub before: Owner,
    pub after: Owner,
}

impl Outcome {
    /// Nothing lost, nothing pending, every ledger balances.
    pub fn is_whole(&self) -> bool {
        self.targets.iter().all(|target| target.lost == 0 && target.pending == 0 && target.balances)
    }
}

pub(super) fn render(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut row = |label: &str, cells: Vec<String>| {
        let _ = write!(text, "{label:<34}");
        for cell in cells {
            let _ = write!(text, "{cell:>16}");
        }
        text.push('\n');
    };
    let each = |value: fn(&TargetOutcome) -> u64| outcome.targets.iter().map(|one| value(one).to_string()).collect();
    row("", outcome.targets.iter().map(|one| one.connector.clone()).collect());
    row("acknowledged", outcome.targets.iter().map(|_| outcome.acknowledged.to_string()).collect());
    row("delivered", each(|one| one.delivered));
    row("duplicates (same record again)", each(|one| one.duplicates));
    row("waited on the dead node's disk", each(|one| one.waited));
    row("pending", each(|one| one.pending));
    row("lost", each(|one| one.lost));
    row("ledger balances", outcome.targets.iter().map(|one| if one.balances { "yes" } else { "NO" }.into()).collect());
    let _ = writeln!(
        text,
        "\n{} was killed; its file connector delivered again {:.1} s later on another node.",
        outcome.killed,
        outcome.delivering_again.as_secs_f64()
    );
    let _ = writeln!(
        text,
        "Publishers sent {} messages a second time, because their node died before it could acknowledge them.\n",
        outcome.sent_again
    );
    for target in &outcome.targets {
        let _ = writeln!(text, "{}", target.connector);
        for (when, owner) in [("before", &target.before), ("after", &target.after)] {
            let _ = writeln!(text, "  {when:<7} {} (epoch {}): {}", owner.node, owner.epoch, owner.why);
        }
    }
    let verdict = if outcome.is_whole() { "Nothing was lost." } else { "SOMETHING IS MISSING: see above." };
    let _ = writeln!(text, "\n{verdict}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(lost: u64, pending: u64, balances: bool) -> Outcome {
        let owner = |node: &str| Owner { node: node.into(), epoch: "7".into(), why: "fewest tasks".into() };
        let target = TargetOutcome {
            connector: "demo_file".into(),
            delivered: 20_000 - lost,
            duplicates: 3,
            waited: 41,
            pending,
            lost,
            balances,
            before: owner("sluice-1"),
            after: owner("sluice-2"),
        };
        Outcome {
            acknowledged: 20_000,
            sent_again: 17,
            killed: "sluice-1".into(),
            delivering_again: Duration::from_millis(3_900),
            targets: vec![target],
        }
    }

    #[test]
    fn only_a_whole_outcome_is_a_success() {
        for (lost, pending, balances, whole) in
            [(0, 0, true, true), (1, 0, true, false), (0, 1, true, false), (0, 0, false, false)]
        {
            assert_eq!(outcome(lost, pending, balances).is_whole(), whole, "{lost} {pending} {balances}");
        }
    }

    #[test]
    fn the_table_tells_numbers_owners_and_reasons() {
        let text = render(&outcome(0, 0, true));
        for part in ["20000", "41", "sluice-2 (epoch 7): fewest tasks", "3.9 s", "Nothing was lost."] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(render(&outcome(1, 0, true)).contains("SOMETHING IS MISSING"));
    }
}
